package main

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// kick is connections that are to be closed: one of a tenant's, or all of a profile's.
type kick struct {
	tenant  string
	profile ProfileRef
	id      uuid.UUID // zero: all
	reason  CloseReason
}

// owed is kicks that other hubs have not heard. Each is remembered until its hub has heard
// it or is dead, as long as this hub lives.
type owed struct {
	// Static.
	peers Peers
	kick  func(node [4]byte, k kick) error
	ended <-chan struct{}

	mu sync.Mutex
	of map[[4]byte]map[kick]struct{} // guarded by mu
}

// mostOwed is how many kicks are remembered for a hub.
const mostOwed = 10_000

// add remembers a kick for a hub.
func (o *owed) add(node [4]byte, k kick) {
	o.mu.Lock()
	defer o.mu.Unlock()
	kicks := o.of[node]
	if kicks == nil {
		kicks = map[kick]struct{}{}
		o.of[node] = kicks
		go o.remind(node)
	}
	if len(kicks) < mostOwed {
		k.tenant, k.profile = strings.Clone(k.tenant), ProfileRef{strings.Clone(k.profile.Type), strings.Clone(k.profile.ID)}
		kicks[k] = struct{}{}
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
		kicks := slices.Collect(maps.Keys(o.of[node]))
		if dead || len(kicks) == 0 {
			delete(o.of, node)
			o.mu.Unlock()
			return
		}
		o.mu.Unlock()
		for _, k := range kicks {
			if !there || o.kick(node, k) != nil {
				break
			}
			o.mu.Lock()
			delete(o.of[node], k)
			o.mu.Unlock()
		}
		select {
		case <-ticker.C:
		case <-o.ended:
			return
		}
	}
}
