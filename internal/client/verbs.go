package client

import (
	"context"
	"net/http"
	"time"

	"realtimehub/internal/access"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/problem"
)

// ErrNoConnection says that there is no connection of an id that a caller may know of.
var ErrNoConnection error = &problem.Problem{Status: http.StatusNotFound, Code: "ConnectionNotFound", Detail: "there is no such connection"}

// Hub does what clients say, wherever the connection is. found is whether it was there still.
type Hub interface {
	Touch(ctx context.Context, c *delivery.Connection) (found bool, err error)
	Acknowledge(ctx context.Context, c *delivery.Connection, cursor string) (found bool, err error)
	Adjust(ctx context.Context, c *delivery.Connection, types **event.Filter, watch *[]event.Profile) (found bool, err error)
	Prolong(ctx context.Context, c *delivery.Connection, expires time.Time) (found bool, err error)
	Typing(ctx context.Context, tenant string, who event.Profile, conversation string, started bool) error
}

// Verbs is by what commands are done: the hub, the limit of calls, and who proves tokens.
type Verbs struct {
	// Static.
	hub    Hub
	limits *access.Rates
	tokens *access.Auth
}

// NewVerbs makes Verbs.
func NewVerbs(hub Hub, limits *access.Rates, tokens *access.Auth) *Verbs {
	return &Verbs{hub: hub, limits: limits, tokens: tokens}
}

// Allow takes one call of a person. The error is an *access.RateError.
func (v *Verbs) Allow(who event.TenantProfile) error { return v.limits.Client(who) }

// Prolong has a connection live as long as the token of a caller who is the same person; in open
// mode there is nothing to prolong.
func (v *Verbs) Prolong(ctx context.Context, c *delivery.Connection, who *access.Caller) error {
	if !who.Is(c.Tenant, c.Profile) {
		return ErrNoConnection
	}
	return there(v.hub.Prolong(ctx, c, who.Expires()))
}

// there is the error of a verb about a connection that may have gone.
func there(found bool, err error) error {
	if err == nil && !found {
		return ErrNoConnection
	}
	return err
}
