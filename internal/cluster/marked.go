package cluster

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/fair"
)

// FindMarked finds a connection that another hub holds, of whose id all is known but the mark of
// its hub; nil when there is none. ErrSilent: one that may hold it does not answer.
func (c *Cluster) FindMarked(ctx context.Context, id uuid.UUID) (*delivery.Connection, error) {
	var found atomic.Pointer[delivery.Connection]
	err := c.each(id, func(id uuid.UUID) (bool, error) {
		conn, err := c.Find(ctx, id.String())
		if conn != nil {
			found.Store(conn)
		}
		return conn != nil, err
	})
	return found.Load(), err
}

// FindPolled is FindMarked of a connection whose client polls, which may have ended, and be told
// its last words; its id is zero when there is none.
func (c *Cluster) FindPolled(ctx context.Context, id uuid.UUID, who event.TenantProfile) (uuid.UUID, error) {
	var found atomic.Value
	found.Store(uuid.Nil)
	err := c.each(id, func(id uuid.UUID) (bool, error) {
		a, err := c.askPoll(ctx, id, who, OnlyWhether)
		if a.Found {
			found.Store(id)
		}
		return a.Found, err
	})
	return found.Load().(uuid.UUID), err
}

// each asks all other hubs at once for the connection that has an id but for their mark. Where one
// has it, the silence of others is no error.
func (c *Cluster) each(id uuid.UUID, ask func(id uuid.UUID) (found bool, err error)) error {
	if c.peers == nil {
		return nil
	}
	others := c.peers.Others()
	found, errs := make([]bool, len(others)), make([]error, len(others))
	fair.ForEach(len(others), func(i int) {
		id := id
		copy(id[len(id)-len(others[i]):], others[i][:])
		found[i], errs[i] = ask(id)
	})
	if slices.Contains(found, true) {
		return nil
	}
	return errors.Join(errs...)
}

// Say is delivery.Streams.Say, wherever the connection is.
func (c *Cluster) Say(ctx context.Context, conn *delivery.Connection, records []byte) (found bool, err error) {
	if !conn.Remote() {
		return c.cfg.Delivery.Streams.Say(conn, records), nil
	}
	return c.askOf(ctx, conn, Call{Op: CallSay, Records: records})
}

// Poll is what a client that polls is answered by another hub, which holds its connection, within
// a time; with 0 the connection ends.
func (c *Cluster) Poll(ctx context.Context, id uuid.UUID, who event.TenantProfile, wait time.Duration) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, wait+pollSlack)
	defer cancel()
	return c.askPoll(ctx, id, who, wait)
}

func (c *Cluster) askPoll(ctx context.Context, id uuid.UUID, who event.TenantProfile, wait time.Duration) (Answer, error) {
	return c.ask(ctx, holderOf(id), Call{Op: CallPoll, ID: id, Tenant: who.Tenant, Profile: &who.Profile, Wait: wait})
}

// Waits of polls that take nothing.
const (
	OnlyWhether time.Duration = -1 // asks whether there are any
	Told        time.Duration = -2 // the client has what was taken before
)

// pollSlack is how much longer than a poll its answer may take.
const pollSlack = time.Second

// ServePolls names who answers polls of other hubs' clients. Before, there are none.
func (c *Cluster) ServePolls(answer func(id uuid.UUID, who event.TenantProfile, wait time.Duration) Answer) {
	c.polls.Store(&answer)
}
