package main

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/allowance"
	"realtimehub/internal/broker"
	"realtimehub/internal/broker/peers"
	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
	"realtimehub/internal/plan"
)

// played is another hub, which has connections of a tenant and nothing else.
func played(t testing.TB, br *natstest.Broker, prefix, tenant string, sessions, people int) {
	t.Helper()
	nc := br.Connect(t, 0)
	mark := []byte{9, 9, 9, 9}
	items := func(topic string) (ops []peers.Op) {
		for i := range sessions {
			if topic != tenant {
				break
			}
			id := uuid.Must(uuid.NewV7())
			binary.BigEndian.PutUint32(id[8:], uint32(i))
			copy(id[12:], mark)
			now := time.Now().UnixMilli()
			data, _ := json.Marshal(map[string]any{"p": fmt.Sprint("user:u-", i%people), "c": now, "a": now, "i": 0})
			ops = append(ops, peers.Op{ID: peers.ID(id), Data: data})
		}
		return ops
	}
	p, err := peers.Start(nc, peers.Config{
		Prefix: prefix, Node: hex.EncodeToString(mark), Able: nc.IsConnected, Logger: slog.New(slog.DiscardHandler),
		Sure: func(context.Context) error { return nil }, Items: items, Any: func(topic string) bool { return topic == tenant },
		Changed: func(peers.Change) {}, Told: func(string, []byte) {}, Serve: func([]byte) []byte { return []byte("{}") }, Resynced: func() {},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// What a hub that serves a tenant keeps of a connection elsewhere is small, and what it keeps of a
// person elsewhere is little more than presence needs.
func TestBytesOfSessionsElsewhere(t *testing.T) {
	for name, of := range map[string]struct{ sessions, people, bytes int64 }{
		"ten of each":    {100_000, 10_000, 170},
		"each another's": {100_000, 100_000, 650},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			br, prefix := natstest.Start(t, 1), newPrefix()
			h := newNode(t, openDoor(t), access.RatesConfig{ClientRate: -1}, func(kept history.Limits, _ bool) *broker.Broker { return joinBroker(t, br, 0, prefix, kept) },
				func(hub *HubConfig, _ *PresenceConfig) { hub.Quotas = allowance.New(plan.Of(16 << 30)) })
			h.nodes = []*testHub{h}
			played(t, br, prefix, "acme", int(of.sessions), int(of.people))
			eventually(t, func() bool { return len(h.peers.Others()) == 1 })
			before := heap()
			h.open(t, "tenant=acme&profile=me")
			eventually(t, func() bool { return len(h.Cluster.Remotes()["acme"]) == int(of.sessions) })
			each := (heap() - before) / of.sessions
			t.Log(each, "bytes a session")
			is.True(each <= of.bytes)
			taken := h.quotas.State.Of("acme") / of.sessions
			is.True(taken >= each*3/4 && taken <= each*5/4) // it is counted as what it is
		})
	}
}
