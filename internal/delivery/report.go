package delivery

import "realtimehub/internal/event"

// Reporter is told of this hub's own connections as an Observer is, and why each has ended.
type Reporter interface {
	Opened(*Connection)
	Closed(*Connection, CloseReason)
}

// opened tells of a connection that comes.
func (s *Streams) opened(c *Connection) {
	if s.reporter != nil {
		s.reporter.Opened(c)
	}
	s.observer.Connected(c)
}

// closed tells of a connection that has gone.
func (s *Streams) closed(c *Connection, reason CloseReason) {
	s.observer.Disconnected(c)
	if s.reporter != nil {
		s.reporter.Closed(c, reason)
	}
}

// Moves has moved called, with the tenant locked, whenever somebody joins a room or leaves it.
// It is named before there is a tenant. Without it nobody is told.
func (t *Tenants) Moves(moved func(tenant string, room event.Room, p event.Profile)) { t.moved = moved }
