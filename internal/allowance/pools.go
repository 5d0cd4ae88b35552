package allowance

import (
	"net/http"

	"realtimehub/internal/event"
	"realtimehub/internal/plan"
	"realtimehub/internal/problem"
	"realtimehub/internal/quota"
)

// Errors of Keep: a share is used up.
var (
	ErrTenant = problem.New("this tenant has used up its share of the hub's memory (REALTIME_STATE_BYTES)", problem.Problem{Status: http.StatusServiceUnavailable, Code: "ShareUsedUp"})
	ErrPerson = problem.New("this profile has used up its share of the hub's memory (REALTIME_STATE_BYTES)", problem.Problem{Status: http.StatusServiceUnavailable, Code: "ShareUsedUp"})
)

// Pools bound the memory of what outlives a call, and of bodies and answers that clients can
// make wait. Each byte is counted where it is kept, for whom it is kept. A nil pool bounds
// nothing.
type Pools struct {
	State   *quota.Pool[string]              // connections, filters, watch lists, memberships, presence: by tenant
	Person  *quota.Pool[event.TenantProfile] // what of state is one person's making
	Seen    *quota.Pool[string]              // what of state is about those who have left
	IDs     *quota.Pool[string]              // chosen ids of events, by tenant; when it is full the oldest go
	Bodies  *quota.Pool[event.TenantProfile] // bodies that are being read, by who sends them
	Answers *quota.Pool[event.TenantProfile] // answers that are being written, by who is to read them
	People  *quota.Pool[event.TenantProfile] // what of bodies and answers is one person's
}

// What a part may have, as the divisor of the whole.
const (
	idsPart     = 4 // ids, of the memory for state
	seenPart    = 8 // what is about those who have left, of the rest
	personsPart = 8 // one person's state, of what is free
	peoplesPart = 4 // one person's calls, of what is free
)

// New makes the pools of a plan.
func New(memory plan.Memory) *Pools {
	ids := memory.State / idsPart
	state := memory.State - ids
	return &Pools{
		State:   quota.New[string](state, 1),
		IDs:     quota.New[string](ids, 1),
		Person:  quota.New[event.TenantProfile](state, personsPart),
		Seen:    quota.New[string](state/seenPart, 1),
		Bodies:  quota.New[event.TenantProfile](memory.Calls/2, 1),
		Answers: quota.New[event.TenantProfile](memory.Calls/2, 1),
		People:  quota.New[event.TenantProfile](memory.Calls, peoplesPart),
	}
}

// AllState is the memory for state with that for ids; 0: no limit.
func (p *Pools) AllState() int64 { return p.State.All() + p.IDs.All() }

// Keep takes n bytes of state for a person, of their tenant's share as well. If refuse is set
// it may take nothing instead, and return ErrTenant or ErrPerson.
func (p *Pools) Keep(who event.TenantProfile, n int64, refuse bool) error {
	switch {
	case !refuse:
		p.State.Force(who.Tenant, n)
		p.Person.Force(who, n)
	case !p.State.Take(who.Tenant, n):
		return ErrTenant
	case !p.Person.Take(who, n):
		p.State.Give(who.Tenant, n)
		return ErrPerson
	}
	return nil
}

// Drop gives back n bytes that Keep took.
func (p *Pools) Drop(who event.TenantProfile, n int64) {
	p.State.Give(who.Tenant, n)
	p.Person.Give(who, n)
}

// QuotaStats is how full a pool is.
type QuotaStats interface {
	Total() int64
	All() int64 // 0: no limit
	Refused() int64
}

// Stats are the pools by name.
func (p *Pools) Stats() map[string]QuotaStats {
	return map[string]QuotaStats{"state": p.State, "ids": p.IDs, "person": p.Person, "seen": p.Seen, "bodies": p.Bodies, "answers": p.Answers, "people": p.People}
}
