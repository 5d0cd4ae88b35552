package main

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/sse"
)

// Connection is one open stream of one profile.
type Connection struct {
	// Static.
	ID          uuid.UUID
	Tenant      string
	Profile     ProfileRef
	ConnectedAt time.Time
	Metadata    map[string]string
	unnamed     bool
	Stream      *sse.Stream
	elsewhere   bool // another hub holds it: there is no stream

	lastActivity atomic.Int64 // Unix nanoseconds

	// Guarded by the tenant's mu.
	filter  *TypeFilter
	watch   []ProfileRef // nil: as configured; empty: none
	index   int          // in tenant.conns
	joined  bool         // it is in tenant.conns, or was
	removed bool
	drained bool    // closed by a drain: not to be announced
	place   uint64  // in the history, that its client knows or will
	behind  *behind // nil: live

	lifetime *lifetime // guarded by expiry.mu; nil: without end
}

// LastActivity is when the connection was last active.
func (c *Connection) LastActivity() time.Time { return time.Unix(0, c.lastActivity.Load()) }

// compareIDs orders connections by when they were opened, as far as hubs' clocks agree.
func compareIDs(a, b *Connection) int { return slices.Compare(a.ID[:], b.ID[:]) }

// lifetime is of a connection that ends by itself; its deadline is the warning,
// then the end.
type lifetime struct {
	deadline
	conn    *Connection
	expires time.Time
}

// behind is kept for a connection that is being sent what it missed: events to
// come are read from the history as well, but for those that are not stored.
type behind struct {
	held  []held
	bytes int
	shed  *sse.Frame // in place of what was too much
	count *hubCounts
}

// held is a frame that is not stored, and the place it comes after.
type held struct {
	after uint64
	frame *sse.Frame
}

// maxHeld is how many bytes are held for a connection that is behind.
const maxHeld = 256 << 10

// hold keeps a frame that is not stored, after a place in the history; or where there
// is no room, tells of a gap in place of all that was held.
func (b *behind) hold(frame *sse.Frame, after uint64) {
	if b.bytes+frame.Len() <= maxHeld {
		b.held = append(b.held, held{after, frame})
		b.bytes += frame.Len()
		return
	}
	dropped := frame.Events()
	for _, h := range b.held {
		dropped += h.frame.Events()
	}
	b.count.behind.Add(int64(dropped))
	if len(b.held) != 1 || b.held[0].frame != b.shed {
		b.count.gaps.add(GapSlow, 1)
	}
	first := append(b.held, held{after: after})[0]
	b.held, b.bytes = []held{{first.after, b.shed}}, maxHeld
}
