package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/allowance"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/fair"
	"realtimehub/internal/room"
)

// Find finds an open connection, whichever tenant's and wherever it is; nil when
// there is none. ErrSilent: the hub that holds it does not answer.
func (c *Cluster) Find(ctx context.Context, text string) (*delivery.Connection, error) {
	id, err := delivery.ParseID(text)
	if err != nil {
		return nil, nil // no connection has it
	}
	if conn := c.cfg.Delivery.Streams.ByID(id); conn != nil || c.peers == nil || holderOf(id) == c.peers.Node() {
		return conn, nil
	}
	answer, err := c.ask(ctx, holderOf(id), Call{Op: CallShow, ID: id})
	if err != nil || len(answer.Connections) != 1 {
		return nil, err
	}
	return answer.Connections[0].connection(), nil
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
	c.cfg.Delivery.Counts.Unanswered(1)
	return Answer{}, errors.Join(delivery.ErrSilent, err)
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
	c.mu.Lock()
	defer c.mu.Unlock()
	_, there := c.own[conn.Tenant][conn]
	if there { // or the others would be told of one that has gone, and never again
		c.peers.Tell(conn.Tenant, SessionChange{Session: sessionOf(conn)})
	}
	return there, nil
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

// FindMarked finds a connection that another hub holds, of whose id all is known but the mark of
// its hub; nil when there is none. ErrSilent: one that may hold it does not answer.
func (c *Cluster) FindMarked(ctx context.Context, id uuid.UUID) (*delivery.Connection, error) {
	var found atomic.Pointer[delivery.Connection]
	err := c.each(id, func(id uuid.UUID) (bool, error) {
		conn, err := c.Find(ctx, id.String())
		if conn != nil {
			found.Store(conn)
		}
		return conn != nil, err
	})
	return found.Load(), err
}

// FindPolled is FindMarked of a connection whose client polls, which may have ended, and be told
// its last words; its id is zero when there is none.
func (c *Cluster) FindPolled(ctx context.Context, id uuid.UUID, who event.TenantProfile) (uuid.UUID, error) {
	var found atomic.Value
	found.Store(uuid.Nil)
	err := c.each(id, func(id uuid.UUID) (bool, error) {
		a, err := c.askPoll(ctx, id, who, OnlyWhether)
		if a.Found {
			found.Store(id)
		}
		return a.Found, err
	})
	return found.Load().(uuid.UUID), err
}

// each asks all other hubs at once for the connection that has an id but for their mark. Where one
// has it, the silence of others is no error.
func (c *Cluster) each(id uuid.UUID, ask func(id uuid.UUID) (found bool, err error)) error {
	if c.peers == nil {
		return nil
	}
	others := c.peers.Others()
	found, errs := make([]bool, len(others)), make([]error, len(others))
	fair.ForEach(len(others), func(i int) {
		id := id
		copy(id[len(id)-len(others[i]):], others[i][:])
		found[i], errs[i] = ask(id)
	})
	if slices.Contains(found, true) {
		return nil
	}
	return errors.Join(errs...)
}

// Say is delivery.Streams.Say, wherever the connection is.
func (c *Cluster) Say(ctx context.Context, conn *delivery.Connection, records []byte) (found bool, err error) {
	if !conn.Remote() {
		return c.cfg.Delivery.Streams.Say(conn, records), nil
	}
	return c.askOf(ctx, conn, Call{Op: CallSay, Records: records})
}

// Poll is what a client that polls is answered by another hub, which holds its connection, within
// a time; with 0 the connection ends.
func (c *Cluster) Poll(ctx context.Context, id uuid.UUID, who event.TenantProfile, wait time.Duration) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, wait+pollSlack)
	defer cancel()
	return c.askPoll(ctx, id, who, wait)
}

func (c *Cluster) askPoll(ctx context.Context, id uuid.UUID, who event.TenantProfile, wait time.Duration) (Answer, error) {
	return c.ask(ctx, holderOf(id), Call{Op: CallPoll, ID: id, Tenant: who.Tenant, Profile: &who.Profile, Wait: wait})
}

// OnlyWhether is the wait of a poll that asks whether there are any, and takes nothing.
const OnlyWhether time.Duration = -1

// pollSlack is how much longer than a poll its answer may take.
const pollSlack = time.Second

// ServePolls names who answers polls of other hubs' clients. Before, there are none.
func (c *Cluster) ServePolls(answer func(id uuid.UUID, who event.TenantProfile, wait time.Duration) Answer) {
	c.polls.Store(&answer)
}

// Explain says of each of some profiles why a stored event did not reach its connections,
// wherever they are, and how many these are.
func (c *Cluster) Explain(ctx context.Context, tenant string, profiles []event.Profile, e delivery.Sent) (why []delivery.Why, connections []int) {
	why, connections = c.cfg.Delivery.Streams.Explain(tenant, profiles, e)
	if c.peers == nil {
		return why, connections
	}
	answers, silent := c.peers.AskAll(ctx, Call{Op: CallExplain, Tenant: tenant, Of: profiles, Sent: &e})
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
	return why, connections
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
		c.cfg.Delivery.Counts.Unanswered(len(silent))
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
		p := cut(c.cfg.Delivery.Streams.Connections(call.Tenant, call.Profile), call.After, call.Limit)
		for _, conn := range p.List {
			a.Connections = append(a.Connections, descriptionOf(conn))
		}
		a.Count, a.More = &p.Count, p.More
		return a
	case CallExplain:
		if call.Sent != nil {
			a.Why, a.Each = c.cfg.Delivery.Streams.Explain(call.Tenant, call.Of, *call.Sent)
		}
		return a
	case CallRefresh:
		ctx, cancel := context.WithTimeout(ctx, refreshTime)
		defer cancel()
		a.Found = c.cfg.Delivery.Members.Refresh(ctx, call.Tenant, call.Room) == nil
		return a
	}
	if call.Op == CallPoll {
		if answer := c.polls.Load(); answer != nil && call.Profile != nil {
			a = (*answer)(call.ID, event.TenantProfile{Tenant: call.Tenant, Profile: *call.Profile}, call.Wait)
		}
		return a
	}
	conn := c.cfg.Delivery.Streams.ByID(call.ID)
	if conn == nil {
		return a
	}
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
	return Described{c.ID, c.Tenant, c.Profile, c.ConnectedAt, c.LastActivity(), c.Metadata}
}
