package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/hubtest"
	"realtimehub/internal/settings"
	"realtimehub/internal/tcp"
)

// polled is an answer of GET /v1/poll.
type polled struct {
	Status int
	Header http.Header

	Events  []json.RawMessage
	Cursors []string
	Cursor  string
	Gap     *struct{ Reason, Cursor string }
	More    bool
	Hub     struct {
		Ready    struct{ ConnectionID, Resume string }
		Expiring *struct{ ExpiresAt string }
		Closing  struct {
			Reason  string
			RetryMs int
		}
	}
	Code string
}

// words are its events' payloads, in a line.
func (p polled) words(t testing.TB) string {
	t.Helper()
	var words []string
	for _, data := range p.Events {
		var e struct{ Payload json.RawMessage }
		if err := json.Unmarshal(data, &e); err != nil {
			t.Fatal(err)
		}
		words = append(words, string(e.Payload))
	}
	return strings.Join(words, " ")
}

// poll asks a hub, and the next one each time.
func (h *testHub) poll(t testing.TB, query string, headers ...string) polled {
	t.Helper()
	return h.next().pollHere(t.Context(), t, query, headers...)
}

func (h *testHub) pollHere(ctx context.Context, t testing.TB, query string, headers ...string) (p polled) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL+"/v1/poll?"+query, nil)
	if err != nil {
		t.Error(err)
		return p
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := h.client.Do(r)
	if err != nil {
		t.Error(err)
		return p
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && len(body) > 0 {
		err = json.Unmarshal(body, &p)
	}
	if err != nil {
		t.Errorf("%s: %v in %s", query, err, body)
	}
	p.Status, p.Header = res.StatusCode, res.Header
	if p.Status == http.StatusNoContent {
		p.Cursor = res.Header.Get("Cursor")
	}
	return p
}

// later is poll, whose answer comes when it does. It returns once the hub has the poll.
func (h *testHub) later(t testing.TB, query string, headers ...string) <-chan polled {
	t.Helper()
	before := h.streams.Engine().Streams()
	answer := make(chan polled, 1)
	go func() { answer <- h.pollHere(context.Background(), t, query, headers...) }()
	eventually(t, func() bool { return h.streams.Engine().Streams() > before })
	return answer
}

// here is the place now of somebody.
func (h *testHub) here(t testing.TB, query string, headers ...string) string {
	t.Helper()
	p := h.poll(t, query, headers...)
	if p.Status != http.StatusOK || p.Cursor == "" || len(p.Events) > 0 || p.Gap != nil || p.Hub.Ready.Resume != "fresh" {
		t.Fatalf("without a cursor: %+v", p)
	}
	return p.Cursor
}

// gathered asks until a marker comes, and is what came before it.
func (h *testHub) gathered(t testing.TB, query, cursor string) (words []string) {
	t.Helper()
	for range 1000 {
		p := h.poll(t, query+"&cursor="+url.QueryEscape(cursor))
		if p.Status != http.StatusOK && p.Status != http.StatusNoContent {
			t.Fatalf("%s: %+v", query, p)
		}
		cursor = p.Cursor
		if p.Gap != nil {
			words = append(words, "gap")
		}
		for _, data := range p.Events {
			var e struct {
				Type    string
				Payload json.RawMessage
			}
			if err := json.Unmarshal(data, &e); err != nil {
				t.Fatal(err)
			}
			if e.Type == markerType {
				return words
			}
			words = append(words, string(e.Payload))
		}
	}
	t.Fatal("no marker comes")
	return nil
}

// Who polls gets what they are a target of and ask for, in order, once, whichever hubs answer.
func TestPoll(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	put, _ := h.do(t, http.MethodPut, "/v1/tenants/acme/conversations/r/members", `{"members":["me"]}`)
	is.Equal(put, http.StatusNoContent)
	all, filtered := meQuery+"&client=all", meQuery+"&types=c.*,test.marker&client=filtered"
	fromAll, fromFiltered, other := h.here(t, all), h.here(t, filtered), h.here(t, "tenant=other&profile=me")
	for i, target := range []string{
		`{"kind":"profile","profiles":["me"]}`, `{"kind":"profile","profiles":["you"]}`, `{"kind":"tenant"}`, `{"kind":"profiles","profiles":["you","me"]}`,
		`{"kind":"tenant","exclude":{"profiles":["me"]}}`, `{"kind":"conversation","conversationId":"r"}`, `{"kind":"conversation","conversationId":"s"}`, `{"kind":"group","groupId":"r"}`,
	} {
		h.publish(t, "acme", []string{"a.b", "c.d"}[i%2], target, fmt.Sprint(i))
	}
	lost := h.poll(t, all+"&limit=1&cursor="+fromAll)
	is.Equal(lost.words(t), "0")
	is.True(lost.More)
	is.Equal(lost.Hub.Ready.Resume, "complete")
	h.publish(t, "acme", markerType, `{"kind":"tenant"}`, "0")
	is.Equal(h.gathered(t, all+"&limit=2", fromAll), []string{"0", "2", "3", "5"}) // what was lost is had by asking again
	is.Equal(h.gathered(t, filtered, fromFiltered), []string{"3", "5"})
	nothing := h.poll(t, "tenant=other&profile=me&wait=0&cursor="+other)
	is.Equal(nothing.Status, http.StatusNoContent) // another tenant hears nothing
}

// A poll is answered when something comes, with what comes with it; and after its wait with a
// place that has moved on.
func TestPollWaits(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	h.open(t, "tenant=acme&profile=other") // that there is somebody
	from := h.here(t, meQuery)
	open := h.nodes[0].later(t, meQuery+"&wait=1m&cursor="+from)
	h.accepted(t, "/v1/events/batch", `{"events":[`+eventJSON("acme", "a.b", `{"kind":"tenant"}`, "1")+`,`+eventJSON("acme", "a.b", `{"kind":"tenant"}`, "2")+`]}`)
	p := <-open
	is.True(!p.More && p.Gap == nil)
	words := p.words(t)
	if len(h.nodes) > 1 && words == "1" { // what other hubs take may come late
		p = h.nodes[0].pollHere(t.Context(), t, meQuery+"&cursor="+p.Cursor)
		words += " " + p.words(t)
	}
	is.Equal(words, "1 2")

	h.publish(t, "acme", "a.b", `{"kind":"profile","profiles":["you"]}`, "3")
	var empty polled
	eventually(t, func() bool { // what was for others is behind
		empty = h.poll(t, meQuery+"&wait=10ms&cursor="+p.Cursor)
		is.Equal(empty.Status, http.StatusNoContent)
		return empty.Cursor != p.Cursor
	})
	is.Equal(h.poll(t, meQuery+"&wait=0&cursor="+empty.Cursor).Status, http.StatusNoContent)
	is.Equal(h.poll(t, meQuery+"&wait=0&cursor="+p.Cursor).Status, http.StatusNoContent)

	open = h.nodes[0].later(t, meQuery+"&wait=1m&cursor="+empty.Cursor)
	eventually(t, func() bool {
		h.post(t, "/v1/tenants/acme/connections/"+p.Hub.Ready.ConnectionID+"/events", `{"type":"a.single","payload":4}`)
		return len(open) > 0
	})
	p = <-open
	is.True(strings.HasPrefix(p.words(t), "4"))
	is.Equal(p.Cursor, empty.Cursor) // which takes no place
}

// What a client cannot have any more is said, with where things go on.
func TestPollGaps(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t, keeping(3))
	var cursors []string
	for i := range 5 {
		cursors = append(cursors, h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, fmt.Sprint(i))["cursor"].(string))
	}
	expired := h.poll(t, meQuery+"&wait=0&cursor="+cursors[0])
	is.Equal(expired.Gap.Reason, "expired")
	is.Equal(expired.words(t), "2 3 4")
	is.Equal(expired.Cursor, cursors[4])
	unknown := h.poll(t, meQuery+"&wait=0&cursor=nonsense")
	is.Equal(unknown.Status, http.StatusOK)
	is.Equal(unknown.Gap.Reason, "unknown")
	is.Equal(unknown.Cursor, cursors[4])
	is.Equal(h.poll(t, meQuery+"&wait=0&cursor="+unknown.Cursor).Status, http.StatusNoContent)
}

// An answer has so many events and bytes at most, and the next ones have the rest.
func TestPollBounds(t *testing.T) {
	h := newTestHub(t)
	for _, tc := range []struct {
		name, payload string
		events, most  int
	}{{"events", "1", 1100, 500}, {"bytes", `"` + strings.Repeat("x", 50<<10) + `"`, 12, 5}} {
		t.Run(tc.name, func(t *testing.T) {
			is := is.New(t)
			query := "tenant=" + tc.name + "&profile=me"
			cursor := h.here(t, query)
			one := eventJSON(tc.name, "a.b", `{"kind":"tenant"}`, tc.payload)
			for left := tc.events; left > 0; left -= 100 {
				batch := strings.Repeat(one+",", min(left, 12, 100))
				if tc.most == 500 {
					batch = strings.Repeat(one+",", min(left, 100))
				}
				h.accepted(t, "/v1/events/batch", `{"events":[`+strings.TrimSuffix(batch, ",")+`]}`)
			}
			got, answers := 0, 0
			for more := true; more; answers++ {
				p := h.poll(t, query+"&wait=0&cursor="+cursor)
				is.True(len(p.Events) > 0 && len(p.Events) <= tc.most)
				got, cursor, more = got+len(p.Events), p.Cursor, p.More
			}
			is.Equal(got, tc.events)
			is.Equal(answers, (tc.events+tc.most-1)/tc.most)
		})
	}
}

// One client is one connection, also between two polls: it is listed, counted and online, and
// nobody is told that it left. The next poll takes its place.
func TestPollIsOneConnection(t *testing.T) {
	is := is.New(t)
	alone(t, "another hub has a connection of its own")
	h := newTestHub(t, func(_ *HubConfig, p *PresenceConfig) { p.Audience, p.Grace = settings.AudienceTenant, 0 })
	h.door = hubtest.SSE // of who is no poll
	w := h.open(t, "tenant=acme&profile=watcher&types=presence.*,test.marker")
	query := meQuery + "&types=a.*&client=tab1&meta.device=x"
	first := h.poll(t, query)
	id := first.Hub.Ready.ConnectionID
	cursor := first.Cursor
	for i := range 5 {
		answer := h.publish(t, "acme", "a.b", `{"kind":"profile","profiles":["me"]}`, fmt.Sprint(i))
		is.Equal(answer["connections"], 1.0)
		p := h.poll(t, query+"&cursor="+cursor)
		is.Equal(p.words(t), fmt.Sprint(i))
		is.Equal(p.Hub.Ready.ConnectionID, id)
		cursor = p.Cursor
		_, list := h.do(t, "GET", "/v1/tenants/acme/connections?profile=me", "")
		is.Equal(list["count"], 1.0)
		row := list["connections"].([]any)[0].(map[string]any)
		is.Equal(row["transport"], "poll")
		is.Equal(row["id"], id)
	}
	is.Equal(h.fromOutside().Metric(t, `realtime_connections{transport="poll"}`), 1.0)
	is.Equal(h.poll(t, meQuery+"&types=a.*&client=tab2&wait=0&cursor="+cursor).Status, http.StatusNoContent)
	is.Equal(len(h.streams.Connections("acme", &event.Profile{Type: "user", ID: "me"})), 2) // another client is another
	is.True(h.poll(t, meQuery+"&client=tab1").Hub.Ready.ConnectionID != id)                 // with other metadata it is another, too
	is.Equal(len(h.streams.Connections("acme", &event.Profile{Type: "user", ID: "me"})), 2) // in its place
	told := ""
	for _, e := range h.received(t, "acme", w)[0] {
		told += e.Type + " "
	}
	is.True(strings.Count(told, "presence.online") <= 2 && !strings.Contains(told, "presence.offline"))
}

// Of two polls of one client the older ends, with the cursor that it came with. Where they have
// no name both stay.
func TestPollTwice(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	from := h.here(t, meQuery+"&client=a")
	here := h.nodes[0]
	older := here.later(t, meQuery+"&client=a&wait=1m&cursor="+from)
	newer := here.later(t, meQuery+"&client=b&wait=1m&cursor="+from)
	is.Equal(len(older), 0)
	h.nodes[len(h.nodes)-1].pollHere(t.Context(), t, meQuery+"&client=a&wait=0&cursor="+from)
	p := <-older
	is.Equal(p.Status, http.StatusNoContent)
	is.Equal(p.Cursor, from)
	unnamed := []<-chan polled{here.later(t, meQuery+"&wait=1m&cursor="+from), here.later(t, meQuery+"&wait=1m&cursor="+from)}
	h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, "1")
	for _, open := range append(unnamed, newer) {
		p := <-open
		is.Equal(p.words(t), "1")
	}
}

// What ends a stream ends a poll, and says so.
func TestPollEnds(t *testing.T) {
	me := event.Profile{Type: "user", ID: "me"}
	for name, end := range map[string]func(h *testHub){
		"kicked": func(h *testHub) {
			for _, c := range h.streams.Connections("acme", &me) {
				h.streams.Kick(c, delivery.CloseKicked)
			}
		},
		"drain": func(h *testHub) { go h.streams.Drain(context.Background(), 0) },
		"expired": func(h *testHub) {
			for _, c := range h.streams.Connections("acme", &me) {
				h.streams.Prolong(c, time.Now())
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			h := newTestHub(t).nodes[0]
			from := h.here(t, meQuery)
			open := h.later(t, meQuery+"&wait=1m&cursor="+from)
			end(h)
			p := <-open
			is.Equal(p.Status, http.StatusOK)
			is.Equal(p.Hub.Closing.Reason, name)
			is.Equal(p.Cursor, from)
			is.True(p.Hub.Closing.RetryMs > 0)
			is.Equal(p.Header.Get("Retry-After"), fmt.Sprint((p.Hub.Closing.RetryMs+999)/1000))
			is.Equal(len(h.streams.Connections("acme", &me)), 0) // it does not linger
		})
	}
}

// A filter that is changed between two polls is the next one's, too, which may have been asked before.
// Then each poll says again what it wants.
func TestPollAdjusted(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	here := h.nodes[0]
	query := meQuery + "&client=a&types=a.*"
	p := here.pollHere(t.Context(), t, query)
	for _, want := range []string{"1 2", "2"} {
		if want == "1 2" {
			h.changes(t, "PATCH", "/v1/connections/"+p.Hub.Ready.ConnectionID, `{"types":["b.*"]}`)
		}
		for i, typ := range []string{"b.c", "a.b"} {
			h.publish(t, "acme", typ, `{"kind":"profile","profiles":["me"]}`, fmt.Sprint(i+1))
		}
		words := ""
		for !strings.HasSuffix(words, "2") { // this hub may not have both yet
			p = here.pollHere(t.Context(), t, query+"&cursor="+p.Cursor)
			words = strings.TrimSpace(words + " " + p.words(t))
		}
		is.Equal(words, want)
	}
}

// What ends a connection between two polls is told by the next one that goes on, and takes no other's
// place. Who begins anew is there again.
func TestPollHasEndedBetweenTwo(t *testing.T) {
	me := event.Profile{Type: "user", ID: "me"}
	for reason, end := range map[string]func(h *testHub){
		"replaced": func(h *testHub) { h.here(t, meQuery+"&client=b") },
		"kicked": func(h *testHub) {
			for _, c := range h.streams.Connections("acme", &me) {
				h.streams.Kick(c, delivery.CloseKicked)
			}
			h.here(t, meQuery+"&client=b")
		},
	} {
		t.Run(reason, func(t *testing.T) {
			is := is.New(t)
			h := newTestHub(t, func(c *HubConfig, _ *PresenceConfig) { c.Most.Profile = 1 }).nodes[0]
			query := meQuery + "&client=a&ack=true"
			begun := h.pollHere(t.Context(), t, query)
			h.due(t, "had")
			had := h.pollHere(t.Context(), t, query+"&cursor="+begun.Cursor)
			end(h)
			for range 2 { // the first answer may be lost
				p := h.pollHere(t.Context(), t, query+"&wait=1m&cursor="+had.Cursor)
				is.Equal(p.Status, http.StatusOK)
				is.Equal(p.Hub.Closing.Reason, reason)
				is.Equal(p.Hub.Ready.ConnectionID, begun.Hub.Ready.ConnectionID)
				is.Equal(p.Cursor, had.Cursor)
				is.Equal(p.Header.Get("Retry-After"), fmt.Sprint((p.Hub.Closing.RetryMs+999)/1000))
			}
			h.hasAcknowledged(t, "had", "me")
			list := h.streams.Connections("acme", &me)
			is.Equal(len(list), 1)
			client, _ := list[0].Asked()
			is.Equal(client, "b")
			anew := h.pollHere(t.Context(), t, query)
			is.True(anew.Hub.Ready.ConnectionID != begun.Hub.Ready.ConnectionID)
			is.Equal(h.pollHere(t.Context(), t, query+"&wait=0&cursor="+anew.Cursor).Status, http.StatusNoContent)
		})
	}
}

// Whose token is about to end is told so after the wait, though nothing else has come.
func TestPollExpiring(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t).nodes[0]
	from := h.here(t, meQuery)
	c := h.streams.Connections("acme", &event.Profile{Type: "user", ID: "me"})[0]
	var p polled
	eventually(t, func() bool { // a busy machine may be late for a poll
		open := make(chan polled, 1)
		go func() { open <- h.pollHere(t.Context(), t, meQuery+"&wait=100ms&cursor="+from) }()
		for len(open) == 0 {
			h.streams.Prolong(c, time.Now().Add(20*time.Second)) // less than 30 s before
			time.Sleep(time.Millisecond)
		}
		p = <-open
		return p.Hub.Expiring != nil
	})
	is.Equal(p.Status, http.StatusOK)
	is.Equal(len(p.Events), 0)
	is.Equal(p.Cursor, from)
	is.Equal(h.poll(t, meQuery+"&wait=0&cursor="+from).Status, http.StatusNoContent) // with a credential that does not end
}

// Who is turned away is told when to ask again.
func TestPollTurnedAway(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t, func(c *HubConfig, _ *PresenceConfig) { c.Most.All = 1 }).nodes[0]
	h.here(t, meQuery+"&client=a")
	full := h.poll(t, "tenant=acme&profile=you")
	is.Equal(full.Status, http.StatusServiceUnavailable)
	is.Equal(full.Code, "HubFull")
	is.True(full.Header.Get("Retry-After") != "")
	is.Equal(h.poll(t, meQuery+"&client=a").Status, http.StatusOK) // who is there already has its place
	h.streams.Drain(t.Context(), 0)
	is.Equal(len(h.streams.Connections("acme", nil)), 0) // one that lingers is over, too
	drained := h.poll(t, meQuery+"&client=a")
	is.Equal(drained.Status, http.StatusServiceUnavailable)
	is.Equal(drained.Code, "Draining")
}

// A parameter that is wrong is named.
func TestPollAsked(t *testing.T) {
	h := newTestHub(t)
	for _, wrong := range []string{"wait=61s", "wait=-1s", "wait=soon", "limit=0", "limit=501", "limit=x", "client=" + strings.Repeat("x", 257), "client=%0a", "ack=yes"} {
		t.Run(wrong, func(t *testing.T) {
			is := is.New(t)
			status, answer := h.do(t, "GET", "/v1/poll?"+meQuery+"&"+wrong, "")
			is.Equal(status, http.StatusBadRequest)
			name, _, _ := strings.Cut(wrong, "=")
			is.Equal(answer["errors"].([]any)[0].(map[string]any)["field"], name)
		})
	}
	is := is.New(t)
	begun := time.Now()
	h.here(t, "tenant=acme&profile=you&wait=1m")
	is.True(time.Since(begun) < time.Minute) // without a cursor the answer does not wait
	status, _ := h.do(t, "HEAD", "/v1/poll?"+meQuery, "")
	is.Equal(status, http.StatusOK)
	is.Equal(len(h.streams.Connections("acme", &event.Profile{Type: "user", ID: "me"})), 0) // nothing is opened for it
}

// A token says whose a poll is; it does not come in the address.
func TestPollIsProven(t *testing.T) {
	is := is.New(t)
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret, Origins: []string{"https://app.example"}}), access.RatesConfig{})
	mine, theirs := []string{"Authorization", bearer(t, "sub", "me")}, []string{"Authorization", bearer(t, "sub", "me", "tenant", "other")}
	from, other := h.here(t, "client=a", mine...), h.here(t, "client=a&tenant=acme", theirs...)
	is.Equal(h.poll(t, "").Status, http.StatusUnauthorized)
	is.Equal(h.poll(t, "access_token="+strings.TrimPrefix(mine[1], "Bearer ")).Status, http.StatusUnauthorized)
	e, err := DecodeEvent([]byte(eventJSON("acme", "a.b", `{"kind":"profile","profiles":["me"]}`, "1")), nil, 0)
	is.NoErr(err)
	is.NoErr(untilConfirmed(func() error {
		_, err := h.Publish(t.Context(), []*event.Event{e})
		return err
	}))
	got := h.poll(t, "client=a&cursor="+from, append(mine, "Origin", "https://app.example")...)
	is.Equal(got.words(t), "1")
	is.True(strings.Contains(got.Header.Get("Access-Control-Expose-Headers"), "Cursor"))
	is.Equal(h.poll(t, "client=a&wait=0&cursor="+other, theirs...).Status, http.StatusNoContent)
}

// Typing reaches an open poll.
func TestPollTyping(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	h.changes(t, http.MethodPut, "/v1/tenants/acme/conversations/talk/members", `{"members":["me","you"]}`)
	from := h.here(t, meQuery)
	open := h.nodes[0].later(t, meQuery+"&wait=1m&cursor="+from)
	h.settle(t)
	status, _ := h.do(t, "POST", "/v1/conversations/talk/typing?tenant=acme&profile=you", `{"state":"started"}`)
	is.Equal(status, http.StatusAccepted)
	p := <-open
	is.Equal(len(p.Events), 1)
	is.True(strings.Contains(string(p.Events[0]), `"typing.started"`))
}

// Three hubs round robin: with the cursor carried nothing is lost, and nothing comes twice.
func TestPollOfThreeHubs(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	all, nodes := threeHubs(t)
	query, me := meQuery+"&client=tab", event.Profile{Type: "user", ID: "me"}
	from := all.here(t, query)
	older := nodes[0].later(t, query+"&wait=1m&cursor="+from)
	newer := nodes[1].pollHere(t.Context(), t, query+"&wait=0&cursor="+from)
	is.Equal(newer.Status, http.StatusNoContent)
	p := <-older
	is.Equal(p.Status, http.StatusNoContent)
	is.Equal(p.Cursor, from)
	is.Equal(len(nodes[0].streams.Connections("acme", &me)), 0) // it has ended for the newer, and not by itself

	var want []string
	done := make(chan struct{})
	for i := range 200 {
		want = append(want, fmt.Sprint(i))
	}
	go func() {
		defer close(done)
		for i := range want {
			all.publish(t, "acme", "a.b", `{"kind":"profile","profiles":["me"]}`, fmt.Sprint(i))
		}
		all.publish(t, "acme", markerType, `{"kind":"tenant"}`, "0")
	}()
	is.Equal(all.gathered(t, query, from), want)
	<-done
	eventually(t, func() bool {
		n := 0
		for _, node := range all.nodes {
			n += len(node.streams.Connections("acme", &me))
		}
		return n == 1
	})
}

// What an idle poll takes, with net/http's part and the socket's, is counted for it.
func TestAnIdlePollWeighsWhatIsCounted(t *testing.T) {
	t.Parallel()
	if !byItself(t) {
		return
	}
	is := is.New(t)
	h := newTestHub(t)
	server := httptest.NewUnstartedServer(h.API.Handler()) // without the contract, which keeps more
	server.Config.ConnContext = tcp.ConnContext
	server.Start()
	defer server.Close()
	from := h.here(t, "tenant=acme&profile=me")
	memory := func() int64 {
		heap := liveHeap()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return heap + int64(m.StackInuse)
	}
	before, counted := memory(), h.quotas.State.Total()
	const n = 1000
	for i := range n {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		is.NoErr(err)
		defer conn.Close()
		fmt.Fprintf(conn, "GET /v1/poll?tenant=acme&profile=p%d&client=tab-%d&wait=1m&cursor=%s HTTP/1.1\r\nHost: localhost\r\n\r\n", i, i, from)
	}
	eventually(t, func() bool { return h.streams.Engine().Streams() == n })
	takes, counts := (memory()-before)/n, (h.quotas.State.Total()-counted)/n
	t.Logf("an idle poll takes %d bytes, and %d are counted", takes, counts)
	is.True(takes <= counts+access.SocketBytes) // which is counted with its credential
	h.streams.Drain(t.Context(), 0)
	eventually(t, func() bool { return h.streams.Engine().Streams() == 0 })
}

// Who polls and acknowledges is one connection too. The cursor of a poll acknowledges what the polls
// before it were answered with, and so does a call; what neither names is owed.
func TestPollAcknowledges(t *testing.T) {
	for name, previous := range map[string]string{"": "", "named": "&previous=01a20b6b-b9ee-789c-bf01-260aa0b28d5c"} {
		t.Run(name, func(t *testing.T) { pollAcknowledges(t, previous) })
	}
}

func pollAcknowledges(t *testing.T, previous string) {
	is := is.New(t)
	h := newTestHub(t)
	here := h.nodes[0]
	query := meQuery + "&client=a&ack=true" + previous
	ask := func(cursor string) polled { return here.pollHere(t.Context(), t, query+"&cursor="+cursor) }
	begun := ask("&wait=0")
	h.due(t, "by-cursor")
	h.settle(t)
	p := ask(begun.Cursor)
	is.Equal(p.Cursors, []string{p.Cursor})
	is.Equal(ask(p.Cursor+"&wait=0").Status, http.StatusNoContent)
	h.due(t, "by-call")
	h.settle(t)
	p = ask(p.Cursor)
	status, _ := h.ack(t, begun.Hub.Ready.ConnectionID, p.Cursor)
	is.Equal(status, http.StatusNoContent)
	h.due(t, "owed")
	h.settle(t)
	p = ask(p.Cursor) // waits, as this hub may not have it yet
	is.Equal(p.words(t), "1")
	is.Equal(p.Hub.Ready.ConnectionID, begun.Hub.Ready.ConnectionID)
	h.hasAcknowledged(t, "by-cursor", "me")
	h.hasAcknowledged(t, "by-call", "me")
	owed, _ := h.receipts(t, "acme", "owed", "")
	is.Equal(owed, []string{"me sent sentUnacknowledged"})
}

// due publishes an event that me is to acknowledge, in more time than any test takes.
func (h *testHub) due(t testing.TB, id string) {
	t.Helper()
	h.accepted(t, "/v1/events", `{"tenantId":"acme","id":"`+id+`","type":"a.b","payload":1,"deadline":"1h","target":{"kind":"profile","profiles":["me"]}}`)
}

// A client that asks for the place now, as one that begins anew does, acknowledges with the cursor
// that it comes with next.
func TestPollAcknowledgesAnew(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	here := h.nodes[0]
	query := meQuery + "&client=a&ack=true"
	begun := here.pollHere(t.Context(), t, query+"&wait=0")
	h.due(t, "had")
	h.due(t, "owed")
	h.settle(t)
	var p polled
	eventually(t, func() bool { // both are in one answer as soon as this hub has them
		p = here.pollHere(t.Context(), t, query+"&cursor="+begun.Cursor)
		return len(p.Cursors) == 2
	})
	here.pollHere(t.Context(), t, query+"&wait=0")
	again := here.pollHere(t.Context(), t, query+"&cursor="+p.Cursors[0])
	is.Equal(again.Cursors, p.Cursors[1:])
	h.hasAcknowledged(t, "had", "me")
	owed, _ := h.receipts(t, "acme", "owed", "")
	is.Equal(owed, []string{"me sent sentUnacknowledged"})
}

// The cursor of a client that has a name is of its own connection, whichever others its person has.
func TestPollAcknowledgesBesideAnother(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	here := h.nodes[0]
	query := meQuery + "&client=a&ack=true"
	begun := here.pollHere(t.Context(), t, query)
	h.due(t, "had")
	h.settle(t)
	p := here.pollHere(t.Context(), t, query+"&cursor="+begun.Cursor)
	is.Equal(len(p.Cursors), 1)
	here.pollHere(t.Context(), t, meQuery+"&client=b&ack=true") // begins behind it
	here.pollHere(t.Context(), t, query+"&wait=0&cursor="+p.Cursor)
	h.hasAcknowledged(t, "had", "me")
}

// Clients without a name are not taken for one another: neither the cursor of one nor its word about
// its own connection acknowledges what another was answered with, and did not live to handle.
func TestPollAcknowledgesNobodyElses(t *testing.T) {
	for name, types := range map[string]string{"alike": "", "filtered": "&types=c.*"} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			h := newTestHub(t)
			here := h.nodes[0]
			ask := func(query string) polled { return here.pollHere(t.Context(), t, meQuery+"&ack=true"+query) }
			previous := "&previous=01a20b6b-b9ee-789c-bf01-260aa0b28d5c"
			one := ask(previous)
			ask(previous + "&wait=0&cursor=" + one.Cursor)
			h.due(t, "owed")
			is.Equal(len(ask("&cursor="+one.Cursor).Cursors), 1)
			other := ask(types)
			is.Equal(ask(types+"&wait=0&cursor="+other.Cursor).Status, http.StatusNoContent)
			status, _ := h.ack(t, other.Hub.Ready.ConnectionID, other.Cursor)
			is.Equal(status, http.StatusNoContent)
			owed, _ := h.receipts(t, "acme", "owed", "")
			is.Equal(owed, []string{"me sent sentUnacknowledged"})
		})
	}
}

// A poll acknowledges what the connection was sent that it names, whether that becomes its own or the
// client has another by now.
func TestPollAcknowledgesWhatItNames(t *testing.T) {
	for name, client := range map[string]string{"its own": "", "another": "&client=a"} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			h := newTestHub(t)
			here := h.nodes[0]
			ask := func(query string) polled { return here.pollHere(t.Context(), t, meQuery+"&ack=true"+query) }
			begun := ask("")
			previous := "&previous=" + begun.Hub.Ready.ConnectionID
			h.due(t, "had")
			p := ask(previous + "&cursor=" + begun.Cursor)
			is.Equal(len(p.Cursors), 1)
			is.Equal(p.Hub.Ready.ConnectionID, begun.Hub.Ready.ConnectionID)
			for _, begins := range []string{"&client=b", client} {
				ask(begins) // behind it
			}
			ask(client + previous + "&wait=0&cursor=" + p.Cursor)
			h.hasAcknowledged(t, "had", "me")
		})
	}
}

// What a connection was sent may be acknowledged by a call, whatever its client, or another, has asked
// for since.
func TestPollIsAcknowledgedByACall(t *testing.T) {
	for name, tc := range map[string]struct{ client, asks string }{
		"anew":    {"&client=a", "&client=a"},
		"a gap":   {"&client=a", "&client=a&wait=0&cursor=nonsense"},
		"unnamed": {"", "&wait=0&cursor="},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			h := newTestHub(t)
			here := h.nodes[0]
			ask := func(query string) polled { return here.pollHere(t.Context(), t, meQuery+"&ack=true"+query) }
			begun := ask(tc.client)
			h.due(t, "had")
			p := ask(tc.client + "&cursor=" + begun.Cursor)
			is.Equal(len(p.Cursors), 1)
			ask("&client=b") // so that a cursor alone says nothing
			if asks := tc.asks; strings.HasSuffix(asks, "cursor=") {
				ask(asks + p.Cursor)
			} else {
				ask(asks)
			}
			status, _ := h.ack(t, p.Hub.Ready.ConnectionID, p.Cursor)
			is.Equal(status, http.StatusNoContent)
			h.hasAcknowledged(t, "had", "me")
		})
	}
}

// Who polls three hubs by turns, and says each time which connection it was answered by, acknowledges
// with each cursor: that connection ends only once its hub hears of the next poll.
func TestPollAcknowledgesByTurns(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h, nodes := threeHubs(t)
	query := meQuery + "&client=a&ack=true"
	p := nodes[0].pollHere(t.Context(), t, query)
	cursor, previous := p.Cursor, p.Hub.Ready.ConnectionID
	for i := range 6 {
		h.due(t, fmt.Sprint("had", i))
		p = nodes[(i+1)%len(nodes)].pollHere(t.Context(), t, query+"&wait=20s&previous="+previous+"&cursor="+cursor)
		is.Equal(len(p.Cursors), 1)
		cursor, previous = p.Cursor, p.Hub.Ready.ConnectionID
	}
	nodes[0].pollHere(t.Context(), t, query+"&wait=0&previous="+previous+"&cursor="+cursor)
	for i := range 6 {
		h.hasAcknowledged(t, fmt.Sprint("had", i), "me")
	}
}
