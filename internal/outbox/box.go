package outbox

import (
	"context"
	"time"
)

// TTL is how long items are kept.
const TTL = 72 * time.Hour

// KeyTime is how long a key is known at least.
const KeyTime = 2 * time.Minute

// First is the place of the first item of a tenant of whom nothing is known, in microseconds
// since 1970. Whoever has forgotten all places, with a process or a server, so begins past all
// those that it had given: a service that comes back with an older one learns that it has missed
// something, and never that it has not.
func First(now time.Time) uint64 { return uint64(now.UnixMicro()) }

// Box keeps the items of every tenant for TTL, or less where there is no room for them. One that
// a broker keeps for several processes has calls that wait and fail.
type Box interface {
	// Put appends items of a tenant together, all or none, in the order given. A key names them:
	// for KeyTime at least, other items with that key are not put, and there is no error. So who
	// does not know whether something was put puts it again. Empty keys name nothing.
	Put(ctx context.Context, tenant, key string, drafts []Draft) error
	// Read answers a Query.
	Read(ctx context.Context, tenant string, q Query) (Page, error)

	// Lead calls do whenever this process becomes the one of all that sends, with a context that
	// ends when that is over. It returns when ctx ends and do has returned.
	Lead(ctx context.Context, do func(ctx context.Context))
	// Follow has more called with each tenant of which something was not taken, and each time
	// that one gets more, until stop is called: with the place up to which all was taken, and
	// the newest. It may be called too often. more neither waits nor calls the Box. Who leads
	// follows; nobody else does.
	Follow(ctx context.Context, more func(tenant string, taken, newest uint64)) (stop func(), err error)
	// Taken says that the webhook has taken a tenant's items up to a place. Only who leads says so.
	Taken(ctx context.Context, tenant string, seq uint64) error

	// Sweep forgets what has grown old. It is called now and then.
	Sweep(now time.Time)
	// Stats tells what is kept.
	Stats() Stats
}

// Query asks for items after a place; 0: from the oldest that is kept.
type Query struct {
	After uint64
	Limit int // how many at most
	Bytes int // of data, at most, but for the first item; 0: no limit
}

// Page is what was found, without gaps.
type Page struct {
	Items  []Item // none: nothing that was put after the place asked for is kept
	Oldest uint64 // the first place that is kept, or that will be given
	Newest uint64 // the last place that was given; 0: none is known
}

// Size is the memory that a page takes, about, in bytes.
func (p *Page) Size() (bytes int) {
	for i := range p.Items {
		bytes += 128 + len(p.Items[i].Data)
	}
	return bytes
}

// Gap says that something after a place is missing for good.
func (p *Page) Gap(after uint64) bool {
	return after > 0 && (after+1 < p.Oldest || after > p.Newest)
}

// Next is the place after which to read on, for who has read from a place on.
func (p *Page) Next(after uint64) uint64 {
	switch {
	case len(p.Items) > 0:
		return p.Items[len(p.Items)-1].Seq
	case after > 0 && !p.Gap(after):
		return after
	}
	return p.Newest
}

// Stats is what a Box keeps, and what has happened since the start.
type Stats struct {
	Items   int
	Bytes   int64     // that they take
	Limit   int64     // of Bytes; 0: none
	Untaken int       // items that the webhook has not taken, as far as is known here: who leads knows
	Since   time.Time // when the oldest of those was put; zero: there is none
	Cut     int64     // items that went before their time, for want of room

	Unknown bool // nobody answers what is kept
}
