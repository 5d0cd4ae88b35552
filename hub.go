package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/access"
	"realtimehub/internal/allowance"
	"realtimehub/internal/cluster"
	"realtimehub/internal/delivery"
	"realtimehub/internal/duty"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/metrics"
	"realtimehub/internal/notices"
	"realtimehub/internal/outbox"
	"realtimehub/internal/presence"
	"realtimehub/internal/problem"
	"realtimehub/internal/serve"
	"realtimehub/internal/typing"
	"realtimehub/internal/webhook"
)

// Hub accepts events, gives them their order and hands them to streams. It has no lock: those
// of its parts, and their order, are in the documentation of their packages.
type Hub struct {
	// Static after the start.
	tenants    *delivery.Tenants
	members    *delivery.Members
	streams    *delivery.Streams
	dispatcher *delivery.Dispatcher
	people     *presence.People
	typists    *typing.Typists
	presence   *Presence
	cluster    *cluster.Cluster
	log        history.Log
	outbox     outbox.Box       // what services are told
	webhook    *webhook.Sender  // of the outbox; nil: services ask. Tell has it
	notices    *notices.Notices // nil: services are told of nothing that they are for
	logger     *slog.Logger
	quotas     *allowance.Pools
	duties     duty.Keeper

	count *delivery.Counts // what happens; guards itself

	lostIDs   int                           // owned by Sweep
	cutAll    int64                         // owned by Sweep
	cutOutbox int64                         // owned by Sweep
	dropped   map[delivery.DropReason]int64 // owned by Sweep: what was dropped when it last looked
}

// HubConfig is what a hub needs to know of its delivery.
type HubConfig = delivery.Config

// Reporting is what services are told, and where that is kept, and who owes an acknowledgement.
// What is nil is kept in memory.
type Reporting struct {
	Types  []outbox.Type // beside outbox.TypeUndelivered, of which they always are
	Box    outbox.Box
	Keeper func(duty.Config) duty.Keeper

	Repeats time.Duration // for which an event that is published again is the same one
}

// NewHub makes a hub with its presence, and joins it to others; nil peers leave it alone.
func NewHub(cfg HubConfig, presence PresenceConfig, peers cluster.Peers, reporting Reporting) *Hub {
	if cfg.Quotas == nil {
		cfg.Quotas = &allowance.Pools{}
	}
	if reporting.Box == nil {
		reporting.Box = newOutbox(cfg.Quotas)
	}
	if reporting.Keeper == nil {
		reporting.Keeper = func(cfg duty.Config) duty.Keeper { return duty.NewMemory(cfg) }
	}
	if peers != nil {
		cfg.Node = &delivery.Node{Mark: peers.Node(), Away: peers.Away}
	}
	h := &Hub{log: cfg.Log, logger: cfg.Logger, quotas: cfg.Quotas, outbox: reporting.Box}
	h.duties = reporting.Keeper(duty.Config{Keep: resultsTTL, Repeats: reporting.Repeats, Box: h.outbox, People: h, Pools: cfg.Quotas, Logger: cfg.Logger})
	h.notices = notices.New(notices.Config{Types: reporting.Types, Box: h.outbox, State: cfg.Quotas.State, Logger: cfg.Logger})
	cfg.Duties, cfg.Reporter = h.duties, newReporter(h.notices)
	d := delivery.New(cfg)
	h.tenants, h.members, h.streams, h.dispatcher, h.count = d.Tenants, d.Members, d.Streams, d.Dispatcher, d.Counts
	h.people, h.typists = newPeople(d, cfg.Quotas, presence, peers)
	teller := newTeller(d, h.people, cfg.Quotas, h.notices)
	h.cluster = cluster.New(cluster.Config{
		Delivery: d, Pools: cfg.Quotas, Presence: h.people, Typists: h.typists,
		Peers: peers, Back: 2 * cfg.Retry, Gone: reporter{h.notices}.gone,
		FollowAll: teller.followsAll(), Linger: presence.Grace + 2*cfg.Retry + settleTime, Settle: presence.Settle,
	})
	h.presence = &Presence{
		cfg: presence, people: h.people, typists: h.typists, tenants: d.Tenants, members: d.Members,
		cluster: h.cluster, peers: peers, teller: teller, announcer: newAnnouncer(presence, d.Dispatcher),
	}
	return h
}

// resultsTTL is how long it is known after a deadline what came of its event, at least.
const resultsTTL = 24 * time.Hour

// Overloaded says that hardly any memory is left, and nothing more is taken.
func (h *Hub) Overloaded() bool { return h.streams.Overloaded() }

// WatchMemory looks at the memory in use until ctx ends.
func (h *Hub) WatchMemory(ctx context.Context) { h.streams.WatchMemory(ctx) }

// Ready says why nothing can be stored now, nil when it can.
func (h *Hub) Ready() error { return h.log.Ready() }

// Waits says whether Publish may wait for others: a broker, or the membership service.
func (h *Hub) Waits() bool { return h.tenants.InCluster() || !h.members.OwnsMembership() }

// Publish accepts events, all or none, and hands them to the streams of their
// targets: those of one tenant take consecutive places, in the order given. It
// waits for a membership service, if there is one, and for no client. Ids and
// timestamps are filled in. ErrMembership, ErrNotStored, allowance.ErrTenant: nothing was stored; an
// *UnconfirmedError: it may have been.
func (h *Hub) Publish(ctx context.Context, events []*event.Event) ([]delivery.Receipt, error) {
	now := time.Now()
	entries, err := seal(events, now)
	if err != nil {
		return nil, err
	}
	sizes, err := h.members.ResolveRooms(ctx, false, events...)
	if err != nil {
		return nil, err
	}
	h.tenants.EnsureRooms(ctx, events)
	pledge := duty.NewPledge(h.quotas)
	defer pledge.Close()
	if err := pledge.Add(events, h.members.CountRecipients); err != nil {
		return nil, err
	}
	count := h.tenants.CountRemote(ctx, events) // meanwhile
	if slices.ContainsFunc(events, func(e *event.Event) bool { return e.Deadline > 0 }) {
		ctx = context.WithoutCancel(ctx) // a publisher that hangs up may never send them again, and nobody would owe them
	}
	if err := h.append(ctx, entries); err != nil {
		return nil, err
	}
	debug := h.logger.Enabled(ctx, slog.LevelDebug)
	receipts := make([]delivery.Receipt, len(entries))
	if err := h.oblige(ctx, entries); err != nil {
		return nil, err
	}
	pledge.Close()
	remotes := count()
	for i, e := range entries {
		if debug {
			h.logger.Debug("published", "tenant", e.Event.TenantID, "type", e.Event.Type, "id", e.Event.ID,
				"traceparent", e.Event.TraceParent, "duplicate", e.Duplicate)
		}
		receipts[i] = h.receipt(e, remotes[i], now)
		if _, ok := e.Event.Target.Room(); ok && sizes != nil && !e.Duplicate {
			receipts[i].Members = sizes[i]
		}
	}
	return receipts, nil
}

// seal fills in ids and timestamps, and encodes each event's envelope.
func seal(events []*event.Event, now time.Time) ([]*history.Entry, error) {
	entries := make([]*history.Entry, len(events))
	for i, e := range events {
		entries[i] = &history.Entry{Event: e, Chosen: e.ID != "", Here: true}
		if e.ID == "" {
			id, err := uuid.NewV7()
			if err != nil {
				return nil, err
			}
			e.ID = id.String()
		}
		e.Timestamp = now
		entries[i].Envelope = e.Seal()
	}
	return entries, nil
}

// append has the log take entries. An error that leaves open whether it did names their ids.
func (h *Hub) append(ctx context.Context, entries []*history.Entry) error {
	err := h.log.Append(ctx, entries)
	if !errors.Is(err, history.ErrUnconfirmed) {
		return err
	}
	return h.unconfirmed(entries, err)
}

// unconfirmed counts entries of which it is not known whether they were taken, and names them.
func (h *Hub) unconfirmed(entries []*history.Entry, err error) error {
	ids := make([]string, len(entries))
	for i, e := range entries {
		ids[i] = e.Event.ID
	}
	h.count.Unconfirmed(len(entries))
	return history.NewUnconfirmed(ids, err)
}

// oblige has the recipients of entries with a deadline owe an acknowledgement. If it fails,
// sending them again with the same ids does it. Of a duplicate whose first was not stored there is
// nothing to acknowledge.
func (h *Hub) oblige(ctx context.Context, entries []*history.Entry) error {
	for _, e := range entries {
		if e.Event.Deadline == 0 || e.Duplicate && e.Cursor.Seq == 0 {
			continue
		}
		recipients, err := h.members.Recipients(ctx, e)
		if err != nil {
			return h.unconfirmed(entries, errors.Join(history.ErrUnconfirmed, err))
		}
		d := duty.New(e.Event, e.Cursor, recipients)
		if e.Duplicate {
			d.Deadline = e.FirstAt.Add(e.Event.Deadline)
		}
		if e.Event.ReportOffline {
			d.Absent = h.absent(ctx, e.Event.TenantID, d.Recipients)
		}
		if err := h.duties.Open(ctx, d); err != nil {
			return h.unconfirmed(entries, errors.Join(history.ErrUnconfirmed, err))
		}
	}
	return nil
}

// absent are those of some profiles who have no connection now, nor had one lately. Where other
// hubs that may know do not answer nobody is: they are reported at the deadline.
func (h *Hub) absent(ctx context.Context, tenant string, profiles []event.Profile) (absent []event.Profile) {
	if h.tenants.EnsureAll(ctx, tenant) != nil {
		return nil
	}
	for _, p := range h.people.Of(tenant, profiles) {
		if p.Status == presence.Offline {
			absent = append(absent, p.Profile)
		}
	}
	return absent
}

// Explain implements duty.People. Where another hub that may know does not answer, who is not
// online here may be there.
func (h *Hub) Explain(ctx context.Context, d *duty.Duty, of []event.Profile) []duty.Person {
	told := h.tenants.EnsureAll(ctx, d.Event.TenantID) == nil
	why, connections, all := h.cluster.Explain(ctx, d.Event.TenantID, of, sentOf(d.Event, d.At))
	people := make([]duty.Person, len(of))
	for i, p := range h.people.Of(d.Event.TenantID, of) {
		people[i] = duty.Person{Profile: p.Profile, Status: string(p.Status), LastActiveAt: p.LastActiveAt, Connections: &connections[i], Why: string(why[i])}
		if !all {
			people[i].Connections = nil
		}
		if !(told && all) && p.Status != presence.Online {
			people[i].Status = duty.StatusUnknown
		}
	}
	return people
}

// Recipients implements receipts.Hub.
func (h *Hub) Recipients(ctx context.Context, e *history.Entry) ([]event.Profile, error) {
	return h.members.Recipients(ctx, e)
}

// IsRecipient implements receipts.Hub.
func (h *Hub) IsRecipient(ctx context.Context, e *history.Entry, p event.Profile) (is, known bool, err error) {
	return h.members.IsRecipient(ctx, e, p)
}

// Results implements receipts.Hub.
func (h *Hub) Results(ctx context.Context, e *history.Entry, q duty.Query) (duty.Results, error) {
	if e.Event.Deadline == 0 {
		return duty.Results{}, nil
	}
	return h.duties.Results(ctx, e.Event.TenantID, e.Cursor, q)
}

// Why implements receipts.Hub.
func (h *Hub) Why(ctx context.Context, e *history.Entry, of []event.Profile) []delivery.Why {
	why, _, _ := h.cluster.Explain(ctx, e.Event.TenantID, of, sentOf(e.Event, e.Cursor))
	return why
}

func sentOf(e *event.Event, at history.Cursor) delivery.Sent {
	return delivery.Sent{Type: e.Type, Place: at.Seq, Excluded: e.Target.ExcludeConnections}
}

// receipt counts an entry that the log has taken, and says what its publisher is told of it.
func (h *Hub) receipt(e *history.Entry, remote delivery.Remote, now time.Time) delivery.Receipt {
	r := delivery.Receipt{ID: e.Event.ID, Timestamp: now, Connections: int(e.Reached), Members: -1, Duplicate: e.Duplicate}
	if e.Cursor.Seq > 0 {
		r.Cursor = e.Cursor.String()
	}
	if e.Duplicate {
		r.Timestamp = e.FirstAt
		h.count.Duplicate()
		return r
	}
	h.count.Accepted(e.Event.Target.Kind)
	members := int(e.Members)
	r.Connections += remote.Connections
	if h.tenants.InCluster() { // nobody looked here where nobody is connected
		members = remote.Members
	}
	if _, ok := e.Event.Target.Room(); ok {
		r.Members = members
	}
	return r
}

// Stats looks at everything; for a broker's answer it may wait a second.
func (h *Hub) Stats() delivery.Stats {
	stats := h.streams.Stats()
	stats.Ready = stats.Ready && h.Ready() == nil
	stats.Dropped[delivery.DropUntold] = int64(h.typists.Untold())
	return stats
}

// visible is what a viewer may see of others, as a JSON array.
func (h *Hub) visible(ctx context.Context, tenant string, viewer event.Profile, asked []event.Profile) ([]byte, error) {
	if err := problem.OfQuestion(h.tenants.EnsureAll(ctx, tenant)); err != nil {
		return nil, err
	}
	return json.Marshal(h.presence.Visible(tenant, viewer, asked))
}

// newMetrics shows what the hub and its parts count.
func newMetrics(hub *Hub, auth *access.Auth, limits *access.Rates, complaints *serve.ErrorLog, cfg APIConfig) *metrics.Metrics {
	return metrics.New(func() metrics.Values {
		v := metrics.Values{
			Hub: hub.Stats(), Auth: auth.Refused(), Limits: limits.Met(), Complaints: complaints.Counts(),
			Quotas: hub.quotas.Stats(), Lobby: cfg.Lobby.Stats(),
			Duties: hub.duties.Stats(), Outbox: hub.outbox.Stats(), Webhook: hub.webhook.Stats(), Notices: hub.notices.Stats(),
		}
		v.Hub.Ready = v.Hub.Ready && auth.Ready() == nil
		v.Online, v.Away = hub.people.Counts()
		v.Limits["memberships"] = hub.members.Full()
		v.Hub.Dropped[delivery.DropRoom] = int64(hub.typists.Crowded())
		if cfg.MetricsTenants > 0 {
			v.Tenants = hub.tenants.Busiest(cfg.MetricsTenants)
		}
		return v
	}, problemCodes(), cfg.Logger)
}
