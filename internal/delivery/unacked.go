package delivery

import (
	"sync"
	"time"

	"realtimehub/internal/due"
	"realtimehub/internal/fair"
)

// unacked ends a connection that has owed an acknowledgement for too long, and says when to
// look again if it has not.
func (s *Streams) unacked(a *acks) {
	c := a.conn
	s.removeIf(c, CloseUnacked, func() bool {
		now := time.Now()
		a.forget(now)
		since, any := a.owedSince(now)
		if any && now.Sub(since) >= s.timeouts.after {
			return true
		}
		if any {
			s.timeouts.await(a, since)
		}
		return false
	})
}

// timeouts finds connections that have owed an acknowledgement for too long.
type timeouts struct {
	after time.Duration // static; 0: none is ended
	end   func(*acks)   // static; called with no lock held

	mu sync.Mutex
	// Guarded by mu, which is a leaf.
	due   due.Queue[*acks]
	timer *time.Timer // nil before the first
}

// await looks at a connection once what it owes since a time could be owed for too long. The
// tenant is locked.
func (t *timeouts) await(a *acks, since time.Time) {
	if t.after == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if a.due.At().IsZero() {
		t.due.Set(a, since.Add(t.after))
		t.armLocked()
	}
}

// forget has a connection looked at no more.
func (t *timeouts) forget(a *acks) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.due.Set(a, time.Time{})
}

func (t *timeouts) armLocked() {
	if t.due.Len() == 0 {
		return
	}
	_, at := t.due.First()
	if wait := time.Until(at); t.timer == nil {
		t.timer = time.AfterFunc(wait, t.fire)
	} else {
		t.timer.Reset(wait)
	}
}

func (t *timeouts) fire() {
	now := time.Now()
	for more := true; more; {
		var come []*acks
		come, more = t.take(now)
		fair.ForEach(len(come), func(i int) { t.end(come[i]) })
	}
}

// take takes up to a piece of those whose time has come, and says whether there may be more.
func (t *timeouts) take(now time.Time) (come []*acks, more bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for range duePiece {
		next, ok := t.due.Next(now)
		if !ok {
			t.armLocked()
			return come, false
		}
		t.due.Set(next, time.Time{})
		come = append(come, next)
	}
	return come, true
}
