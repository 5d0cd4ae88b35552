package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/natstest"
)

// What was said before somebody joined is delivered before it is known that they did, also
// where a hub that was away has to learn both, and the first of it came from a hub that knew
// nothing of the tenant's rooms.
func TestWhatWasSaidBeforeAJoinIsDeliveredBeforeIt(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	nodes, proxies, _ := behindProxies(t, natstest.Start(t, 1), 3)
	a, b, c := nodes[0], nodes[1], nodes[2]
	members := "/v1/tenants/acme/conversations/r/members"
	status, _ := c.do(t, "PUT", members, `{"members":["stays"]}`)
	is.Equal(status, http.StatusNoContent)
	people := map[string]*testClient{"joins": nil, "stays": nil}
	for who := range people {
		people[who] = b.open(t, "tenant=acme&profile="+who)
	}

	proxies[0].Cut()
	a.publish(t, "acme", "a.b", `{"kind":"tenant"}`, `"to all"`)
	const before = 5
	for n := range before {
		a.publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, fmt.Sprint(n))
	}
	status, _ = c.do(t, "PUT", members+"/joins", "")
	is.Equal(status, http.StatusServiceUnavailable) // one that is there still has not heard it
	a.publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, `"after"`)
	a.publish(t, "acme", markerType, `{"kind":"tenant"}`, "0")
	proxies[0].Mend()

	got := map[string][]string{}
	for who, client := range people {
		for event := client.next(t); event.Type != markerType; event = client.next(t) {
			got[who] = append(got[who], string(openEnvelope(t, event).Payload))
		}
	}
	is.Equal(got["joins"], []string{`"to all"`, `"after"`})
	is.Equal(got["stays"], []string{`"to all"`, "0", "1", "2", "3", "4", `"after"`})
}

// Where what was said comes later than who may wait for it does, it still is for those who
// were members when it was said: also for who left after it and is back, and not for who
// joined after it.
func TestLateEventsAreForThoseWhoWereMembersThen(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	nodes, proxies, _ := behindProxies(t, natstest.Start(t, 1), 2)
	a, b := nodes[0], nodes[1]
	members := "/v1/tenants/acme/conversations/r/members"
	status, _ := a.do(t, "PUT", members, `{"members":["returns","stays"]}`)
	is.Equal(status, http.StatusNoContent)
	people := map[string]*testClient{"joins": nil, "returns": nil, "stays": nil}
	for who := range people {
		people[who] = b.open(t, "tenant=acme&profile="+who)
	}

	gate := make(chan struct{})
	proxies[0].Rule(func(m *natstest.Message) (v natstest.Verdict) {
		read := strings.HasPrefix(m.Subject, "$JS.API.DIRECT.GET.") || strings.HasPrefix(m.Subject, "$JS.API.STREAM.MSG.GET.")
		if strings.Contains(m.Subject, ".live.") && m.FromServer || read && strings.HasSuffix(m.Subject, "_journal") {
			v.After = gate
		}
		return v
	})
	say := func(what string) {
		a.publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, fmt.Sprintf("%q", what))
	}
	change := func(method, who string) {
		eventually(t, func() bool { // the other hub waits for what was said before
			status, _ := a.do(t, method, members+"/"+who, "")
			return status == http.StatusNoContent
		})
	}
	say("first")
	change("DELETE", "returns")
	say("without")
	change("PUT", "returns")
	change("PUT", "joins")
	say("last")
	a.publish(t, "acme", markerType, `{"kind":"tenant"}`, "0")
	close(gate)

	got := map[string][]string{}
	for who, client := range people {
		for event := client.next(t); event.Type != markerType; event = client.next(t) {
			got[who] = append(got[who], string(openEnvelope(t, event).Payload))
		}
	}
	is.Equal(got["joins"], []string{`"last"`})
	is.Equal(got["returns"], []string{`"first"`, `"last"`})
	is.Equal(got["stays"], []string{`"first"`, `"without"`, `"last"`})
}
