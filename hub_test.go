package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/presence"
	"realtimehub/internal/sse"
)

// untilConfirmed does again what a broker that is slow did not confirm.
func untilConfirmed(change func() error) (err error) {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		if err = change(); !errors.Is(err, history.ErrUnconfirmed) {
			break
		}
	}
	return err
}

func (h *testHub) seqOf(t testing.TB, cursor string) int {
	t.Helper()
	c, ok := h.parse("acme", cursor)
	if !ok {
		t.Fatalf("cursor %q", cursor)
	}
	return int(c.Seq)
}

// follows fails the test unless b's place is the next after a's. On a broker, whose own
// notes take places now and then, it is any after a's.
func (h *testHub) follows(t testing.TB, a, b string) {
	t.Helper()
	if before, after := h.seqOf(t, a), h.seqOf(t, b); after <= before || *clusterFlag == 0 && !*folderFlag && after != before+1 {
		t.Fatalf("place %d after %d", after, before)
	}
}

// parse reads a cursor as only the hub can.
func (h *Hub) parse(tenant, cursor string) (history.Cursor, bool) {
	return epochOf(h.log, tenant).Parse(cursor)
}

func epochOf(log history.Log, tenant string) history.Epoch {
	return log.(interface {
		Epoch(tenant string) history.Epoch
	}).Epoch(tenant)
}

func TestReadyComesFirst(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	c := h.open(t, "tenant=acme&profile=42")
	var ready map[string]any
	is.NoErr(json.Unmarshal([]byte(c.Ready.Data), &ready))
	is.Equal(ready["tenantId"], "acme")
	is.Equal(ready["profile"], map[string]any{"type": "user", "id": "42"})
	is.Equal(ready["resume"], "fresh")
	is.Equal(len(c.ConnectionID), 36)    // a UUID
	is.Equal(c.ConnectionID[14:15], "7") // of version 7
	is.True(c.Ready.ID != "")            // the place before the first event
	is.Equal(c.Ready.ID, c.Cursor)
}

func TestReadySaysWhenToComeBack(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	retry, ok := h.open(t, meQuery).Reader.Retry()
	is.True(ok)                                 // retry: comes with it
	is.Equal(retry.Milliseconds(), int64(2000)) // as configured
}

func TestPublishToProfileReachesItsConnectionsAndNoOthers(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	one, two := h.open(t, "tenant=acme&profile=user:1"), h.open(t, "tenant=acme&profile=user:1")
	other, bot := h.open(t, "tenant=acme&profile=user:2"), h.open(t, "tenant=acme&profile=bot:1")
	answer := h.publish(t, "acme", "a.b", `{"kind":"profile","profiles":["user:1"]}`, `"x"`)
	is.Equal(answer["connections"], 2.0)
	is.Equal(h.payloads(t, "acme", one, two, other, bot), []string{`"x"`, `"x"`, "", ""})
}

func TestPublishToProfilesAllOfEachOnceEach(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	a1, a2 := h.open(t, "tenant=acme&profile=a"), h.open(t, "tenant=acme&profile=a")
	b, c := h.open(t, "tenant=acme&profile=b"), h.open(t, "tenant=acme&profile=c")
	answer := h.publish(t, "acme", "a.b", `{"kind":"profiles","profiles":["user:a","b","a",{"type":"user","id":"b"},"nobody"]}`, `"x"`)
	is.Equal(answer["connections"], 3.0) // a repeated profile counts once
	is.Equal(h.payloads(t, "acme", a1, a2, b, c), []string{`"x"`, `"x"`, `"x"`, ""})
}

func testRoom(t *testing.T, rooms, target string) {
	is := is.New(t)
	h := newTestHub(t)
	status, _ := h.do(t, "PUT", "/v1/tenants/acme/"+rooms+"/r/members", `{"members":["a","b"]}`)
	is.Equal(status, http.StatusNoContent)
	a1, a2 := h.open(t, "tenant=acme&profile=a"), h.open(t, "tenant=acme&profile=a")
	b, c := h.open(t, "tenant=acme&profile=b"), h.open(t, "tenant=acme&profile=c")
	answer := h.publish(t, "acme", "a.b", target, `1`)
	is.Equal(answer["connections"], 3.0)

	status, _ = h.do(t, "PUT", "/v1/tenants/acme/"+rooms+"/r/members/c", "") // while connected
	is.Equal(status, http.StatusNoContent)
	status, _ = h.do(t, "DELETE", "/v1/tenants/acme/"+rooms+"/r/members/b", "")
	is.Equal(status, http.StatusNoContent)
	h.publish(t, "acme", "a.b", target, `2`)
	is.Equal(h.payloads(t, "acme", a1, a2, b, c), []string{"1 2", "1 2", "1", "2"})
}

func TestPublishToConversationItsMembers(t *testing.T) {
	testRoom(t, "conversations", `{"kind":"conversation","conversationId":"r"}`)
}

func TestPublishToGroupItsMembers(t *testing.T) {
	testRoom(t, "groups", `{"kind":"group","groupId":"r"}`)
}

func TestConversationAndGroupOfOneIDAreTwo(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	h.changes(t, "PUT", "/v1/tenants/acme/conversations/r/members/a", "")
	h.changes(t, "PUT", "/v1/tenants/acme/groups/r/members/b", "")
	a, b := h.open(t, "tenant=acme&profile=a"), h.open(t, "tenant=acme&profile=b")
	h.publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, `"c"`)
	h.publish(t, "acme", "a.b", `{"kind":"group","groupId":"r"}`, `"g"`)
	is.Equal(h.payloads(t, "acme", a, b), []string{`"c"`, `"g"`})
}

func TestPublishToTenantReachesAll(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	a1, a2 := h.open(t, "tenant=acme&profile=a"), h.open(t, "tenant=acme&profile=a")
	b, other := h.open(t, "tenant=acme&profile=b"), h.open(t, "tenant=other&profile=a")
	answer := h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, `"x"`)
	is.Equal(answer["connections"], 3.0)
	is.Equal(h.payloads(t, "acme", a1, a2, b), []string{`"x"`, `"x"`, `"x"`})
	is.Equal(h.payloads(t, "other", other), []string{""})
}

func TestPublishToConnectionReachesItAlone(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	one, two := h.open(t, "tenant=acme&profile=a"), h.open(t, "tenant=acme&profile=a")
	answer := h.publish(t, "acme", "a.b", `{"kind":"connection","connectionId":"`+one.ConnectionID+`"}`, `"x"`)
	is.Equal(answer["connections"], 1.0)
	_, stored := answer["cursor"]
	is.True(!stored) // for who is there now
	all := h.received(t, "acme", one, two)
	is.Equal(len(all[0]), 1)
	is.Equal(all[0][0].ID, one.Cursor) // no id line of its own: the last one stays
	is.Equal(len(all[1]), 0)
}

func TestExcludeProfilesAndConnections(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	a1, a2 := h.open(t, "tenant=acme&profile=a"), h.open(t, "tenant=acme&profile=a")
	b, c := h.open(t, "tenant=acme&profile=b"), h.open(t, "tenant=acme&profile=c")
	answer := h.publish(t, "acme", "a.b",
		`{"kind":"tenant","exclude":{"profiles":["b"],"connectionIds":["`+a1.ConnectionID+`"]}}`, `"x"`)
	is.Equal(answer["connections"], 2.0)
	is.Equal(h.payloads(t, "acme", a1, a2, b, c), []string{"", `"x"`, "", `"x"`})
}

func TestRecipientNeverLearnsTheOthers(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	a := h.open(t, "tenant=acme&profile=a")
	h.publish(t, "acme", "a.b", `{"kind":"profiles","profiles":["a","secret"],"exclude":{"profiles":["hidden"]}}`, `"x"`)
	event := a.next(t)
	is.Equal(openEnvelope(t, event).Target, map[string]any{"kind": "profiles"})
	is.True(!strings.Contains(event.Data, "secret"))
	is.True(!strings.Contains(event.Data, "hidden"))
}

func TestBatchIsAtomic(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	a := h.open(t, "tenant=acme&profile=a")
	status, answer := h.post(t, "/v1/events/batch", `{"events":[`+
		eventJSON("acme", "a.b", `{"kind":"tenant"}`, `1`)+`,`+
		eventJSON("acme", "hub.forged", `{"kind":"tenant"}`, `2`)+`,`+
		eventJSON("acme", "a.b", `{"kind":"tenant"}`, `3`)+`,`+
		eventJSON("acme", "a.b", `{"kind":"nowhere"}`, `4`)+`]}`)
	is.Equal(status, http.StatusBadRequest)
	var bad []any
	for _, fault := range answer["errors"].([]any) {
		bad = append(bad, fault.(map[string]any)["index"])
	}
	is.Equal(bad, []any{1.0, 3.0})                   // every bad index is named
	is.Equal(h.payloads(t, "acme", a), []string{""}) // none of it arrived
	h.follows(t, a.Cursor, a.Reader.LastEventID())   // nor took a place: the marker's is the first
}

func TestBatchIsContiguousUnder8ConcurrentPublishers(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	clients := []*testClient{h.open(t, "tenant=acme&profile=a"), h.open(t, "tenant=acme&profile=b")}
	const publishers, batches, size = 8, 5, 10
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			for b := range batches {
				var events []string
				for i := range size {
					events = append(events, eventJSON("acme", "a.b", `{"kind":"tenant"}`, strconv.Itoa((p*batches+b)*size+i)))
				}
				h.accepted(t, "/v1/events/batch", `{"events":[`+strings.Join(events, ",")+`]}`)
			}
		})
	}
	wg.Wait()
	all := h.received(t, "acme", clients...)
	is.Equal(all[0], all[1]) // one order for all
	is.Equal(len(all[0]), publishers*batches*size)
	last := clients[0].Cursor
	for i, event := range all[0] {
		h.follows(t, last, event.ID)
		last = event.ID
		n, err := strconv.Atoi(string(openEnvelope(t, event).Payload))
		is.NoErr(err)
		is.Equal(n%size, i%size) // in the order given
		if i%size > 0 {
			before, _ := strconv.Atoi(string(openEnvelope(t, all[0][i-1]).Payload))
			is.Equal(n, before+1) // nothing between those of a batch
		}
	}
}

func TestAbsentProfileIs202And0(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	answer := h.accepted(t, "/v1/events", eventJSON("acme", "a.b", `{"kind":"profile","profiles":["nobody"]}`, `1`))
	is.Equal(answer["connections"], 0.0)
	is.True(answer["cursor"] != nil) // stored all the same
}

func listed(t testing.TB, h *testHub, path string) (ids []string) {
	t.Helper()
	status, answer := h.do(t, "GET", path, "")
	if status != http.StatusOK || answer["count"] != float64(len(answer["connections"].([]any))) {
		t.Fatalf("%s: %d %v", path, status, answer)
	}
	for _, c := range answer["connections"].([]any) {
		ids = append(ids, c.(map[string]any)["id"].(string))
	}
	return ids
}

func TestConnectionsComeAndGoAndAreListedByProfile(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	a1, b, a2 := h.open(t, "tenant=acme&profile=a"), h.open(t, "tenant=acme&profile=b"), h.open(t, "tenant=acme&profile=a")
	all := []string{a1.ConnectionID, b.ConnectionID, a2.ConnectionID}
	slices.Sort(all)
	is.Equal(listed(t, h, "/v1/tenants/acme/connections"), all)
	of := []string{a1.ConnectionID, a2.ConnectionID}
	slices.Sort(of)
	is.Equal(listed(t, h, "/v1/tenants/acme/connections?profile=user:a"), of) // several of one profile

	status, _ := h.do(t, "DELETE", "/v1/tenants/acme/connections/"+a1.ConnectionID, "")
	is.Equal(status, http.StatusNoContent)
	is.Equal(listed(t, h, "/v1/tenants/acme/connections?profile=a"), []string{a2.ConnectionID})
	status, _ = h.do(t, "GET", "/v1/tenants/acme/connections/"+a1.ConnectionID, "")
	is.Equal(status, http.StatusNotFound)
	answer := h.publish(t, "acme", "a.b", `{"kind":"profile","profiles":["a"]}`, `1`)
	is.Equal(answer["connections"], 1.0)
	is.Equal(h.payloads(t, "acme", a2, b), []string{"1", ""})
}

// gone is told of connections that have left the hub.
type gone struct {
	delivery.Observer
	left chan *delivery.Connection
}

func (g *gone) Disconnected(c *delivery.Connection) {
	g.Observer.Disconnected(c)
	g.left <- c
}

func TestClientThatLeavesIsRemoved(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	left := make(chan *delivery.Connection, 9)
	for _, node := range h.nodes {
		node.streams.Observe(&gone{node.observer(), left})
	}
	c := h.open(t, "tenant=acme&profile=a")
	c.close()
	is.Equal((<-left).ID.String(), c.ConnectionID)
	is.Equal(len(listed(t, h, "/v1/tenants/acme/connections")), 0)
	for _, node := range h.nodes {
		eventually(t, func() bool { return node.Stats().Tenants == 0 }) // one with nothing is forgotten
	}
}

func TestTouchMovesLastActivity(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	c := h.open(t, "tenant=acme&profile=a")
	_, conn := h.holder(c.ConnectionID)
	before := conn.LastActivity()
	status, _ := h.post(t, "/v1/connections/"+c.ConnectionID+"/touch", "")
	is.Equal(status, http.StatusNoContent)
	is.True(conn.LastActivity().After(before))
	status, _ = h.post(t, "/v1/connections/00000000-0000-7000-8000-000000000000/touch", "")
	is.Equal(status, http.StatusNotFound)
}

func TestKickClosesTheStream(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	one, two := h.open(t, "tenant=acme&profile=a"), h.open(t, "tenant=acme&profile=a")
	three, other := h.open(t, "tenant=acme&profile=a"), h.open(t, "tenant=acme&profile=b")
	closes := func(c *testClient) {
		t.Helper()
		event := c.next(t)
		is.Equal(event.Type, "hub.closing")
		is.True(strings.Contains(event.Data, `"reason":"kicked"`))
		_, err := c.read()
		is.True(err != nil) // it was the last
	}
	status, _ := h.do(t, "DELETE", "/v1/tenants/acme/connections/"+one.ConnectionID, "")
	is.Equal(status, http.StatusNoContent)
	closes(one)
	status, _ = h.do(t, "DELETE", "/v1/tenants/acme/connections?profile=a", "")
	is.Equal(status, http.StatusNoContent)
	closes(two)
	closes(three)
	is.Equal(h.payloads(t, "acme", other), []string{""})
	is.Equal(listed(t, h, "/v1/tenants/acme/connections"), []string{other.ConnectionID})
}

func TestNothingCrossesATenant(t *testing.T) {
	t.Run("ids that look alike when joined", func(t *testing.T) {
		is := is.New(t)
		h := newTestHub(t)
		long, short := h.open(t, "tenant=acme&profile=user:b:c"), h.open(t, "tenant=acme.user&profile=b:c")
		h.changes(t, "PUT", "/v1/tenants/acme/conversations/a:b/members/c", "")
		h.changes(t, "PUT", "/v1/tenants/acme/conversations/a/members/b:c", "")
		c, bc := h.open(t, "tenant=acme&profile=c"), h.open(t, "tenant=acme&profile=b:c")
		h.publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"a:b"}`, `"a:b"`)
		h.publish(t, "acme", "a.b", `{"kind":"profile","profiles":[{"type":"b","id":"c"}]}`, `"b:c"`)
		h.publish(t, "acme", "a.b", `{"kind":"profile","profiles":[{"type":"user","id":"b:c"}]}`, `"user:b:c"`)
		is.Equal(h.payloads(t, "acme", long, c, bc), []string{`"user:b:c"`, `"a:b"`, `"b:c"`})
		is.Equal(h.payloads(t, "acme.user", short), []string{""})
	})
	t.Run("publishing", func(t *testing.T) {
		is := is.New(t)
		h := newTestHub(t)
		mine, theirs := h.open(t, "tenant=one&profile=a"), h.open(t, "tenant=two&profile=a")
		h.changes(t, "PUT", "/v1/tenants/two/conversations/r/members/a", "")
		h.changes(t, "PUT", "/v1/tenants/two/groups/r/members/a", "")
		for _, target := range []string{
			`{"kind":"conversation","conversationId":"r"}`, `{"kind":"group","groupId":"r"}`,
			`{"kind":"connection","connectionId":"` + theirs.ConnectionID + `"}`,
		} {
			is.Equal(h.publish(t, "one", "a.b", target, `1`)["connections"], 0.0)
		}
		for _, target := range []string{`{"kind":"tenant"}`, `{"kind":"profile","profiles":["a"]}`} {
			is.Equal(h.publish(t, "one", "a.b", target, `2`)["connections"], 1.0)
		}
		is.Equal(h.payloads(t, "one", mine), []string{"2 2"})
		is.Equal(h.payloads(t, "two", theirs), []string{""})
	})
	t.Run("a batch over two", func(t *testing.T) {
		is := is.New(t)
		h := newTestHub(t)
		one, two := h.open(t, "tenant=one&profile=a"), h.open(t, "tenant=two&profile=a")
		h.accepted(t, "/v1/events/batch", `{"events":[`+
			eventJSON("one", "a.b", `{"kind":"tenant"}`, `1`)+`,`+
			eventJSON("two", "a.b", `{"kind":"tenant"}`, `2`)+`,`+
			eventJSON("one", "a.b", `{"kind":"tenant"}`, `3`)+`]}`)
		is.Equal(h.payloads(t, "one", one), []string{"1 3"})
		is.Equal(h.payloads(t, "two", two), []string{"2"})
	})
	t.Run("administration", func(t *testing.T) {
		is := is.New(t)
		h := newTestHub(t)
		theirs := h.open(t, "tenant=two&profile=a")
		path := "/v1/tenants/one/connections/" + theirs.ConnectionID
		for _, method := range []string{"GET", "DELETE"} {
			status, _ := h.do(t, method, path, "")
			is.Equal(status, http.StatusNotFound)
		}
		h.changes(t, "DELETE", "/v1/tenants/one/connections?profile=a", "")
		is.Equal(len(listed(t, h, "/v1/tenants/one/connections")), 0)
		is.Equal(h.people.Of("one", []event.Profile{{Type: "user", ID: "a"}})[0].Status, presence.Offline)
		is.Equal(listed(t, h, "/v1/tenants/two/connections"), []string{theirs.ConnectionID})
		is.Equal(h.payloads(t, "two", theirs), []string{""}) // it is open still
	})
}

func TestTypesFilterAndPatch(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	c := h.open(t, "tenant=acme&profile=a&types=message.*,post.created,test.marker")
	send := func() {
		for _, typ := range []string{"message.received", "message.a.b", "messages", "post.created", "post.updated"} {
			answer := h.publish(t, "acme", typ, `{"kind":"tenant"}`, `"`+typ+`"`)
			is.Equal(answer["connections"], 1.0) // a target of it, filter or not
		}
	}
	send()
	is.Equal(h.payloads(t, "acme", c), []string{`"message.received" "message.a.b" "post.created"`})
	status, _ := h.do(t, "PATCH", "/v1/connections/"+c.ConnectionID, `{"types":["post.updated","test.*"]}`)
	is.Equal(status, http.StatusNoContent)
	send()
	is.Equal(h.payloads(t, "acme", c), []string{`"post.updated"`})
}

func TestUnnamedStream(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	c := h.open(t, "tenant=acme&profile=a&named=false") // hub.ready keeps its name
	named := h.open(t, "tenant=acme&profile=a")
	h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, `1`)
	all := h.received(t, "acme", c, named)
	is.Equal(all[0][0].Type, "message")
	is.Equal(all[1][0].Type, "a.b")
	is.Equal(openEnvelope(t, all[0][0]).Type, "a.b") // the envelope says what it is
}

func TestMetadataIsKept(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	c := h.open(t, "tenant=acme&profile=a&meta.device=phone&meta.os=%C3%A9")
	_, answer := h.do(t, "GET", "/v1/tenants/acme/connections/"+c.ConnectionID, "")
	is.Equal(answer["metadata"], map[string]any{"device": "phone", "os": "é"})
	is.Equal(answer["tenantId"], "acme")
	is.Equal(answer["profile"], map[string]any{"type": "user", "id": "a"})
}

func TestCursorsRise(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	c := h.open(t, "tenant=acme&profile=a")
	last := c.Cursor
	for i := range 20 {
		answer := h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, strconv.Itoa(i))
		event := c.next(t)
		is.Equal(event.ID, answer["cursor"])
		is.Equal(string(openEnvelope(t, event).Payload), strconv.Itoa(i))
		h.follows(t, last, event.ID)
		last = event.ID
	}
	is.Equal(h.open(t, "tenant=acme&profile=b").Cursor, c.Reader.LastEventID()) // the place before what comes
}

func TestEphemeralHasNoIDAndNoCursor(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	c := h.open(t, "tenant=acme&profile=a")
	status, answer := h.post(t, "/v1/events",
		`{"tenantId":"acme","type":"a.b","payload":1,"target":{"kind":"tenant"},"ephemeral":true}`)
	is.Equal(status, http.StatusAccepted)
	_, stored := answer["cursor"]
	is.True(!stored)
	event := c.next(t)
	is.Equal(event.ID, c.Cursor) // no id line: the last one stays
	is.True(openEnvelope(t, event).Ephemeral)
	h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, `2`)
	h.follows(t, c.Cursor, c.next(t).ID) // nor took a place
}

func TestSlowStreamIsCutAndAHealthyOneGetsAll(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t, func(cfg *HubConfig, _ *PresenceConfig) { cfg.StreamBuffer = 64 << 10 }).nodes[0] // the one that has it
	healthy := h.open(t, "tenant=acme&profile=a")
	slow, err := h.streams.Connect(context.Background(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: event.Profile{Type: "user", ID: "slow"}}) // nobody reads it
	is.NoErr(err)
	payload := `"` + strings.Repeat("x", 1<<10) + `"`
	last := healthy.Cursor
	for range 100 {
		h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, payload)
		event := healthy.next(t)
		h.follows(t, last, event.ID)
		last = event.ID
	}
	is.Equal(h.payloads(t, "acme", healthy), []string{""})

	w := httptest.NewRecorder()
	h.streams.Engine().Serve(w, httptest.NewRequest("GET", "/", nil), slow.Stream)
	event, err := newStreamReader(t, w.Body).Next()
	is.NoErr(err)
	is.Equal(event.Type, "hub.closing") // the first it reads, and the last
	is.True(strings.Contains(event.Data, `"reason":"slow"`))
	is.Equal(h.streams.Connection(slow.ID.String()), nil) // gone
}

func TestSlowStreamShedsEphemeralFirst(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t, func(cfg *HubConfig, _ *PresenceConfig) { cfg.StreamBuffer = 8 << 10 }).nodes[0] // the one that has it
	slow, err := h.streams.Connect(context.Background(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: event.Profile{Type: "user", ID: "slow"}})
	is.NoErr(err)
	h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, `"kept"`)
	for range 10 {
		status, _ := h.post(t, "/v1/events", `{"tenantId":"acme","type":"a.b","payload":"`+strings.Repeat("x", 1<<10)+`","target":{"kind":"tenant"},"ephemeral":true}`)
		is.Equal(status, http.StatusAccepted)
	}
	h.streams.Kick(slow, delivery.CloseKicked)
	w := httptest.NewRecorder()
	h.streams.Engine().Serve(w, httptest.NewRequest("GET", "/", nil), slow.Stream)
	var types []string
	for reader := newStreamReader(t, w.Body); ; {
		event, err := reader.Next()
		if err != nil {
			break
		}
		if len(types) == 0 || event.Type != types[len(types)-1] {
			types = append(types, event.Type)
		}
	}
	is.Equal(types[:3], []string{"hub.ready", "a.b", "hub.gap"})
	is.Equal(types[len(types)-1], "hub.closing")
}

// Every publish call takes a trace: the event's own, or else the request's, which is
// as if it were not there when it is malformed. It comes with the event, and stays.
func TestTraceParentTravels(t *testing.T) {
	is := is.New(t)
	const own, header = "00-11111111111111111111111111111111-1111111111111111-01", "00-22222222222222222222222222222222-2222222222222222-00"
	h := newTestHub(t)
	me := h.open(t, "tenant=acme&profile=me")
	h.changes(t, "PUT", "/v1/tenants/acme/conversations/c/members", `{"members":["me"]}`)
	h.changes(t, "PUT", "/v1/tenants/acme/groups/g/members", `{"members":["me"]}`)
	bare := func(more string) string { return `{"type":"a.b","payload":1` + more + `}` }
	whole := func(more string) string { return bare(`,"tenantId":"acme","target":{"kind":"tenant"}` + more) }
	const itsOwn = `,"traceparent":"` + own + `"`
	var sent []string
	send := func(path, kind, body string, headers []string, want ...string) {
		t.Helper()
		h.settle(t)
		req, err := http.NewRequest("POST", h.next().URL+path, strings.NewReader(body))
		is.NoErr(err)
		req.Header["Traceparent"] = headers
		req.Header.Set("Content-Type", kind)
		res, err := h.client.Do(req)
		is.NoErr(err)
		res.Body.Close()
		is.True(res.StatusCode == http.StatusAccepted || res.StatusCode == http.StatusOK)
		for _, want := range want {
			event := me.until(t, "a.b")
			var got struct{ TraceParent string }
			is.NoErr(json.Unmarshal([]byte(event.Data), &got))
			is.Equal(got.TraceParent, want)
			if event.ID != "" && !strings.Contains(path, "/connections/") {
				sent = append(sent, want)
			}
		}
	}
	for path, more := range map[string]string{
		"events": "", "profiles/me/events": "", "profiles/events": `,"profiles":["me"]`, "conversations/c/events": "",
		"groups/g/events": "", "connections/" + me.ConnectionID + "/events": "",
	} {
		path = "/v1/tenants/acme/" + path
		send(path, "application/json", bare(more), []string{header}, header)
		send(path, "application/json", bare(more+itsOwn), []string{header}, own)
	}
	send("/v1/events", "application/json", whole(""), []string{header}, header)
	for _, bad := range [][]string{nil, {""}, {"x"}, {header, header}, {header + "-x"}} {
		send("/v1/events", "application/json", whole(""), bad, "")
		send("/v1/events", "application/json", whole(itsOwn), bad, own)
	}
	send("/v1/events/batch", "application/json", `{"events":[`+whole("")+`,`+whole(itsOwn)+`]}`, []string{header}, header, own)
	send("/v1/events", "application/x-ndjson", whole("")+"\n"+whole(itsOwn)+"\n", []string{header}, header, own)

	var stored []string
	_, answer := h.do(t, "GET", "/v1/tenants/acme/events?limit=1000", "")
	for _, event := range answer["events"].([]any) {
		trace, _ := event.(map[string]any)["traceparent"].(string)
		stored = append(stored, trace)
	}
	is.Equal(stored, sent)
	again := h.back(t, me.Cursor, "tenant=acme&profile=me")
	for _, want := range sent {
		is.Equal(strings.Contains(again.until(t, "a.b").Data, `"traceparent":"`+want+`"`), want != "")
	}
}
