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
	// Both are called with no lock held, one connection of a tenant after the other. The time
	// may have been set anew meanwhile: stands tells.
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
func (e *expiry) set(c *Connection, expires time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c.lifetime != nil {
		e.due.Set(c.lifetime, time.Time{})
		c.lifetime = nil
	}
	if !expires.IsZero() {
		c.lifetime = &lifetime{conn: c, expires: expires}
		e.due.Set(c.lifetime, expires.Add(-expiringBefore))
		e.armLocked()
	}
}

func (e *expiry) armLocked() {
	if e.due.Len() == 0 || e.stopped {
		return
	}
	_, at := e.due.First()
	wait := time.Until(at)
	if e.timer == nil {
		e.timer = time.AfterFunc(wait, e.fire)
	} else {
		e.timer.Reset(wait)
	}
}

func (e *expiry) fire() {
	now := time.Now()
	come := map[string][]*lifetime{} // by tenant: one that is busy keeps no other's waiting
	for more := true; more; {
		more = e.take(come, now)
	}
	lists := slices.Collect(maps.Values(come))
	fair.ForEach(len(lists), func(i int) {
		for _, l := range lists[i] {
			if l.expires.After(now) {
				e.warn(l)
			} else {
				e.end(l)
			}
		}
	})
}

// duePiece is how many that are due are taken at a time under a lock of all tenants.
const duePiece = 1000

// take takes up to a piece of those whose time has come, and says whether there may be more.
func (e *expiry) take(come map[string][]*lifetime, now time.Time) (more bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for range duePiece {
		next, ok := e.due.Next(now)
		if !ok || e.stopped {
			e.armLocked()
			return false
		}
		come[next.conn.Tenant] = append(come[next.conn.Tenant], next)
		if next.expires.After(now) {
			e.due.Set(next, next.expires)
		} else {
			e.due.Set(next, time.Time{})
		}
	}
	return true
}

// stands says that a connection's time was not set anew.
func (e *expiry) stands(l *lifetime) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return l.conn.lifetime == l
}

// stop has nothing end any more.
func (e *expiry) stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stopped = true
	if e.timer != nil {
		e.timer.Stop()
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
