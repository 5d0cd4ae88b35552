package allowance

import (
	"net/http"

	"realtimehub/internal/event"
	"realtimehub/internal/problem"
	"realtimehub/internal/quota"
)

// ErrAnswers says that the answers being written to a caller take as much memory as it may
// have.
var ErrAnswers = problem.New("this caller has used up its share of memory with answers that it has not read; read them, or try again later", problem.Problem{Status: http.StatusServiceUnavailable, Code: "AnswersBusy"})

// Call is what one call takes of a pool. It takes a step more than it uses, so that the pool is
// not asked for each little thing. One goroutine uses it, but for Take, Force and Give. A nil
// Call bounds nothing, and has only Use, Back and Close.
type Call struct {
	// Static.
	pool   *quota.Pool[event.TenantProfile]
	holder event.TenantProfile
	people *quota.Pool[event.TenantProfile] // nil if the holder is no person
	person event.TenantProfile

	used, taken int64
}

const (
	step = 4 << 10 // bytes that are taken at least

	// BodyCopies is how often a body is there: as it came, and as it was understood.
	BodyCopies = 2
)

// people is a tenant's people together, as a holder. However many they are, they leave other
// holders as much as one would. No profile has this name.
var people = event.Profile{Type: "*"}

// Body is for the memory of a call's body and of what is made of it. The holder is a person, a
// tenant for its services, or an address in a tenant's place.
func (p *Pools) Body(holder event.TenantProfile) *Call { return p.allow(p.Bodies, holder) }

// Answer is for the memory of a call's answer. Holders are those of Body.
func (p *Pools) Answer(holder event.TenantProfile) *Call { return p.allow(p.Answers, holder) }

// allow makes a Call. A person has a part of what the tenant's people may have.
func (p *Pools) allow(pool *quota.Pool[event.TenantProfile], holder event.TenantProfile) *Call {
	a := &Call{pool: pool, holder: holder}
	if holder.Profile != (event.Profile{}) {
		a.people, a.person, a.holder.Profile = p.People, a.holder, people
	}
	return a
}

// Tenant is the call's tenant, or the address in its place.
func (c *Call) Tenant() string { return c.holder.Tenant }

// Take takes n bytes. It returns false, and takes nothing, if the holder may not have them.
// Take, Force and Give may be called by any goroutine.
func (c *Call) Take(n int64) bool {
	if !c.people.Take(c.person, n) {
		return false
	}
	if !c.pool.Take(c.holder, n) {
		c.people.Give(c.person, n)
		return false
	}
	return true
}

// Force takes n bytes that are there already, whether the holder may have them or not.
func (c *Call) Force(n int64) {
	c.people.Force(c.person, n)
	c.pool.Force(c.holder, n)
}

// Give gives n bytes back.
func (c *Call) Give(n int64) { c.Force(-n) }

// Use uses n bytes more. It returns false, and uses nothing, if the holder may not have them.
func (c *Call) Use(n int) bool {
	if c == nil {
		return true
	}
	if more := c.used + int64(n) - c.taken; more > 0 {
		more = max(more, step)
		if !c.Take(more) {
			return false
		}
		c.taken += more
	}
	c.used += int64(n)
	return true
}

// Back gives back all but the first bytes that were used.
func (c *Call) Back(to int64) {
	if c == nil {
		return
	}
	c.Give(c.taken - to)
	c.used, c.taken = to, to
}

// Close gives back all that was used.
func (c *Call) Close() { c.Back(0) }
