package signalr

import (
	"context"

	"realtimehub/internal/access"
	"realtimehub/internal/cluster"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
)

// Calls are Verbs that any hub of a cluster does, as often as a person's calls are allowed.
type Calls struct {
	Cluster *cluster.Cluster
	Limits  *access.Rates
	// Visible is what a client may see of others, as a JSON array.
	Visible func(ctx context.Context, tenant string, viewer event.Profile, asked []event.Profile) ([]byte, error)
}

// Touch implements Verbs.
func (c *Calls) Touch(ctx context.Context, conn *delivery.Connection) error {
	return c.on(conn, func() (bool, error) { return c.Cluster.Touch(ctx, conn) })
}

// Acknowledge implements Verbs.
func (c *Calls) Acknowledge(ctx context.Context, conn *delivery.Connection, cursor string) error {
	return c.on(conn, func() (bool, error) { return c.Cluster.Acknowledge(ctx, conn, cursor) })
}

// Adjust implements Verbs.
func (c *Calls) Adjust(ctx context.Context, conn *delivery.Connection, types **event.Filter, watch *[]event.Profile) error {
	return c.on(conn, func() (bool, error) { return c.Cluster.Adjust(ctx, conn, types, watch) })
}

// Typing implements Verbs.
func (c *Calls) Typing(ctx context.Context, tenant string, p event.Profile, conversation string, started bool) error {
	err := c.Limits.Client(event.TenantProfile{Tenant: tenant, Profile: p})
	if err == nil {
		err = c.Cluster.Typing(ctx, tenant, p, conversation, started)
	}
	return err
}

// Presence implements Verbs.
func (c *Calls) Presence(ctx context.Context, tenant string, viewer event.Profile, asked []event.Profile) ([]byte, error) {
	if err := c.Limits.Client(event.TenantProfile{Tenant: tenant, Profile: viewer}); err != nil {
		return nil, err
	}
	return c.Visible(ctx, tenant, viewer, asked)
}

// on does something with a connection, if its client may call now.
func (c *Calls) on(conn *delivery.Connection, do func() (found bool, err error)) error {
	if err := c.Limits.Client(event.TenantProfile{Tenant: conn.Tenant, Profile: conn.Profile}); err != nil {
		return err
	}
	found, err := do()
	if err == nil && !found {
		err = errEnded
	}
	return err
}
