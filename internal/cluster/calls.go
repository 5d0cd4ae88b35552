package cluster

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
	"realtimehub/internal/room"
)

// Find finds an open connection, whichever tenant's and wherever it is; nil when
// there is none. ErrSilent: the hub that holds it does not answer.
func (c *Cluster) Find(ctx context.Context, text string) (*delivery.Connection, error) {
	return c.find(ctx, text, false)
}

// FindLately is Find that also finds a connection which has ended a moment ago and owed an
// acknowledgement.
func (c *Cluster) FindLately(ctx context.Context, text string) (*delivery.Connection, error) {
	return c.find(ctx, text, true)
}

func (c *Cluster) find(ctx context.Context, text string, lately bool) (*delivery.Connection, error) {
	id, err := event.ParseConnectionID(text)
	if err != nil {
		return nil, nil // no connection has it
	}
	if conn := c.here(id, lately); conn != nil || c.peers == nil || holderOf(id) == c.peers.Node() {
		return conn, nil
	}
	answer, err := c.ask(ctx, holderOf(id), Call{Op: CallShow, ID: id, Lately: lately})
	if err != nil || len(answer.Connections) != 1 {
		return nil, err
	}
	return answer.Connections[0].connection(), nil
}

// here is this hub's connection of an id, nil if it has none.
func (c *Cluster) here(id uuid.UUID, lately bool) *delivery.Connection {
	conn := c.cfg.Delivery.Streams.ByID(id)
	if conn == nil && lately {
		conn = c.cfg.Delivery.Streams.Lately(id)
	}
	return conn
}

// ask has another hub answer. One that is gone has nothing, which the zero Answer says;
// of one that does not answer nobody knows: ErrSilent.
func (c *Cluster) ask(ctx context.Context, node [4]byte, call Call) (Answer, error) {
	answer, err := c.peers.Ask(ctx, node, call)
	switch {
	case err == nil:
		return answer, nil
	case errors.Is(err, ErrElsewhere):
		return Answer{}, nil
	}
	c.unanswered(ctx, 1)
	return Answer{}, errors.Join(delivery.ErrSilent, err)
}

// unanswered counts hubs that did not answer, unless whoever asked has left before.
func (c *Cluster) unanswered(ctx context.Context, hubs int) {
	if !errors.Is(ctx.Err(), context.Canceled) {
		c.cfg.Delivery.Counts.Unanswered(hubs)
	}
}

// holderOf is the mark of the hub that made a connection's id.
func holderOf(id uuid.UUID) (node [4]byte) {
	copy(node[:], id[len(id)-len(node):])
	return node
}

// Touch says that a connection is active now. It says whether the connection was there
// still, as all that follow do; ErrSilent: its hub does not answer.
func (c *Cluster) Touch(ctx context.Context, conn *delivery.Connection) (found bool, err error) {
	if conn.Remote() {
		return c.askOf(ctx, conn, Call{Op: CallTouch})
	}
	c.presence.Touch(conn, time.Now())
	if c.peers == nil {
		return c.cfg.Delivery.Streams.ByID(conn.ID) != nil, nil
	}
	return c.tellOf(conn), nil
}

// Prolong has a connection end at another time; at zero not by itself.
func (c *Cluster) Prolong(ctx context.Context, conn *delivery.Connection, expires time.Time) (found bool, err error) {
	if conn.Remote() {
		return c.askOf(ctx, conn, Call{Op: CallProlong, Expires: expires})
	}
	return c.cfg.Delivery.Streams.Prolong(conn, expires), nil
}

// Adjust gives a connection another filter or watch list; nil leaves it, and a list that
// is nil is as configured. allowance.ErrTenant, allowance.ErrPerson: it has what it had.
func (c *Cluster) Adjust(ctx context.Context, conn *delivery.Connection, types **event.Filter, watch *[]event.Profile) (found bool, err error) {
	if !conn.Remote() {
		return c.cfg.Delivery.Streams.Adjust(conn, types, watch)
	}
	call := Call{Op: CallAdjust, ID: conn.ID, Watch: watch}
	if watch != nil && *watch == nil {
		call.Watch, call.Unwatch = nil, true
	}
	if types != nil {
		patterns := (*types).Patterns()
		call.Types = &patterns
	}
	answer, err := c.ask(ctx, holderOf(conn.ID), call)
	switch {
	case err != nil:
		return false, err
	case answer.Person:
		return true, allowance.ErrPerson
	case answer.Full:
		return true, allowance.ErrTenant
	case answer.Found && call.Unwatch && !answer.Unwatched:
		return true, fmt.Errorf("%w the way it should: it runs an older version", delivery.ErrSilent)
	}
	return answer.Found, nil
}

// Acknowledge says that a connection's client has handled everything that the connection was
// sent up to a cursor: delivery.ErrUnknownPlace, delivery.ErrPastPlace.
func (c *Cluster) Acknowledge(ctx context.Context, conn *delivery.Connection, cursor string) (found bool, err error) {
	if !conn.Remote() {
		return c.cfg.Delivery.Streams.Acknowledge(conn, cursor)
	}
	answer, err := c.ask(ctx, holderOf(conn.ID), Call{Op: CallAck, ID: conn.ID, Cursor: cursor})
	switch {
	case err != nil:
		return false, err
	case answer.Acks == AcksUnknown:
		return answer.Found, delivery.ErrUnknownPlace
	case answer.Acks == AcksPast:
		return answer.Found, delivery.ErrPastPlace
	case answer.Found && answer.Acks == "":
		return true, fmt.Errorf("%w the way it should: it runs an older version", delivery.ErrSilent)
	}
	return answer.Found, nil
}

// Explain says of each of some profiles why a stored event did not reach its connections,
// wherever they are, and how many these are. all says that no hub is silent that may have more.
func (c *Cluster) Explain(ctx context.Context, tenant string, profiles []event.Profile, e delivery.Sent) (why []delivery.Why, connections []int, all bool) {
	why, connections = c.cfg.Delivery.Streams.Explain(tenant, profiles, e)
	if c.peers == nil {
		return why, connections, true
	}
	answers, silent := c.peers.AskAll(ctx, Call{Op: CallExplain, Tenant: tenant, Of: profiles, Sent: &e})
	c.unanswered(ctx, len(silent))
	for _, a := range answers {
		if len(a.Why) != len(profiles) || len(a.Each) != len(profiles) { // of the version before
			silent = append(silent, "")
			continue
		}
		for i := range profiles {
			why[i] = delivery.Telling(why[i], a.Why[i])
			connections[i] += a.Each[i]
		}
	}
	for i := range why {
		if len(silent) > 0 && why[i] != delivery.WhySentUnacknowledged {
			why[i] = delivery.WhyUnknown
		}
	}
	return why, connections, len(silent) == 0
}

// acksOf is what an error of Acknowledge says to another hub.
func acksOf(err error) Acks {
	switch {
	case errors.Is(err, delivery.ErrUnknownPlace):
		return AcksUnknown
	case err != nil:
		return AcksPast
	}
	return AcksTaken
}

// askOf has the holder of a connection do something with it.
func (c *Cluster) askOf(ctx context.Context, conn *delivery.Connection, call Call) (found bool, err error) {
	call.ID = conn.ID
	answer, err := c.ask(ctx, holderOf(conn.ID), call)
	return answer.Found, err
}

// Refresh is delivery.Members.Refresh on all hubs that are there: what the service says now
// holds on each when it returns. ErrSilent: one did not say so.
func (c *Cluster) Refresh(ctx context.Context, tenant string, r event.Room) error {
	if c.peers == nil || c.cfg.Delivery.Members.OwnsMembership() {
		return c.cfg.Delivery.Members.Refresh(ctx, tenant, r)
	}
	ctx, cancel := context.WithTimeout(ctx, refreshTime)
	defer cancel()
	var answers []Answer
	var silent []string
	var others sync.WaitGroup
	others.Go(func() {
		answers, silent = c.peers.AskAll(ctx, Call{Op: CallRefresh, Tenant: tenant, Room: r})
	})
	err := c.cfg.Delivery.Members.Refresh(ctx, tenant, r)
	others.Wait()
	switch {
	case err != nil:
		return err
	case len(silent) > 0:
		c.unanswered(ctx, len(silent))
		return delivery.ErrSilent
	case slices.ContainsFunc(answers, func(a Answer) bool { return !a.Found }):
		return room.ErrMembership // it has been logged there
	}
	return nil
}

// refreshTime is how long a refresh may take: a question that is under way already, and
// another.
const refreshTime = 2*delivery.ResolveTime + time.Second

// Serve implements Sink.
func (c *Cluster) Serve(call Call) (a Answer) {
	ctx := context.Background()
	switch call.Op {
	case CallList:
		p := c.page(call.Tenant, call.Profile, call.After, call.Limit)
		for _, conn := range p.List {
			a.Connections = append(a.Connections, descriptionOf(conn))
		}
		a.Count, a.More = &p.Count, p.More
		return a
	case CallKickAll:
		p := c.page(call.Tenant, call.Profile, "", call.Limit)
		c.KickAll(ctx, p.List, call.Reason) // they are here, so it has no errors
		a.Found, a.More = true, p.More
		return a
	case CallExplain:
		if call.Sent != nil {
			a.Why, a.Each = c.cfg.Delivery.Streams.Explain(call.Tenant, call.Of, *call.Sent)
		}
		return a
	case CallCount:
		a.Each = c.countHere(call.Events)
		return a
	case CallRefresh:
		ctx, cancel := context.WithTimeout(ctx, refreshTime)
		defer cancel()
		a.Found = c.cfg.Delivery.Members.Refresh(ctx, call.Tenant, call.Room) == nil
		return a
	case CallPoll:
		if answer := c.polls.Load(); answer != nil && call.Profile != nil {
			a = (*answer)(call.ID, event.TenantProfile{Tenant: call.Tenant, Profile: *call.Profile}, call.Wait)
		}
		return a
	}
	if conn := c.here(call.ID, call.Lately || call.Op == CallAck); conn != nil {
		a = c.serveOf(ctx, conn, call)
	}
	return a
}

// serveOf is Serve of a call that is about one connection, which is here.
func (c *Cluster) serveOf(ctx context.Context, conn *delivery.Connection, call Call) (a Answer) {
	switch call.Op {
	case CallShow:
		a.Found, a.Connections = true, []Described{descriptionOf(conn)}
	case CallTouch:
		a.Found, _ = c.Touch(ctx, conn)
	case CallProlong:
		a.Found, _ = c.Prolong(ctx, conn, call.Expires)
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
		found, err := c.Adjust(ctx, conn, types, watch)
		a.Found, a.Full, a.Person, a.Unwatched = found, err != nil, errors.Is(err, allowance.ErrPerson), call.Unwatch
	case CallAck:
		found, err := c.cfg.Delivery.Streams.Acknowledge(conn, call.Cursor)
		a.Found, a.Acks = found, acksOf(err)
	case CallSay:
		a.Found = c.cfg.Delivery.Streams.Say(conn, call.Records)
	case CallKick:
		a.Found, _ = c.Kick(ctx, conn, call.Reason)
	}
	return a
}

func descriptionOf(c *delivery.Connection) Described {
	return Described{
		ID: c.ID, Tenant: c.Tenant, Profile: c.Profile, ConnectedAt: c.ConnectedAt, ActiveAt: c.LastActivity(),
		Metadata: c.Metadata, Transport: c.Transport,
	}
}
