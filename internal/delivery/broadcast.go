package delivery

import "realtimehub/internal/engine"

// broadcast is something for many of a tenant's streams. It is handed to a piece of them at a
// time, with the tenant unlocked between two. Whoever has to do with a connection meanwhile has
// it hear first what it lacks (hearLocked): so each is sent everything in the tenant's order, as
// if all had been handed it at once.
type broadcast struct {
	number uint64            // counts the tenant's
	give   func(*Connection) // the tenant is locked
}

// broadcasts are a tenant's that some streams may not have heard yet.
type broadcasts struct {
	last uint64      // the number of the newest that there was
	over uint64      // all up to this number were heard by everybody
	list []broadcast // after over, in their order

	// A walk is through tenant.conns from the end. One that comes meanwhile is added behind and
	// has heard all that was before it; of one that goes, the last takes the place, which the walk
	// has been at, or comes to still.
	left  int    // connections that it comes to; 0: there is none
	until uint64 // after it this number is over
}

// walkPiece is to how many streams something is handed before others have the lock.
const walkPiece = 1000

// broadcastLocked has give called for each connection that there is now, in the order of all
// that they are sent.
func (t *tenant) broadcastLocked(give func(*Connection)) {
	if len(t.conns) == 0 {
		return
	}
	t.broadcasts.last++
	t.broadcasts.list = append(t.broadcasts.list, broadcast{number: t.broadcasts.last, give: give})
}

// hearLocked hands c what it has not heard yet, if it is among the tenant's connections.
func (t *tenant) hearLocked(c *Connection) {
	if !c.joined || c.removed {
		return
	}
	for _, b := range t.broadcasts.list {
		b.handTo(c)
	}
}

func (b *broadcast) handTo(c *Connection) {
	if c.heard < b.number {
		c.heard = b.number
		b.give(c)
	}
}

// walkLocked goes on with a walk, or begins one, and hands so many streams what they have not
// heard, or one stream all of it.
func (t *tenant) walkLocked(most int) {
	b := &t.broadcasts
	if len(b.list) == 0 {
		return
	}
	if b.left == 0 {
		b.left, b.until = len(t.conns), b.last
	}
	b.left = min(b.left, len(t.conns))
	from := max(0, b.left-max(1, most/len(b.list)))
	for i := range b.list {
		for _, c := range t.conns[from:b.left] {
			b.list[i].handTo(c)
		}
	}
	if b.left = from; from == 0 {
		heard := len(b.list) - int(b.last-b.until)
		clear(b.list[:heard])
		b.list, b.over = b.list[heard:], b.until
	}
}

// flush lets go what has been gathered, and returns when everybody has heard what was broadcast
// before. The tenant is locked; it is unlocked now and then, and in the end.
func (t *tenant) flush() {
	for last := t.broadcasts.last; ; t.mu.Lock() {
		t.walkLocked(walkPiece)
		over := len(t.broadcasts.list) == 0 || t.broadcasts.over >= last
		d := t.gathered
		t.gathered = engine.Batch{}
		t.mu.Unlock()
		d.Flush()
		if over {
			return
		}
	}
}
