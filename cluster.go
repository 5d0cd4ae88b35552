package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/allowance"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/fair"
	"realtimehub/internal/room"
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

	owed *owed // nil: the hub is alone

	taking sync.Mutex // held while others' changes are taken in, or a tenant is let go

	// The others are told of what is here under the lock under which it changes, so that
	// what they were told last is so. The broker is not waited for.
	mu  sync.Mutex
	own map[string]map[*delivery.Connection]Session // guarded by mu: what the others were told of, by tenant
}

// NewCluster joins a hub and its presence to others; nil peers leave it alone. back
// is how long a client that was sent away may take to be back.
func NewCluster(hub *Hub, presence *Presence, peers Peers, back time.Duration) *Cluster {
	c := &Cluster{hub: hub, presence: presence, peers: peers, back: back, elsewhere: elsewhere{quotas: hub.quotas}, own: map[string]map[*delivery.Connection]Session{}}
	if peers != nil {
		presence.frozen = func() bool { return !peers.Hears() }
		presence.typists.cast = func(who event.TenantProfile, conversation string, started bool) {
			peers.Cast(who.Tenant, Typing{who.Profile, conversation, started})
		}
		c.owed = &owed{
			peers: peers, ended: hub.streams.Drained(), of: map[[4]byte]map[string]map[kick]struct{}{},
			kick: func(node [4]byte, k kick) error { return c.kickOn(context.Background(), node, k) },
		}
		if service, ok := hub.members.Resolver.(room.Refresher); ok {
			service.Away(peers.Away)
		}
		hub.streams.Observe(c)
		hub.ShareWith(c, peers.Node())
		peers.Follow(c)
	}
	return c
}

// Alone says that no other hub is known, to which clients could go.
func (x *Cluster) Alone() bool { return x.peers == nil || len(x.peers.Others()) == 0 }

func sessionOf(c *delivery.Connection) Session {
	return Session{ID: c.ID, Profile: c.Profile, ConnectedAt: c.ConnectedAt, ActiveAt: c.LastActivity()}
}

// Connected implements Observer.
func (x *Cluster) Connected(c *delivery.Connection) {
	s := sessionOf(c)
	x.mu.Lock()
	if x.own[c.Tenant] == nil {
		x.own[c.Tenant] = map[*delivery.Connection]Session{}
	}
	x.own[c.Tenant][c] = s
	x.peers.Tell(c.Tenant, SessionChange{Session: s})
	x.mu.Unlock()
	x.presence.Connected(c)
}

// Disconnected implements Observer.
func (x *Cluster) Disconnected(c *delivery.Connection) {
	if c.SentAway() && !x.hub.streams.Draining() {
		x.presence.Left(c, time.Now().Add(x.back)) // sent back by a hub that stays
	} else {
		x.presence.Disconnected(c)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if delete(x.own[c.Tenant], c); len(x.own[c.Tenant]) == 0 {
		delete(x.own, c.Tenant)
	}
	s := sessionOf(c)
	if c.SentAway() {
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
func (x *Cluster) Count(e *event.Event, belongs func(event.Profile) bool) int {
	return x.elsewhere.count(e, belongs)
}

// Complete implements Sharing.
func (x *Cluster) Complete(ctx context.Context, tenant string) bool {
	return x.peers.Complete(ctx, tenant)
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
		case s.Gone && c.SentAway():
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
func (x *Cluster) Typing(ctx context.Context, tenant string, ref event.Profile, conversation string, started bool) error {
	return x.presence.typists.Typing(ctx, tenant, ref, conversation, started)
}

// Find finds an open connection, whichever tenant's and wherever it is; nil when
// there is none. ErrSilent: the hub that holds it does not answer.
func (x *Cluster) Find(ctx context.Context, text string) (*delivery.Connection, error) {
	id, err := delivery.ParseID(text)
	if err != nil {
		return nil, nil // no connection has it
	}
	if c := x.hub.streams.ByID(id); c != nil || x.peers == nil || holderOf(id) == x.peers.Node() {
		return c, nil
	}
	answer, err := x.ask(ctx, holderOf(id), Call{Op: CallShow, ID: id})
	if err != nil || len(answer.Connections) != 1 {
		return nil, err
	}
	return answer.Connections[0].connection(), nil
}

// ask has another hub answer. One that is gone has nothing, which the zero Answer says;
// of one that does not answer nobody knows: ErrSilent.
func (x *Cluster) ask(ctx context.Context, node [4]byte, call Call) (Answer, error) {
	answer, err := x.peers.Ask(ctx, node, call)
	switch {
	case err == nil:
		return answer, nil
	case errors.Is(err, ErrElsewhere):
		return Answer{}, nil
	}
	x.hub.count.Unanswered(1)
	return Answer{}, errors.Join(delivery.ErrSilent, err)
}

// holderOf is the mark of the hub that made a connection's id.
func holderOf(id uuid.UUID) (node [4]byte) {
	copy(node[:], id[len(id)-len(node):])
	return node
}

// Touch says that a connection is active now. It says whether the connection was there
// still, as all that follow do; ErrSilent: its hub does not answer.
func (x *Cluster) Touch(ctx context.Context, c *delivery.Connection) (found bool, err error) {
	if c.Remote() {
		return x.askOf(ctx, c, Call{Op: CallTouch})
	}
	x.presence.Touch(c, time.Now())
	if x.peers == nil {
		return x.hub.streams.ByID(c.ID) != nil, nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	_, there := x.own[c.Tenant][c]
	if there { // or the others would be told of one that has gone, and never again
		x.peers.Tell(c.Tenant, SessionChange{Session: sessionOf(c)})
	}
	return there, nil
}

// Prolong has a connection end at another time; at zero not by itself.
func (x *Cluster) Prolong(ctx context.Context, c *delivery.Connection, expires time.Time) (found bool, err error) {
	if c.Remote() {
		return x.askOf(ctx, c, Call{Op: CallProlong, Expires: expires})
	}
	return x.hub.streams.Prolong(c, expires), nil
}

// Adjust gives a connection another filter or watch list; nil leaves it, and a list that
// is nil is as configured. allowance.ErrTenant, allowance.ErrPerson: it has what it had.
func (x *Cluster) Adjust(ctx context.Context, c *delivery.Connection, types **event.Filter, watch *[]event.Profile) (found bool, err error) {
	if !c.Remote() {
		return x.hub.streams.Adjust(c, types, watch)
	}
	call := Call{Op: CallAdjust, ID: c.ID, Watch: watch}
	if watch != nil && *watch == nil {
		call.Watch, call.Unwatch = nil, true
	}
	if types != nil {
		patterns := (*types).Patterns()
		call.Types = &patterns
	}
	answer, err := x.ask(ctx, holderOf(c.ID), call)
	switch {
	case err != nil:
		return false, err
	case answer.Person:
		return true, allowance.ErrPerson
	case answer.Full:
		return true, allowance.ErrTenant
	case answer.Found && call.Unwatch && !answer.Unwatched:
		return true, fmt.Errorf("%w as it should: it is of the version before", delivery.ErrSilent)
	}
	return answer.Found, nil
}

// askOf has the holder of a connection do something with it.
func (x *Cluster) askOf(ctx context.Context, c *delivery.Connection, call Call) (found bool, err error) {
	call.ID = c.ID
	answer, err := x.ask(ctx, holderOf(c.ID), call)
	return answer.Found, err
}

// Kick closes a connection: it is gone when Kick returns.
func (x *Cluster) Kick(ctx context.Context, c *delivery.Connection, reason delivery.CloseReason) (found bool, err error) {
	if c.Remote() {
		return x.askOf(ctx, c, Call{Op: CallKick, Reason: reason})
	}
	return x.hub.streams.Kick(c, reason), nil
}

// KickAll is Kick for many connections, together.
func (x *Cluster) KickAll(ctx context.Context, list []*delivery.Connection, reason delivery.CloseReason) error {
	errs := make([]error, len(list))
	fair.ForEach(len(list), func(i int) { _, errs[i] = x.Kick(ctx, list[i], reason) })
	return errors.Join(errs...)
}

// KickProfile closes all connections of a profile: they are gone when it returns.
// ErrSilent: a hub did not answer; it closes them once it does, unless it is dead.
func (x *Cluster) KickProfile(ctx context.Context, tenant string, profile event.Profile, reason delivery.CloseReason) error {
	k := kick{tenant: tenant, profile: profile, reason: reason}
	err := x.KickAll(ctx, x.hub.streams.Connections(tenant, &profile), reason)
	if x.peers == nil {
		return err
	}
	others := x.peers.Others()
	errs := make([]error, len(others))
	fair.ForEach(len(others), func(i int) {
		if errs[i] = x.kickOn(ctx, others[i], k); errs[i] != nil {
			x.owed.add(others[i], k)
		}
	})
	for _, node := range x.peers.Lost() {
		x.owed.add(node, k)
	}
	return errors.Join(errs...)
}

// KickOne is KickProfile for one connection of a tenant, and says whether it was there.
func (x *Cluster) KickOne(ctx context.Context, tenant, text string, reason delivery.CloseReason) (found bool, err error) {
	c, err := x.Find(ctx, text)
	if c != nil && c.Tenant == tenant {
		found, err = x.Kick(ctx, c, reason)
	}
	id, bad := delivery.ParseID(text)
	if x.peers == nil || bad != nil {
		return found, err
	}
	if node := holderOf(id); err != nil || slices.Contains(x.peers.Lost(), node) {
		x.owed.add(node, kick{tenant: tenant, id: id, reason: reason})
	}
	return found, err
}

// kickOn has another hub close connections.
func (x *Cluster) kickOn(ctx context.Context, node [4]byte, k kick) error {
	if k.id != uuid.Nil {
		c, err := x.Find(ctx, k.id.String())
		if c != nil && c.Tenant == k.tenant {
			_, err = x.Kick(ctx, c, k.reason)
		}
		return err
	}
	of := &k.profile
	if k.profile == (event.Profile{}) {
		of = nil
	}
	for after := ""; ; {
		p, err := x.pageOn(ctx, node, k.tenant, of, after, kickPage)
		if err == nil {
			err = x.KickAll(ctx, p.list, k.reason)
		}
		if err != nil || !p.more {
			return err
		}
		after = p.list[len(p.list)-1].ID.String()
	}
}

// kickPage is how many connections are asked for and closed at a time.
const kickPage = 1000

// Refresh is delivery.Members.Refresh on all hubs that are there: what the service says now
// holds on each when it returns. ErrSilent: one did not say so.
func (x *Cluster) Refresh(ctx context.Context, tenant string, r event.Room) error {
	if x.peers == nil || x.hub.members.OwnsMembership() {
		return x.hub.members.Refresh(ctx, tenant, r)
	}
	ctx, cancel := context.WithTimeout(ctx, refreshTime)
	defer cancel()
	var answers []Answer
	var silent []string
	var others sync.WaitGroup
	others.Go(func() {
		answers, silent = x.peers.AskAll(ctx, Call{Op: CallRefresh, Tenant: tenant, Room: r})
	})
	err := x.hub.members.Refresh(ctx, tenant, r)
	others.Wait()
	switch {
	case err != nil:
		return err
	case len(silent) > 0:
		x.hub.count.Unanswered(len(silent))
		return delivery.ErrSilent
	case slices.ContainsFunc(answers, func(a Answer) bool { return !a.Found }):
		return room.ErrMembership // it has been logged there
	}
	return nil
}

// refreshTime is how long a refresh may take: a question that is under way already, and
// another.
const refreshTime = 2*delivery.ResolveTime + time.Second

// connectionPage is a page of a list of connections, in the order of their ids.
type connectionPage struct {
	list  []*delivery.Connection
	count int  // of the whole list
	more  bool // follow
}

// cut is the page of a whole list, in any order, that comes after an id; a limit of 0 is
// none.
func cut(list []*delivery.Connection, after string, limit int) connectionPage {
	slices.SortFunc(list, delivery.CompareIDs)
	p := connectionPage{list, len(list), false}
	if after != "" {
		from, _ := slices.BinarySearchFunc(list, after, func(c *delivery.Connection, id string) int {
			if c.ID.String() <= id {
				return -1
			}
			return 1
		})
		p.list = list[from:]
	}
	if limit > 0 && len(p.list) > limit {
		p.list, p.more = p.list[:limit], true
	}
	return p
}

// Connections are a tenant's, or one profile's, wherever they are: a page of those after
// an id. ErrSilent: a hub that is there does not answer. Before this hub's list is made begin
// is told how long it will be, and may refuse it; once it is made, end is called.
func (x *Cluster) Connections(ctx context.Context, tenant string, of *event.Profile, after string, limit int, begin func(size int) (end func(), err error)) (connectionPage, error) {
	size := 1
	if of == nil {
		size = x.hub.tenants.Open(tenant)
	}
	end, err := begin(size)
	if err != nil {
		return connectionPage{}, err
	}
	all := cut(x.hub.streams.Connections(tenant, of), after, limit)
	end()
	if x.peers == nil {
		return all, nil
	}
	others := x.peers.Others()
	pages, errs := make([]connectionPage, len(others)), make([]error, len(others))
	fair.ForEach(len(others), func(i int) { pages[i], errs[i] = x.pageOn(ctx, others[i], tenant, of, after, limit) })
	count, more := all.count, all.more
	for _, p := range pages {
		all.list = append(all.list, p.list...)
		count, more = count+p.count, more || p.more
	}
	all = cut(all.list, "", limit)
	return connectionPage{all.list, count, more || all.more}, errors.Join(errs...)
}

// pageOn is the page of one other hub, which may take several answers.
func (x *Cluster) pageOn(ctx context.Context, node [4]byte, tenant string, of *event.Profile, after string, limit int) (p connectionPage, err error) {
	for p.more = true; p.more && len(p.list) < limit; {
		answer, err := x.ask(ctx, node, Call{Op: CallList, Tenant: tenant, Profile: of, After: after, Limit: limit - len(p.list)})
		if err != nil {
			return connectionPage{}, err
		}
		list := make([]*delivery.Connection, len(answer.Connections))
		for i, d := range answer.Connections {
			list[i] = d.connection()
		}
		if answer.Count == nil {
			return cut(list, after, limit), nil
		}
		p.list, p.count, p.more = append(p.list, list...), *answer.Count, answer.More && len(list) > 0
		if p.more {
			after = list[len(list)-1].ID.String()
		}
	}
	return p, nil
}

// Serve implements PeerSink.
func (x *Cluster) Serve(call Call) (a Answer) {
	ctx := context.Background()
	switch call.Op {
	case CallList:
		p := cut(x.hub.streams.Connections(call.Tenant, call.Profile), call.After, call.Limit)
		for _, c := range p.list {
			a.Connections = append(a.Connections, descriptionOf(c))
		}
		a.Count, a.More = &p.count, p.more
		return a
	case CallRefresh:
		ctx, cancel := context.WithTimeout(ctx, refreshTime)
		defer cancel()
		a.Found = x.hub.members.Refresh(ctx, call.Tenant, call.Room) == nil
		return a
	}
	c := x.hub.streams.ByID(call.ID)
	if c == nil {
		return a
	}
	switch call.Op {
	case CallShow:
		a.Found, a.Connections = true, []Described{descriptionOf(c)}
	case CallTouch:
		a.Found, _ = x.Touch(ctx, c)
	case CallProlong:
		a.Found, _ = x.Prolong(ctx, c, call.Expires)
	case CallAdjust:
		var types **event.Filter
		if call.Types != nil {
			filter, _ := event.ParseFilter(*call.Types)
			types = &filter
		}
		watch := call.Watch
		if call.Unwatch {
			watch = new([]event.Profile)
		}
		found, err := x.Adjust(ctx, c, types, watch)
		a.Found, a.Full, a.Person, a.Unwatched = found, err != nil, errors.Is(err, allowance.ErrPerson), call.Unwatch
	case CallKick:
		a.Found, _ = x.Kick(ctx, c, call.Reason)
	}
	return a
}

func descriptionOf(c *delivery.Connection) Described {
	return Described{c.ID, c.Tenant, c.Profile, c.ConnectedAt, c.LastActivity(), c.Metadata}
}

func (d Described) connection() *delivery.Connection {
	return delivery.NewRemote(d.ID, d.Tenant, d.Profile, d.ConnectedAt, d.ActiveAt, d.Metadata)
}
