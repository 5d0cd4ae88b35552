package delivery

import (
	"maps"
	"slices"
	"sync"
	"time"

	"realtimehub/internal/due"
	"realtimehub/internal/fair"
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
	due     due.Queue[*lifetime]
	timer   *time.Timer // nil before the first
	stopped bool
}

// set has a connection end at a time, sooner or later than it was to; at zero it
// does not end by itself.
func (x *expiry) set(c *Connection, expires time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if c.lifetime != nil {
		x.due.Set(c.lifetime, time.Time{})
		c.lifetime = nil
	}
	if !expires.IsZero() {
		c.lifetime = &lifetime{conn: c, expires: expires}
		x.due.Set(c.lifetime, expires.Add(-expiringBefore))
		x.armLocked()
	}
}

func (x *expiry) armLocked() {
	if x.due.Len() == 0 || x.stopped {
		return
	}
	_, at := x.due.First()
	wait := time.Until(at)
	if x.timer == nil {
		x.timer = time.AfterFunc(wait, x.fire)
	} else {
		x.timer.Reset(wait)
	}
}

func (x *expiry) fire() {
	now := time.Now()
	come := map[string][]*lifetime{} // by tenant: one that is busy keeps no other's waiting
	x.mu.Lock()
	for next, ok := x.due.Next(now); ok && !x.stopped; next, ok = x.due.Next(now) {
		come[next.conn.Tenant] = append(come[next.conn.Tenant], next)
		if next.expires.After(now) {
			x.due.Set(next, next.expires)
		} else {
			x.due.Set(next, time.Time{})
		}
	}
	x.armLocked()
	x.mu.Unlock()
	lists := slices.Collect(maps.Values(come))
	fair.ForEach(len(lists), func(i int) {
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

// lifetime is of a connection that ends by itself; due is the warning,
// then the end.
type lifetime struct {
	due     due.Item
	conn    *Connection
	expires time.Time
}

func (l *lifetime) Due() *due.Item { return &l.due }
