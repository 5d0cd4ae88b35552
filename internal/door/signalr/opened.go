package signalr

import (
	"sync"
	"time"

	"github.com/google/uuid"
)

// mostOpened is how many sessions are remembered.
const mostOpened = 4096

// opened remembers which hub has opened a session: so not all have to be asked each time, and none
// is opened again that has ended. What it has forgotten is asked again.
type opened struct {
	mu sync.Mutex
	id map[uuid.UUID]uuid.UUID // guarded by mu; the connection's, by the session's
}

func (o *opened) of(session uuid.UUID) (id uuid.UUID, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	id, ok = o.id[session]
	return id, ok
}

func (o *opened) add(session, id uuid.UUID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.id == nil || len(o.id) >= mostOpened {
		o.id = map[uuid.UUID]uuid.UUID{}
	}
	o.id[session] = id
}

// begun remembers which sessions clients have begun to poll, here or at another hub, which has asked
// for them then: whoever polls one that nobody holds any more is not at its beginning. What is in it
// is forgotten when it could be opened no longer.
type begun struct {
	mu sync.Mutex
	// Guarded by mu.
	now, before map[uuid.UUID]bool // ids, with this hub's mark
	turned      time.Time
}

// mostBegun is how many are remembered of a while; of more the oldest are forgotten too early.
const mostBegun = 1 << 16

func (b *begun) add(id uuid.UUID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turnLocked()
	b.now[id] = true
}

func (b *begun) has(id uuid.UUID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now[id] || b.before[id]
}

func (b *begun) turnLocked() {
	if now := time.Now(); b.now == nil || len(b.now) >= mostBegun || now.Sub(b.turned) > opening {
		b.now, b.before, b.turned = map[uuid.UUID]bool{}, b.now, now
	}
}
