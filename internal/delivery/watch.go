package delivery

import (
	"realtimehub/internal/allowance"
	"realtimehub/internal/event"
	"realtimehub/internal/sized"
)

// watching is one profile on a connection's watch list, and the connection's place among
// those who have it on theirs.
type watching struct {
	of    *watched
	index int32
}

// watched is a profile that connections of a tenant watch.
type watched struct {
	profile event.Profile
	by      []*Connection
}

// So many bytes each profile on a watch list takes; and, once for all lists that it is on,
// itself beside its names and its place in the tenant's table.
const (
	watchingBytes = 16 + 16
	watchedBytes  = 64
	watchedPlace  = 2 * 41
)

// watchList is the profiles that c watches.
func (c *Connection) watchList() []event.Profile {
	if c.watch == nil {
		return nil
	}
	list := make([]event.Profile, len(c.watch))
	for i, w := range c.watch {
		list[i] = w.of.profile
	}
	return list
}

// keepLocked takes what a connection weighs, or is to weigh from now on, of its tenant's
// and its person's shares, with a watch list; settleLocked follows when that is there.
func (t *tenant) keepLocked(c *Connection, w weight, watch []event.Profile) error {
	own := w.own - c.weight.own
	if err := t.takeLocked(own + t.unwatchedLocked(watch)); err != nil {
		return err
	}
	if !t.quotas.Person.Take(c.who(), w.all()-c.weight.all()) {
		t.settleLocked()
		return allowance.ErrPerson
	}
	t.bytes += own
	c.weight = w
	return nil
}

// dropLocked gives back what a connection weighs.
func (t *tenant) dropLocked(c *Connection) {
	t.bytes -= c.weight.own
	t.quotas.Person.Give(c.who(), c.weight.all())
	t.settleLocked()
}

// watchLocked gives a connection another watch list: nil is as configured.
func (t *tenant) watchLocked(c *Connection, watch []event.Profile) {
	for _, w := range c.watch {
		of := w.of
		last := of.by[len(of.by)-1]
		of.by[w.index] = last
		for i := range last.watch {
			if last.watch[i].of == of {
				last.watch[i].index = w.index
			}
		}
		if sized.Pull(&of.by, &t.bytes); len(of.by) == 0 {
			t.watchers.Delete(of.profile)
			t.bytes -= watchedBytes + of.profile.Bytes()
		}
	}
	c.watch = nil
	if watch != nil {
		c.watch = make([]watching, 0, len(watch))
	}
	for _, p := range watch {
		w := t.watchers.Get(p)
		if w == nil {
			w = &watched{profile: p}
			t.watchers.Put(p, w)
			t.bytes += watchedBytes + p.Bytes()
		}
		c.watch = append(c.watch, watching{w, int32(len(w.by))})
		sized.Push(&w.by, c, &t.bytes)
	}
}

// unwatchedLocked is what a watch list takes that nobody has part in yet.
func (t *tenant) unwatchedLocked(watch []event.Profile) (n int64) {
	for _, p := range watch {
		if t.watchers.Get(p) == nil {
			n += watchedBytes + watchedPlace + p.Bytes()
		}
	}
	return n
}

// watching are the connections that watch a profile.
func (t *tenant) watching(p event.Profile) []*Connection {
	if w := t.watchers.Get(p); w != nil {
		return w.by
	}
	return nil
}
