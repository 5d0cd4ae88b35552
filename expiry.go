package main

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// expiringBefore is how long before its end a stream is told of it.
const expiringBefore = 30 * time.Second

// expiry ends connections when their tokens do: one timer for all of them.
type expiry struct {
	// Both are called with no lock held, of a tenant for one connection after the other:
	// whether it is still so, says stands.
	warn func(*lifetime) // of the end that comes
	end  func(*lifetime)

	mu sync.Mutex
	// Guarded by mu, which is a leaf.
	due     deadlines
	timer   *time.Timer // nil before the first
	stopped bool
}

// set has a connection end at a time, sooner or later than it was to; at zero it
// does not end by itself.
func (x *expiry) set(c *Connection, expires time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if c.lifetime != nil {
		x.due.set(c.lifetime, time.Time{})
		c.lifetime = nil
	}
	if !expires.IsZero() {
		c.lifetime = &lifetime{conn: c, expires: expires}
		x.due.set(c.lifetime, expires.Add(-expiringBefore))
		x.armLocked()
	}
}

func (x *expiry) armLocked() {
	if len(x.due) == 0 || x.stopped {
		return
	}
	wait := time.Until(x.due[0].when().at)
	if x.timer == nil {
		x.timer = time.AfterFunc(wait, x.fire)
	} else {
		x.timer.Reset(wait)
	}
}

func (x *expiry) fire() {
	now := time.Now()
	due := map[string][]*lifetime{} // by tenant: one that is busy keeps no other's waiting
	x.mu.Lock()
	for len(x.due) > 0 && !x.stopped && !x.due[0].when().at.After(now) {
		next := x.due[0].(*lifetime)
		due[next.conn.Tenant] = append(due[next.conn.Tenant], next)
		if next.expires.After(now) {
			x.due.set(next, next.expires)
		} else {
			x.due.set(next, time.Time{})
		}
	}
	x.armLocked()
	x.mu.Unlock()
	lists := slices.Collect(maps.Values(due))
	together(len(lists), func(i int) {
		for _, l := range lists[i] {
			if l.expires.After(now) {
				x.warn(l)
			} else {
				x.end(l)
			}
		}
	})
}

// stands says that a connection's time was not set anew.
func (x *expiry) stands(l *lifetime) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return l.conn.lifetime == l
}

// stop has nothing end any more.
func (x *expiry) stop() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.stopped = true
	if x.timer != nil {
		x.timer.Stop()
	}
}
