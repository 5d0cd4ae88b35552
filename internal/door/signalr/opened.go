package signalr

import (
	"sync"

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
