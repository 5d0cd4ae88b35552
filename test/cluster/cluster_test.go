package cluster

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

	"realtimehub/internal/hubtest"
)

// A connection is found, shown, touched, adjusted and closed through any hub.
func TestClusterCalls(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	nodes := threeHubs(t, "REALTIME_PRESENCE_AUDIENCE=tenant", "REALTIME_IDLE_TIMEOUT=1s", "REALTIME_CLIENT_RATE=0")
	a, b, c := nodes[0], nodes[1], nodes[2]
	client := a.Open(t, "tenant=acme&profile=me&presence=none&meta.device=phone")
	path := "/v1/tenants/acme/connections/" + client.ConnectionID
	for _, node := range nodes {
		status, answer := node.Answered(t, "GET", path, "")
		is.Equal(status, http.StatusOK)
		is.Equal(answer["metadata"], map[string]any{"device": "phone"})
		is.Equal(node.Listed(t, "/v1/tenants/acme/connections?profile=me"), []string{client.ConnectionID})
		status, _ = node.Answered(t, "GET", "/v1/tenants/other/connections/"+client.ConnectionID, "")
		is.Equal(status, http.StatusNotFound) // another tenant's
	}
	eventually(t, func() bool { return statusOf(t, c, "acme", "me") == "away" }) // it was idle for long
	active := func() time.Time {
		_, answer := c.Answered(t, "GET", path, "")
		at, err := time.Parse(time.RFC3339, answer["lastActivityAt"].(string))
		is.NoErr(err)
		return at
	}
	before := active()
	status, _ := b.Answered(t, "POST", "/v1/connections/"+client.ConnectionID+"/touch", "")
	is.Equal(status, http.StatusNoContent)
	is.True(active().Sub(before) >= time.Second) // now, as was just said
	status, _ = c.Answered(t, "PATCH", "/v1/connections/"+client.ConnectionID, `{"types":["a.*"]}`)
	is.Equal(status, http.StatusNoContent)
	c.Publish(t, "acme", "b.c", `{"kind":"tenant"}`, "1")
	c.Publish(t, "acme", "a.b", `{"kind":"tenant"}`, "2")
	is.Equal(string(openEnvelope(t, client.Next(t)).Payload), "2")
	status, _ = b.Answered(t, "PUT", "/v1/connections/"+client.ConnectionID+"/token", "")
	is.Equal(status, http.StatusNoContent)
	if status, answer := b.Do(t, "DELETE", path, ""); answer["code"] == "HubUnavailable" { // it may have closed it all the same
		status, _ = b.Answered(t, "DELETE", path, "")
		is.True(status == http.StatusNoContent || status == http.StatusNotFound)
	} else {
		is.Equal(status, http.StatusNoContent)
	}
	is.Equal(client.Next(t).Type, "hub.closing")
	for _, node := range nodes {
		status, _ = node.Answered(t, "GET", path, "")
		is.Equal(status, http.StatusNotFound)
		status, _ = node.Answered(t, "POST", "/v1/connections/"+client.ConnectionID+"/touch", "")
		is.Equal(status, http.StatusNotFound)
	}
	gone := strings.ToUpper(client.ConnectionID[:28]) + "00000000" // of a hub that is not there
	status, _ = a.Post(t, "/v1/connections/"+gone+"/touch", "")
	is.Equal(status, http.StatusNotFound) // at once: asked, it would not have answered, and that is 503
}

// What a member is holds on all hubs before it is answered.
func TestClusterMembership(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	nodes := threeHubs(t)
	clients := make([]*hubtest.Stream, 3)
	for i, node := range nodes {
		clients[i] = node.Open(t, fmt.Sprint("tenant=acme&types=a.b&profile=", i))
	}
	room := "/v1/tenants/acme/conversations/r/members"
	for i := range 30 {
		who := i % 3
		nodes[i%3].Changes(t, "PUT", fmt.Sprint(room, "/", who), "")
		nodes[(i+1)%3].Knows(t, "acme", `{"kind":"tenant"}`, 3) // hubs that are slow are not known for a moment
		answer := nodes[(i+1)%3].Publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, fmt.Sprint(i))
		if answer["members"] != nil { // else the hub cannot say now what the others know
			is.Equal(answer["connections"], 1.0) // wherever it is
		}
		is.Equal(string(openEnvelope(t, clients[who].Next(t)).Payload), fmt.Sprint(i))
		nodes[(i+2)%3].Changes(t, "DELETE", fmt.Sprint(room, "/", who), "")
		nodes[i%3].Publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, `"nobody"`)
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
	nodes[0].Changes(t, "PUT", room, `{"members":[`+strings.Join(many, ",")+`]}`)
	t.Logf("%d members known to three hubs in %v", size, time.Since(start))
	for _, node := range nodes {
		_, answer := node.Answered(t, "GET", room, "")
		is.Equal(len(answer["members"].([]any)), size)
	}
	nodes[1].Changes(t, "PUT", room, `{"members":["1","2"]}`)
	_, answer := nodes[2].Answered(t, "GET", room, "")
	is.Equal(answer["members"], []any{map[string]any{"type": "user", "id": "1"}, map[string]any{"type": "user", "id": "2"}})
}

// Two who replace a room's members at once: one is the last, and all agree.
func TestClusterMembershipAtOnce(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	nodes := threeHubs(t)
	sets := [][]string{{"a", "b"}, {"c"}, {"d", "e", "f"}}
	for range 10 {
		var wg sync.WaitGroup
		for i, node := range nodes {
			wg.Go(func() {
				node.Changes(t, "PUT", "/v1/tenants/acme/groups/g/members", `{"members":["`+strings.Join(sets[i], `","`)+`"]}`)
			})
		}
		wg.Wait()
		var seen [][]string
		for _, node := range nodes {
			_, answer := node.Answered(t, "GET", "/v1/tenants/acme/groups/g/members", "")
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
	t.Parallel()
	is := is.New(t)
	nodes := threeHubs(t)
	c := nodes[0].Open(t, meQuery)
	c.Close()
	say(t, nodes[1], 1)
	nodes[1].Changes(t, "PUT", "/v1/tenants/acme/conversations/r/members/me", "")
	say(t, nodes[0], 2)
	nodes[0].Changes(t, "DELETE", "/v1/tenants/acme/conversations/r/members/me", "")
	say(t, nodes[1], 3)
	nodes[1].Changes(t, "PUT", "/v1/tenants/acme/conversations/r/members/me", "")
	say(t, nodes[0], 4)
	for _, node := range nodes { // the third has never heard of any of it
		is.Equal(node.Replayed(t, node.Back(t, c.Cursor, meQuery)), "2 4")
	}
}

// presences are of whom a client was told what, up to a marker.
func presences(t testing.TB, hub *hubtest.Program, s *hubtest.Stream) string {
	t.Helper()
	var words []string
	for _, event := range hub.Received(t, "acme", s)[0] {
		var payload struct {
			Profile struct{ ID string }
			Status  string
		}
		if err := json.Unmarshal(openEnvelope(t, event).Payload, &payload); err != nil {
			t.Fatal(err)
		}
		words = append(words, payload.Profile.ID+" "+payload.Status)
	}
	return strings.Join(words, ", ")
}

// statusOf is a profile's presence, as a hub has it.
func statusOf(t testing.TB, hub *hubtest.Program, tenant, profile string) string {
	t.Helper()
	status, answer := hub.Answered(t, "GET", "/v1/presence?tenant="+tenant+"&profile="+profile, "")
	if status != http.StatusOK {
		t.Fatal(status, answer)
	}
	return answer["profiles"].([]any)[0].(map[string]any)["status"].(string)
}

// A profile on two hubs is online once, and offline once, when both are gone; every
// stream is told each change once, and nothing of who was there before it.
func TestClusterPresence(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	nodes := threeHubs(t, "REALTIME_PRESENCE_AUDIENCE=tenant", "REALTIME_PRESENCE_GRACE=200ms", "REALTIME_PRESENCE_TICK=20ms", "REALTIME_CLIENT_RATE=0")
	allSay := func(status string) {
		t.Helper()
		eventually(t, func() bool {
			return !slices.ContainsFunc(nodes, func(node *hubtest.Program) bool { return statusOf(t, node, "acme", "alice") != status })
		})
	}
	allKnow := func(connections int) { // of alice's
		t.Helper()
		for _, node := range nodes {
			node.Knows(t, "acme", `{"kind":"profile","profiles":["alice"]}`, connections)
		}
	}
	query := "tenant=acme&presence=alice&profile=seer"
	seers := []*hubtest.Stream{nodes[0].Open(t, query), nodes[1].Open(t, query), nodes[2].Open(t, query)}
	one := nodes[0].Open(t, "tenant=acme&profile=alice&presence=none")
	allSay("online")
	for _, c := range seers {
		is.Equal(c.Next(t).Type, "presence.online")
	}
	two := nodes[1].Open(t, "tenant=acme&profile=alice&presence=none")
	allKnow(2)
	one.Close()
	allKnow(1)
	is.Equal(nodes[0].Listed(t, "/v1/tenants/acme/connections?profile=alice"), []string{two.ConnectionID})
	two.Close()
	allSay("offline")
	for i, c := range seers {
		is.Equal(c.Next(t).Type, "presence.offline")
		is.Equal(presences(t, nodes[i], c), "") // once
	}
	// A hub that has not heard of the tenant yet.
	nodes[0].Open(t, "tenant=beta&profile=alice")
	late := nodes[2].Open(t, "tenant=beta&profile=bob&presence=alice")
	is.Equal(statusOf(t, nodes[2], "beta", "alice"), "online")
	is.Equal(statusOf(t, nodes[1], "beta", "alice"), "online") // nor has this one
	is.Equal(nodes[2].Payloads(t, "beta", late), []string{""})
}

// Typing that one hub is told of is told once to the streams of all, and repeats on
// another hub are no news.
func TestClusterTyping(t *testing.T) {
	t.Parallel()
	nodes := threeHubs(t, fmt.Sprint("REALTIME_TYPING_TTL=", typingTTL))
	tenant := "typing-0"
	for try := 1; !repeatsTyping(t, nodes, tenant); try++ { // a busy machine was late to repeat it
		tenant = fmt.Sprint("typing-", try)
	}
}

const typingTTL = 3 * time.Second

// repeatsTyping has somebody type for longer than the TTL, and checks what streams were told
// of it. It says false where a repeat was so late that typing may have been over before.
func repeatsTyping(t *testing.T, nodes []*hubtest.Program, tenant string) (inTime bool) {
	t.Helper()
	is := is.New(t)
	nodes[0].Changes(t, "PUT", "/v1/tenants/"+tenant+"/conversations/r/members", `{"members":["me","you"]}`)
	var you []*hubtest.Stream
	for _, node := range nodes {
		you = append(you, node.Open(t, "profile=you&tenant="+tenant))
	}
	begun := time.Now()
	for i, before := 0, begun; time.Since(begun) < typingTTL*3/2; i++ {
		last := before
		before = time.Now()
		status, _ := nodes[i%3].Post(t, "/v1/conversations/r/typing?profile=me&tenant="+tenant, `{"state":"started"}`)
		if time.Since(last) > typingTTL*2/3 {
			return false
		}
		is.Equal(status, http.StatusAccepted)
		time.Sleep(typingTTL / 4)
	}
	for _, c := range you {
		is.Equal(c.Next(t).Type, "typing.started")
		is.Equal(c.Next(t).Type, "typing.stopped") // by itself, once
	}
	for i, c := range you {
		is.Equal(nodes[i].Payloads(t, tenant, c), []string{""}) // and nothing else
	}
	return true
}

// With membership that another service owns, events for a room reach its members on
// all hubs, and who comes back gets them on any.
func TestClusterExternalMembership(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte(`{"members":["me","you"]}`))
	}))
	t.Cleanup(service.Close)
	nodes := threeHubs(t, "REALTIME_MEMBERSHIP_URL="+service.URL)
	me := nodes[0].Open(t, meQuery)
	say(t, nodes[1], 1)
	is.Equal(string(openEnvelope(t, me.Next(t)).Payload), "1")
	me.Close()
	nodes[1].Publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"s"}`, "2")
	for _, node := range nodes {
		is.Equal(node.Replayed(t, node.Back(t, me.Cursor, meQuery)), "1 2")
		is.Equal(node.Replayed(t, node.Back(t, me.Cursor, "tenant=acme&profile=stranger")), "")
	}
}
