package cluster

import (
	"math"

	"realtimehub/internal/delivery"
	"realtimehub/internal/sized"
)

// ownConns are the connections of a tenant that others were told of, in no order. Each knows its
// place, which only gets smaller: whoever looks at the places from the last to the first, however
// much comes and goes meanwhile, meets everyone that stays.
type ownConns struct {
	list   []*delivery.Connection
	places sized.Table[*delivery.Connection, int]
}

func (o *ownConns) add(c *delivery.Connection) {
	o.places.Put(c, len(o.list))
	o.list = append(o.list, c)
}

func (o *ownConns) has(c *delivery.Connection) bool {
	if o == nil {
		return false
	}
	_, there := o.places.Find(c)
	return there
}

func (o *ownConns) remove(c *delivery.Connection) (there bool) {
	if !o.has(c) {
		return false
	}
	place := o.places.Get(c)
	last := o.list[len(o.list)-1]
	o.list[place] = last
	o.places.Put(last, place)
	o.places.Delete(c)
	sized.Pull(&o.list, new(int64)) // a connection's bytes have it
	return true
}

// piece is how many connections are looked at under the lock, which is that of all tenants.
const piece = 1000

// Sessions implements Sink. What comes or goes meanwhile is told after it.
func (c *Cluster) Sessions(tenant string) (sessions []Session) {
	if tenant == tenantsTopic {
		return c.tenantSessions()
	}
	for end := math.MaxInt; end > 0; {
		sessions, end = c.someSessions(tenant, end, sessions)
	}
	return sessions
}

// someSessions appends up to a piece of those before a place. It returns the place of the first.
func (c *Cluster) someSessions(tenant string, end int, sessions []Session) (_ []Session, from int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	own := c.own[tenant]
	if own == nil {
		return sessions, 0
	}
	end = min(end, len(own.list))
	from = max(0, end-piece)
	for _, conn := range own.list[from:end] {
		sessions = append(sessions, sessionOf(conn))
	}
	return sessions, from
}
