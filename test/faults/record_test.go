package faults

import (
	"sync"
	"time"
)

// record is all that was done to the hubs and seen of them.
type record struct {
	kept int  // events of a tenant that are kept at the least
	busy bool // so was the machine, with something else

	mu sync.Mutex
	// Guarded by mu.
	events  map[string]*event // by id
	changes []*change
	probes  []probe
	trails  []*trail
	twice   []*event // that are stored twice
	away    []away
	purges  []purge
}

// purge is of a tenant's history by an operator, up to a place.
type purge struct {
	tenant     string
	until      uint64
	begun, end time.Time
}

// within is how long something may take of which a quiet machine makes d. A busy one makes
// it longer, and not for ever.
func (r *record) within(d time.Duration) time.Duration {
	if r.busy {
		return 4 * d
	}
	return d
}

func newRecord(kept int) *record { return &record{kept: kept, events: map[string]*event{}} }

// event is one that was published.
type event struct {
	tenant, id string
	room       string   // whom it is for: who belongs to it
	profile    string   // or one person; neither: everybody in the tenant
	with       []string // the ids of its batch, in order

	begun time.Time // of the first attempt
	acked time.Time // zero: never
	place uint64    // in the stream; 0: it was not found there
	at    time.Time // when the broker stored it
	// cursor is what the acknowledgement said.
	cursor string
	// tries are the hubs that it was sent to, and what they said.
	tries []string
}

// change is one of membership, repeated until it was answered 204.
type change struct {
	tenant, room, profile string
	member                bool
	begun                 time.Time
	done                  time.Time // zero: never
}

// away is a time in which a hub may not be able to take what is published.
type away struct {
	hub        int // -1: all of them
	begun, end time.Time
}

// probe is what a hub said of itself, or did when it was given an event to publish.
type probe struct {
	hub        int
	publish    bool // else its readiness
	begun, end time.Time
	status     int // 0: no answer
	code       string
	why        string // the answer's detail
}

// trail is all that one person's streams brought, one after the other.
type trail struct {
	tenant, profile string
	kind            string // how it comes and goes
	// ended is when its last stream was ended by us, with all that was published there
	// some time ago; zero where there was none.
	ended time.Time

	mu     sync.Mutex
	sights []sight // guarded by mu
}

// sight is one thing that a stream brought.
type sight struct {
	at   time.Time
	hub  int
	what what
	// id is an event's, or of connecting, closing and gaps the cursor.
	id string
	// said is what the hub called it: how a stream resumes, why there is a gap.
	said string
}

type what string

// What a subscriber sees.
const (
	connecting what = "connecting" // with the id as its Last-Event-ID
	ready      what = "ready"
	came       what = "event"
	gap        what = "gap"
	closed     what = "closed"
)

// taken says whether each hub has taken an event that was published after a time.
func (r *record) taken(after time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	by := map[int]bool{}
	for _, p := range r.probes {
		by[p.hub] = by[p.hub] || p.publish && p.status == 202 && p.begun.After(after)
	}
	for _, took := range by {
		if !took {
			return false
		}
	}
	return len(by) > 0
}

func (t *trail) add(s sight) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sights = append(t.sights, s)
}
