package cluster

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/fair"
)

// kick is connections that are to be closed: one of a tenant's, or all of a profile's, or
// all that there are.
type kick struct {
	tenant  string
	profile event.Profile // zero: of all profiles
	id      uuid.UUID     // zero: all
	reason  delivery.CloseReason
}

// owed is kicks that other hubs have not heard. Each is remembered until its hub has heard
// it or is dead, as long as this hub lives.
type owed struct {
	// Static.
	peers Peers
	kick  func(node [4]byte, k kick) error
	ended <-chan struct{}

	mu sync.Mutex
	// Guarded by mu.
	of    map[[4]byte]map[string]map[kick]int // by hub and tenant, with count as each was added last
	count int
}

// mostOwed is how many kicks of a tenant are remembered for a hub. Where there are more all
// of the tenant's connections there are to go: who may come back does.
const mostOwed = 1000

// add remembers a kick for a hub.
func (o *owed) add(node [4]byte, k kick) {
	o.mu.Lock()
	defer o.mu.Unlock()
	who := event.TenantProfile{Tenant: k.tenant, Profile: k.profile}.Clone() // they may be pieces of a whole request
	k.tenant, k.profile = who.Tenant, who.Profile
	if o.of[node] == nil {
		o.of[node] = map[string]map[kick]int{}
		go o.remind(node)
	}
	kicks := o.of[node][k.tenant]
	if kicks == nil {
		kicks = map[kick]int{}
		o.of[node][k.tenant] = kicks
	}
	all := kick{tenant: k.tenant, reason: delivery.CloseUnavailable}
	if _, so := kicks[all]; so {
		k = all
	}
	o.count++
	if kicks[k] = o.count; len(kicks) > mostOwed {
		clear(kicks)
		kicks[all] = o.count
	}
}

// remind tells a hub its kicks once it is there again.
func (o *owed) remind(node [4]byte) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		others, lost := o.peers.Known()
		there := slices.Contains(others, node)
		dead := !there && !slices.Contains(lost, node)
		o.mu.Lock()
		kicks := map[kick]int{}
		for _, some := range o.of[node] {
			maps.Copy(kicks, some)
		}
		if dead || len(kicks) == 0 {
			delete(o.of, node)
			o.mu.Unlock()
			return
		}
		o.mu.Unlock()
		for k, added := range kicks {
			if !there || o.kick(node, k) != nil || !slices.Contains(o.peers.Others(), node) {
				break
			}
			o.mu.Lock()
			if some := o.of[node][k.tenant]; some[k] == added { // else it is to close who came since
				delete(some, k)
			}
			o.mu.Unlock()
		}
		select {
		case <-ticker.C:
		case <-o.ended:
			return
		}
	}
}

// Kick closes a connection: it is gone when Kick returns.
func (c *Cluster) Kick(ctx context.Context, conn *delivery.Connection, reason delivery.CloseReason) (found bool, err error) {
	if conn.Remote() {
		return c.askOf(ctx, conn, Call{Op: CallKick, Reason: reason})
	}
	return c.cfg.Delivery.Streams.Kick(conn, reason), nil
}

// KickAll is Kick for many connections, together.
func (c *Cluster) KickAll(ctx context.Context, list []*delivery.Connection, reason delivery.CloseReason) error {
	errs := make([]error, len(list))
	fair.ForEach(len(list), func(i int) { _, errs[i] = c.Kick(ctx, list[i], reason) })
	return errors.Join(errs...)
}

// KickProfile closes all connections of a profile: they are gone when it returns.
// ErrSilent: a hub did not answer; it closes them once it does, unless it is dead.
func (c *Cluster) KickProfile(ctx context.Context, tenant string, profile event.Profile, reason delivery.CloseReason) error {
	k := kick{tenant: tenant, profile: profile, reason: reason}
	err := c.KickAll(ctx, c.cfg.Delivery.Streams.Connections(tenant, &profile), reason)
	if c.peers == nil {
		return err
	}
	others, lost := c.peers.Known()
	errs := make([]error, len(others))
	fair.ForEach(len(others), func(i int) {
		if errs[i] = c.kickOn(ctx, others[i], k); errs[i] != nil {
			c.owed.add(others[i], k)
		}
	})
	for _, node := range slices.Concat(lost, c.lost()) { // who is given up while it is asked counts as one that has nothing
		c.owed.add(node, k)
	}
	return errors.Join(errs...)
}

// KickOne is KickProfile for one connection of a tenant, and says whether it was there.
func (c *Cluster) KickOne(ctx context.Context, tenant, text string, reason delivery.CloseReason) (found bool, err error) {
	lost := c.lost()
	conn, err := c.Find(ctx, text)
	if conn != nil && conn.Tenant == tenant {
		found, err = c.Kick(ctx, conn, reason)
	}
	id, bad := event.ParseConnectionID(text)
	if c.peers == nil || bad != nil {
		return found, err
	}
	lost = slices.Concat(lost, c.lost()) // it may be heard, or given up, meanwhile
	if node := holderOf(id); err != nil || slices.Contains(lost, node) {
		c.owed.add(node, kick{tenant: tenant, id: id, reason: reason})
	}
	return found, err
}

// kickOn has another hub close connections.
func (c *Cluster) kickOn(ctx context.Context, node [4]byte, k kick) error {
	if k.id != uuid.Nil {
		conn, err := c.Find(ctx, k.id.String())
		if conn != nil && conn.Tenant == k.tenant {
			_, err = c.Kick(ctx, conn, k.reason)
		}
		return err
	}
	of := &k.profile
	if k.profile == (event.Profile{}) {
		of = nil
	}
	for {
		answer, err := c.ask(ctx, node, Call{Op: CallKickAll, Tenant: k.tenant, Profile: of, Limit: kickPage, Reason: k.reason})
		switch {
		case err != nil:
			return err
		case !answer.Found:
			return c.kickListed(ctx, node, k, of)
		case !answer.More:
			return nil
		}
	}
}

// kickListed is kickOn for a hub of the version before, which closes what it is told one by one.
func (c *Cluster) kickListed(ctx context.Context, node [4]byte, k kick, of *event.Profile) error {
	for after := ""; ; {
		p, err := c.pageOn(ctx, node, k.tenant, of, after, kickPage)
		if err == nil {
			err = c.KickAll(ctx, p.List, k.reason)
		}
		if err != nil || !p.More {
			return err
		}
		after = p.List[len(p.List)-1].ID.String()
	}
}

// kickPage is how many connections a hub is asked to close at a time: it has a second for it.
const kickPage = 250
