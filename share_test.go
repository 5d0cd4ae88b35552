package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/allowance"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/natstest"
	"realtimehub/internal/plan"
	"realtimehub/internal/room"
	"realtimehub/internal/sse"
)

// withState gives a hub so much memory for state.
func withState(n int64) func(*HubConfig, *PresenceConfig) {
	return func(hub *HubConfig, _ *PresenceConfig) { hub.Quotas = allowance.New(plan.Memory{State: n}) }
}

// turnedAway says whether a stream is answered hub.closing for want of capacity.
func (h *testHub) turnedAway(t *testing.T, query string) bool {
	t.Helper()
	res, err := h.client.Get(h.URL + "/v1/stream?" + query)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	event, err := newStreamReader(t, res.Body).Next()
	if err != nil {
		t.Fatal(err)
	}
	return event.Type == "hub.closing" && strings.Contains(event.Data, `"reason":"capacity"`)
}

// Who opens streams with all that a stream may have is turned away in time; nobody else
// is, nor is what they have open ended.
func TestStreamsHaveAShareOfMemory(t *testing.T) {
	alone(t, "each hub has its own memory")
	is := is.New(t)
	h := newTestHub(t, withState(4<<20))
	fill := func(tenant string, person func(i int) string) (n int, err error) {
		for ; err == nil && n < 1_000; n++ {
			s := delivery.Subscription{Encoding: sse.Encoding{}, Tenant: tenant, Profile: event.Profile{Type: "user", ID: person(n)}}
			for i := range event.MaxAskedProfiles {
				s.Watch = append(s.Watch, event.Profile{Type: "user", ID: fmt.Sprintf("%s-%d-%d", strings.Repeat("x", 30), n, i)})
			}
			_, err = h.streams.Connect(t.Context(), s)
		}
		return n - 1, err
	}
	one, err := fill("one", func(int) string { return "me" })
	is.Equal(err, allowance.ErrPerson)
	many, err := fill("many", func(i int) string { return fmt.Sprint(i) })
	is.Equal(err, allowance.ErrTenant)
	is.True(one >= 5)                                             // an eighth is one's own
	is.True(many > 2*one)                                         // of which a tenant has more
	is.True(h.quotas.State.Of("many") <= 2<<20)                   // and leaves as much
	is.Equal(len(h.streams.Connections("one", nil)), one)         // nobody was ended
	is.Equal(h.Stats().Refused[delivery.CloseCapacity], int64(2)) // it is counted who was turned away
	is.True(h.quotas.State.Refused() > 0)
	is.True(h.quotas.Person.Refused() > 0)

	long := "&presence=user:" + strings.Repeat("x", 250)
	var list strings.Builder
	for i := range 40 {
		fmt.Fprint(&list, long, i)
	}
	is.True(h.turnedAway(t, "tenant=one&profile=me"+list.String())) // EventSource comes back
	is.True(!h.turnedAway(t, "tenant=other&profile=me"))            // who has done nothing is not
	is.True(!h.turnedAway(t, "tenant=one&profile=somebody"))        // of the same tenant either
	for _, c := range h.streams.Connections("one", nil) {
		h.streams.Kick(c, delivery.CloseKicked) // somebody may have left by now
	}
	is.True(!h.turnedAway(t, "tenant=one&profile=me"+list.String()))
}

// A watch list or filter past a share is refused, and the stream has what it had.
func TestAdjustPastAShare(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h := newTestHub(t, withState(64<<10), defaultPresence)
	c := h.open(t, "tenant=acme&profile=me&presence=user:you&types=presence.*")
	path := "/v1/connections/" + c.ConnectionID
	var long []string
	for i := range event.MaxAskedProfiles {
		long = append(long, fmt.Sprintf(`"a.%s%d"`, strings.Repeat("x", 100), i))
	}
	for _, body := range []string{
		`{"types":[` + strings.Join(long, ",") + `]}`,
		`{"presence":[` + strings.ReplaceAll(strings.Join(long, ","), "a.", "user:") + `],"types":["b"]}`,
	} {
		for range 2 { // on each hub of a cluster
			status, answer := h.do(t, "PATCH", path, body)
			is.Equal(status, http.StatusServiceUnavailable)
			is.Equal(answer["code"], "ShareUsedUp")
		}
	}
	h.open(t, "tenant=acme&profile=they")
	h.open(t, "tenant=acme&profile=you")
	h.publish(t, "acme", "b", `{"kind":"tenant"}`, "1")
	is.True(strings.Contains(c.next(t).Data, `"you"`)) // and of nothing else
	status, _ := h.do(t, "PATCH", path, `{"types":["a"],"presence":["user:1","user:2"]}`)
	is.Equal(status, http.StatusNoContent)
}

// Members past a tenant's share, or past their number, are refused and change nothing;
// to have fewer is always allowed, and others do not notice.
func TestMembersPastAShare(t *testing.T) {
	is := is.New(t)
	list := func(n int) string {
		var members []string
		for i := range n {
			members = append(members, fmt.Sprintf(`"user:%d-%s"`, i, strings.Repeat("x", 20)))
		}
		return `{"members":[` + strings.Join(members, ",") + `]}`
	}
	for code, h := range map[string]*testHub{
		"ShareUsedUp":        newTestHub(t, withState(1<<20)),
		"TooManyMemberships": newTestHub(t, func(hub *HubConfig, _ *PresenceConfig) { hub.Memberships = 1_000 }),
	} {
		t.Run(code, func(t *testing.T) {
			is := is.New(t)
			status := map[string]int{"ShareUsedUp": 503, "TooManyMemberships": 409}[code]
			refused := func(method, path, body string) {
				t.Helper()
				got, answer := h.do(t, method, path, body)
				is.Equal(got, status)
				is.Equal(answer["code"], code)
			}
			done := func(method, path, body string) {
				t.Helper()
				got, _ := h.do(t, method, path, body)
				if got != 204 {
					t.Fatal(method, path, len(body), got)
				}
			}
			const all, one = "/v1/tenants/acme/groups/all/members", "/v1/tenants/acme/groups/one/members"
			refused("PUT", one, list(20_000))
			is.Equal(h.Hub.quotas.State.Of("acme"), int64(0)) // a tenant of which nothing came is gone
			done("PUT", all, list(1_000))
			refused("PUT", all, list(20_000))
			members, err := h.members.Members(t.Context(), "acme", event.Room{Kind: event.KindGroup, ID: "all"}, anyLength)
			is.NoErr(err)
			is.Equal(len(members), 1_000)
			n := 0
			for ; n < 20_000; n += 50 { // fill it
				if got, _ := h.do(t, "PUT", one, list(n+50)); got != 204 {
					break
				}
			}
			if code == "TooManyMemberships" {
				is.Equal(n, 0)
				refused("PUT", one+"/me", "")
				done("PUT", all, strings.Replace(list(1_000), "user:0-", "user:new-", 1)) // as many as before
			}
			is.True(n < 20_000)
			done("PUT", "/v1/tenants/other/groups/all/members", list(500))
			done("PUT", all, list(10))
			done("PUT", one, list(10))
			done("PUT", one+"/me", "")
			for _, path := range []string{all, one, "/v1/tenants/other/groups/all/members"} {
				done("PUT", path, `{"members":[]}`)
			}
		})
	}
	is.True(!strings.Contains(allowance.ErrTenant.Error(), "acme"))
}

// Of who has left as many are remembered as there is room for; a tenant whose people are
// many forgets its own.
func TestWhoHasLeftIsForgottenByTenant(t *testing.T) {
	is := is.New(t)
	quotas := allowance.New(plan.Memory{State: 800 << 10}) // 75 KiB about who has left
	hub, presence := newQuietHub(quotas)
	visit := func(tenant string, n int) (people []event.Profile) {
		for i := range n {
			p := event.Profile{Type: "user", ID: fmt.Sprint(i)}
			c, err := hub.streams.Connect(t.Context(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: tenant, Profile: p})
			is.NoErr(err)
			is.True(hub.streams.Kick(c, delivery.CloseKicked))
			people = append(people, p)
			presence.tick(time.Now())
		}
		return people
	}
	known := func(tenant string, people []event.Profile) (n int) {
		for _, p := range hub.people.Of(tenant, people) {
			if p.LastActiveAt != nil {
				n++
			}
		}
		return n
	}
	few := visit("small", 20)
	many := visit("large", 1_000)
	is.Equal(known("small", few), 20)
	is.True(known("large", many) > 50)
	is.True(known("large", many) < 200)
	is.Equal(known("large", many[990:]), 10) // the last
	is.True(quotas.Seen.Of("large") <= 50<<10)
	visit("small", 20) // again: they are remembered once
	presence.tick(time.Now().Add(25 * time.Hour))
	is.Equal(quotas.State.Total(), int64(0))
	is.Equal(quotas.Seen.Total(), int64(0))
	is.NoErr(hub.streams.Engine().Close(t.Context()))
}

// Who types in more conversations than they may have memory for is refused, and nobody
// else is.
func TestTypingHasAShare(t *testing.T) {
	is := is.New(t)
	h := newTrustedHub(t, openDoor(t), access.RatesConfig{ClientRate: -1}, withState(64<<10))
	for i := range 20 {
		for _, who := range []string{"me", "you"} {
			is.NoErr(untilConfirmed(func() error {
				return h.members.AddMember(t.Context(), "acme", event.Room{Kind: event.KindConversation, ID: fmt.Sprint(i)}, event.Profile{Type: "user", ID: who})
			}))
		}
	}
	types := func(i int, who string) int {
		status, _ := h.nodes[0].do(t, "POST", fmt.Sprintf("/v1/conversations/%d/typing?tenant=acme&profile=%s", i, who), `{"state":"started"}`)
		return status
	}
	n := 0
	for n < 20 && types(n, "me") == 202 {
		n++
	}
	is.True(n > 2)
	is.True(n < 20)
	is.Equal(types(n, "me"), 503)
	is.Equal(types(0, "me"), 202) // a repeat takes no more
	is.Equal(types(n, "you"), 202)
}

// anyRoom is a service that knows every room, and nobody in it.
type anyRoom struct{}

func (anyRoom) Resolve(context.Context, string, event.Room) (*room.Roster, error) {
	return &room.Roster{}, nil
}

// Who publishes to ever more rooms that another service owns may have as many kept as
// the tenant's share has room for.
func TestRoomsOfAnotherServiceHaveAShare(t *testing.T) {
	alone(t, "each hub has its own memory")
	is := is.New(t)
	h := newTestHub(t, withState(128<<10), func(hub *HubConfig, _ *PresenceConfig) { hub.Resolver = anyRoom{} })
	publish := func(tenant string, room int) (int, any) {
		status, answer := h.post(t, fmt.Sprintf("/v1/tenants/%s/conversations/%d/events", tenant, room), `{"type":"a.b","payload":1}`)
		return status, answer["code"]
	}
	n := 0
	for n < 1_000 {
		if status, code := publish("acme", n); status != 202 {
			is.Equal(status, 503)
			is.Equal(code, "ShareUsedUp")
			break
		}
		n++
	}
	is.True(n > 50)
	is.True(n < 1_000)
	status, _ := publish("acme", 0)
	is.Equal(status, 202) // it is known
	status, _ = publish("other", 0)
	is.Equal(status, 202)
}

// What is kept of a request is not the whole of it.
func TestNamesDoNotHoldTheirRequest(t *testing.T) {
	t.Parallel()
	if !byItself(t) {
		return
	}
	alone(t, "it measures one hub")
	is := is.New(t)
	h := newTrustedHub(t, openDoor(t), access.RatesConfig{ClientRate: 1e6})
	padding := strings.Repeat("x", 12<<10)
	is.NoErr(untilConfirmed(func() error {
		return h.members.AddMember(t.Context(), "acme", event.Room{Kind: event.KindConversation, ID: "0"}, event.Profile{Type: "user", ID: "me"})
	}))
	const n = 300
	round := func(i int) {
		for _, call := range []struct{ method, path, body string }{
			{"PUT", fmt.Sprintf("/v1/tenants/acme/groups/g%d/members/p%d", i, i), ""},
			{"PUT", fmt.Sprintf("/v1/tenants/t%d/groups/g/members/p", i), ""},
			{"GET", fmt.Sprintf("/v1/presence?tenant=acme&profile=p%d&x=", i) + padding, ""},
			{"POST", fmt.Sprintf("/v1/conversations/0/typing?tenant=acme&profile=p%d&x=", i) + padding, `{"state":"started"}`},
		} {
			r, err := http.NewRequest(call.method, h.URL+call.path, strings.NewReader(call.body))
			is.NoErr(err)
			if !strings.Contains(call.path, "?") {
				r.URL.RawQuery = padding
			}
			r.Header.Set("X-Profile-Id", fmt.Sprint("viewer", i))
			r.Header.Set("Content-Type", "application/json")
			res, err := h.client.Do(r)
			is.NoErr(err)
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
	}
	round(n)
	before := liveHeap()
	for i := range n {
		round(i)
	}
	kept := (liveHeap() - before) / n
	t.Logf("%d bytes a round", kept)
	is.True(kept < 6<<10) // two tenants, rooms and members, and two buckets
}

// When a profile has as many connections as it may, the log says once what to do.
func TestACrowdedProfileIsLoggedOnce(t *testing.T) {
	alone(t, "each hub has its own log")
	is := is.New(t)
	var logged syncBuffer
	h := newTestHub(t, func(hub *HubConfig, _ *PresenceConfig) { hub.Logger = slog.New(slog.NewTextHandler(&logged, nil)) })
	first := h.open(t, meQuery)
	h.settle(t) // or one that polls is not told
	for range 258 {
		_, err := h.streams.Connect(t.Context(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: event.Profile{Type: "user", ID: "me"}})
		is.NoErr(err)
	}
	is.True(strings.Contains(first.until(t, "hub.closing").Data, "replaced"))
	is.Equal(len(h.streams.Connections("acme", nil)), 256)
	is.Equal(strings.Count(logged.String(), "REALTIME_MAX_CONNECTIONS_PER_PROFILE"), 1)
	is.True(strings.Contains(logged.String(), "anonymous"))
}

// What other hubs have told of is counted, whether there is room for it or not.
func TestStateOfOtherHubs(t *testing.T) {
	t.Parallel()
	alone(t, "it makes its own")
	is := is.New(t)
	all := newCluster(t, 2, natstest.Start(t, 1), openDoor(t), access.RatesConfig{}, withState(1<<20))
	here, there := all.nodes[0], all.nodes[1]
	c := there.open(t, meQuery) // so that it knows the tenant
	for i := range 100 {
		is.NoErr(untilConfirmed(func() error {
			return here.members.AddMember(t.Context(), "acme", event.Room{Kind: event.KindGroup, ID: "r"}, event.Profile{Type: "user", ID: fmt.Sprint(i)})
		}))
	}
	before := there.quotas.State.Of("acme")
	here.open(t, "tenant=acme&profile=you")
	all.settle(t)
	after := there.quotas.State.Of("acme")
	is.True(after >= before+250)  // a connection that it does not hold
	is.True(before > 1024+100*80) // the tenant, and each membership
	members, err := there.members.Members(t.Context(), "acme", event.Room{Kind: event.KindGroup, ID: "r"}, anyLength)
	is.NoErr(err)
	is.Equal(len(members), 100)
	c.close()
	here.settle(t) // or one that polls comes back
	for _, node := range all.nodes {
		for _, c := range node.streams.Connections("acme", nil) {
			node.streams.Kick(c, delivery.CloseKicked)
		}
	}
	for _, node := range all.nodes {
		eventually(t, func() bool {
			node.Sweep(time.Now())
			node.Sweep(time.Now().Add(11 * time.Minute)) // who belongs to rooms stays known for ten
			return node.Stats().Tenants == 0
		})
		eventually(t, func() bool { // what another hub tells may come still
			node.people.Advance(time.Now().Add(time.Hour), false) // to tick would look like one that has slept
			node.people.Advance(time.Now().Add(25*time.Hour), false)
			return node.quotas.State.Of("acme") == 0
		})
	}
}
