package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/event"
	"realtimehub/internal/natstest"
	"realtimehub/internal/room"
	"realtimehub/internal/settings"
)

// alone skips, on a cluster, a test of what each hub has to itself.
func alone(t testing.TB, why string) {
	t.Helper()
	if *clusterFlag > 0 {
		t.Skip("not on a cluster: ", why)
	}
}

// threeHubs share a broker cluster of three: all of them, taking turns, and each.
func threeHubs(t testing.TB, configure ...func(*HubConfig, *PresenceConfig)) (all *testHub, nodes []*testHub) {
	t.Helper()
	alone(t, "it makes its own")
	all = newCluster(t, 3, natstest.Start(t, 3), openDoor(t), access.RatesConfig{}, configure...)
	return all, all.nodes
}

// A connection is found, shown, touched, adjusted and closed through any hub.
func TestClusterCalls(t *testing.T) {
	is := is.New(t)
	_, nodes := threeHubs(t)
	a, b, c := nodes[0], nodes[1], nodes[2]
	client := a.open(t, "tenant=acme&profile=me&meta.device=phone")
	path := "/v1/tenants/acme/connections/" + client.ConnectionID
	for _, node := range nodes {
		status, answer := node.do(t, "GET", path, "")
		is.Equal(status, http.StatusOK)
		is.Equal(answer["metadata"], map[string]any{"device": "phone"})
		is.Equal(listed(t, node, "/v1/tenants/acme/connections?profile=me"), []string{client.ConnectionID})
		status, _ = node.do(t, "GET", "/v1/tenants/other/connections/"+client.ConnectionID, "")
		is.Equal(status, http.StatusNotFound) // another tenant's
	}
	conn := a.Hub.streams.Connection(client.ConnectionID)
	before := conn.LastActivity()
	status, _ := b.post(t, "/v1/connections/"+client.ConnectionID+"/touch", "")
	is.Equal(status, http.StatusNoContent)
	is.True(conn.LastActivity().After(before))
	status, _ = c.do(t, "PATCH", "/v1/connections/"+client.ConnectionID, `{"types":["a.*"]}`)
	is.Equal(status, http.StatusNoContent)
	c.publish(t, "acme", "b.c", `{"kind":"tenant"}`, "1")
	c.publish(t, "acme", "a.b", `{"kind":"tenant"}`, "2")
	is.Equal(string(openEnvelope(t, client.next(t)).Payload), "2")
	status, _ = b.do(t, "PUT", "/v1/connections/"+client.ConnectionID+"/token", "")
	is.Equal(status, http.StatusNoContent)
	status, _ = b.do(t, "DELETE", path, "")
	is.Equal(status, http.StatusNoContent)
	is.Equal(client.next(t).Type, "hub.closing")
	for _, node := range nodes {
		status, _ = node.do(t, "GET", path, "")
		is.Equal(status, http.StatusNotFound)
		status, _ = node.post(t, "/v1/connections/"+client.ConnectionID+"/touch", "")
		is.Equal(status, http.StatusNotFound)
	}
	gone := strings.ToUpper(client.ConnectionID[:28]) + "00000000" // of a hub that is not there
	start := time.Now()
	status, _ = a.post(t, "/v1/connections/"+gone+"/touch", "")
	is.Equal(status, http.StatusNotFound)
	is.True(time.Since(start) < time.Second) // at once
}

// What a member is holds on all hubs before it is answered.
func TestClusterMembership(t *testing.T) {
	is := is.New(t)
	all, nodes := threeHubs(t)
	clients := make([]*testClient, 3)
	for i, node := range nodes {
		clients[i] = node.open(t, fmt.Sprint("tenant=acme&profile=", i))
	}
	room := "/v1/tenants/acme/conversations/r/members"
	for i := range 30 {
		who := i % 3
		nodes[i%3].changes(t, "PUT", fmt.Sprint(room, "/", who), "")
		all.settle(t)
		eventually(t, func() bool { // hubs that are slow are not known for a moment
			status, answer := nodes[(i+1)%3].do(t, "GET", "/v1/tenants/acme/connections", "")
			return status == http.StatusOK && answer["count"] == 3.0
		})
		answer := nodes[(i+1)%3].publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, fmt.Sprint(i))
		is.Equal(answer["connections"], 1.0) // wherever it is
		is.Equal(string(openEnvelope(t, clients[who].next(t)).Payload), fmt.Sprint(i))
		nodes[(i+2)%3].changes(t, "DELETE", fmt.Sprint(room, "/", who), "")
		nodes[i%3].publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, `"nobody"`)
	}
	// Ten thousand at once, and replaced at once. Each hub has a second to say that it knows.
	size := 10_000
	if testing.Short() {
		size = 1000
	}
	var many []string
	for i := range size {
		many = append(many, fmt.Sprintf("%q", fmt.Sprint("member-", i)))
	}
	start := time.Now()
	replace := func(node *testHub, members string) { // again, while not all are known to know
		eventually(t, func() bool {
			status, _ := node.do(t, "PUT", room, `{"members":[`+members+`]}`)
			return status == http.StatusNoContent
		})
	}
	replace(nodes[0], strings.Join(many, ","))
	t.Logf("%d members known to three hubs in %v", size, time.Since(start))
	for _, node := range nodes {
		_, answer := node.do(t, "GET", room, "")
		is.Equal(len(answer["members"].([]any)), size)
	}
	replace(nodes[1], `"1","2"`)
	_, answer := nodes[2].do(t, "GET", room, "")
	is.Equal(answer["members"], []any{map[string]any{"type": "user", "id": "1"}, map[string]any{"type": "user", "id": "2"}})
}

// Two who replace a room's members at once: one is the last, and all agree.
func TestClusterMembershipAtOnce(t *testing.T) {
	is := is.New(t)
	_, nodes := threeHubs(t)
	sets := [][]string{{"a", "b"}, {"c"}, {"d", "e", "f"}}
	for range 10 {
		var wg sync.WaitGroup
		for i, node := range nodes {
			wg.Go(func() {
				status, _ := node.do(t, "PUT", "/v1/tenants/acme/groups/g/members", `{"members":["`+strings.Join(sets[i], `","`)+`"]}`)
				if status != http.StatusNoContent {
					t.Error(status)
				}
			})
		}
		wg.Wait()
		var seen [][]string
		for _, node := range nodes {
			_, answer := node.do(t, "GET", "/v1/tenants/acme/groups/g/members", "")
			var ids []string
			for _, m := range answer["members"].([]any) {
				ids = append(ids, m.(map[string]any)["id"].(string))
			}
			seen = append(seen, ids)
		}
		is.Equal(seen[0], seen[1])
		is.Equal(seen[1], seen[2])
		is.True(slices.ContainsFunc(sets, func(set []string) bool { return slices.Equal(set, seen[0]) })) // one of them, whole
	}
}

// Who left a room cannot replay it, and who joined does not see what was before; on
// any hub, one that has just been started too.
func TestClusterMembershipInReplay(t *testing.T) {
	is := is.New(t)
	_, nodes := threeHubs(t)
	c := nodes[0].open(t, meQuery)
	c.close()
	say := func(n int) {
		nodes[n%2].publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, fmt.Sprint(n))
	}
	say(1)
	nodes[1].do(t, "PUT", "/v1/tenants/acme/conversations/r/members/me", "")
	say(2)
	nodes[0].do(t, "DELETE", "/v1/tenants/acme/conversations/r/members/me", "")
	say(3)
	nodes[1].do(t, "PUT", "/v1/tenants/acme/conversations/r/members/me", "")
	say(4)
	for _, node := range nodes { // the third has never heard of any of it
		is.Equal(node.replayed(t, node.back(t, c.Cursor, meQuery)), "2 4")
	}
}

// presences are of whom a client was told what, up to a marker.
func (h *testHub) presences(t testing.TB, c *testClient) string {
	t.Helper()
	var words []string
	for _, ev := range h.received(t, "acme", c)[0] {
		var e struct {
			Payload struct {
				Profile event.Profile
				Status  string
			}
		}
		if err := json.Unmarshal([]byte(ev.Data), &e); err != nil {
			t.Fatal(err)
		}
		words = append(words, e.Payload.Profile.ID+" "+e.Payload.Status)
	}
	return strings.Join(words, ", ")
}

func (h *testHub) status(ref event.Profile) Status {
	return h.Presence.Of("acme", []event.Profile{ref})[0].Status
}

// A profile on two hubs is online once, and offline once, when both are gone; every
// stream is told each change once, and nothing of who was there before it.
func TestClusterPresence(t *testing.T) {
	is := is.New(t)
	all, nodes := threeHubs(t, func(_ *HubConfig, p *PresenceConfig) {
		p.Audience, p.Grace, p.Tick = settings.AudienceTenant, 200*time.Millisecond, 20*time.Millisecond
	})
	allSay := func(status Status) {
		t.Helper()
		eventually(t, func() bool {
			return !slices.ContainsFunc(nodes, func(n *testHub) bool { return n.status(alice) != status })
		})
	}
	query := "tenant=acme&presence=alice&profile=seer"
	seers := []*testClient{nodes[0].open(t, query), nodes[1].open(t, query), nodes[2].open(t, query)}
	one := nodes[0].open(t, "tenant=acme&profile=alice&presence=none")
	allSay(Online)
	for _, c := range seers {
		is.Equal(c.next(t).Type, "presence.online")
	}
	two := nodes[1].open(t, "tenant=acme&profile=alice&presence=none")
	all.settle(t)
	one.close()
	eventually(t, func() bool { return len(nodes[0].streams.Connections("acme", &alice)) == 0 })
	all.settle(t)
	two.close()
	allSay(Offline)
	for i, c := range seers {
		is.Equal(c.next(t).Type, "presence.offline")
		is.Equal(nodes[i].presences(t, c), "") // once
	}
	// A hub that has not heard of the tenant yet.
	nodes[0].open(t, "tenant=beta&profile=alice")
	all.settle(t)
	late := nodes[2].open(t, "tenant=beta&profile=bob&presence=alice")
	is.Equal(nodes[2].Presence.Of("beta", []event.Profile{alice})[0].Status, Online)
	_, answer := nodes[1].do(t, "GET", "/v1/presence?tenant=beta&profile=alice", "")
	is.Equal(answer["profiles"].([]any)[0].(map[string]any)["status"], "online") // nor has this one
	is.Equal(nodes[2].payloads(t, "beta", late), []string{""})
}

// Typing that one hub is told of is told once to the streams of all, and repeats on
// another hub are no news.
func TestClusterTyping(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	_, nodes := threeHubs(t, func(_ *HubConfig, p *PresenceConfig) { p.TypingTTL = time.Second })
	nodes[0].do(t, "PUT", "/v1/tenants/acme/conversations/r/members", `{"members":["me","you"]}`)
	var you []*testClient
	for _, node := range nodes {
		you = append(you, node.open(t, "tenant=acme&profile=you"))
	}
	start := time.Now()
	for i := range 6 { // longer than the TTL, through each in turn
		status, _ := nodes[i%3].post(t, "/v1/conversations/r/typing?tenant=acme&profile=me", `{"state":"started"}`)
		is.Equal(status, http.StatusAccepted)
		for time.Since(start) < time.Duration(i+1)*300*time.Millisecond {
			time.Sleep(10 * time.Millisecond)
		}
	}
	for _, c := range you {
		is.Equal(c.next(t).Type, event.TypeTypingStarted)
		is.Equal(c.next(t).Type, event.TypeTypingStopped) // by itself, once
	}
	for i, c := range you {
		is.Equal(nodes[i].replayed(t, c), "") // and nothing else
	}
}

// With membership that another service owns, events for a room reach its members on
// all hubs, and who comes back gets them on any.
func TestClusterExternalMembership(t *testing.T) {
	is := is.New(t)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte(`{"members":["me","you"]}`))
	}))
	t.Cleanup(service.Close)
	_, nodes := threeHubs(t, func(hub *HubConfig, _ *PresenceConfig) { hub.Resolver = room.NewService(service.URL, "", nil) })
	me := nodes[0].open(t, meQuery)
	nodes[1].publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, "1")
	is.Equal(string(openEnvelope(t, me.next(t)).Payload), "1")
	me.close()
	nodes[1].publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"s"}`, "2")
	for _, node := range nodes {
		is.Equal(node.replayed(t, node.back(t, me.Cursor, meQuery)), "1 2")
		is.Equal(node.replayed(t, node.back(t, me.Cursor, "tenant=acme&profile=stranger")), "")
	}
}

// The same id at once on two hubs is accepted once, and once a duplicate, each time.
func TestClusterSameIDAtOnce(t *testing.T) {
	is := is.New(t)
	rounds := 1000
	if testing.Short() {
		rounds = 100
	}
	_, nodes := threeHubs(t)
	client := nodes[2].open(t, meQuery)
	for i := range rounds {
		body := fmt.Sprintf(`{"id":"id-%d","tenantId":"acme","type":"a.b","payload":%d,"target":{"kind":"tenant"}}`, i, i)
		var wg sync.WaitGroup
		answers := make([]map[string]any, 2)
		for n := range answers {
			wg.Go(func() { _, answers[n] = nodes[n].post(t, "/v1/events", body) })
		}
		wg.Wait()
		is.True(answers[0]["duplicate"] != answers[1]["duplicate"])
		is.Equal(answers[0]["cursor"], answers[1]["cursor"])
		is.Equal(answers[0]["timestamp"], answers[1]["timestamp"])
		is.Equal(string(openEnvelope(t, client.next(t)).Payload), fmt.Sprint(i)) // once
	}
	is.Equal(nodes[2].replayed(t, client), "")
}

// A batch in which some ids are known: those are duplicates, the others are together.
func TestClusterBatchWithKnownIDs(t *testing.T) {
	is := is.New(t)
	_, nodes := threeHubs(t)
	client := nodes[2].open(t, meQuery)
	event := func(id string) string {
		return fmt.Sprintf(`{"id":%q,"tenantId":"acme","type":"a.b","payload":%q,"target":{"kind":"tenant"}}`, id, id)
	}
	nodes[0].post(t, "/v1/events", event("a"))
	nodes[1].post(t, "/v1/events", event("c"))
	status, answer := nodes[1].post(t, "/v1/events/batch", `{"events":[`+event("a")+","+event("b")+","+event("c")+","+event("d")+","+event("b")+`]}`)
	is.Equal(status, http.StatusAccepted)
	var duplicates []any
	var places []int
	for _, r := range answer["results"].([]any) {
		duplicates = append(duplicates, r.(map[string]any)["duplicate"])
		places = append(places, nodes[0].seqOf(t, r.(map[string]any)["cursor"].(string)))
	}
	is.Equal(duplicates, []any{true, false, true, false, true})
	is.Equal(places[3], places[1]+1)
	is.Equal(places[4], places[1])
	is.Equal(nodes[2].payloads(t, "acme", client), []string{`"a" "c" "b" "d"`})
}
