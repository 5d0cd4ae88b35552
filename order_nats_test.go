package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/delivery"
	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
	"realtimehub/internal/sse"
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
	c.changes(t, "PUT", members, `{"members":["stays"]}`)
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
	status, _ := c.do(t, "PUT", members+"/joins", "")
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
	a.changes(t, "PUT", members, `{"members":["returns","stays"]}`)
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

// What is not kept is for who belongs to the room, also where the hub has yet to be told what
// was kept before: it is known on all hubs that they joined.
func TestWhatIsNotKeptIsForWhoHasJoined(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	nodes, proxies, _ := behindProxies(t, natstest.Start(t, 1), 2)
	a, b := nodes[0], nodes[1]
	joins := b.open(t, "tenant=acme&profile=joins")
	gate := make(chan struct{})
	proxies[0].Rule(func(m *natstest.Message) (v natstest.Verdict) {
		read := strings.HasPrefix(m.Subject, "$JS.API.DIRECT.GET.") || strings.HasPrefix(m.Subject, "$JS.API.STREAM.MSG.GET.")
		if strings.HasSuffix(m.Subject, ".ev") && m.FromServer || read && strings.HasSuffix(m.Subject, "_journal") {
			v.After = gate
		}
		return v
	})
	a.publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, `"before"`)
	a.changes(t, "PUT", "/v1/tenants/acme/conversations/r/members/joins", "")
	status, _ := a.post(t, "/v1/events", `{"ephemeral":true,`+eventJSON("acme", "a.c", `{"kind":"conversation","conversationId":"r"}`, "0")[1:])
	is.Equal(status, http.StatusAccepted)
	is.Equal(joins.next(t).Type, "a.c")
	close(gate)
	a.publish(t, "acme", markerType, `{"kind":"tenant"}`, "0")
	is.Equal(joins.next(t).Type, markerType)
}

// Two hubs change a room at the same time, and one has read only the beginning of what the
// other has written: it changes what it has become, and not the half of it that it knows.
func TestAChangeThatIsHalfReadIsNotKnown(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	nodes, proxies, _ := behindProxies(t, natstest.Start(t, 1), 2)
	a, b := nodes[0], nodes[1]
	members := "/v1/tenants/acme/conversations/r/members"
	a.changes(t, "PUT", members, `{"members":["0"]}`)
	b.open(t, meQuery)

	var reads atomic.Int64
	status := 0
	half, gate, learns := make(chan struct{}), make(chan struct{}), make(chan struct{})
	halfRead := sync.OnceFunc(func() { close(half) })
	var once sync.Once
	proxies[0].Rule(func(m *natstest.Message) (v natstest.Verdict) {
		if m.ReadsRows() {
			switch reads.Add(1) {
			case 1:
			case 2:
				halfRead()
				fallthrough
			default:
				v.After = gate
			}
		}
		if reads.Load() > 1 && strings.HasPrefix(m.Subject, "$JS.API.STREAM.MSG.GET.") && strings.HasSuffix(m.Subject, "_table") {
			once.Do(func() { close(learns) }) // that it has changed meanwhile
		}
		return v
	})
	many := make([]string, 900)
	for i := range many {
		many[i] = fmt.Sprintf("%q", fmt.Sprint(i))
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		for { // until a busy broker takes it
			status, _ := a.do(t, "PUT", members, `{"members":[`+strings.Join(many, ",")+`]}`)
			select {
			case <-half: // it was taken, and perhaps not confirmed
				return
			default:
			}
			if status == http.StatusNoContent { // it was known before it had to be read: once more
				a.do(t, "PUT", members, `{"members":["0"]}`)
				reads.Store(0)
			}
		}
	}()
	<-half
	answered := make(chan int, 1)
	go func() {
		status, _ := b.do(t, "PUT", members, `{"members":["0"]}`)
		answered <- status
	}()
	select {
	case <-learns:
	case status = <-answered:
	}
	close(gate)
	<-over
	if status == 0 {
		status = <-answered
	}
	if status != http.StatusNoContent {
		eventually(t, func() bool {
			status, _ := b.do(t, "PUT", members, `{"members":["0"]}`)
			return status == http.StatusNoContent
		})
	}
	for _, node := range nodes {
		_, answer := node.do(t, "GET", members, "")
		is.Equal(len(answer["members"].([]any)), 1)
	}
}

// comes holds up who comes, and says that somebody does.
type comes struct {
	delivery.Observer
	here, goOn chan struct{}
}

func (o *comes) Connected(c *delivery.Connection) {
	close(o.here)
	<-o.goOn
	o.Observer.Connected(c)
}

// The table is lost and made anew, where places are small again: a hub that has not noticed
// yet is not taken for one that knows what has changed since.
func TestPlacesOfATableThatWasLostAreNotTaken(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	broker := natstest.Start(t, 1)
	nodes, proxies, prefix := behindProxies(t, broker, 2)
	a, b := nodes[0], nodes[1]
	members := "/v1/tenants/acme/conversations/r/members"
	a.changes(t, "PUT", members, `{"members":["0","1","2","3"]}`)
	come := &comes{b.observer(), make(chan struct{}), make(chan struct{})}
	b.streams.Observe(come)
	connected := make(chan *delivery.Connection)
	go func() {
		connected <- b.mustConnect(t, delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: bob})
	}()
	<-come.here // who is about to come has b know the tenant
	defer func() {
		close(come.goOn)
		b.streams.Kick(<-connected, delivery.CloseKicked)
	}()

	gate := make(chan struct{})
	proxies[0].Rule(func(m *natstest.Message) (v natstest.Verdict) {
		if m.Subject == "$JS.API.STREAM.INFO."+prefix+"_table" {
			v.After = gate
		}
		return v
	})
	js, err := jetstream.New(broker.Connect(t, 0))
	is.NoErr(err)
	is.NoErr(js.DeleteStream(t.Context(), prefix+"_table"))
	eventually(t, func() bool { return a.Stats().Log.Gone[history.KeptMembers] == 1 })
	is.Equal(b.Stats().Log.Gone[history.KeptMembers], int64(0))
	status, _ := a.do(t, "PUT", members, `{"members":["new"]}`)
	is.Equal(status, http.StatusServiceUnavailable) // the other does not know it
	close(gate)
	eventually(t, func() bool {
		status, _ := a.do(t, "PUT", members, `{"members":["new"]}`)
		return status == http.StatusNoContent
	})
	_, answer := b.do(t, "GET", members, "")
	is.Equal(len(answer["members"].([]any)), 1)
}
