package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/delivery"
	"realtimehub/internal/outbox"
)

// What a connection was not sent its client does not acknowledge, whatever it acknowledges later.
func TestNothingIsAcknowledgedThatWasNotSent(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		do   func(t *testing.T, h *testHub) // publishes e, of which me is one, so that me is not sent it
		want string
	}{
		"a filter that came later": {func(t *testing.T, h *testHub) {
			c := h.open(t, "tenant=acme&profile=me&ack=true&types=x.*")
			all := h.beside(t, c, "tenant=acme&profile=me")
			h.owes(t, "a.b", "2s")
			all.until(t, "a.b") // so c's hub has kept it from c
			status, _ := h.do(t, "PATCH", "/v1/connections/"+c.ConnectionID, `{"types":["a.*"]}`)
			if status != 204 {
				t.Fatal(status)
			}
			h.acknowledgesNext(t, c)
		}, "e me joinedLater"},
		"a room that was left before the resume": {func(t *testing.T, h *testHub) {
			c := h.open(t, "tenant=acme&profile=me&ack=true")
			c.close()
			h.changes(t, "PUT", "/v1/tenants/acme/conversations/c/members", `{"members":["me"]}`)
			h.accepted(t, "/v1/events", `{"tenantId":"acme","id":"e","type":"a.b","payload":1,"deadline":"2s","target":{"kind":"conversation","conversationId":"c"}}`)
			h.changes(t, "PUT", "/v1/tenants/acme/conversations/c/members", `{"members":[]}`)
			back := h.open(t, "tenant=acme&profile=me&ack=true&cursor="+c.Ready.ID)
			h.acknowledgesNext(t, back)
		}, "e me sentUnacknowledged"},
		"before a device that came later, and comes back": {func(t *testing.T, h *testHub) {
			frozen := h.open(t, "tenant=acme&profile=me&ack=true")
			h.owes(t, "a.b", "2s")
			frozen.until(t, "a.b")
			fresh := h.beside(t, frozen, "tenant=acme&profile=me&ack=true") // not where the event is still to come
			last := h.acknowledgesNext(t, fresh)
			frozen.until(t, "a.c")
			for _, c := range []*testClient{frozen, fresh} {
				status, _ := h.do(t, "DELETE", "/v1/tenants/acme/connections/"+c.ConnectionID, "")
				if status != 204 {
					t.Fatal(status)
				}
			}
			h.open(t, "tenant=acme&profile=me&ack=true&cursor="+last)
		}, "e me sentUnacknowledged"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			is := is.New(t)
			h := newTestHub(t)
			tc.do(t, h)
			got := h.reported(t, "acme", 1)
			is.Equal(len(got), 1)
			is.Equal(got[0][:4], tc.want[:4])
		})
	}
}

// owes publishes e to me.
func (h *testHub) owes(t testing.TB, typ, deadline string) {
	t.Helper()
	h.accepted(t, "/v1/events", `{"tenantId":"acme","id":"e","type":"`+typ+`","payload":1,"deadline":"`+deadline+`","target":{"kind":"profile","profiles":["me"]}}`)
}

// published publishes an event with a long deadline to me, and returns its cursor.
func (h *testHub) published(t testing.TB) string {
	t.Helper()
	e := h.accepted(t, "/v1/events", `{"tenantId":"acme","type":"a.c","payload":1,"deadline":"1h","target":{"kind":"profile","profiles":["me"]}}`)
	return e["cursor"].(string)
}

// acknowledgesNext has a client acknowledge an event that comes next.
func (h *testHub) acknowledgesNext(t testing.TB, c *testClient) (last string) {
	t.Helper()
	last = h.published(t)
	if status, _ := h.ack(t, c.ConnectionID, c.until(t, "a.c").ID); status != 204 {
		t.Fatal(status)
	}
	return last
}

// A client that comes back with the place that its stream ended with has acknowledged what came
// before it.
func TestTheLastPlaceAcknowledges(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h := newTestHub(t)
	c := h.open(t, "tenant=acme&profile=me&ack=true")
	h.owes(t, "a.b", "1h")
	c.until(t, "a.b")
	h.publish(t, "acme", "a.b", `{"kind":"profile","profiles":["you"]}`, "1") // moves the place on
	status, _ := h.do(t, "DELETE", "/v1/tenants/acme/connections/"+c.ConnectionID, "")
	is.Equal(status, 204)
	h.open(t, "tenant=acme&profile=me&ack=true&cursor="+c.until(t, "hub.closing").ID)
	h.hasAcknowledged(t, "e", "me")
}

// judged is what the outbox says of so many who owe an event, once it does: by id, the status and why.
func (h *testHub) judged(t testing.TB, tenant, event string, owing int) (said map[string]string) {
	t.Helper()
	eventually(t, func() bool {
		said = map[string]string{}
		page, err := h.outbox.Read(t.Context(), tenant, outbox.Query{Limit: 1000})
		for _, item := range page.Items {
			var data struct {
				Event    struct{ ID string }
				Profiles []struct {
					Profile     struct{ ID string }
					Status, Why string
				}
			}
			if err := json.Unmarshal(item.Data, &data); err != nil {
				t.Fatal(err)
			}
			for _, p := range data.Profiles {
				if data.Event.ID == event {
					said[p.Profile.ID] = p.Status + " " + p.Why
				}
			}
		}
		return err == nil && len(said) == owing
	})
	return said
}

// Whichever hub judges knows who has a connection.
func TestWhoIsThereIsNotReportedAsAbsent(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h, nodes := threeHubs(t)
	var clients []*testClient
	for i, node := range nodes {
		tenant := string(rune('a' + i))
		clients = append(clients, node.open(t, "ack=true&profile=me&tenant="+tenant))
	}
	publish := func(i int, id string) {
		t.Helper()
		nodes[(i+1)%len(nodes)].accepted(t, "/v1/events", `{"tenantId":"`+string(rune('a'+i))+`","id":"`+id+`","type":"a.b","payload":1,"deadline":"4s","offline":"report","target":{"kind":"profiles","profiles":["me","gone"]}}`)
	}
	for i := range nodes {
		publish(i, "e0")
	}
	for i := range nodes {
		said := h.judged(t, string(rune('a'+i)), "e0", 2)
		for n := 1; n < 10 && strings.Contains(fmt.Sprint(said), "unknown"); n++ { // a hub was too slow to say
			id := fmt.Sprint("e", n)
			publish(i, id)
			said = h.judged(t, string(rune('a'+i)), id, 2)
		}
		is.Equal(said, map[string]string{"gone": "offline noConnection", "me": "online sentUnacknowledged"})
	}
	for _, c := range clients {
		c.close()
	}
}

// The last word of a page that is closed may come to another hub than the one that had its stream,
// behind the end of it.
func TestAcknowledgedBehindTheEndElsewhere(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h, nodes := threeHubs(t)
	c := nodes[0].open(t, "tenant=acme&profile=me&ack=true")
	h.accepted(t, "/v1/events", `{"tenantId":"acme","id":"e1","type":"a.b","payload":1,"deadline":"1h","target":{"kind":"profile","profiles":["me"]}}`)
	cursor := c.until(t, "a.b").ID
	nodes[0].streams.Kick(nodes[0].streams.Connection(c.ConnectionID), delivery.CloseKicked)
	foreign, _ := nodes[1].answered(t, "POST", "/v1/connections/"+c.ConnectionID+"/ack", `{"cursor":"nonsense"}`)
	is.Equal(foreign, 409)
	status, _ := nodes[1].answered(t, "POST", "/v1/connections/"+c.ConnectionID+"/ack", `{"cursor":"`+cursor+`"}`)
	is.Equal(status, 204)
	touched, _ := nodes[1].answered(t, "POST", "/v1/connections/"+c.ConnectionID+"/touch", "")
	is.Equal(touched, 404) // it has ended
	h.hasAcknowledged(t, "e1", "me")
}

// A device whose hub was killed comes back where another of its person's stands still: what it had
// is not taken for what that one was sent, if it says where it comes from.
func TestComesBackFromAnotherThanIsThere(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h := newTestHub(t)
	query := "tenant=acme&profile=me&ack=true"
	still := h.open(t, query)
	h.accepted(t, "/v1/events", `{"tenantId":"acme","id":"e","type":"a.b","payload":1,"deadline":"2s","target":{"kind":"profile","profiles":["me"]}}`)
	cursor := still.until(t, "a.b").ID
	h.open(t, query+"&previous=01a20b6b-b9ee-789c-bf01-260aa0b28d5c&cursor="+cursor)
	is.Equal(h.reported(t, "acme", 1), []string{"e me sentUnacknowledged"})
	for _, id := range []string{"this", "01a20b6bb9ee789cbf01260aa0b28d5c", "urn:uuid:01a20b6b-b9ee-789c-bf01-260aa0b28d5c"} {
		status, answer := h.do(t, "GET", "/v1/stream?"+query+"&previous="+id, "")
		is.Equal(status, 400)
		is.Equal(answer["errors"].([]any)[0].(map[string]any)["field"], "previous")
	}
}

// A client comes back to a hub while another one has not noticed yet that it has left: it acknowledges
// what it had there, if it says so. Nobody else can say it.
func TestComesBackUnnoticed(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h, nodes := threeHubs(t)
	const query = "tenant=acme&ack=true&profile="
	before, others := nodes[0].open(t, query+"me"), nodes[0].open(t, query+"you")
	h.accepted(t, "/v1/events", `{"tenantId":"acme","id":"e","type":"a.b","payload":1,"deadline":"1h","target":{"kind":"profiles","profiles":["me","you"]}}`)
	cursor := before.until(t, "a.b").ID
	others.until(t, "a.b")
	nodes[1].open(t, query+"me&previous="+others.ConnectionID+"&cursor="+cursor)
	nodes[1].open(t, query+"me&previous="+before.ConnectionID+"&cursor="+cursor)
	h.hasAcknowledged(t, "e", "me") // and what was said before it was heard, too
	is.True(nodes[0].streams.Connection(before.ConnectionID) != nil)
	var yours []string
	eventually(t, func() bool { // a hub that is slow is asked again
		yours, _ = h.receipts(t, "acme", "e", "?profile=you")
		return !strings.HasSuffix(yours[0], " unknown")
	})
	is.Equal(yours, []string{"you sent sentUnacknowledged"})
	before.close()
	others.close()
}

// Who does not name the connection that it comes back from may come from one that another hub has
// still: it acknowledges nothing that another device was sent, which has gone.
func TestComesBackUnnamedFromElsewhere(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h, nodes := threeHubs(t)
	const query = "tenant=acme&profile=me&ack=true"
	gone := nodes[1].open(t, query)
	h.accepted(t, "/v1/events", `{"tenantId":"acme","id":"e","type":"a.b","payload":1,"deadline":"4s","target":{"kind":"profile","profiles":["me"]}}`)
	gone.until(t, "a.b")
	stays := nodes[0].open(t, query)
	gone.close()
	eventually(t, func() bool { return nodes[1].Stats().Streams == 0 })
	h.settle(t)
	nodes[2].open(t, query+"&cursor="+stays.Cursor)
	is.True(strings.HasPrefix(h.reported(t, "acme", 1)[0], "e me "))
	stays.close()
}
