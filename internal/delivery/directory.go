package delivery

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"github.com/google/uuid"

	"realtimehub/internal/problem"
	"realtimehub/internal/sized"
)

// Errors of a hub that takes no stream; handlers know what is answered then.
var (
	ErrDraining = problem.New("the hub is draining", problem.Problem{Status: http.StatusServiceUnavailable, Code: "Draining"})
	ErrFull     = errors.New("no more connections are taken")

	ErrTenantFull = fmt.Errorf("%w of this tenant", ErrFull)
)

// Limits is how many may be open at once; 0 lifts a limit.
type Limits struct {
	All, Tenant int // one more is turned away
	Profile     int // one more takes the place of the profile's oldest
}

// directory is every open connection of this hub by its id, whichever tenant's, and
// who may still come.
type directory struct {
	most Limits // static

	mu sync.RWMutex
	// Guarded by mu, which is a leaf.
	byID     sized.Table[uuid.UUID, *Connection]
	draining bool
}

// admit makes c known by its id, if it may come: beside so many of its tenant, or
// in the place of another of its profile.
func (x *directory) admit(c *Connection, replaces bool, beside int) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.draining:
		return ErrDraining
	case replaces:
	case x.most.All > 0 && x.byID.Len() >= x.most.All:
		return ErrFull
	case x.most.Tenant > 0 && beside >= x.most.Tenant:
		return ErrTenantFull
	}
	x.byID.Put(c.ID, c)
	return nil
}

func (x *directory) drop(c *Connection) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.byID.Delete(c.ID)
}

// shut has nobody come any more, and returns who is there, in no order.
func (x *directory) shut() []*Connection {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.draining = true
	return slices.Collect(x.byID.Values())
}

// Draining says that no new stream is taken.
func (x *directory) Draining() bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.draining
}

// now is how many are open, and whether the hub drains.
func (x *directory) now() (open int, draining bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.byID.Len(), x.draining
}

// Connection finds an open connection of this hub, whichever tenant's; nil when
// there is none.
func (x *directory) Connection(id string) *Connection {
	key, err := ParseID(id)
	if err != nil {
		return nil
	}
	return x.connection(key)
}

func (x *directory) connection(id uuid.UUID) *Connection {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.byID.Get(id)
}

// ParseID takes the one form that connections' ids have.
func ParseID(text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err == nil && len(text) != 36 {
		err = errors.New("not the form of an id")
	}
	return id, err
}
