package cluster

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/event"
)

// Bounds of how it is passed on that clients have come back. Of more it is known once the connections
// have ended which they came from.
const (
	returnedAtOnce = 64
	returnedTime   = 2 * time.Second
)

// Returned says that a client has come back, with everything up to a cursor, from the connection that
// it names. Another hub may hold that one still: it does not notice everybody's departure at once, and
// is told what that client has acknowledged. Nobody is waited for.
func (c *Cluster) Returned(who event.TenantProfile, from uuid.UUID, cursor string) {
	if c.peers == nil || !slices.Contains(c.peers.Others(), holderOf(from)) {
		return
	}
	select {
	case c.returned <- struct{}{}:
	default:
		return
	}
	go func() {
		defer func() { <-c.returned }()
		ctx, cancel := context.WithTimeout(context.Background(), returnedTime)
		defer cancel()
		conn, _ := c.Find(ctx, from.String())
		if conn != nil && conn.Tenant == who.Tenant && conn.Profile == who.Profile {
			c.Acknowledge(ctx, conn, cursor)
		}
	}()
}
