package broker

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"golang.org/x/time/rate"

	"realtimehub/internal/broker/duties"
	"realtimehub/internal/broker/peers"
	"realtimehub/internal/cluster"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
)

// otherHubs is the Peers of a Broker.
type otherHubs struct {
	node   [4]byte
	log    *sharedLog   // set by join, as rooms, duties and peers are
	rooms  *sharedRooms // answer for membership
	peers  *peers.Peers
	sink   cluster.Sink
	ready  chan struct{} // closed when sink is named
	duties *duties.Keeper
	logger *slog.Logger

	silence rate.Sometimes // once a second: a hub that is away answers nothing
}

// newOtherHubs makes this hub's name among the others, which it has to join.
func newOtherHubs(logger *slog.Logger) *otherHubs {
	o := &otherHubs{ready: make(chan struct{}), logger: logger, silence: rate.Sometimes{Interval: time.Second}}
	rand.Read(o.node[:])
	return o
}

// join tells the others that this hub is there, once its log and its rooms are open.
func (o *otherHubs) join(nc *nats.Conn, cfg Config, log *sharedLog, rooms *sharedRooms, duties *duties.Keeper) (err error) {
	o.log, o.rooms, o.duties = log, rooms, duties
	o.peers, err = peers.Start(nc, peers.Config{
		Prefix: cfg.Prefix, Node: o.name(), Able: log.journal.Heard, Sure: log.journal.Prove, Logger: cfg.Logger,
		Items: o.items, Any: o.any, Changed: o.changed, Has: o.has, Told: o.told, Serve: o.serve, Resynced: rooms.resync,
	})
	return err
}

// silent tells the log of hubs that did not answer, unless whoever asked has left before.
func (o *otherHubs) silent(ctx context.Context, op cluster.CallOp, err error, nodes ...string) {
	if errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	o.silence.Do(func() { o.logger.Warn("another hub does not answer", "nodes", nodes, "call", string(op), "err", err) })
}

// Follow implements Peers.
func (o *otherHubs) Follow(s cluster.Sink) {
	o.sink = s
	close(o.ready)
}

// name is this hub's, among the others.
func (o *otherHubs) name() string { return hex.EncodeToString(o.node[:]) }

// Node implements Peers.
func (o *otherHubs) Node() [4]byte { return o.node }

// Hears implements Peers.
func (o *otherHubs) Hears() bool { return o.log.journal.Heard() && !o.peers.Lags() }

// Away implements Peers.
func (o *otherHubs) Away() int64 { return o.rooms.away() }

// Others implements Peers.
func (o *otherHubs) Others() [][4]byte { return marks(o.peers.Nodes()) }

// Known implements Peers.
func (o *otherHubs) Known() (others, lost [][4]byte) {
	there, gone := o.peers.Known()
	return marks(there), marks(gone)
}

// marks are those of hubs with these names.
func marks(names []string) [][4]byte {
	list := make([][4]byte, len(names))
	for i, name := range names {
		hex.Decode(list[i][:], []byte(name))
	}
	return list
}

// first says whether this hub does what one of them is to do.
func (o *otherHubs) first() bool {
	others := o.peers.Nodes()
	return len(others) == 0 || o.name() < others[0]
}

// sessionRow is a Session as others are told of it.
type sessionRow struct {
	Profile   string `json:"p"`
	Connected int64  `json:"c"` // Unix milliseconds
	Active    int64  `json:"a"`
	Idle      *int64 `json:"i,omitempty"` // milliseconds since then: clocks differ; nil of the version before
	Drained   bool   `json:"d,omitempty"`
	Client    string `json:"w,omitempty"`
	Asked     int64  `json:"b,omitempty"` // milliseconds since it did
}

// activeAt is when the session was last active, by this hub's clock.
func (r sessionRow) activeAt(now time.Time) time.Time {
	at := time.UnixMilli(r.Active)
	if r.Idle != nil {
		at = now.Add(-time.Duration(*r.Idle) * time.Millisecond)
	}
	if at.After(now) {
		return now // nobody is active later than that
	}
	return at
}

func opOf(s cluster.SessionChange) peers.Op {
	op := peers.Op{ID: s.ID}
	if !s.Gone {
		idle := time.Since(s.ActiveAt).Milliseconds()
		row := sessionRow{s.Profile.String(), s.ConnectedAt.UnixMilli(), s.ActiveAt.UnixMilli(), &idle, s.Drained, s.Client, 0}
		if s.Client != "" {
			row.Asked = time.Since(s.AskedAt).Milliseconds()
		}
		op.Data, _ = json.Marshal(row)
	}
	return op
}

// Tell implements Peers.
func (o *otherHubs) Tell(tenant string, s cluster.SessionChange) { o.peers.Tell(tenant, opOf(s)) }

// Hold implements Peers.
func (o *otherHubs) Hold(ctx context.Context, tenant string) error {
	return o.peers.Hold(ctx, tenant)
}

// Complete implements Peers.
func (o *otherHubs) Complete(ctx context.Context, tenant string) bool {
	return o.peers.Complete(ctx, tenant)
}

// Release implements Peers.
func (o *otherHubs) Release(tenant string) { o.peers.Release(tenant) }

// Cast implements Peers.
func (o *otherHubs) Cast(tenant string, t cluster.Typing) {
	data, err := json.Marshal(t)
	if err == nil {
		err = o.peers.Cast(tenant, data)
	}
	if err != nil {
		o.logger.Debug("store: typing could not be passed on to other hubs", "tenant", tenant, "err", err)
	}
}

// Ask implements Peers.
func (o *otherHubs) Ask(ctx context.Context, node [4]byte, c cluster.Call) (a cluster.Answer, err error) {
	data, err := json.Marshal(c)
	if err != nil {
		return a, err
	}
	name := hex.EncodeToString(node[:])
	answer, err := o.peers.Ask(ctx, name, data)
	if err == nil {
		err = json.Unmarshal(answer, &a)
	}
	switch {
	case errors.Is(err, peers.ErrGone):
		return a, errors.Join(cluster.ErrElsewhere, err)
	case err != nil:
		o.silent(ctx, c.Op, err, name)
		return a, errors.Join(delivery.ErrSilent, err)
	}
	return a, nil
}

// AskAll implements Peers.
func (o *otherHubs) AskAll(ctx context.Context, c cluster.Call) (list []cluster.Answer, silent []string) {
	data, err := json.Marshal(c)
	if err != nil {
		return nil, []string{err.Error()}
	}
	answers, silent := o.peers.AskAll(ctx, data)
	for _, answer := range answers {
		var a cluster.Answer
		if json.Unmarshal(answer, &a) == nil {
			list = append(list, a)
		} else {
			silent = append(silent, "one whose answer cannot be read")
		}
	}
	if len(silent) > 0 {
		o.silent(ctx, c.Op, delivery.ErrSilent, silent...)
	}
	return list, silent
}

func (o *otherHubs) items(tenant string) []peers.Op {
	<-o.ready
	sessions := o.sink.Sessions(tenant)
	ops := make([]peers.Op, len(sessions))
	for i, s := range sessions {
		ops[i] = opOf(cluster.SessionChange{Session: s})
	}
	return ops
}

func (o *otherHubs) any(tenant string) bool {
	<-o.ready
	return o.sink.Any(tenant)
}

func (o *otherHubs) changed(c peers.Change) {
	changes := make([]cluster.SessionChange, 0, len(c.Ops))
	for _, op := range c.Ops {
		s := cluster.SessionChange{Session: cluster.Session{ID: uuid.UUID(op.ID)}, Gone: op.Data == nil}
		if !s.Gone {
			var row sessionRow
			err := json.Unmarshal(op.Data, &row)
			profile, err2 := event.ParseProfile(row.Profile)
			if err != nil || err2 != nil {
				o.log.notUnderstood("connections", c.Topic, 0, cmp.Or(err, err2))
				continue
			}
			s.Profile, s.Drained, s.Client = profile, row.Drained, row.Client
			s.AskedAt = time.Now().Add(-time.Duration(max(row.Asked, 0)) * time.Millisecond)
			s.ConnectedAt, s.ActiveAt = time.UnixMilli(row.Connected), row.activeAt(time.Now())
		}
		changes = append(changes, s)
	}
	<-o.ready
	o.sink.Changed(c.Topic, changes, c.Known, c.At)
}

// has are the sessions that the sink knows of a hub.
func (o *otherHubs) has(tenant, name string) []peers.ID {
	<-o.ready
	ids := o.sink.Has(tenant, marks([]string{name})[0])
	list := make([]peers.ID, len(ids))
	for i, id := range ids {
		list[i] = peers.ID(id)
	}
	return list
}

func (o *otherHubs) told(tenant string, data []byte) {
	var t cluster.Typing
	if err := json.Unmarshal(data, &t); err != nil {
		o.log.notUnderstood("typing", tenant, 0, err)
		return
	}
	<-o.ready
	o.sink.Typed(tenant, t)
}

func (o *otherHubs) serve(data []byte) []byte {
	var c cluster.Call
	var a cluster.Answer
	if json.Unmarshal(data, &c) != nil {
		return nil // no answer: it is not that there is nothing
	}
	switch c.Op {
	case cluster.CallRooms:
		a.Found = o.rooms.reached(c)
	case cluster.CallSettle:
		if a.Found = o.settled(); !a.Found {
			return nil // no answer, so that it is known whose it is
		}
	default:
		<-o.ready
		a = o.sink.Serve(c)
	}
	return o.fit(a)
}

// settled has kept what clients have acknowledged here.
func (o *otherHubs) settled() bool {
	ctx, cancel := context.WithTimeout(context.Background(), settleTime)
	defer cancel()
	return o.duties.Flush(ctx) == nil
}

// settleTime is how long a hub may take to keep what it has gathered.
const settleTime = 800 * time.Millisecond

// answerHead is more than an answer takes beside the connections in it.
const answerHead = 256

// fit is an answer as it goes over the wire: of a page as much as the broker takes, and one
// connection at least.
func (o *otherHubs) fit(a cluster.Answer) []byte {
	size := answerHead
	for i, d := range a.Connections {
		row, _ := json.Marshal(d)
		if size += len(row) + 1; i > 0 && size > o.peers.MaxData() {
			a.Connections, a.More = a.Connections[:i], true
			break
		}
	}
	answer, _ := json.Marshal(a)
	return answer
}
