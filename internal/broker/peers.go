package broker

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"realtimehub/internal/broker/peers"
	"realtimehub/internal/cluster"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
)

// OtherHubs is the Peers of a Broker.
type OtherHubs struct {
	node   [4]byte
	peers  *peers.Peers
	known  func(cluster.Call) bool // reads membership up to a place, and says that it has
	hears  func() bool
	away   func() int64
	Sink   cluster.Sink
	Ready  chan struct{} // closed when sink is named
	logger *slog.Logger

	silence rate.Sometimes // once a second: a hub that is away answers nothing
}

// silent tells the log of hubs that did not answer.
func (p *OtherHubs) silent(op cluster.CallOp, err error, nodes ...string) {
	p.silence.Do(func() { p.logger.Warn("another hub does not answer", "nodes", nodes, "call", string(op), "err", err) })
}

// Follow implements Peers.
func (p *OtherHubs) Follow(s cluster.Sink) {
	p.Sink = s
	close(p.Ready)
}

// name is this hub's, among the others.
func (p *OtherHubs) name() string { return hex.EncodeToString(p.node[:]) }

// Node implements Peers.
func (p *OtherHubs) Node() [4]byte { return p.node }

// Hears implements Peers.
func (p *OtherHubs) Hears() bool { return p.hears() && !p.peers.Lags() }

// Away implements Peers.
func (p *OtherHubs) Away() int64 { return p.away() }

// Others implements Peers.
func (p *OtherHubs) Others() [][4]byte { return marks(p.peers.Nodes()) }

// Lost implements Peers.
func (p *OtherHubs) Lost() [][4]byte { return marks(p.peers.Lost()) }

// marks are those of hubs with these names.
func marks(names []string) [][4]byte {
	list := make([][4]byte, len(names))
	for i, name := range names {
		hex.Decode(list[i][:], []byte(name))
	}
	return list
}

// first says whether this hub does what one of them is to do.
func (p *OtherHubs) first() bool {
	others := p.peers.Nodes()
	return len(others) == 0 || p.name() < others[0]
}

// SessionRow is a Session as others are told of it.
type SessionRow struct {
	Profile   string `json:"p"`
	Connected int64  `json:"c"` // Unix milliseconds
	Active    int64  `json:"a"`
	Idle      *int64 `json:"i,omitempty"` // milliseconds since then: clocks differ; nil of the version before
	Drained   bool   `json:"d,omitempty"`
}

// ActiveAt is when the session was last active, by this hub's clock.
func (r SessionRow) ActiveAt(now time.Time) time.Time {
	at := time.UnixMilli(r.Active)
	if r.Idle != nil {
		at = now.Add(-time.Duration(*r.Idle) * time.Millisecond)
	}
	if at.After(now) {
		return now // nobody is active later than that
	}
	return at
}

func OpOf(s cluster.SessionChange) peers.Op {
	op := peers.Op{ID: s.ID}
	if !s.Gone {
		idle := time.Since(s.ActiveAt).Milliseconds()
		op.Data, _ = json.Marshal(SessionRow{s.Profile.String(), s.ConnectedAt.UnixMilli(), s.ActiveAt.UnixMilli(), &idle, s.Drained})
	}
	return op
}

// Tell implements Peers.
func (p *OtherHubs) Tell(tenant string, s cluster.SessionChange) { p.peers.Tell(tenant, OpOf(s)) }

// Hold implements Peers.
func (p *OtherHubs) Hold(ctx context.Context, tenant string) error {
	return p.peers.Hold(ctx, tenant)
}

// Complete implements Peers.
func (p *OtherHubs) Complete(ctx context.Context, tenant string) bool {
	return p.peers.Complete(ctx, tenant)
}

// Release implements Peers.
func (p *OtherHubs) Release(tenant string) { p.peers.Release(tenant) }

// Cast implements Peers.
func (p *OtherHubs) Cast(tenant string, t cluster.Typing) {
	data, err := json.Marshal(t)
	if err == nil {
		err = p.peers.Cast(tenant, data)
	}
	if err != nil {
		p.logger.Debug("broker: typing not told", "tenant", tenant, "err", err)
	}
}

// Ask implements Peers.
func (p *OtherHubs) Ask(ctx context.Context, node [4]byte, c cluster.Call) (a cluster.Answer, err error) {
	data, err := json.Marshal(c)
	if err != nil {
		return a, err
	}
	name := hex.EncodeToString(node[:])
	answer, err := p.peers.Ask(ctx, name, data)
	if err == nil {
		err = json.Unmarshal(answer, &a)
	}
	switch {
	case errors.Is(err, peers.ErrGone):
		return a, errors.Join(cluster.ErrElsewhere, err)
	case err != nil:
		p.silent(c.Op, err, name)
		return a, errors.Join(delivery.ErrSilent, err)
	}
	return a, nil
}

// AskAll implements Peers.
func (p *OtherHubs) AskAll(ctx context.Context, c cluster.Call) (list []cluster.Answer, silent []string) {
	data, err := json.Marshal(c)
	if err != nil {
		return nil, []string{err.Error()}
	}
	answers, silent := p.peers.AskAll(ctx, data)
	for _, answer := range answers {
		var a cluster.Answer
		if json.Unmarshal(answer, &a) == nil {
			list = append(list, a)
		} else {
			silent = append(silent, "one whose answer cannot be read")
		}
	}
	if len(silent) > 0 {
		p.silent(c.Op, delivery.ErrSilent, silent...)
	}
	return list, silent
}

func (p *OtherHubs) items(tenant string) []peers.Op {
	<-p.Ready
	sessions := p.Sink.Sessions(tenant)
	ops := make([]peers.Op, len(sessions))
	for i, s := range sessions {
		ops[i] = OpOf(cluster.SessionChange{Session: s})
	}
	return ops
}

func (p *OtherHubs) Changed(c peers.Change) {
	changes := make([]cluster.SessionChange, 0, len(c.Ops))
	for _, op := range c.Ops {
		s := cluster.SessionChange{Session: cluster.Session{ID: uuid.UUID(op.ID)}, Gone: op.Data == nil}
		if !s.Gone {
			var row SessionRow
			if json.Unmarshal(op.Data, &row) != nil {
				continue
			}
			profile, err := event.ParseProfile(row.Profile)
			if err != nil {
				continue
			}
			s.Profile, s.Drained = profile, row.Drained
			s.ConnectedAt, s.ActiveAt = time.UnixMilli(row.Connected), row.ActiveAt(time.Now())
		}
		changes = append(changes, s)
	}
	<-p.Ready
	p.Sink.Changed(c.Topic, changes, c.Known, c.At)
}

func (p *OtherHubs) told(tenant string, data []byte) {
	var t cluster.Typing
	if json.Unmarshal(data, &t) == nil {
		<-p.Ready
		p.Sink.Typed(tenant, t)
	}
}

func (p *OtherHubs) serve(data []byte) []byte {
	var c cluster.Call
	var a cluster.Answer
	if json.Unmarshal(data, &c) != nil {
		return nil // no answer: it is not that there is nothing
	}
	if c.Op == cluster.CallRooms {
		a.Found = p.known(c)
	} else {
		<-p.Ready
		a = p.Sink.Serve(c)
	}
	return p.fit(a)
}

// answerHead is more than an answer takes beside the connections in it.
const answerHead = 256

// fit is an answer as it goes over the wire: of a page as much as the broker takes, and one
// connection at least.
func (p *OtherHubs) fit(a cluster.Answer) []byte {
	size := answerHead
	for i, d := range a.Connections {
		row, _ := json.Marshal(d)
		if size += len(row) + 1; i > 0 && size > p.peers.MaxData() {
			a.Connections, a.More = a.Connections[:i], true
			break
		}
	}
	answer, _ := json.Marshal(a)
	return answer
}
