package signalr

import (
	"sync"

	"github.com/google/uuid"
)

// mostAbroad is how many sessions of other hubs are remembered.
const mostAbroad = 4096

// abroad remembers which hub holds a session, so that not all have to be asked each time. What it
// has forgotten is asked again.
type abroad struct {
	mu sync.Mutex
	id map[uuid.UUID]uuid.UUID // guarded by mu; the connection's, by the session's
}

func (a *abroad) of(session uuid.UUID) (id uuid.UUID, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id, ok = a.id[session]
	return id, ok
}

func (a *abroad) add(session, id uuid.UUID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.id == nil || len(a.id) >= mostAbroad {
		a.id = map[uuid.UUID]uuid.UUID{}
	}
	a.id[session] = id
}
