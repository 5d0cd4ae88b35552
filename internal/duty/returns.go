package duty

import (
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/allowance"
	"realtimehub/internal/event"
	"realtimehub/internal/sized"
)

// Returns knows what connections were sent and had not acknowledged as they ended, so that the
// cursor with which a client comes back is an acknowledgement.
type Returns struct {
	pools *allowance.Pools // static

	mu sync.Mutex
	// Guarded by mu, which is a leaf.
	ended sized.Table[event.TenantProfile, []Acknowledgement]
	swept time.Time
}

// NewReturns makes one that counts what it keeps.
func NewReturns(pools *allowance.Pools) *Returns { return &Returns{pools: pools} }

// Bounds of what is kept of connections that have ended.
const (
	mostEnded  = 8 // of one profile
	endedBytes = 160
)

// Ended keeps what a connection was sent and did not acknowledge, until sent.Until. One that owes
// nothing has no Until, and is kept as long as another of its person may owe something: without
// it who comes back from the one would be taken for the other's client. Of too many the one goes
// that others are not told from by it.
func (r *Returns) Ended(sent Acknowledgement) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweepLocked(time.Now())
	who := event.TenantProfile{Tenant: sent.Tenant, Profile: sent.Profile}
	if sent.Until.IsZero() {
		sent.Until = time.Now().Add(event.MaxDeadline)
	}
	list := append(r.ended.Get(who), sent)
	if len(list) > mostEnded {
		least := 0
		for i := range list {
			if list[i].After < list[least].After {
				least = i
			}
		}
		list = slices.Delete(list, least, least+1)
	} else {
		r.pools.State.Force(sent.Tenant, endedBytes)
	}
	r.ended.Put(who, list)
}

// Of is the acknowledgement of a client that has come back with everything up to back.UpTo, of
// what its connection before was sent, back.Connection. Where the client does not say which that
// was, and it is zero, it is one that was sent what the client has, with the same filter. others was
// sent to its person's connections that are still open, as the end of the one before may not have
// been noticed. Where it can be of several, the client acknowledges what all of them were sent.
func (r *Returns) Of(back Acknowledgement, others []Acknowledgement) (a Acknowledgement, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, sent := range append(others, r.ended.Get(event.TenantProfile{Tenant: back.Tenant, Profile: back.Profile})...) {
		if sent.Of != back.Of || back.UpTo < sent.After || sent.UpTo < back.UpTo || !comesFrom(back, sent) {
			continue
		}
		if !ok || sent.After > a.After {
			a = sent
		}
		ok = true
	}
	a.UpTo = back.UpTo
	return a, ok && a.After < a.UpTo
}

// comesFrom says that a client that has come back may be the one of a connection.
func comesFrom(back, sent Acknowledgement) bool {
	if back.Connection != uuid.Nil {
		return back.Connection == sent.Connection
	}
	return sameTypes(sent.Types, back.Types)
}

// sweepLocked forgets connections that nobody can come back from in time, now and then.
func (r *Returns) sweepLocked(now time.Time) {
	if now.Sub(r.swept) < markTime {
		return
	}
	r.swept = now
	for who, list := range r.ended.All() {
		left := slices.DeleteFunc(slices.Clone(list), func(a Acknowledgement) bool { return now.Sub(a.Until) > Slack })
		r.pools.State.Give(who.Tenant, endedBytes*int64(len(list)-len(left)))
		if len(left) == 0 {
			r.ended.Delete(who)
		} else if len(left) < len(list) {
			r.ended.Put(who, left)
		}
	}
}
