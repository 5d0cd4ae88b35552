package presence

import "realtimehub/internal/delivery"

// recent is connections in the order of their last activity. Each has its neighbours, so that
// none of the others is looked at when one is used or leaves.
type recent struct{ last *delivery.Connection }

// add puts a connection in its place, which is nearly always that of the last.
func (r *recent) add(c *delivery.Connection) {
	later, earlier := (*delivery.Connection)(nil), r.last
	for earlier != nil && earlier.LastActivity().After(c.LastActivity()) {
		later, earlier = earlier, earlier.Earlier
	}
	c.Later, c.Earlier = later, earlier
	*r.before(later) = c
	if earlier != nil {
		earlier.Later = c
	}
}

func (r *recent) remove(c *delivery.Connection) {
	*r.before(c.Later) = c.Earlier
	if c.Earlier != nil {
		c.Earlier.Later = c.Later
	}
	c.Later, c.Earlier = nil, nil
}

// before is where it is kept who comes before a connection; before none it is the last.
func (r *recent) before(c *delivery.Connection) **delivery.Connection {
	if c == nil {
		return &r.last
	}
	return &c.Earlier
}

func (r *recent) has(c *delivery.Connection) bool { return c.Later != nil || r.last == c }

// usedAt is the latest activity of all.
func (r *recent) usedAt() moment {
	if r.last == nil {
		return never
	}
	return momentOf(r.last.LastActivity())
}
