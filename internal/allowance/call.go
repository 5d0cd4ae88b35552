package allowance

import (
	"net/http"

	"realtimehub/internal/event"
	"realtimehub/internal/problem"
	"realtimehub/internal/quota"
)

// ErrAnswers says that answers that are being written to one take more memory than it
// may have.
var ErrAnswers = problem.New("answers that this caller has not read yet take as much memory as it may have now; read them, or ask again later", problem.Problem{Status: http.StatusServiceUnavailable, Code: "AnswersBusy"})

// Call is what one call takes of a pool, a step ahead of what it uses: so the pool is
// not asked for each little thing. It belongs to one goroutine. A nil allowance bounds
// nothing.
type Call struct {
	// Static.
	pool   *quota.Pool[event.TenantProfile]
	holder event.TenantProfile
	people *quota.Pool[event.TenantProfile] // nil where the holder is no person
	person event.TenantProfile

	used, taken int64
}

const (
	step       = 4 << 10 // what is taken at least
	BodyCopies = 2       // a body is there as it came and as it was understood
)

// people is a tenant's people together, as a holder: however many they are, others have
// as much left as beside one. It is no profile's name.
var people = event.Profile{Type: "*"}

// Body is a call's share of the memory for bodies and for what is made of them.
func (q *Pools) Body(holder event.TenantProfile) *Call { return q.allow(q.Bodies, holder) }

// Answer is a call's share of the memory for answers.
func (q *Pools) Answer(holder event.TenantProfile) *Call { return q.allow(q.Answers, holder) }

// allow is for a tenant's services, for an address, or for a person, who has a part of
// what the tenant's people may have.
func (q *Pools) allow(pool *quota.Pool[event.TenantProfile], holder event.TenantProfile) *Call {
	a := &Call{pool: pool, holder: holder}
	if holder.Profile != (event.Profile{}) {
		a.people, a.person, a.holder.Profile = q.People, a.holder, people
	}
	return a
}

// Tenant is whose the call is, or the address that stands in a tenant's place.
func (a *Call) Tenant() string { return a.holder.Tenant }

// Take takes n bytes, or nothing, and says which. It and the next two may be called at
// any time.
func (a *Call) Take(n int64) bool {
	if !a.people.Take(a.person, n) {
		return false
	}
	if !a.pool.Take(a.holder, n) {
		a.people.Give(a.person, n)
		return false
	}
	return true
}

// Force is take for what is there already.
func (a *Call) Force(n int64) {
	a.people.Force(a.person, n)
	a.pool.Force(a.holder, n)
}

// Give gives back what was taken.
func (a *Call) Give(n int64) { a.Force(-n) }

// Use takes n bytes more, or nothing, and says which.
func (a *Call) Use(n int) bool {
	if a == nil {
		return true
	}
	if more := a.used + int64(n) - a.taken; more > 0 {
		more = max(more, step)
		if !a.Take(more) {
			return false
		}
		a.taken += more
	}
	a.used += int64(n)
	return true
}

// Back gives back all but the first so many bytes that were used.
func (a *Call) Back(to int64) {
	if a == nil {
		return
	}
	a.Give(a.taken - to)
	a.used, a.taken = to, to
}

// Close gives back all.
func (a *Call) Close() { a.Back(0) }
