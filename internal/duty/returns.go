package duty

import (
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/allowance"
	"realtimehub/internal/due"
	"realtimehub/internal/event"
	"realtimehub/internal/sized"
)

// Returns knows what connections were sent and had not acknowledged as they ended, so that the
// cursor with which a client comes back is an acknowledgement.
type Returns struct {
	pools *allowance.Pools // static

	mu sync.Mutex
	// Guarded by mu, which is a leaf.
	ended endings
	ahead endings // of clients that came back before it was known that they had left
}

// endings are what connections were sent that have ended, by person.
type endings struct {
	of  sized.Table[event.TenantProfile, *ending]
	due due.Queue[*ending] // by when some of it is to be forgotten
}

// ending is what connections of one person were sent.
type ending struct {
	who  event.TenantProfile
	sent []Acknowledgement
	due  due.Item
}

// Due implements [due.Owner].
func (e *ending) Due() *due.Item { return &e.due }

func (e *endings) sent(who event.TenantProfile) []Acknowledgement {
	if p := e.of.Get(who); p != nil {
		return p.sent
	}
	return nil
}

// NewReturns makes one that counts what it keeps.
func NewReturns(pools *allowance.Pools) *Returns { return &Returns{pools: pools} }

// Bounds of what is kept of connections that have ended.
const (
	mostEnded   = 8 // of one profile
	endedBytes  = 160
	personBytes = 240         // of one that has any, beside them
	aheadTime   = time.Minute // within which another hub notices that a client has left
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
	for _, back := range r.ahead.sent(who) {
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
func (r *Returns) keepLocked(in *endings, who event.TenantProfile, a Acknowledgement) {
	e := in.of.Get(who)
	if e == nil {
		e = &ending{who: who}
		in.of.Put(who, e)
		r.pools.State.Force(a.Tenant, personBytes)
	}
	e.sent = append(e.sent, a)
	if len(e.sent) > mostEnded {
		least := 0
		for i := range e.sent {
			if e.sent[i].After < e.sent[least].After {
				least = i
			}
		}
		e.sent = slices.Delete(e.sent, least, least+1)
	} else {
		r.pools.State.Force(a.Tenant, endedBytes)
	}
	in.due.Set(e, e.until())
}

// until is when the first of it is to be forgotten.
func (e *ending) until() time.Time {
	return slices.MinFunc(e.sent, func(a, b Acknowledgement) int { return a.Until.Compare(b.Until) }).Until
}

// Of are the acknowledgements of a client that has come back with everything up to back.UpTo, of
// what its connection before was sent: back.Connection. others was sent to its person's connections
// that are still open, as the end of the one before may not have been noticed.
func (r *Returns) Of(back Acknowledgement, others []Acknowledgement) (acknowledged []Acknowledgement) {
	r.mu.Lock()
	ended := r.ended.sent(event.TenantProfile{Tenant: back.Tenant, Profile: back.Profile})
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

// sweepLocked forgets connections that nobody can come back from in time, but not too many: others wait.
func (r *Returns) sweepLocked(now time.Time) {
	r.forgetLocked(&r.ended, now.Add(-Slack))
	r.forgetLocked(&r.ahead, now)
}

func (r *Returns) forgetLocked(in *endings, before time.Time) {
	for range forgetPiece {
		e, any := in.due.Next(before)
		if !any {
			return
		}
		was := len(e.sent)
		e.sent = slices.DeleteFunc(e.sent, func(a Acknowledgement) bool { return !a.Until.After(before) })
		r.pools.State.Give(e.who.Tenant, endedBytes*int64(was-len(e.sent)))
		if len(e.sent) > 0 {
			in.due.Set(e, e.until())
			continue
		}
		in.due.Set(e, time.Time{})
		in.of.Delete(e.who)
		r.pools.State.Give(e.who.Tenant, personBytes)
	}
}
