package main

import (
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/access"
	"realtimehub/internal/broker"
	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
)

// What was last changed of all membership is that somebody left, long ago: the row has faded.
// A hub that comes then waits for no row that is there no more.
func TestAPlaceThatHasFadedIsKnown(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	alone(t, "it makes its own")
	br, prefix := natstest.Start(t, 1), newPrefix()
	join := func() *testHub {
		node := newNode(t, openDoor(t), access.RatesConfig{ClientRate: -1}, func(kept history.Limits, _ bool) *broker.Broker {
			kept.TTL, kept.Window = time.Second, time.Second
			return joinBrokerAt(t, br.URL(0), 1, prefix, kept)
		})
		node.nodes = []*testHub{node}
		return node
	}
	a := join()
	a.open(t, meQuery)
	members := "/v1/tenants/acme/conversations/r/members"
	a.changes(t, "PUT", members, `{"members":["me","you"]}`)
	a.changes(t, "DELETE", members+"/you", "")
	js, err := jetstream.New(br.Connect(t, 0))
	is.NoErr(err)
	table, err := js.Stream(t.Context(), prefix+"_table")
	is.NoErr(err)
	eventually(t, func() bool {
		info, err := table.Info(t.Context())
		is.NoErr(err)
		last, err := table.GetLastMsgForSubject(t.Context(), prefix+".row.>")
		return err == nil && last.Sequence < info.State.LastSeq
	})

	b := join()
	eventually(t, func() bool { return len(a.peers.Others()) == 1 })
	me := b.open(t, meQuery)
	a.publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, `"said"`)
	is.Equal(me.next(t).Type, "a.b")
	a.changes(t, "PUT", members+"/me", "") // as it is already
}
