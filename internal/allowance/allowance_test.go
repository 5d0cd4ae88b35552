package allowance

import (
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/plan"
)

func person(tenant, id string) event.TenantProfile {
	return event.TenantProfile{Tenant: tenant, Profile: event.Profile{Type: "user", ID: id}}
}

// Keep takes of all that it names, or of none; what is forced is counted all the same; and
// Drop leaves nothing.
func TestKeep(t *testing.T) {
	is := is.New(t)
	p := New(plan.Memory{State: 4096})
	ann, bob := person("acme", "ann"), person("acme", "bob")
	is.Equal(p.Keep(ann, 400, true), ErrPerson) // more than an eighth of what it would leave
	is.Equal(p.Keep(ann, 4000, true), ErrTenant)
	is.Equal(p.State.Total()+p.Person.Total(), int64(0))
	is.NoErr(p.Keep(ann, 300, true))
	is.NoErr(p.Keep(bob, 300, true))
	is.NoErr(p.Keep(ann, 4000, false))
	is.Equal(p.State.Total(), int64(4600))
	is.Equal(p.Person.Total(), int64(4600))
	p.Drop(ann, 4300)
	p.Drop(bob, 300)
	is.Equal(p.State.Total()+p.Person.Total(), int64(0))
}

// A call takes by steps, what it may not have it does not take, and at its end it has nothing.
func TestCall(t *testing.T) {
	is := is.New(t)
	p := New(plan.Memory{Calls: 64 * step})
	c := p.Body(event.TenantProfile{Tenant: "acme"})
	is.Equal(c.Tenant(), "acme")
	is.True(c.Use(1))
	is.Equal(p.Bodies.Total(), int64(step))
	is.True(c.Use(step - 1))
	is.Equal(p.Bodies.Total(), int64(step))
	is.True(c.Use(3 * step))
	is.True(!c.Use(1000 * step))
	is.Equal(p.Bodies.Total(), int64(4*step))
	c.Back(10)
	is.Equal(p.Bodies.Total(), int64(10))
	c.Close()
	is.Equal(p.Bodies.Total(), int64(0))
	is.Equal(p.People.Total(), int64(0)) // no person took part
	var none *Call
	is.True(none.Use(1 << 40))
	none.Close()
}

// One person has a part of what a tenant's people may have, who are one holder together.
func TestCallsOfPeople(t *testing.T) {
	is := is.New(t)
	p := New(plan.Memory{Calls: 64 * step})
	ann := p.Answer(person("acme", "ann"))
	is.True(!ann.Use(17 * step)) // more than a quarter of what they would leave
	is.Equal(p.Answers.Total()+p.People.Total(), int64(0))
	is.True(ann.Use(12 * step))
	bob := p.Answer(person("acme", "bob"))
	is.True(!bob.Use(12 * step)) // acme's people would have 24 of 32
	is.Equal(p.Answers.Total(), int64(12*step))
	is.Equal(p.People.Total(), int64(12*step))
	is.True(p.Answer(person("other", "ann")).Use(8 * step))
	ann.Close()
	is.Equal(p.Answers.Total(), int64(8*step))
	is.Equal(p.People.Total(), int64(8*step))
}
