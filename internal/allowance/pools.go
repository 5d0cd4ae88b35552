package allowance

import (
	"net/http"

	"realtimehub/internal/event"
	"realtimehub/internal/plan"
	"realtimehub/internal/problem"
	"realtimehub/internal/quota"
)

// Errors of a share that is used up.
var (
	ErrTenant = problem.New("this tenant has as much of the hub's memory (REALTIME_STATE_BYTES) as one may have beside others", problem.Problem{Status: http.StatusServiceUnavailable, Code: "ShareUsedUp"})
	ErrPerson = problem.New("this profile has as much of the hub's memory (REALTIME_STATE_BYTES) as one may have beside others", problem.Problem{Status: http.StatusServiceUnavailable, Code: "ShareUsedUp"})
)

// Pools bound what outlives a call and what a client can make wait, each byte counted
// where it is kept, for whom it is kept. A nil pool bounds nothing.
type Pools struct {
	State   *quota.Pool[string]              // connections, filters, watch lists, memberships, presence: by tenant
	IDs     *quota.Pool[string]              // ids of events, by tenant; past their number the oldest go
	Person  *quota.Pool[event.TenantProfile] // what of that is one person's making
	Seen    *quota.Pool[string]              // what of that is about who has left
	Bodies  *quota.Pool[event.TenantProfile] // bodies that are being read, by who sends them
	Answers *quota.Pool[event.TenantProfile] // answers that are being written, by who is to read them
	People  *quota.Pool[event.TenantProfile] // what of both is one person's
}

// seenPart is how much of all state may be about who has left.
const seenPart = 8

// personsPart is how much of what is free one person may have, as a fraction.
const personsPart = 8

// peoplesPart is how much of what is free one person may have for calls, as a fraction.
const peoplesPart = 4

// idsPart is how much of what is for state the ids of events may have, as a fraction.
const idsPart = 4

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

// Keep takes n bytes of state for a person, of their tenant's share as well: or where it
// may be refused, ErrTenant or ErrPerson.
func (q *Pools) Keep(who event.TenantProfile, n int64, refuse bool) error {
	switch {
	case !refuse:
		q.State.Force(who.Tenant, n)
		q.Person.Force(who, n)
	case !q.State.Take(who.Tenant, n):
		return ErrTenant
	case !q.Person.Take(who, n):
		q.State.Give(who.Tenant, n)
		return ErrPerson
	}
	return nil
}

// Drop gives back what Keep took.
func (q *Pools) Drop(who event.TenantProfile, n int64) {
	q.State.Give(who.Tenant, n)
	q.Person.Give(who, n)
}

// QuotaStats is how full a pool is.
type QuotaStats interface {
	Total() int64
	All() int64 // 0: no limit
	Refused() int64
}

// Stats are the pools by name.
func (q *Pools) Stats() map[string]QuotaStats {
	return map[string]QuotaStats{"state": q.State, "ids": q.IDs, "person": q.Person, "seen": q.Seen, "bodies": q.Bodies, "answers": q.Answers, "people": q.People}
}
