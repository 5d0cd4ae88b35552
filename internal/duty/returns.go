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
	ahead sized.Table[event.TenantProfile, []Acknowledgement] // of clients that came back before it was known that they had left
	swept time.Time
}

// NewReturns makes one that counts what it keeps.
func NewReturns(pools *allowance.Pools) *Returns { return &Returns{pools: pools} }

// Bounds of what is kept of connections that have ended.
const (
	mostEnded  = 8 // of one profile
	endedBytes = 160
	aheadTime  = time.Minute // within which another hub notices that a client has left
)

// Ended keeps what a connection was sent and did not acknowledge, until sent.Until. One that owes
// nothing has no Until, and is kept as long as another of its person may owe something: without
// it who comes back from the one would be taken for the other's client. It returns what is
// acknowledged already, by a client that came back ahead of it.
func (r *Returns) Ended(sent Acknowledgement) (acknowledged []Acknowledgement) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweepLocked(time.Now())
	who := event.TenantProfile{Tenant: sent.Tenant, Profile: sent.Profile}
	for _, back := range r.ahead.Get(who) {
		if !sent.Until.IsZero() && sent.handledBy(back) {
			acknowledged = append(acknowledged, sent.upTo(back))
		}
	}
	if sent.Until.IsZero() {
		sent.Until = time.Now().Add(event.MaxDeadline)
	}
	r.keepLocked(&r.ended, who, sent)
	return acknowledged
}

// Ahead keeps for a while that a client has come back from the connection that it names: another
// hub may hold that one still.
func (r *Returns) Ahead(back Acknowledgement) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.sweepLocked(now)
	back.Given, back.Until = now, now.Add(aheadTime)
	r.keepLocked(&r.ahead, event.TenantProfile{Tenant: back.Tenant, Profile: back.Profile}, back)
}

// keepLocked keeps one more of a person. Of too many the one goes that others are not told from by it.
func (r *Returns) keepLocked(in *sized.Table[event.TenantProfile, []Acknowledgement], who event.TenantProfile, a Acknowledgement) {
	list := append(in.Get(who), a)
	if len(list) > mostEnded {
		least := 0
		for i := range list {
			if list[i].After < list[least].After {
				least = i
			}
		}
		list = slices.Delete(list, least, least+1)
	} else {
		r.pools.State.Force(a.Tenant, endedBytes)
	}
	in.Put(who, list)
}

// Of are the acknowledgements of a client that has come back with everything up to back.UpTo, of
// what its connection before was sent: back.Connection. others was sent to its person's connections
// that are still open, as the end of the one before may not have been noticed.
func (r *Returns) Of(back Acknowledgement, others []Acknowledgement) (acknowledged []Acknowledgement) {
	r.mu.Lock()
	ended := r.ended.Get(event.TenantProfile{Tenant: back.Tenant, Profile: back.Profile})
	all := slices.Concat(others, ended)
	r.mu.Unlock()
	if back.Connection == uuid.Nil {
		return unnamed(back, all)
	}
	for _, sent := range all {
		if sent.handledBy(back) {
			acknowledged = append(acknowledged, sent.upTo(back))
		}
	}
	return acknowledged
}

// handledBy says that it is of the connection from which a client has come back, which has handled
// some of it.
func (a Acknowledgement) handledBy(back Acknowledgement) bool {
	return a.Connection == back.Connection && a.Of == back.Of && a.After < min(a.UpTo, back.UpTo)
}

func (a Acknowledgement) upTo(back Acknowledgement) Acknowledgement {
	a.UpTo, a.Given = min(a.UpTo, back.UpTo), back.Given
	return a
}

// unnamed is Returns.Of for a client that does not say which connection it comes from: one that was
// sent what it has, with the same filter. Where that can be several, it acknowledges what all of
// them were sent.
func unnamed(back Acknowledgement, all []Acknowledgement) []Acknowledgement {
	var last *Acknowledgement
	several := false
	for i := range all {
		sent := &all[i]
		if sent.Of != back.Of || back.UpTo < sent.After || sent.UpTo < back.UpTo || !sameTypes(sent.Types, back.Types) {
			continue
		}
		several = several || last != nil && last.Connection != sent.Connection
		if last == nil || sent.After > last.After {
			last = sent
		}
	}
	if last == nil || last.After == back.UpTo {
		return nil
	}
	if several {
		last.Connection = uuid.Nil
	}
	return []Acknowledgement{last.upTo(back)}
}

// sweepLocked forgets connections that nobody can come back from in time, now and then.
func (r *Returns) sweepLocked(now time.Time) {
	if now.Sub(r.swept) < markTime {
		return
	}
	r.swept = now
	r.forgetLocked(&r.ended, now.Add(-Slack))
	r.forgetLocked(&r.ahead, now)
}

func (r *Returns) forgetLocked(in *sized.Table[event.TenantProfile, []Acknowledgement], before time.Time) {
	for who, list := range in.All() {
		left := slices.DeleteFunc(slices.Clone(list), func(a Acknowledgement) bool { return a.Until.Before(before) })
		r.pools.State.Give(who.Tenant, endedBytes*int64(len(list)-len(left)))
		if len(left) == 0 {
			in.Delete(who)
		} else if len(left) < len(list) {
			in.Put(who, left)
		}
	}
}
