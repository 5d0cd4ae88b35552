package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/peers"
)

// brokerPeers is the Peers of a Broker.
type brokerPeers struct {
	node   [4]byte
	peers  *peers.Peers
	known  func(tenant string, place uint64) bool // reads membership up to a place, and says that it has
	sink   PeerSink
	ready  chan struct{} // closed when sink is named
	logger *slog.Logger
}

// Follow implements Peers.
func (p *brokerPeers) Follow(s PeerSink) {
	p.sink = s
	close(p.ready)
}

// name is this hub's, among the others.
func (p *brokerPeers) name() string { return hex.EncodeToString(p.node[:]) }

// Node implements Peers.
func (p *brokerPeers) Node() [4]byte { return p.node }

// Others implements Peers.
func (p *brokerPeers) Others() bool { return len(p.peers.Nodes()) > 0 }

// first says whether this hub does what one of them is to do.
func (p *brokerPeers) first() bool {
	others := p.peers.Nodes()
	return len(others) == 0 || p.name() < others[0]
}

// sessionRow is a Session as others are told of it.
type sessionRow struct {
	Profile   string `json:"p"`
	Connected int64  `json:"c"` // Unix milliseconds
	Active    int64  `json:"a"`
	Drained   bool   `json:"d,omitempty"`
}

func opOf(s SessionChange) peers.Op {
	op := peers.Op{ID: s.ID}
	if !s.Gone {
		op.Data, _ = json.Marshal(sessionRow{s.Profile.String(), s.ConnectedAt.UnixMilli(), s.ActiveAt.UnixMilli(), s.Drained})
	}
	return op
}

// Tell implements Peers.
func (p *brokerPeers) Tell(tenant string, s SessionChange) { p.peers.Tell(tenant, opOf(s)) }

// Hold implements Peers.
func (p *brokerPeers) Hold(ctx context.Context, tenant string) error {
	return p.peers.Hold(ctx, tenant)
}

// Release implements Peers.
func (p *brokerPeers) Release(tenant string) { p.peers.Release(tenant) }

// Cast implements Peers.
func (p *brokerPeers) Cast(tenant string, t Typing) {
	data, err := json.Marshal(t)
	if err == nil {
		err = p.peers.Cast(tenant, data)
	}
	if err != nil {
		p.logger.Debug("broker: typing not told", "tenant", tenant, "err", err)
	}
}

// Ask implements Peers.
func (p *brokerPeers) Ask(ctx context.Context, node [4]byte, c Call) (a Answer, err error) {
	data, err := json.Marshal(c)
	if err != nil {
		return a, err
	}
	answer, err := p.peers.Ask(ctx, hex.EncodeToString(node[:]), data)
	if err == nil {
		err = json.Unmarshal(answer, &a)
	}
	if err != nil {
		return a, errors.Join(ErrElsewhere, err)
	}
	return a, nil
}

// AskAll implements Peers.
func (p *brokerPeers) AskAll(ctx context.Context, c Call) (answers []Answer, silent []string) {
	answers, silent = p.askAll(ctx, c)
	if len(silent) > 0 {
		p.logger.Warn("hubs that did not answer", "nodes", silent)
	}
	return answers, silent
}

func (p *brokerPeers) askAll(ctx context.Context, c Call) (list []Answer, silent []string) {
	data, err := json.Marshal(c)
	if err != nil {
		return nil, []string{err.Error()}
	}
	answers, silent := p.peers.AskAll(ctx, data)
	for _, answer := range answers {
		var a Answer
		if json.Unmarshal(answer, &a) == nil {
			list = append(list, a)
		}
	}
	return list, silent
}

func (p *brokerPeers) items(tenant string) []peers.Op {
	<-p.ready
	sessions := p.sink.Sessions(tenant)
	ops := make([]peers.Op, len(sessions))
	for i, s := range sessions {
		ops[i] = opOf(SessionChange{Session: s})
	}
	return ops
}

func (p *brokerPeers) changed(c peers.Change) {
	changes := make([]SessionChange, 0, len(c.Ops))
	for _, op := range c.Ops {
		s := SessionChange{Session: Session{ID: uuid.UUID(op.ID)}, Gone: op.Data == nil}
		if !s.Gone {
			var row sessionRow
			if json.Unmarshal(op.Data, &row) != nil {
				continue
			}
			profile, err := ParseProfile(row.Profile)
			if err != nil {
				continue
			}
			s.Profile, s.Drained = profile, row.Drained
			s.ConnectedAt, s.ActiveAt = time.UnixMilli(row.Connected), time.UnixMilli(row.Active)
		}
		changes = append(changes, s)
	}
	<-p.ready
	p.sink.Changed(c.Topic, changes, c.Known, c.At)
}

func (p *brokerPeers) told(tenant string, data []byte) {
	var t Typing
	if json.Unmarshal(data, &t) == nil {
		<-p.ready
		p.sink.Typed(tenant, t)
	}
}

func (p *brokerPeers) serve(data []byte) []byte {
	var c Call
	var a Answer
	if json.Unmarshal(data, &c) == nil {
		if c.Op == CallRooms {
			a.Found = p.known(c.Tenant, c.Place)
		} else {
			<-p.ready
			a = p.sink.Serve(c)
		}
	}
	answer, _ := json.Marshal(a)
	return answer
}
