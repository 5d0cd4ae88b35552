package door

import (
	"context"
	"errors"
	"net/http"

	"github.com/google/uuid"

	"realtimehub/internal/access"
	"realtimehub/internal/allowance"
	"realtimehub/internal/delivery"
	"realtimehub/internal/engine"
	"realtimehub/internal/event"
	"realtimehub/internal/lobby"
	"realtimehub/internal/problem"
	"realtimehub/internal/request"
	"realtimehub/internal/reserve"
)

// Opener opens streams.
type Opener struct {
	Streams *delivery.Streams
	Quotas  *allowance.Pools

	// Returned is told of a client that acknowledges, and has come back with a cursor from a
	// connection that it names.
	Returned func(who event.TenantProfile, from uuid.UUID, cursor string)
}

// Open opens the stream that a client has asked for. The door then serves it, and calls over
// once its handler is done; stays says that the handler is as long as the stream. An error is
// why the client is turned away, and has been counted.
func (o *Opener) Open(r *http.Request, sub delivery.Subscription, stays bool) (c *delivery.Connection, stream *engine.Stream, over func(), err error) {
	if err = o.Room(r, sub.Tenant); err != nil {
		return nil, nil, nil, err
	}
	over = func() {}
	if stays {
		if over, err = o.Hold(r, event.TenantProfile{Tenant: sub.Tenant, Profile: sub.Profile}); err != nil {
			return nil, nil, nil, err
		}
		sub.Session = 0 // it is counted with the handler
	}
	lobby.Leave(r) // it is paid for, however long it waits for its turn
	if c, stream, err = o.Streams.Open(r.Context(), sub); err != nil {
		over()
		if errors.Is(err, context.Canceled) {
			panic(http.ErrAbortHandler) // nobody is left to be told
		}
		return nil, nil, nil, err
	}
	if sub.Acks && sub.Previous != uuid.Nil && sub.Cursor != "" {
		o.Returned(event.TenantProfile{Tenant: sub.Tenant, Profile: sub.Profile}, sub.Previous, sub.Cursor)
	}
	return c, stream, over, nil
}

// Room says whether there is a descriptor for one more stream of a tenant. An error is like one of
// Open, which asks by itself.
func (o *Opener) Room(r *http.Request, tenant string) error {
	request.AbortIfReset(r)
	if reserve.Holds(r.Context()) || reserve.Begun() {
		return o.Streams.TurnAway(tenant, access.ErrDescriptors)
	}
	return nil
}

// TurnedAway is what a client is told on its stream after an error of Open.
func (o *Opener) TurnedAway(tenant string, err error) *delivery.TurnedAway {
	return &delivery.TurnedAway{Reason: delivery.Turned(err), After: o.Streams.Away(tenant, err)}
}

// Refusal is what a client is answered after an error of Open, where a status tells it.
func (o *Opener) Refusal(tenant string, err error) error {
	p := *problem.Of(problem.OfQuestion(err))
	if errors.Is(err, access.ErrDescriptors) {
		p.Code = "HubFull" // for probes it has a code of its own
	}
	p.After = max(p.After, o.Streams.Away(tenant, err))
	return &p
}

// Hold has a handler that stays with its stream counted for a person, until over is
// called: it stays longer than the connection is known, where the client does not read. An error
// is like one of Open.
func (o *Opener) Hold(r *http.Request, who event.TenantProfile) (over func(), err error) {
	return o.Keep(who, handlerBytes+request.HeadBytes(r))
}

// Keep takes so many bytes for a person's stream, until over is called. An error is like one of
// Open.
func (o *Opener) Keep(who event.TenantProfile, n int64) (over func(), err error) {
	if err := o.Quotas.Keep(who, n, true); err != nil {
		return nil, o.Streams.TurnAway(who.Tenant, err)
	}
	return func() { o.Quotas.Drop(who, n) }, nil
}

// handlerBytes is what a stream takes more whose handler stays with it, with net/http's
// part, as measured.
const handlerBytes = 20 << 10

// sessionBytes is what a TLS session takes whose socket is the engine's, as measured.
const sessionBytes = 7 << 10
