package main

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
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
	all := make([]peers.Op, sessions) // made once: what tests weigh is not to grow by it
	for i := range all {
		id := uuid.Must(uuid.NewV7())
		binary.BigEndian.PutUint32(id[8:], uint32(i))
		copy(id[12:], mark)
		now := time.Now().UnixMilli()
		data, _ := json.Marshal(map[string]any{"p": fmt.Sprint("user:u-", i%people), "c": now, "a": now, "i": 0})
		all[i] = peers.Op{ID: peers.ID(id), Data: data}
	}
	items := func(topic string) []peers.Op {
		if topic != tenant {
			return nil
		}
		return all
	}
	p, err := peers.Start(nc, peers.Config{
		Prefix: prefix, Node: hex.EncodeToString(mark), Able: nc.IsConnected, Logger: slog.New(slog.DiscardHandler),
		Sure: func(context.Context) error { return nil }, Items: items, Any: func(topic string) bool { return topic == tenant },
		Changed: func(peers.Change) {}, Has: func(string, string) []peers.ID { return nil }, Told: func(string, []byte) {}, Serve: func([]byte) []byte { return []byte("{}") }, Resynced: func() {},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
}

// besidePlayed is a hub beside one that is played.
func besidePlayed(t testing.TB, tenant string, sessions, people int) *testHub {
	t.Helper()
	alone(t, "it makes its own")
	br, prefix := natstest.Start(t, 1), newPrefix()
	h := newNode(t, openDoor(t), access.RatesConfig{ClientRate: -1}, func(kept history.Limits, _ bool) *broker.Broker { return joinBroker(t, br, 0, prefix, kept) },
		func(hub *HubConfig, _ *PresenceConfig) { hub.Quotas = allowance.New(plan.Of(16 << 30)) })
	h.nodes = []*testHub{h}
	played(t, br, prefix, tenant, sessions, people)
	eventually(t, func() bool { return len(h.peers.Others()) == 1 })
	return h
}

// What a hub that serves a tenant keeps of a connection elsewhere is small, and what it keeps of a
// person elsewhere is little more than presence needs.
func TestBytesOfSessionsElsewhere(t *testing.T) {
	if !byItself(t) {
		return
	}
	sessions := int64(100_000)
	if testing.Short() { // too few to weigh them beside the hub itself: what is counted must do
		sessions = 5_000
	}
	for name, of := range map[string]struct{ sessions, people, bytes int64 }{
		"a hundred of each": {sessions, sessions / 100, 85},
		"each another's":    {sessions, sessions, 250},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			h := besidePlayed(t, "acme", int(of.sessions), int(of.people))
			before := liveHeap()
			h.open(t, "tenant=acme&profile=me")
			eventually(t, func() bool { return len(h.Cluster.Remotes()["acme"]) == int(of.sessions) })
			if testing.Short() {
				is.True(h.quotas.State.Of("acme")/of.sessions <= of.bytes*5/4)
				return
			}
			var each int64
			eventually(t, func() bool { // what came may be on its way to nowhere still
				each = (liveHeap() - before) / of.sessions
				return each <= of.bytes
			})
			t.Log(each, "bytes a session")
			taken := h.quotas.State.Of("acme") / of.sessions
			is.True(taken >= each*3/4 && taken <= each*5/4) // it is counted as what it is
		})
	}
}

// A hub that only publishes says how many connections there are elsewhere, and keeps none of them.
func TestAHubThatOnlyPublishes(t *testing.T) {
	is := is.New(t)
	nodes, _, _ := behindProxies(t, theBroker(t), 3)
	serves, also, publishes := nodes[0], nodes[1], nodes[2]
	serves.changes(t, "PUT", "/v1/tenants/acme/conversations/r/members", `{"members":["me","you"]}`)
	me := serves.open(t, "tenant=acme&profile=me")
	serves.open(t, "tenant=acme&profile=you")
	also.open(t, "tenant=acme&profile=me")
	also.open(t, "tenant=acme&profile=else")
	also.open(t, "tenant=other&profile=me")
	for _, of := range []struct {
		target               string
		connections, members any
	}{
		{`{"kind":"tenant"}`, 4.0, nil},
		{`{"kind":"profile","profiles":["me"]}`, 2.0, nil},
		{`{"kind":"profiles","profiles":["me","else","nobody"]}`, 3.0, nil},
		{`{"kind":"conversation","conversationId":"r"}`, 3.0, 2.0},
		{`{"kind":"group","groupId":"none"}`, 0.0, 0.0},
		{`{"kind":"connection","connectionId":"` + me.ConnectionID + `"}`, 1.0, nil},
		{`{"kind":"tenant","exclude":{"profiles":["you"],"connectionIds":["` + me.ConnectionID + `"]}}`, 2.0, nil},
		{`{"kind":"profile","profiles":["me"],"exclude":{"connectionIds":["` + me.ConnectionID + `"]}}`, 1.0, nil},
		{`{"kind":"connection","connectionId":"` + me.ConnectionID + `","exclude":{"profiles":["me"]}}`, 0.0, nil},
	} {
		for _, by := range []*testHub{publishes, serves} { // who serves the tenant knows it
			eventually(t, func() bool {
				answer := by.publish(t, "acme", "x.y", of.target, "1")
				return answer["connections"] == of.connections && answer["members"] == of.members
			})
		}
	}
	is.Equal(len(publishes.Cluster.Remotes()), 0)
	is.Equal(publishes.publish(t, "beta", "x.y", `{"kind":"tenant"}`, "1")["connections"], 0.0)
}

// A hub of the version before cannot say how many of its connections an event has: the one that
// publishes learns who is connected there, as it did before.
func TestPublishingBesideTheVersionBefore(t *testing.T) {
	is := is.New(t)
	h := besidePlayed(t, "acme", 6, 3)
	eventually(t, func() bool { return h.publish(t, "acme", "x.y", `{"kind":"tenant"}`, "1")["connections"] == 6.0 })
	is.Equal(h.publish(t, "acme", "x.y", `{"kind":"profile","profiles":["u-1"]}`, "1")["connections"], 2.0)
	h.Sweep(time.Now())
	is.Equal(len(h.Cluster.Remotes()), 0)
}

// A tenant's membership is read once, and not again when somebody is back soon after the last
// stream has left, nor by a hub that publishes now and then.
func TestMembershipIsReadOnce(t *testing.T) {
	is := is.New(t)
	nodes, proxies, _ := behindProxies(t, theBroker(t), 2)
	var rows atomic.Int64
	proxies[0].Rule(func(m *natstest.Message) (v natstest.Verdict) {
		if m.FromServer && strings.HasSuffix(m.Header.Get("Nats-Stream"), "_table") && strings.Contains(string(m.Data), `"member"`) {
			rows.Add(1)
		}
		return v
	})
	read := func() int64 { return rows.Swap(0) }
	const members = 200
	var list []string
	for i := range members {
		list = append(list, fmt.Sprintf("%q", fmt.Sprint("u", i)))
	}
	nodes[0].changes(t, "PUT", "/v1/tenants/acme/conversations/r/members", `{"members":[`+strings.Join(list, ",")+`]}`)
	b, toRoom := nodes[1], `{"kind":"conversation","conversationId":"r"}`
	published := func() float64 { return membersTold(t, b, toRoom) }
	visited := func() {
		c := b.open(t, "tenant=acme&profile=u1")
		is.Equal(published(), float64(members))
		is.Equal(c.next(t).Type, "x.y")
		c.close()
		eventually(t, func() bool { return len(b.Cluster.Remotes()) == 0 }) // the last stream has left
	}
	is.Equal(read(), int64(0)) // another's tenant is nobody's business here
	visited()
	first := read()
	is.True(first >= members && first < members*11/10) // once
	visited()
	b.Sweep(time.Now())
	is.Equal(published(), float64(members))
	b.Sweep(time.Now().Add(9 * time.Minute))
	nodes[0].changes(t, "PUT", "/v1/tenants/acme/conversations/r/members/me", "") // what changes is read
	is.Equal(published(), float64(members+1))
	is.True(read() < members/10)
	b.Sweep(time.Now().Add(11 * time.Minute))
	is.Equal(b.Stats().Tenants, 0)
	is.Equal(published(), float64(members+1))
	is.True(read() >= members)
	b.Sweep(time.Now())
	is.Equal(b.Stats().Tenants, 1)
	b.quotas.State.Force("large", b.quotas.State.All()/2) // others need the memory
	b.Sweep(time.Now())
	is.Equal(b.Stats().Tenants, 0)
}

// How many members a room has is told also where nobody of its tenant is connected.
func TestMembersOfWhomNobodyIsConnected(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	h.changes(t, "PUT", "/v1/tenants/acme/conversations/r/members", `{"members":["me","you"]}`)
	is.Equal(membersTold(t, h, `{"kind":"conversation","conversationId":"r"}`), 2.0)
}

// membersTold is how many members a publish to a room is told of, as soon as that is known.
func membersTold(t *testing.T, h *testHub, room string) (n float64) {
	t.Helper()
	eventually(t, func() bool {
		members, known := h.publish(t, "acme", "x.y", room, "1")["members"].(float64)
		n = members
		return known
	})
	return n
}
