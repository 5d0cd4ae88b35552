package notices

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"sync"
	"time"

	"realtimehub/internal/due"
	"realtimehub/internal/event"
	"realtimehub/internal/outbox"
	"realtimehub/internal/pace"
	"realtimehub/internal/quota"
	"realtimehub/internal/sized"
)

// Config is what Notices need to know.
type Config struct {
	Types  []outbox.Type // that services are told; of others nothing is kept
	Box    outbox.Box
	State  *quota.Pool[string] // where it is counted what waits, by tenant
	Logger *slog.Logger
}

// Notices gather what services are told, and put it into the outbox.
type Notices struct {
	// Static.
	cfg  Config
	wake chan struct{} // a tenant has something

	// These guard themselves.
	failing, dropping pace.Counter

	mu sync.Mutex
	// Guarded by mu.
	tenants sized.Table[string, *queue]
	turn    []string // tenants of which something waits that nobody puts now
	waiting int      // tenants of which something waits, or is put now
	idle    chan struct{}
	ours    bool                          // this hub tells of states
	standby sized.Table[string, *standby] // by tenant, what another hub tells unless it is gone
	told    due.Queue[*standby]           // until the oldest of it is known to be told
	dropped int64
}

// New makes notices; nil if services are told nothing that they are for.
func New(cfg Config) *Notices {
	n := &Notices{cfg: cfg, wake: make(chan struct{}, workers), ours: true}
	if !n.Tells(outbox.TypePresence) && !n.TellsConnections() && !n.TellsRooms() {
		return nil
	}
	return n
}

// Tells says whether services are told of a type.
func (n *Notices) Tells(t outbox.Type) bool {
	return n != nil && slices.Contains(n.cfg.Types, t)
}

// TellsConnections says whether services are told of connections.
func (n *Notices) TellsConnections() bool {
	return n.Tells(outbox.TypeConnected) || n.Tells(outbox.TypeDisconnected)
}

// TellsRooms says whether services are told which rooms are occupied.
func (n *Notices) TellsRooms() bool {
	return n.Tells(outbox.TypeConversationOccupied) || n.Tells(outbox.TypeConversationVacated) ||
		n.Tells(outbox.TypeGroupOccupied) || n.Tells(outbox.TypeGroupVacated)
}

// Presence tells that somebody has had a status since a time.
func (n *Notices) Presence(tenant string, p event.Profile, status string, since time.Time) {
	if !n.Tells(outbox.TypePresence) {
		return
	}
	data, _ := json.Marshal(struct { // of texts alone
		Profile event.Profile `json:"profile"`
		Status  string        `json:"status"`
		Since   string        `json:"since"`
	}{p, status, event.FormatTime(since)})
	n.state(tenant, subject{profile: p}, outbox.Draft{Type: outbox.TypePresence, At: since, Data: data})
}

// Occupancy tells that a room has been occupied, or vacated, since a time.
func (n *Notices) Occupancy(tenant string, room event.Room, occupied bool, since time.Time) {
	kind := outbox.TypeConversationVacated
	switch {
	case room.Kind == event.KindGroup && occupied:
		kind = outbox.TypeGroupOccupied
	case room.Kind == event.KindGroup:
		kind = outbox.TypeGroupVacated
	case occupied:
		kind = outbox.TypeConversationOccupied
	}
	if !n.Tells(kind) {
		return
	}
	var of struct {
		ConversationID string `json:"conversationId,omitempty"`
		GroupID        string `json:"groupId,omitempty"`
		Since          string `json:"since"`
	}
	if of.Since = event.FormatTime(since); room.Kind == event.KindGroup {
		of.GroupID = room.ID
	} else {
		of.ConversationID = room.ID
	}
	data, _ := json.Marshal(of)
	n.state(tenant, subject{room: room}, outbox.Draft{Type: kind, At: since, Data: data})
}

// Connection is what services are told of one.
type Connection struct {
	ID       string            `json:"id"`
	Profile  event.Profile     `json:"profile"`
	Metadata map[string]string `json:"metadata"` // empty where it has none; null: it is not known
	Reason   string            `json:"reason,omitempty"`
}

// Opened tells of a connection that is about to open.
func (n *Notices) Opened(tenant string, c Connection) { n.happened(tenant, outbox.TypeConnected, c) }

// Closed tells of a connection that has closed.
func (n *Notices) Closed(tenant string, c Connection) { n.happened(tenant, outbox.TypeDisconnected, c) }

func (n *Notices) happened(tenant string, kind outbox.Type, c Connection) {
	if !n.Tells(kind) {
		return
	}
	if c.Metadata == nil {
		c.Metadata = map[string]string{}
	}
	w := newStep(kind, c)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stepLocked(tenant, w, mostSteps)
}

// ReasonHubGone is why a connection has closed whose hub was given up.
const ReasonHubGone = "hubGone"

// Gone tells of a connection that has closed with its hub, which was given up. All hubs that are
// left are told of it, and the one that tells of states tells it.
func (n *Notices) Gone(tenant string, c Connection) {
	if !n.Tells(outbox.TypeDisconnected) {
		return
	}
	c.Reason = ReasonHubGone
	w := newStep(outbox.TypeDisconnected, c)
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.tellsLocked(tenant) {
		n.standLocked(tenant, w)
	}
	if n.tellsLocked(tenant) { // also where it had no room behind what is taken over
		n.stepLocked(tenant, w, mostStandby)
	}
}

// Run puts what was gathered into the outbox, until ctx ends.
func (n *Notices) Run(ctx context.Context) {
	if n == nil {
		return
	}
	var all sync.WaitGroup
	for range workers {
		all.Go(func() { n.work(ctx) })
	}
	all.Wait()
}

// Flush returns when nothing waits any more, or ctx ends.
func (n *Notices) Flush(ctx context.Context) {
	for n != nil {
		n.mu.Lock()
		if n.waiting == 0 {
			n.mu.Unlock()
			return
		}
		if n.idle == nil {
			n.idle = make(chan struct{})
		}
		idle := n.idle
		n.mu.Unlock()
		select {
		case <-idle:
		case <-ctx.Done():
			return
		}
	}
}

// Stats are what waits, and what has happened since the start.
type Stats struct {
	Waiting int   // notices that the outbox has yet to take
	Dropped int64 // for want of room
}

// Stats tells of them.
func (n *Notices) Stats() (s Stats) {
	if n == nil {
		return s
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	s.Dropped = n.dropped
	for q := range n.tenants.Values() {
		s.Waiting += len(q.states) + len(q.steps) + len(q.batch.notices)
	}
	return s
}
