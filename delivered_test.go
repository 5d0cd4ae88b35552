package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/broker"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/inquiry"
	"realtimehub/internal/outbox"
	"realtimehub/internal/testkit"
)

// reported are the profiles that the outbox names for events of a tenant, each with why, as
// "id why", once there are so many items.
func (h *testHub) reported(t testing.TB, tenant string, items int) (list []string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		page, err := h.outbox.Read(t.Context(), tenant, outbox.Query{Limit: 1000})
		if (err != nil || len(page.Items) < items) && time.Now().Before(deadline) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Items) != items {
			t.Fatalf("%d items, want %d", len(page.Items), items)
		}
		for _, item := range page.Items {
			var data struct {
				Event    struct{ ID string }
				Profiles []struct {
					Profile struct{ ID string }
					Why     string
				}
			}
			if err := json.Unmarshal(item.Data, &data); err != nil {
				t.Fatal(err)
			}
			for _, p := range data.Profiles {
				list = append(list, fmt.Sprint(data.Event.ID, " ", p.Profile.ID, " ", p.Why))
			}
		}
		return list
	}
}

// ack acknowledges what a stream was sent up to a cursor.
func (h *testHub) ack(t testing.TB, connection, cursor string) (int, map[string]any) {
	t.Helper()
	return h.post(t, "/v1/connections/"+connection+"/ack", `{"cursor":"`+cursor+`"}`)
}

// Whoever has not acknowledged an event by its deadline is reported, once, with why; nobody
// else is.
func TestDeadline(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h := newTestHub(t)
	h.changes(t, "PUT", "/v1/tenants/acme/conversations/c/members", `{"members":["good","frozen","filters","later","gone","out"]}`)
	good := h.open(t, "tenant=acme&profile=good&ack=true")
	frozen := h.open(t, "tenant=acme&profile=frozen&ack=true")
	filters := h.open(t, "tenant=acme&profile=filters&ack=true&types=b.*")
	h.accepted(t, "/v1/events", `{"tenantId":"acme","id":"e1","type":"a.b","payload":1,"deadline":"10s","target":{"kind":"conversation","conversationId":"c","exclude":{"profiles":["out"]}}}`)
	got := good.until(t, "a.b")
	later := h.beside(t, good, "tenant=acme&profile=later&ack=true") // not where the event is still to come
	is.Equal(frozen.until(t, "a.b").ID, got.ID)
	status, _ := h.ack(t, good.ConnectionID, got.ID)
	is.Equal(status, 204)
	for _, c := range []*testClient{filters, later} { // to them it was not sent, so nothing is acknowledged
		h.accepted(t, "/v1/events", `{"tenantId":"acme","type":"b.c","payload":1,"target":{"kind":"tenant"}}`)
		status, _ = h.ack(t, c.ConnectionID, c.until(t, "b.c").ID)
		is.Equal(status, 204)
	}
	is.Equal(h.reported(t, "acme", 1), []string{"e1 filters filtered", "e1 frozen sentUnacknowledged", "e1 gone noConnection", "e1 later joinedLater"})
	h.accepted(t, "/v1/events", `{"tenantId":"acme","id":"e2","type":"a.b","payload":1,"deadline":"1s","target":{"kind":"profile","profiles":["gone"]}}`)
	is.Equal(h.reported(t, "acme", 2)[4:], []string{"e2 gone noConnection"})
}

// What an acknowledgement is refused for changes nothing.
func TestAcknowledgementsThatAreNone(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	c := h.open(t, "tenant=acme&profile=me&ack=true")
	e := h.publish(t, "acme", "a.b", `{"kind":"profile","profiles":["me"]}`, "1")
	other := h.publish(t, "acme", "a.b", `{"kind":"profile","profiles":["you"]}`, "1")
	foreign := h.publish(t, "other", "a.b", `{"kind":"profile","profiles":["me"]}`, "1")
	c.until(t, "a.b")
	for _, tc := range []struct {
		connection, cursor string
		status             int
		code               any
	}{
		{c.ConnectionID, foreign["cursor"].(string), 409, "UnknownCursor"},
		{c.ConnectionID, "nonsense", 409, "UnknownCursor"},
		{c.ConnectionID, other["cursor"].(string), 400, "InvalidField"},
		{c.ConnectionID, "", 400, "InvalidField"},
		{"01a20b6b-b9ee-789c-bf01-260aa0b28d5c", e["cursor"].(string), 404, "ConnectionNotFound"},
		{c.ConnectionID, e["cursor"].(string), 204, nil},
		{c.ConnectionID, c.Ready.ID, 204, nil}, // an older one
	} {
		status, answer := h.ack(t, tc.connection, tc.cursor)
		is.Equal(status, tc.status)
		is.Equal(answer["code"], tc.code)
	}
}

// An acknowledgement may say that its connection is active.
func TestActiveWithAnAcknowledgement(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	c := h.open(t, "tenant=acme&profile=me&ack=true")
	e := h.publish(t, "acme", "a.b", `{"kind":"profile","profiles":["me"]}`, "1")
	c.until(t, "a.b")
	_, conn := h.holder(c.ConnectionID)
	begun := conn.LastActivity()
	say := func(active string) (int, map[string]any) {
		return h.post(t, "/v1/connections/"+c.ConnectionID+"/ack", `{"cursor":"`+e["cursor"].(string)+`","active":`+active+`}`)
	}
	status, answer := say(`1`)
	is.Equal(status, 400)
	is.Equal(answer["errors"].([]any)[0].(map[string]any)["field"], "active")
	for _, active := range []string{"false", "null"} {
		status, _ = say(active)
		is.Equal(status, 204)
		is.True(conn.LastActivity().Equal(begun))
	}
	status, _ = say("true")
	is.Equal(status, 204)
	is.True(conn.LastActivity().After(begun))
}

// receipts are what came of an event: each as "id state why".
func (h *testHub) receipts(t testing.TB, tenant, event, query string) (list []string, answer map[string]any) {
	t.Helper()
	status, answer := h.answered(t, "GET", "/v1/tenants/"+tenant+"/events/"+event+"/receipts"+query, "")
	if status != 200 {
		t.Fatal(status, answer)
	}
	for _, r := range answer["receipts"].([]any) {
		r := r.(map[string]any)
		why, _ := r["why"].(string)
		list = append(list, strings.TrimSpace(fmt.Sprint(r["profile"].(map[string]any)["id"], " ", r["state"], " ", why)))
	}
	return list, answer
}

// hasAcknowledged waits until it is kept that somebody has acknowledged an event.
func (h *testHub) hasAcknowledged(t testing.TB, event, who string) {
	t.Helper()
	eventually(t, func() bool {
		_, answer := h.do(t, "GET", "/v1/tenants/acme/events/"+event+"/receipts?profile="+who, "")
		list, _ := answer["receipts"].([]any)
		return len(list) == 1 && list[0].(map[string]any)["state"] == "acknowledged"
	})
}

// Services ask what came of an event, by its id or its cursor, for everybody or for one.
func TestReceipts(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	h.changes(t, "PUT", "/v1/tenants/acme/conversations/c/members", `{"members":["a","b","c"]}`)
	a := h.open(t, "tenant=acme&profile=a&ack=true")
	h.open(t, "tenant=acme&profile=b&ack=true")
	in := `{"kind":"conversation","conversationId":"c","exclude":{"profiles":["d"]}}`
	e := h.accepted(t, "/v1/events", `{"tenantId":"acme","id":"e","type":"a.b","payload":1,"deadline":"1h","target":`+in+`}`)
	h.ack(t, a.ConnectionID, a.until(t, "a.b").ID)
	h.hasAcknowledged(t, "e", "a")
	for _, ref := range []string{"e", e["cursor"].(string)} {
		list, answer := h.receipts(t, "acme", ref, "")
		is.Equal(list, []string{"a acknowledged", "b sent sentUnacknowledged", "c owed noConnection"})
		is.Equal(answer["counts"], map[string]any{"acknowledged": 1.0, "owed": 2.0})
	}
	page, answer := h.receipts(t, "acme", "e", "?limit=2")
	is.Equal(page, []string{"a acknowledged", "b sent sentUnacknowledged"})
	page, answer = h.receipts(t, "acme", "e", "?limit=2&after="+answer["next"].(string))
	is.Equal(page, []string{"c owed noConnection"})
	is.Equal(answer["next"], nil)
	for profile, want := range map[string]string{"a": "a acknowledged", "c": "c owed noConnection", "d": "d owed excluded", "x": "x owed notAMember"} {
		one, _ := h.receipts(t, "acme", "e", "?profile="+profile)
		is.Equal(one, []string{want})
	}

	h.accepted(t, "/v1/events", `{"tenantId":"acme","id":"plain","type":"a.b","payload":1,"target":{"kind":"profiles","profiles":["b","c"]}}`)
	list, answer := h.receipts(t, "acme", "plain", "")
	is.Equal(list, []string{"b sent sentUnacknowledged", "c owed noConnection"})
	is.Equal(answer["counts"], nil) // of what has no deadline nothing is kept
	one, _ := h.receipts(t, "acme", "plain", "?profile=x")
	is.Equal(one, []string{"x owed notATarget"})

	status, kept := h.do(t, "GET", "/v1/tenants/acme/events/e", "")
	is.Equal(status, 200)
	is.Equal(kept["cursor"], e["cursor"])
	is.Equal(kept["event"].(map[string]any)["deadline"], "1h")
	for _, nothing := range []string{"/v1/tenants/acme/events/nothing", "/v1/tenants/other/events/e/receipts"} {
		status, answer := h.do(t, "GET", nothing, "")
		is.Equal(status, 404)
		is.Equal(answer["code"], "EventNotFound")
	}
}

// An event that has just grown too old is not found by its cursor, from which on a history may still
// be whole.
func TestReceiptsOfWhatIsGone(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h := newTestHub(t, keeping(1))
	gone := h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, "1")["cursor"].(string)
	h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, "2")
	for _, of := range []string{"", "/receipts"} {
		status, answer := h.answered(t, "GET", "/v1/tenants/acme/events/"+gone+of, "")
		is.Equal(status, 404)
		is.Equal(answer["code"], "EventNotFound")
	}
}

// Receipts are of those who were in the room as the event took its place, whoever has left or joined it
// since.
func TestReceiptsOfWhoHasLeft(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h := newTestHub(t)
	const members = "/v1/tenants/acme/conversations/c/members"
	h.changes(t, "PUT", members, `{"members":["left","stays"]}`)
	left := h.open(t, "tenant=acme&profile=left")
	h.accepted(t, "/v1/events", `{"tenantId":"acme","id":"e","type":"a.b","payload":1,"target":{"kind":"conversation","conversationId":"c"}}`)
	left.until(t, "a.b")
	h.changes(t, "PUT", members, `{"members":["stays","joins"]}`)
	list, _ := h.receipts(t, "acme", "e", "")
	is.Equal(list, []string{"left sent sentUnacknowledged", "stays owed noConnection"})
	for profile, want := range map[string]string{"left": "left sent sentUnacknowledged", "joins": "joins owed notAMember"} {
		one, _ := h.receipts(t, "acme", "e", "?profile="+profile)
		is.Equal(one, []string{want})
	}
	h.changes(t, "PUT", members, `{"members":["stays","left"]}`) // who is back
	list, _ = h.receipts(t, "acme", "e", "")
	is.Equal(list, []string{"left sent sentUnacknowledged", "stays owed noConnection"})

	e, err := h.Event(t.Context(), "acme", "e") // of another history, whose places are others
	is.NoErr(err)
	other := *e
	other.Recipients, other.Cursor.Epoch = nil, history.NewKey(nil).Epoch(make([]byte, 8))
	recipients, err := h.Recipients(t.Context(), &other)
	is.NoErr(err)
	is.Equal(len(recipients), 2) // the members of now
	_, known, err := h.IsRecipient(t.Context(), &other, recipients[0])
	is.NoErr(err)
	is.True(!known)
}

// Of whom an event was for that has left a service's room nothing is known.
func TestReceiptsOfAServicesRoom(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h := newTestHub(t, func(hub *HubConfig, _ *PresenceConfig) { hub.Resolver = anyRoom{} })
	h.accepted(t, "/v1/events", `{"tenantId":"acme","id":"e","type":"a.b","payload":1,"target":{"kind":"conversation","conversationId":"c"}}`)
	one, _ := h.receipts(t, "acme", "e", "?profile=left")
	is.Equal(one, []string{"left unknown unknown"})
}

// The commands ask a hub that runs, as any service does.
func TestWhyCommand(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	h.open(t, "tenant=acme&profile=b&ack=true")
	h.accepted(t, "/v1/events", `{"tenantId":"acme","id":"e","type":"a.b","payload":1,"deadline":"1h","target":{"kind":"profiles","profiles":["b","c"]}}`)
	ask := func(args ...string) string {
		t.Helper()
		var out strings.Builder
		environ := map[string]string{"REALTIME_URL": h.URL, "REALTIME_TENANT": "acme"}
		if err := inquiry.Command(t.Context(), args[0], args[1:], func(name string) string { return environ[name] }, &out, io.Discard); err != nil {
			return err.Error()
		}
		return out.String()
	}
	is.True(strings.HasPrefix(ask("why", "e", "b"), "e, a.b of 20"))
	is.True(strings.HasSuffix(ask("why", "e", "b"), "\nb was sent it: a connection of theirs was sent it, and has not acknowledged it (sentUnacknowledged)\n"))
	is.True(strings.HasSuffix(ask("why", "e", "c"), " with a deadline of 1h\nc has not got it, as far as is known: they have no connection (noConnection)\n"))
	is.True(strings.Contains(ask("why", "nothing", "c"), "404 EventNotFound"))
	is.True(strings.Contains(ask("why", "e"), "Usage: realtimehub why"))
	is.Equal(ask("outbox"), "")
	h.accepted(t, "/v1/events", `{"tenantId":"acme","id":"late","type":"a.b","payload":1,"deadline":"1s","target":{"kind":"profile","profiles":["b"]}}`)
	h.reported(t, "acme", 1)
	lines := strings.Split(strings.TrimSpace(ask("outbox")), "\n")
	is.Equal(len(lines), 1)
	is.True(strings.HasPrefix(lines[0], `{"type":"event.undelivered"`))
	testkit.Eventually(t, func() bool { // the report comes first
		return strings.Contains(ask("why", "late", "b"), "b did not acknowledge it by its deadline, and was reported (20")
	})
}

// A page that is closed sends its last word beside the end of its stream, which may be there
// first.
func TestAcknowledgedBehindTheEnd(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h := newTestHub(t)
	c := h.open(t, "tenant=acme&profile=me&ack=true")
	h.accepted(t, "/v1/events", `{"tenantId":"acme","id":"e1","type":"a.b","payload":1,"deadline":"1h","target":{"kind":"profile","profiles":["me"]}}`)
	cursor := c.until(t, "a.b").ID
	node, conn := h.holder(c.ConnectionID)
	node.streams.Kick(conn, delivery.CloseKicked)
	status, _ := node.fromOutside().Do(t, "POST", "/v1/connections/"+c.ConnectionID+"/ack", `{"cursor":"`+cursor+`"}`)
	is.Equal(status, 204)
	h.hasAcknowledged(t, "e1", "me")
}

// Nobody owes an acknowledgement of an id whose first was not stored: nothing is sent of the second,
// which says so with no cursor.
func TestDeadlineOfARepeatOfWhatIsNotStored(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h := newTestHub(t)
	for _, id := range []string{"x", "y"} {
		const to = `"tenantId":"acme","type":"a.b","payload":1,"target":{"kind":"profile","profiles":["me"]}`
		h.accepted(t, "/v1/events", `{"id":"`+id+`","ephemeral":true,`+to+`}`)
		again := h.accepted(t, "/v1/events", `{"id":"`+id+`","deadline":"1s",`+to+`}`)
		is.Equal(again["duplicate"], true)
		is.Equal(again["cursor"], nil)
	}
	h.accepted(t, "/v1/events", `{"tenantId":"acme","id":"later","type":"a.b","payload":1,"deadline":"2s","target":{"kind":"profile","profiles":["me"]}}`)
	is.Equal(h.reported(t, "acme", 1), []string{"later me noConnection"})
}

// hangingUp is a log of which something is done as it is to take events, and once it has.
type hangingUp struct {
	history.Log
	before, behind func()
}

func (l *hangingUp) Append(ctx context.Context, entries []*history.Entry) error {
	l.before()
	err := l.Log.Append(ctx, entries)
	l.behind()
	return err
}

// Who hangs up while an event with a deadline is stored may not send it again: it is owed all the same.
func TestDeadlineOfAPublisherThatHangsUp(t *testing.T) {
	t.Parallel()
	alone(t, "it makes its own")
	for _, when := range []string{"before", "behind"} {
		t.Run(when, func(t *testing.T) {
			is := is.New(t)
			h := newNode(t, openDoor(t), access.RatesConfig{}, func(kept history.Limits, _ bool) *broker.Broker { return joinFolder(t, kept) })
			h.nodes = []*testHub{h}
			ctx, hangUp := context.WithCancel(t.Context())
			log := &hangingUp{h.Hub.log, func() {}, func() {}}
			if log.behind = hangUp; when == "before" {
				log.before = hangUp
			}
			h.Hub.log = log
			e := &event.Event{TenantID: "acme", ID: "e", Type: "a.b", Payload: []byte("1"), Deadline: time.Hour, Target: event.ToProfile(event.Profile{Type: "user", ID: "me"})}
			_, err := h.Publish(ctx, []*event.Event{e})
			is.NoErr(err)
			list, answer := h.receipts(t, "acme", "e", "")
			is.Equal(list, []string{"me owed noConnection"})
			is.Equal(answer["counts"], map[string]any{"owed": 1.0})
		})
	}
}

// A tenant whose events owe more acknowledgements than its share has room for is refused further ones,
// of which nothing is stored; others do not notice.
func TestDeadlinesHaveAShare(t *testing.T) {
	alone(t, "each hub has its own memory")
	is := is.New(t)
	h := newTestHub(t, withState(1<<20))
	h.changes(t, "PUT", "/v1/tenants/evil/groups/g/members", `{"members":["1","2"]}`)
	publish := func(id, target string) (int, any) {
		status, answer := h.post(t, "/v1/events", `{"tenantId":"evil","id":"`+id+`","type":"a.b","payload":1,"deadline":"24h","target":`+target+`}`)
		return status, answer["code"]
	}
	const one, group = `{"kind":"profile","profiles":["1"]}`, `{"kind":"group","groupId":"g"}`
	n := 0
	for ; n < 2_000; n++ {
		if status, code := publish(fmt.Sprint("e", n), []string{one, group}[n%2]); status != 202 {
			is.Equal(status, 503)
			is.Equal(code, "ShareUsedUp")
			break
		}
		if n == 0 {
			kept := h.quotas.State.Of("evil")
			status, _ := publish("e0", one)
			is.Equal(status, 202)
			is.Equal(h.quotas.State.Of("evil"), kept) // a duplicate takes nothing
		}
	}
	is.True(n > 100)
	is.True(n < 2_000)
	is.Equal(h.duties.Stats().Open, n)
	kept := h.quotas.State.Of("evil")
	is.True(kept <= h.quotas.State.All()/2+4<<10) // and it leaves as much
	for range 100 {
		publish("more", group)
	}
	is.Equal(h.quotas.State.Of("evil"), kept) // what is refused takes nothing
	_, answer := h.do(t, "GET", "/v1/tenants/evil/events/more", "")
	is.Equal(answer["code"], "EventNotFound")
	h.accepted(t, "/v1/events", `{"tenantId":"evil","type":"a.b","payload":1,"target":`+group+`}`) // without a deadline
	h.changes(t, "PUT", "/v1/tenants/good/groups/g/members", `{"members":["1","2"]}`)
	h.open(t, "tenant=good&profile=1")
	h.accepted(t, "/v1/events", `{"tenantId":"good","type":"a.b","payload":1,"deadline":"24h","target":`+group+`}`)
}
