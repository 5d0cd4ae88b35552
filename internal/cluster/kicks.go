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

// Kick is connections that are to be closed: one of a tenant's, or all of a profile's, or
// all that there are.
type Kick struct {
	Tenant  string
	Profile event.Profile // zero: of all profiles
	id      uuid.UUID     // zero: all
	Reason  delivery.CloseReason
}

// owed is kicks that other hubs have not heard. Each is remembered until its hub has heard
// it or is dead, as long as this hub lives.
type owed struct {
	// Static.
	peers Peers
	kick  func(node [4]byte, k Kick) error
	ended <-chan struct{}

	Mu sync.Mutex
	Of map[[4]byte]map[string]map[Kick]struct{} // guarded by mu, by hub and tenant
}

// MostOwed is how many kicks of a tenant are remembered for a hub. Where there are more all
// of the tenant's connections there are to go: who may come back does.
const MostOwed = 1000

// Add remembers a kick for a hub.
func (o *owed) Add(node [4]byte, k Kick) {
	o.Mu.Lock()
	defer o.Mu.Unlock()
	who := event.TenantProfile{Tenant: k.Tenant, Profile: k.Profile}.Clone() // they may be pieces of a whole request
	k.Tenant, k.Profile = who.Tenant, who.Profile
	if o.Of[node] == nil {
		o.Of[node] = map[string]map[Kick]struct{}{}
		go o.remind(node)
	}
	kicks := o.Of[node][k.Tenant]
	if kicks == nil {
		kicks = map[Kick]struct{}{}
		o.Of[node][k.Tenant] = kicks
	}
	all := Kick{Tenant: k.Tenant, Reason: delivery.CloseUnavailable}
	if _, so := kicks[all]; so {
		return
	}
	if kicks[k] = struct{}{}; len(kicks) > MostOwed {
		clear(kicks)
		kicks[all] = struct{}{}
	}
}

// remind tells a hub its kicks once it is there again.
func (o *owed) remind(node [4]byte) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		there := slices.Contains(o.peers.Others(), node)
		dead := !there && !slices.Contains(o.peers.Lost(), node)
		o.Mu.Lock()
		var kicks []Kick
		for _, some := range o.Of[node] {
			kicks = slices.AppendSeq(kicks, maps.Keys(some))
		}
		if dead || len(kicks) == 0 {
			delete(o.Of, node)
			o.Mu.Unlock()
			return
		}
		o.Mu.Unlock()
		for _, k := range kicks {
			if !there || o.kick(node, k) != nil || !slices.Contains(o.peers.Others(), node) {
				break
			}
			o.Mu.Lock()
			delete(o.Of[node][k.Tenant], k)
			o.Mu.Unlock()
		}
		select {
		case <-ticker.C:
		case <-o.ended:
			return
		}
	}
}

// Kick closes a connection: it is gone when Kick returns.
func (x *Cluster) Kick(ctx context.Context, c *delivery.Connection, reason delivery.CloseReason) (found bool, err error) {
	if c.Remote() {
		return x.askOf(ctx, c, Call{Op: CallKick, Reason: reason})
	}
	return x.Cfg.Delivery.Streams.Kick(c, reason), nil
}

// KickAll is Kick for many connections, together.
func (x *Cluster) KickAll(ctx context.Context, list []*delivery.Connection, reason delivery.CloseReason) error {
	errs := make([]error, len(list))
	fair.ForEach(len(list), func(i int) { _, errs[i] = x.Kick(ctx, list[i], reason) })
	return errors.Join(errs...)
}

// KickProfile closes all connections of a profile: they are gone when it returns.
// ErrSilent: a hub did not answer; it closes them once it does, unless it is dead.
func (x *Cluster) KickProfile(ctx context.Context, tenant string, profile event.Profile, reason delivery.CloseReason) error {
	k := Kick{Tenant: tenant, Profile: profile, Reason: reason}
	err := x.KickAll(ctx, x.Cfg.Delivery.Streams.Connections(tenant, &profile), reason)
	if x.Peers == nil {
		return err
	}
	others := x.Peers.Others()
	errs := make([]error, len(others))
	fair.ForEach(len(others), func(i int) {
		if errs[i] = x.kickOn(ctx, others[i], k); errs[i] != nil {
			x.Owed.Add(others[i], k)
		}
	})
	for _, node := range x.Peers.Lost() {
		x.Owed.Add(node, k)
	}
	return errors.Join(errs...)
}

// KickOne is KickProfile for one connection of a tenant, and says whether it was there.
func (x *Cluster) KickOne(ctx context.Context, tenant, text string, reason delivery.CloseReason) (found bool, err error) {
	c, err := x.Find(ctx, text)
	if c != nil && c.Tenant == tenant {
		found, err = x.Kick(ctx, c, reason)
	}
	id, bad := delivery.ParseID(text)
	if x.Peers == nil || bad != nil {
		return found, err
	}
	if node := holderOf(id); err != nil || slices.Contains(x.Peers.Lost(), node) {
		x.Owed.Add(node, Kick{Tenant: tenant, id: id, Reason: reason})
	}
	return found, err
}

// kickOn has another hub close connections.
func (x *Cluster) kickOn(ctx context.Context, node [4]byte, k Kick) error {
	if k.id != uuid.Nil {
		c, err := x.Find(ctx, k.id.String())
		if c != nil && c.Tenant == k.Tenant {
			_, err = x.Kick(ctx, c, k.Reason)
		}
		return err
	}
	of := &k.Profile
	if k.Profile == (event.Profile{}) {
		of = nil
	}
	for after := ""; ; {
		p, err := x.PageOn(ctx, node, k.Tenant, of, after, kickPage)
		if err == nil {
			err = x.KickAll(ctx, p.List, k.Reason)
		}
		if err != nil || !p.More {
			return err
		}
		after = p.List[len(p.List)-1].ID.String()
	}
}

// kickPage is how many connections are asked for and closed at a time.
const kickPage = 1000
