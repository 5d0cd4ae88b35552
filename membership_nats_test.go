package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/access"
	"realtimehub/internal/broker"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
)

// behindProxies are hubs that share a broker of one server, each but the first behind a
// proxy of its own.
func behindProxies(t *testing.T, b *natstest.Broker, n int) (nodes []*testHub, proxies []*natstest.Proxy, prefix string) {
	t.Helper()
	alone(t, "it makes its own")
	prefix = newPrefix()
	for i := range n {
		url := b.URL(0)
		if i > 0 {
			proxies = append(proxies, natstest.StartProxy(t, url))
			url = proxies[i-1].URL()
		}
		node := newNode(t, openDoor(t), access.RatesConfig{ClientRate: -1}, func(kept history.Limits, _ bool) *broker.Broker {
			return joinBrokerAt(t, url, 1, prefix, kept)
		})
		node.nodes = []*testHub{node}
		nodes = append(nodes, node)
	}
	for _, node := range nodes {
		eventually(t, func() bool { return len(node.peers.Others()) == n-1 })
	}
	return nodes, proxies, prefix
}

// A hub that another does not hear, though both reach the broker, is given up, and not
// told of a change. What is said after the change waits there until it is known.
func TestEventsWaitForTheirMembership(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	nodes, proxies, _ := behindProxies(t, natstest.Start(t, 1), 2)
	a, b := nodes[0], nodes[1]
	members := "/v1/tenants/acme/conversations/r/members"
	a.changes(t, "PUT", members, `{"members":["0","stays"]}`)
	people := map[string]*testClient{"0": nil, "1": nil, "stays": nil}
	for who := range people {
		people[who] = b.open(t, "tenant=acme&profile="+who)
	}
	proxies[0].Rule(func(m *natstest.Message) natstest.Verdict {
		return natstest.Verdict{Drop: strings.Contains(m.Subject, ".peer.")}
	})
	const changes = 20
	got := map[string][]string{}
	for n := range changes { // the room has one of the two, by turns
		out, in := fmt.Sprint(n%2), fmt.Sprint((n+1)%2)
		eventually(t, func() bool { // once it is given up, at once
			status, _ := a.do(t, "DELETE", members+"/"+out, "")
			return status == http.StatusNoContent
		})
		a.changes(t, "PUT", members+"/"+in, "")
		a.publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, fmt.Sprint(n))
		// Who has left is sent nothing any more, so nobody leaves before it was delivered.
		got["stays"] = append(got["stays"], string(openEnvelope(t, people["stays"].until(t, "a.b")).Payload))
	}
	a.publish(t, "acme", markerType, `{"kind":"tenant"}`, "0")
	for who, client := range people {
		for event := client.next(t); event.Type != markerType; event = client.next(t) {
			got[who] = append(got[who], string(openEnvelope(t, event).Payload))
		}
	}
	want := map[string][]string{}
	for n := range changes {
		in := fmt.Sprint((n + 1) % 2)
		want[in] = append(want[in], fmt.Sprint(n))
		want["stays"] = append(want["stays"], fmt.Sprint(n))
	}
	is.Equal(got, want)
}

// The stream of a table is deleted: it is made anew, and changes are possible again; all
// hubs agree on what is left, which is nothing; clients are told once that something is
// missing, and operators what.
func TestTheTableIsLost(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	broker := natstest.Start(t, 1)
	nodes, _, prefix := behindProxies(t, broker, 3)
	room := "/v1/tenants/acme/conversations/r/members"
	nodes[0].changes(t, "PUT", room, `{"members":["me","you"]}`)
	clients := []*testClient{nodes[0].open(t, meQuery), nodes[1].open(t, meQuery)}
	nodes[2].publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, "1")
	cursor := clients[0].next(t).ID
	clients[1].next(t)
	for _, node := range nodes {
		node.settle(t) // or one that polls is not told
	}
	js, err := jetstream.New(broker.Connect(t, 0))
	is.NoErr(err)
	is.NoErr(js.DeleteStream(t.Context(), prefix+"_table"))

	for i, c := range clients {
		is.Equal(c.until(t, "hub.closing").Type, "hub.closing") // sent back
		again := nodes[i].back(t, cursor, meQuery)
		is.True(strings.Contains(again.Ready.Data, `"resume":"partial"`))
		is.True(strings.Contains(again.next(t).Data, `"reason":"unknown"`))
		again.close()
	}
	for _, node := range nodes {
		eventually(t, func() bool {
			status, answer := node.do(t, "GET", room, "")
			return status == http.StatusOK && len(answer["members"].([]any)) == 0
		})
		eventually(t, func() bool { return node.Stats().Log.Gone[history.KeptMembers] == 1 })
	}
	eventually(t, func() bool {
		status, _ := nodes[1].do(t, "PUT", room, `{"members":["me"]}`)
		return status == http.StatusNoContent
	})
	for _, node := range nodes {
		_, answer := node.do(t, "GET", room, "")
		is.Equal(len(answer["members"].([]any)), 1)
	}
	again := nodes[0].open(t, meQuery)
	nodes[2].publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, "2")
	is.Equal(string(openEnvelope(t, again.next(t)).Payload), "2")
}

// Who has a tenant's membership read, and does not wait for it, has it read all the same:
// the next one does not begin anew.
func TestReadingOutlivesWhoAsked(t *testing.T) {
	is := is.New(t)
	nodes, proxies, _ := behindProxies(t, natstest.Start(t, 1), 2)
	nodes[0].changes(t, "PUT", "/v1/tenants/acme/groups/g/members", `{"members":["me","you"]}`)
	gate, asked := make(chan struct{}), make(chan struct{})
	var reads atomic.Int32
	proxies[0].Rule(func(m *natstest.Message) (v natstest.Verdict) {
		if m.ReadsRows() {
			if reads.Add(1) == 1 {
				close(asked)
			}
			v.After = gate
		}
		return v
	})
	impatient, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		var err error
		for err = history.ErrUnconfirmed; errors.Is(err, history.ErrUnconfirmed) && impatient.Err() == nil; {
			_, _, err = nodes[1].members.Member(impatient, "acme", event.Room{Kind: event.KindGroup, ID: "r"}, alice)
		}
		left <- err
	}()
	select {
	case <-asked:
	case err := <-left:
		t.Fatal("nothing was read: ", err)
	}
	leave()
	is.True(errors.Is(<-left, context.Canceled))
	close(gate)
	is.NoErr(untilConfirmed(func() error {
		_, _, err := nodes[1].members.Member(t.Context(), "acme", event.Room{Kind: event.KindGroup, ID: "r"}, alice)
		return err
	}))
	is.Equal(reads.Load(), int32(1)) // of two rows and the room's own
}

// Rooms that are empty leave the table in time, and can be used again, on hubs that know
// them by what has gone.
func TestEmptyRoomsLeaveTheTable(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	broker := natstest.Start(t, 1)
	nodes, _, prefix := behindProxies(t, broker, 2)
	room := "/v1/tenants/acme/groups/g/members"
	js, err := jetstream.New(broker.Connect(t, 0))
	is.NoErr(err)
	stream, err := js.Stream(t.Context(), prefix+"_table")
	is.NoErr(err)
	own := func() *jetstream.RawStreamMsg {
		info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(">"))
		is.NoErr(err)
		for subject := range info.State.Subjects {
			if strings.Contains(subject, base64.RawURLEncoding.EncodeToString([]byte("group:g"))+"._") && strings.HasSuffix(subject, "._") {
				msg, err := stream.GetLastMsgForSubject(t.Context(), subject)
				is.NoErr(err)
				return msg
			}
		}
		t.Fatal("the room has no row")
		return nil
	}
	ttl := func(h nats.Header) string { return h.Get(jetstream.MsgTTLHeader) }
	do := func(node *testHub, method, path string) {
		t.Helper()
		node.changes(t, method, room+path, "")
	}
	do(nodes[0], "PUT", "/me")
	is.Equal(ttl(own().Header), "")
	do(nodes[0], "DELETE", "/me")
	is.Equal(ttl(own().Header), fmt.Sprint(int((testLimits.TTL+24*time.Hour)/time.Second)))
	do(nodes[1], "PUT", "/me")
	is.Equal(ttl(own().Header), "")
	do(nodes[1], "DELETE", "/me")
	is.NoErr(stream.Purge(t.Context(), jetstream.WithPurgeSubject(own().Subject))) // as if it had faded
	for _, node := range []*testHub{nodes[1], nodes[0]} {
		do(node, "PUT", "/me")
		eventually(t, func() bool {
			status, answer := nodes[0].do(t, "GET", room, "")
			return status == http.StatusOK && len(answer["members"].([]any)) == 1
		})
		do(node, "DELETE", "/me")
		is.NoErr(stream.Purge(t.Context(), jetstream.WithPurgeSubject(own().Subject)))
	}
}
