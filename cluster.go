package main

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Cluster is the hub and the others it shares its work with, if any: it finds
// connections wherever they are, tells the others of its own, and keeps presence and
// counts those of all.
type Cluster struct {
	hub       *Hub
	presence  *Presence
	peers     Peers         // nil: the hub is alone
	back      time.Duration // in which a client that was sent away is back
	elsewhere elsewhere

	taking sync.Mutex // held while others' changes are taken in, or a tenant is let go

	mu  sync.Mutex
	own map[string]map[*Connection]Session // guarded by mu: what the others were told of, by tenant
}

// NewCluster joins a hub and its presence to others; nil peers leave it alone. back
// is how long a client that was sent away may take to be back.
func NewCluster(hub *Hub, presence *Presence, peers Peers, back time.Duration) *Cluster {
	c := &Cluster{hub: hub, presence: presence, peers: peers, back: back, elsewhere: elsewhere{quotas: hub.quotas}, own: map[string]map[*Connection]Session{}}
	if peers != nil {
		presence.frozen = func() bool { return hub.Ready() != nil }
		presence.typists.cast = func(who tenantProfile, conversation string, started bool) {
			peers.Cast(who.tenant, Typing{who.profile, conversation, started})
		}
		hub.Observe(c)
		hub.ShareWith(c, peers.Node())
		peers.Follow(c)
	}
	return c
}

// Alone says that no other hub is known, to which clients could go.
func (x *Cluster) Alone() bool { return x.peers == nil || !x.peers.Others() }

func sessionOf(c *Connection) Session {
	return Session{ID: c.ID, Profile: c.Profile, ConnectedAt: c.ConnectedAt, ActiveAt: c.LastActivity()}
}

// Connected implements Observer.
func (x *Cluster) Connected(c *Connection) {
	s := sessionOf(c)
	x.mu.Lock()
	if x.own[c.Tenant] == nil {
		x.own[c.Tenant] = map[*Connection]Session{}
	}
	x.own[c.Tenant][c] = s // before anybody is told, so that no snapshot lacks it
	x.mu.Unlock()
	x.presence.Connected(c)
	x.peers.Tell(c.Tenant, SessionChange{Session: s})
}

// Disconnected implements Observer.
func (x *Cluster) Disconnected(c *Connection) {
	if c.drained && !x.hub.Draining() {
		x.presence.Left(c, time.Now().Add(x.back)) // sent back by a hub that stays
	} else {
		x.presence.Disconnected(c)
	}
	x.mu.Lock()
	if delete(x.own[c.Tenant], c); len(x.own[c.Tenant]) == 0 {
		delete(x.own, c.Tenant)
	}
	x.mu.Unlock()
	s := sessionOf(c)
	if c.drained {
		s.Drained = true
		x.peers.Tell(c.Tenant, SessionChange{Session: s})
	}
	x.peers.Tell(c.Tenant, SessionChange{Session: s, Gone: true})
}

// Share implements Sharing.
func (x *Cluster) Share(ctx context.Context, tenant string) error {
	x.elsewhere.hold(tenant)
	err := x.peers.Hold(ctx, tenant)
	if err != nil {
		x.elsewhere.release(tenant)
	}
	return err
}

// Unshare implements Sharing.
func (x *Cluster) Unshare(tenant string) {
	x.peers.Release(tenant)
	x.taking.Lock()
	defer x.taking.Unlock()
	x.elsewhere.release(tenant)
	x.presence.Forget(tenant)
}

// Count implements Sharing.
func (x *Cluster) Count(e *Event, belongs func(ProfileRef) bool) int {
	return x.elsewhere.count(e, belongs)
}

// Empty implements Sharing.
func (x *Cluster) Empty(tenant string) bool { return x.elsewhere.empty(tenant) }

// Sessions implements PeerSink.
func (x *Cluster) Sessions(tenant string) []Session {
	x.mu.Lock()
	defer x.mu.Unlock()
	sessions := make([]Session, 0, len(x.own[tenant]))
	for c, s := range x.own[tenant] {
		s.ActiveAt = c.LastActivity()
		sessions = append(sessions, s)
	}
	return sessions
}

// Changed implements PeerSink.
func (x *Cluster) Changed(tenant string, changes []SessionChange, known bool, at time.Time) {
	x.taking.Lock()
	defer x.taking.Unlock()
	for _, s := range changes {
		c, came := x.elsewhere.change(tenant, s)
		switch {
		case c == nil:
		case s.Gone && c.drained:
			x.presence.Left(c, time.Now().Add(x.back))
		case s.Gone && at.IsZero():
			x.presence.Left(c, time.Now())
		case s.Gone:
			x.presence.Left(c, at)
		case came && known:
			x.presence.Known(c)
		case came:
			x.presence.Connected(c)
		default:
			x.presence.Touch(c, s.ActiveAt)
		}
	}
}

// Typed implements PeerSink.
func (x *Cluster) Typed(tenant string, t Typing) {
	x.presence.typists.Heard(tenant, t.Profile, t.Conversation, t.Started)
}

// Typing is Typists.Typing, for the streams of all hubs.
func (x *Cluster) Typing(ctx context.Context, tenant string, ref ProfileRef, conversation string, started bool) error {
	return x.presence.typists.Typing(ctx, tenant, ref, conversation, started)
}

// Find finds an open connection, whichever tenant's and wherever it is; nil when
// there is none.
func (x *Cluster) Find(ctx context.Context, text string) *Connection {
	id, err := parseConnectionID(text)
	if err != nil {
		return nil
	}
	if c := x.hub.connection(id); c != nil || x.peers == nil || holderOf(id) == x.peers.Node() {
		return c
	}
	answer, err := x.peers.Ask(ctx, holderOf(id), Call{Op: CallShow, ID: id})
	if err != nil || len(answer.Connections) != 1 {
		return nil
	}
	return answer.Connections[0].connection()
}

// holderOf is the mark of the hub that made a connection's id.
func holderOf(id uuid.UUID) (node [4]byte) {
	copy(node[:], id[len(id)-len(node):])
	return node
}

// Touch says that a connection is active now.
func (x *Cluster) Touch(ctx context.Context, c *Connection) bool {
	if c.elsewhere {
		return x.ask(ctx, c, Call{Op: CallTouch})
	}
	x.presence.Touch(c, time.Now())
	if x.peers == nil {
		return x.hub.connection(c.ID) != nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	_, there := x.own[c.Tenant][c]
	if there { // or the others would be told of one that has gone, and never again
		x.peers.Tell(c.Tenant, SessionChange{Session: sessionOf(c)})
	}
	return there
}

// Prolong has a connection end at another time; at zero not by itself.
func (x *Cluster) Prolong(ctx context.Context, c *Connection, expires time.Time) bool {
	if c.elsewhere {
		return x.ask(ctx, c, Call{Op: CallProlong, Expires: expires})
	}
	return x.hub.Prolong(c, expires)
}

// Adjust gives a connection another filter or watch list; nil leaves it. It says
// whether the connection was there still. ErrTenantShare, ErrPersonShare: it has what it
// had.
func (x *Cluster) Adjust(ctx context.Context, c *Connection, types **TypeFilter, watch *[]ProfileRef) (found bool, err error) {
	if !c.elsewhere {
		return x.hub.Adjust(c, types, watch)
	}
	call := Call{Op: CallAdjust, Watch: watch}
	if types != nil {
		patterns := (*types).Patterns()
		call.Types = &patterns
	}
	call.ID = c.ID
	answer, err := x.peers.Ask(ctx, holderOf(c.ID), call)
	switch {
	case err != nil:
		return false, nil // the hub that holds it may be gone
	case answer.Full:
		return true, ErrTenantShare
	}
	return answer.Found, nil
}

// Kick closes a connection: it is gone when Kick returns.
func (x *Cluster) Kick(ctx context.Context, c *Connection, reason CloseReason) bool {
	if c.elsewhere {
		return x.ask(ctx, c, Call{Op: CallKick, Reason: reason})
	}
	return x.hub.Kick(c, reason)
}

// KickAll is Kick for many connections, together.
func (x *Cluster) KickAll(ctx context.Context, list []*Connection, reason CloseReason) {
	together(len(list), func(i int) { x.Kick(ctx, list[i], reason) })
}

// Refresh is members.Refresh on all hubs that are there: what the service says now
// holds on each when it returns. ErrSilent: one did not say so.
func (x *Cluster) Refresh(ctx context.Context, tenant string, room Room) error {
	if x.peers == nil || x.hub.ownsMembership() {
		return x.hub.Refresh(ctx, tenant, room)
	}
	ctx, cancel := context.WithTimeout(ctx, refreshTime)
	defer cancel()
	var answers []Answer
	var silent []string
	var others sync.WaitGroup
	others.Go(func() {
		answers, silent = x.peers.AskAll(ctx, Call{Op: CallRefresh, Tenant: tenant, Room: room})
	})
	err := x.hub.Refresh(ctx, tenant, room)
	others.Wait()
	switch {
	case err != nil:
		return err
	case len(silent) > 0:
		return ErrSilent
	case slices.ContainsFunc(answers, func(a Answer) bool { return !a.Found }):
		return ErrMembership // it has been logged there
	}
	return nil
}

// refreshTime is how long a refresh may take: a question that is under way already, and
// another.
const refreshTime = 2*resolveTime + time.Second

// ask has the holder of a connection do something with it, and says whether it
// was there still.
func (x *Cluster) ask(ctx context.Context, c *Connection, call Call) bool {
	call.ID = c.ID
	answer, err := x.peers.Ask(ctx, holderOf(c.ID), call)
	return err == nil && answer.Found
}

// Connections are a tenant's, or one profile's, wherever they are, in no order.
func (x *Cluster) Connections(ctx context.Context, tenant string, of *ProfileRef) []*Connection {
	list := x.hub.Connections(tenant, of)
	if x.peers == nil {
		return list
	}
	answers, _ := x.peers.AskAll(ctx, Call{Op: CallList, Tenant: tenant, Profile: of}) // of the silent nothing is known
	for _, answer := range answers {
		for _, d := range answer.Connections {
			list = append(list, d.connection())
		}
	}
	return list
}

// Serve implements PeerSink.
func (x *Cluster) Serve(call Call) (a Answer) {
	ctx := context.Background()
	switch call.Op {
	case CallList:
		for _, c := range x.hub.Connections(call.Tenant, call.Profile) {
			a.Connections = append(a.Connections, descriptionOf(c))
		}
		return a
	case CallRefresh:
		ctx, cancel := context.WithTimeout(ctx, refreshTime)
		defer cancel()
		a.Found = x.hub.Refresh(ctx, call.Tenant, call.Room) == nil
		return a
	}
	c := x.hub.connection(call.ID)
	if c == nil {
		return a
	}
	switch call.Op {
	case CallShow:
		a.Found, a.Connections = true, []Described{descriptionOf(c)}
	case CallTouch:
		a.Found = x.Touch(ctx, c)
	case CallProlong:
		a.Found = x.Prolong(ctx, c, call.Expires)
	case CallAdjust:
		var types **TypeFilter
		if call.Types != nil {
			filter, _ := ParseTypes(*call.Types)
			types = &filter
		}
		found, err := x.Adjust(ctx, c, types, call.Watch)
		a.Found, a.Full = found, err != nil
	case CallKick:
		a.Found = x.Kick(ctx, c, call.Reason)
	}
	return a
}

func descriptionOf(c *Connection) Described {
	return Described{c.ID, c.Tenant, c.Profile, c.ConnectedAt, c.LastActivity(), c.Metadata}
}

func (d Described) connection() *Connection {
	c := &Connection{ID: d.ID, Tenant: d.Tenant, Profile: d.Profile, ConnectedAt: d.ConnectedAt, Metadata: d.Metadata, elsewhere: true}
	c.lastActivity.Store(d.ActiveAt.UnixNano())
	return c
}
