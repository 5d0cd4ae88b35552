package main

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
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
	of map[[4]byte]map[string]map[kick]struct{} // guarded by mu, by hub and tenant
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
		o.of[node] = map[string]map[kick]struct{}{}
		go o.remind(node)
	}
	kicks := o.of[node][k.tenant]
	if kicks == nil {
		kicks = map[kick]struct{}{}
		o.of[node][k.tenant] = kicks
	}
	all := kick{tenant: k.tenant, reason: delivery.CloseUnavailable}
	if _, so := kicks[all]; so {
		return
	}
	if kicks[k] = struct{}{}; len(kicks) > mostOwed {
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
		o.mu.Lock()
		var kicks []kick
		for _, some := range o.of[node] {
			kicks = slices.AppendSeq(kicks, maps.Keys(some))
		}
		if dead || len(kicks) == 0 {
			delete(o.of, node)
			o.mu.Unlock()
			return
		}
		o.mu.Unlock()
		for _, k := range kicks {
			if !there || o.kick(node, k) != nil || !slices.Contains(o.peers.Others(), node) {
				break
			}
			o.mu.Lock()
			delete(o.of[node][k.tenant], k)
			o.mu.Unlock()
		}
		select {
		case <-ticker.C:
		case <-o.ended:
			return
		}
	}
}
