package main

import (
	"fmt"
	"testing"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/natstest"
)

// A history begins anew while a hub knows who belongs where, and has nobody connected: who
// belonged there before gets all that is said from then on, also what it missed. So where
// the members change after that, and on other hubs.
func TestMembersInAnotherHistoryWithNobodyThere(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	nodes, _, prefix := behindProxies(t, b, 2)
	room := "/v1/tenants/acme/conversations/r/members"
	say := func(node *testHub, kind, payload string) string {
		return node.publish(t, "acme", "a.b", kind, payload)["cursor"].(string)
	}
	for i := range 20 {
		say(nodes[0], `{"kind":"tenant"}`, fmt.Sprint(i))
	}
	nodes[0].changes(t, "PUT", room, `{"members":["me","you"]}`)
	js, err := jetstream.New(b.Connect(t, 0))
	is.NoErr(err)
	before := epochOf(nodes[0].log, "acme").Text()
	is.NoErr(js.DeleteStream(t.Context(), prefix+"_journal"))
	for _, node := range nodes {
		eventually(t, func() bool { return epochOf(node.log, "acme").Text() != before && node.Ready() == nil })
	}
	nodes[0].changes(t, "DELETE", room+"/you", "")
	nodes[0].changes(t, "PUT", room+"/you", "")
	from := say(nodes[0], `{"kind":"tenant"}`, "0")
	said := say(nodes[0], `{"kind":"conversation","conversationId":"r"}`, "1")
	for _, node := range nodes {
		for _, who := range []string{"me", "you"} {
			c := node.back(t, from, "tenant=acme&profile="+who)
			is.Equal(c.resume(t), "complete")
			marker := say(node, `{"kind":"profiles","profiles":["`+who+`"]}`, "2")
			got := c.next(t).ID
			if got != said {
				t.Errorf("%s has missed what was said (%v)", who, got == marker)
			}
			c.close()
		}
	}
}
