package delivery

import (
	"errors"
	"fmt"
	"maps"
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
	ErrFull     = problem.New("the limit of connections is reached", problem.Problem{Status: http.StatusServiceUnavailable, Code: "HubFull"})

	ErrTaken = errors.New("there is a connection of this id already")

	ErrTenantFull = fmt.Errorf("%w for this tenant", ErrFull)
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
	by       map[Transport]int64 // how many came by each door
}

// admit makes c known by its id if the limits allow one more. beside is how many connections
// its tenant has; replaces says that c takes the place of another one of its profile.
func (d *directory) admit(c *Connection, replaces bool, beside int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.draining:
		return ErrDraining
	case d.byID.Get(c.ID) != nil:
		return ErrTaken
	case replaces:
	case d.most.All > 0 && d.byID.Len() >= d.most.All:
		return ErrFull
	case d.most.Tenant > 0 && beside >= d.most.Tenant:
		return ErrTenantFull
	}
	d.byID.Put(c.ID, c)
	d.by[c.Transport]++
	return nil
}

func (d *directory) drop(c *Connection) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.byID.Delete(c.ID)
	d.by[c.Transport]--
}

// shut has nobody come any more, and returns who is there, in no order.
func (d *directory) shut() []*Connection {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.draining = true
	return slices.Collect(d.byID.Values())
}

// Draining says that no new stream is taken.
func (d *directory) Draining() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.draining
}

// now is how many are open, how many of them came by each door, and whether the hub drains.
func (d *directory) now() (open int, by map[Transport]int64, draining bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.byID.Len(), maps.Clone(d.by), d.draining
}

// Connection finds an open connection of this hub, whichever tenant's; nil when
// there is none.
func (d *directory) Connection(id string) *Connection {
	key, err := ParseID(id)
	if err != nil {
		return nil
	}
	return d.connection(key)
}

func (d *directory) connection(id uuid.UUID) *Connection {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.byID.Get(id)
}

// ParseID takes the one form that connections' ids have.
func ParseID(text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err == nil && len(text) != 36 {
		err = errors.New("is not a UUID of 36 characters")
	}
	return id, err
}
