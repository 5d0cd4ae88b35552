package fair

import (
	"maps"
	"slices"
	"sync"
	"time"

	"realtimehub/internal/due"
)

// Alarm hands items over when they are due: one timer for all of them. What comes due together is
// handed over key by key, 32 keys at a time: one that is busy keeps its own waiting, and not what
// others have, nor what comes due later.
type Alarm[T due.Owner] struct {
	// Static.
	key func(T) string
	do  func(T)

	mu sync.Mutex
	// Guarded by mu, which is a leaf.
	queue   due.Queue[T]
	timer   *time.Timer // nil before the first
	stopped bool
}

// NewAlarm makes one that calls do with each item that is due, and no longer queued. It is
// called with no lock held: an item may have been given another time just then.
func NewAlarm[T due.Owner](key func(T) string, do func(T)) *Alarm[T] {
	return &Alarm[T]{key: key, do: do}
}

// Set has an item due at a time, whether it was queued or not. The zero time removes it.
func (a *Alarm[T]) Set(item T, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queue.Set(item, at)
	if !at.IsZero() {
		a.armLocked()
	}
}

// SetNew is Set of an item that is not queued; of another it leaves the time as it is.
func (a *Alarm[T]) SetNew(item T, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if item.Due().At().IsZero() {
		a.queue.Set(item, at)
		a.armLocked()
	}
}

// Stop has nothing handed over any more, but for what is being handed over.
func (a *Alarm[T]) Stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped = true
	if a.timer != nil {
		a.timer.Stop()
	}
}

func (a *Alarm[T]) armLocked() {
	if a.queue.Len() == 0 || a.stopped {
		return
	}
	_, at := a.queue.First()
	if wait := time.Until(at); a.timer == nil {
		a.timer = time.AfterFunc(wait, a.fire)
	} else {
		a.timer.Reset(wait)
	}
}

func (a *Alarm[T]) fire() {
	now := time.Now()
	come := map[string][]T{}
	for more := true; more; {
		more = a.take(come, now)
	}
	lists := slices.Collect(maps.Values(come))
	ForEach(len(lists), func(i int) {
		for _, item := range lists[i] {
			a.do(item)
		}
	})
}

// piece is how many that are due are taken at a time under the lock, which is that of all keys.
const piece = 1000

// take takes up to a piece of those whose time has come, and says whether there may be more.
func (a *Alarm[T]) take(come map[string][]T, now time.Time) (more bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for range piece {
		next, ok := a.queue.Next(now)
		if !ok || a.stopped {
			a.armLocked()
			return false
		}
		a.queue.Set(next, time.Time{})
		key := a.key(next)
		come[key] = append(come[key], next)
	}
	return true
}
