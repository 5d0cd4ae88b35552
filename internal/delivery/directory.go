package delivery

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/largest"
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
	key, err := event.ParseConnectionID(id)
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

// order is a tenant's connections in the order of their ids, in which they nearly come. It is cut
// into chunks, so that one that comes or goes moves few others.
type order struct {
	chunks [][]*Connection // none is empty
	size   int
}

// chunkSize is how many connections a chunk has at most.
const chunkSize = 512

// orderBytes is what a connection takes here.
const orderBytes = 2 * 8

// first is the place of the first connection that is after something: past all if none is.
func (o *order) first(after func(*Connection) bool) (chunk, at int) {
	chunk = sort.Search(len(o.chunks), func(i int) bool { return after(o.chunks[i][len(o.chunks[i])-1]) })
	if chunk < len(o.chunks) {
		at = sort.Search(len(o.chunks[chunk]), func(i int) bool { return after(o.chunks[chunk][i]) })
	}
	return chunk, at
}

func (o *order) add(c *Connection) {
	chunk, at := o.first(func(other *Connection) bool { return CompareIDs(other, c) > 0 })
	if last := len(o.chunks) - 1; chunk > last && last >= 0 && len(o.chunks[last]) < chunkSize {
		chunk, at = last, len(o.chunks[last])
	}
	if chunk == len(o.chunks) {
		o.chunks = append(o.chunks, nil)
	}
	list := slices.Insert(o.chunks[chunk], at, c)
	o.chunks[chunk] = list
	if half := len(list) / 2; len(list) > chunkSize {
		o.chunks = slices.Insert(o.chunks, chunk+1, slices.Clone(list[half:]))
		o.chunks[chunk] = slices.Delete(list, half, len(list))
	}
	o.size++
}

func (o *order) remove(c *Connection) {
	chunk, at := o.first(func(other *Connection) bool { return CompareIDs(other, c) >= 0 })
	o.chunks[chunk] = slices.Delete(o.chunks[chunk], at, at+1)
	o.size--
	o.join(chunk)
	o.join(chunk - 1)
}

// join makes one of a chunk and the next where both are small.
func (o *order) join(chunk int) {
	if chunk < 0 || chunk >= len(o.chunks) {
		return
	}
	list, next := o.chunks[chunk], []*Connection(nil)
	if chunk+1 < len(o.chunks) {
		next = o.chunks[chunk+1]
	}
	switch {
	case len(list) == 0:
		o.chunks = slices.Delete(o.chunks, chunk, chunk+1)
	case len(next) > 0 && len(list)+len(next) <= chunkSize/2:
		o.chunks[chunk] = slices.Concat(list, next)
		o.chunks = slices.Delete(o.chunks, chunk+1, chunk+2)
	}
}

// page is up to so many connections that come after an id, as it is written, and whether there
// are more.
func (o *order) page(after string, limit int) (list []*Connection, more bool) {
	chunk, at := o.first(func(c *Connection) bool { return after == "" || c.ID.String() > after })
	for ; chunk < len(o.chunks); chunk, at = chunk+1, 0 {
		rest := o.chunks[chunk][at:]
		if room := limit - len(list); len(rest) > room {
			return append(list, rest[:room]...), true
		}
		list = append(list, rest...)
	}
	return list, false
}

// Page is a tenant's connections of this hub after an id, in the order of their ids and up to so
// many; how many there are in all; and whether more follow. A limit of 0 is none.
func (s *Streams) Page(tenant, after string, limit int) (list []*Connection, count int, more bool) {
	t := s.tenants.find(tenant)
	if t == nil {
		return nil, 0, false
	}
	defer t.mu.Unlock()
	if limit <= 0 {
		limit = t.order.size
	}
	list, more = t.order.page(after, limit)
	return list, t.order.size, more
}

// Lately finds a connection that has ended a moment ago and owed an acknowledgement, which may
// be on its way: a page that is closed sends its last word beside the end of its stream.
func (s *Streams) Lately(id uuid.UUID) *Connection {
	return s.lately.find(func(c *Connection) bool { return c.ID == id }).conn
}

// lately are connections that have ended.
type lately struct {
	mu sync.Mutex
	// Guarded by mu, which is a leaf.
	list []ended               // the oldest first
	by   largest.Sizes[string] // how many are of each tenant
}

type ended struct {
	conn *Connection   // guarded by lately.mu since
	of   history.Epoch // of its places
	why  CloseReason   // that its client is to learn
	at   time.Time
}

// Bounds of what is kept of connections that have ended.
const (
	latelyTime = 10 * time.Second
	mostLately = 1000
)

// add keeps a connection. Of too many the oldest of the tenant that has most is forgotten.
func (l *lately) add(e ended) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sweepLocked()
	l.list = append(l.list, e)
	l.by.Add(e.conn.Tenant, 1)
	if len(l.list) > mostLately {
		most, _, _ := l.by.Most()
		l.by.Add(most, -1)
		oldest := slices.IndexFunc(l.list, func(e ended) bool { return e.conn.Tenant == most })
		l.list = slices.Delete(l.list, oldest, oldest+1)
	}
}

// find is the one that ended last of those that are meant, or the zero value.
func (l *lately) find(is func(*Connection) bool) ended {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.findLocked(is)
}

func (l *lately) findLocked(is func(*Connection) bool) ended {
	l.sweepLocked()
	for _, e := range slices.Backward(l.list) {
		if is(e.conn) {
			return e
		}
	}
	return ended{}
}

// acknowledge is Streams.Acknowledge of a connection that has ended.
func (l *lately) acknowledge(c *Connection, cursor string, duties Duties) (found bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.findLocked(func(other *Connection) bool { return other == c })
	if e.conn == nil {
		return false, nil
	}
	return true, c.acknowledge(e.of, cursor, duties)
}

// sweepLocked forgets those that ended too long ago.
func (l *lately) sweepLocked() {
	now, n := time.Now(), 0
	for ; n < len(l.list) && now.Sub(l.list[n].at) > latelyTime; n++ {
		l.by.Add(l.list[n].conn.Tenant, -1)
	}
	l.list = slices.Delete(l.list, 0, n)
}
