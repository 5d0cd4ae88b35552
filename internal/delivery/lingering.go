package delivery

import (
	"cmp"
	"context"
	"maps"
	"sync/atomic"
	"time"

	"realtimehub/internal/engine"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
)

// lingering is of a connection whose client asks again and again: it has a stream for each
// request, and is there between two of them.
type lingering struct {
	// Static.
	client string        // names the client among its profile's; may be empty
	time   time.Duration // how long it is there without a stream

	asked atomic.Int64 // when its stream began, in Unix nanoseconds

	// Guarded by the tenant's mu.
	turn     uint32 // counts its streams
	resting  bool   // the last has ended: nothing is sent
	adjusted bool   // its filter was changed since
	leaving  bool   // its stream is to end once it has caught up
}

// lingeringBytes is what one takes beside its texts.
const lingeringBytes = 64

// Asked is the name of a client that asks again and again, and when it last did; empty for
// others, and where it has none.
func (c *Connection) Asked() (client string, at time.Time) {
	if c.linger == nil || c.linger.client == "" {
		return "", time.Time{}
	}
	return c.linger.client, time.Unix(0, c.linger.asked.Load())
}

// restsLocked says that it has no stream, and its client may ask again.
func (c *Connection) restsLocked() bool { return c.linger != nil && c.linger.resting }

// again has a connection go on with the new stream of own, whose client has asked again and
// would else be one more. It returns nil if there is none, and the tenant if the connection is
// behind.
func (s *Streams) again(ctx context.Context, own *owner, sub Subscription, from history.Cursor, missed error) (c *Connection, in *tenant, err error) {
	if sub.Linger == 0 {
		return nil, nil, nil
	}
	t, err := s.tenants.openLocked(ctx, sub.Tenant)
	if err != nil {
		return nil, nil, err
	}
	defer t.mu.Unlock()
	fresh := own.conn
	c = t.lingersLocked(fresh)
	switch {
	case c == nil && sub.Cursor != "":
		return s.farewellLocked(t, own, from, missed), nil, nil
	case c == nil:
		return nil, nil, nil
	case s.open.Draining():
		return nil, nil, ErrDraining
	}
	types := sub.Types
	if c.linger.adjusted { // its client may have asked before that
		types = types.Or(c.filter)
	}
	if err := t.keepLocked(c, c.weigh(types, sub.Watch), sub.Watch); err != nil {
		return nil, nil, err
	}
	t.hearLocked(c)
	sent := t.sentLocked(c)
	if c.acks != nil {
		c.acks.previous = cmp.Or(sub.Previous, c.ID)
	}
	c.supersedeLocked()
	c.linger.turn++
	own.conn, own.turn = c, c.linger.turn
	c.Stream, c.filter, c.behind = fresh.Stream, types, nil
	c.linger.resting, c.linger.adjusted, c.linger.leaving = false, false, false
	c.linger.asked.Store(fresh.linger.asked.Load())
	t.watchLocked(c, sub.Watch)
	t.settleLocked()
	s.expiry.set(c, sub.Expires)
	if _, behind := s.beginLocked(t, c, from, missed, sent); behind {
		in = t
	}
	return c, in, nil
}

// lingersLocked is the connection of a client that is about to be one more, if it has the same
// properties. Of clients without a name it is one that rests; of those that acknowledge, the one
// that they name, since what one has handled says nothing of the others.
func (t *tenant) lingersLocked(c *Connection) *Connection {
	p := t.rooms.Person(c.Profile)
	if p == nil {
		return nil
	}
	for _, old := range p.Conns() {
		switch {
		case old.linger == nil || old.linger.client != c.linger.client || old.sentAway:
		case old.linger.client == "" && (!old.linger.resting || c.acks != nil && old.ID != c.acks.previous):
		case old.encoder == c.encoder && (old.acks == nil) == (c.acks == nil) && maps.Equal(old.Metadata, c.Metadata):
			return old
		}
	}
	return nil
}

// unheardLocked keeps for a while why a connection is closed whose client may not have heard it: it is
// between two streams, or the last answer is lost.
func (s *Streams) unheardLocked(c *Connection, why CloseReason) {
	if client, _ := c.Asked(); client != "" {
		s.unheard.add(ended{conn: c, why: why, at: time.Now()})
	}
}

// farewellLocked has a client that goes on though its connection was closed told so, on the new stream.
// It returns the connection, which has gone; nil if there is none.
func (s *Streams) farewellLocked(t *tenant, own *owner, from history.Cursor, missed error) *Connection {
	e := s.unheard.find(func(old *Connection) bool {
		return old.who() == own.conn.who() && old.linger.client == own.conn.linger.client
	})
	c := e.conn
	if c == nil {
		return nil
	}
	c.Stream, own.conn = own.conn.Stream, c
	resume, from, missed := t.resumeLocked(c, from, missed)
	if c.acks != nil && resume == ResumeComplete {
		s.resumedLocked(t, c, c.ID, from)
	}
	s.greet(c, resume, from, missed)
	c.Stream.Close(c.encoder.closing(e.why, 0, ""))
	return c
}

// supersedeLocked ends the stream of a connection whose client has asked again.
func (c *Connection) supersedeLocked() {
	c.Stream.Close(c.encoder.closing(CloseSuperseded, 0, ""))
}

// Supersede ends those connections of a client whose streams began before a time, when it asked
// again, here or on another hub.
func (s *Streams) Supersede(who event.TenantProfile, client string, before time.Time) {
	for _, c := range s.Connections(who.Tenant, &who.Profile) {
		if name, _ := c.Asked(); name != client {
			continue
		}
		s.removeIf(c, CloseReplaced, func() bool {
			_, asked := c.Asked()
			if !asked.Before(before) {
				return false
			}
			c.supersedeLocked()
			return true
		})
	}
}

// Rest ends a stream of a connection that lingers, with all that its client is to be sent up to
// now and the place that it knows then. The last word is CloseClient, or CloseSuperseded.
func (s *Streams) Rest(c *Connection, stream *engine.Stream) {
	t := s.tenants.find(c.Tenant)
	if t == nil || c.removed || c.Stream != stream {
		stream.Close(c.encoder.closing(CloseSuperseded, 0, ""))
	} else if c.linger.leaving = c.behind != nil; !c.linger.leaving {
		s.closeLocked(t, c, CloseClient)
		s.restLocked(c)
	}
	if t != nil {
		t.mu.Unlock()
	}
}

// restLocked keeps a connection for a while whose stream has ended.
func (s *Streams) restLocked(c *Connection) {
	c.linger.resting = true
	s.expiry.set(c, time.Now().Add(c.linger.time))
}

// Linger keeps a connection for so long from now that rests after a stream.
func (s *Streams) Linger(c *Connection, stream *engine.Stream, wait time.Duration) {
	t := s.tenants.find(c.Tenant)
	if t == nil {
		return
	}
	defer t.mu.Unlock()
	if !c.removed && c.linger.resting && c.Stream == stream {
		s.expiry.set(c, time.Now().Add(wait))
	}
}

// rests says that a connection, one of whose streams has ended, lives on: it has another, or its
// client may ask again.
func (s *Streams) rests(c *Connection, turn uint32, why CloseReason) bool {
	if c.linger == nil {
		return false
	}
	t := s.tenants.find(c.Tenant)
	if t == nil {
		return false
	}
	defer t.mu.Unlock()
	if c.removed || c.linger.turn != turn || c.linger.resting {
		return true
	}
	if why != CloseClient || c.sentAway {
		return false
	}
	s.restLocked(c)
	return true
}
