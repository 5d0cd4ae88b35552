package delivery

import (
	"slices"
	"sort"
)

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
