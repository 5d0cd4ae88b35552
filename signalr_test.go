package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/allowance"
	"realtimehub/internal/delivery"
	"realtimehub/internal/door/signalr"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/plan"
)

// hubsSecrets are what all hubs of these tests share.
var hubsSecrets = []string{"what hubs of tests share"}

var signalRKeys = signalr.NewKeys(hubsSecrets...)

// session is one of a SignalR client. Its requests go to each hub of the cluster in turn.
type session struct {
	hub         *testHub
	query       string
	credentials []string
}

const asMe = "tenant=acme&profile=me"

// negotiate begins a session.
func (h *testHub) negotiate(t testing.TB, query string, credentials ...string) *session {
	t.Helper()
	status, answer := h.next().fromOutside().Do(t, "POST", "/signalr/negotiate?negotiateVersion=1&"+query, "", credentials...)
	if status != http.StatusOK {
		t.Fatalf("negotiating: %d %v", status, answer)
	}
	return &session{h, query + "&id=" + answer["connectionToken"].(string), credentials}
}

// call makes a request of the session. Its answer is read to its end, unless it is a stream.
func (s *session) call(t testing.TB, method, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.hub.next().URL+"/signalr?"+s.query, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if method == "POST" {
		r.Header.Set("Content-Type", "text/plain;charset=UTF-8")
	}
	headers = append(headers, s.credentials...)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := s.hub.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if res.Header.Get("Content-Type") == "text/event-stream" {
		t.Cleanup(func() { res.Body.Close() })
		return res, ""
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(text)
}

// says is the status and the text that a POST of records is answered.
func (s *session) says(t testing.TB, records ...string) (int, string) {
	t.Helper()
	body := ""
	for _, record := range records {
		body += record + "\x1e"
	}
	res, text := s.call(t, "POST", body)
	return res.StatusCode, text
}

// records reads a stream's.
type records struct{ *bufio.Scanner }

func (s *session) stream(t testing.TB) records {
	t.Helper()
	res, text := s.call(t, "GET", "", "Accept", "text/event-stream")
	if res.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("no stream: %d %s", res.StatusCode, text)
	}
	return records{bufio.NewScanner(res.Body)}
}

// until is all records up to one that has a piece of text.
func (r records) until(t testing.TB, piece string) (list []string) {
	t.Helper()
	for r.Scan() {
		data, ok := strings.CutPrefix(r.Text(), "data: ")
		if !ok {
			continue
		}
		if !strings.HasSuffix(data, "\x1e") {
			t.Fatalf("a torn record: %q", data)
		}
		for record := range strings.SplitSeq(strings.TrimSuffix(data, "\x1e"), "\x1e") {
			list = append(list, record)
		}
		if strings.Contains(data, piece) {
			return list
		}
	}
	t.Fatalf("the stream has ended without %s: %v", piece, list)
	return nil
}

// What is malformed is refused and named, nothing of its POST is heeded, and the session goes on.
func TestSignalRHostileRecords(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h := newTestHub(t)
	s := h.negotiate(t, asMe)
	stream := s.stream(t)
	is.Equal(stream.until(t, "hub.ready")[0], "{}")
	const touch = `{"type":1,"target":"Touch","arguments":[],"invocationId":"heeded"}`
	for records, why := range map[string]string{
		"\x1e": "record 0", "{}": "record 0.type", `{"type":6`: "record 0", touch + "\x1e{": "record 1", touch + "\x1e" + `{"type":"1"}`: "record 1.type",
		touch + "\x1e" + `{"type":1}`: "record 1.target", touch + "\x1e" + strings.Repeat("x", 16<<10+1): "record 1", touch + "\x1e\xff": "record 1",
		`{"protocol":"messagepack","version":1}`: "record 0.protocol", `{"protocol":"json","version":7}`: "record 0.version",
		strings.Repeat("[", 10_000): "record 0",
	} {
		status, text := s.says(t, records)
		if status != http.StatusBadRequest || !strings.Contains(text, `"field":"`+why+`"`) {
			t.Errorf("%.60q: %d %s", records, status, text)
		}
	}
	res, text := s.call(t, "POST", `{"type":6}`)
	is.Equal(res.StatusCode, http.StatusBadRequest) // torn
	is.True(strings.Contains(text, "0x1E"))
	status, _ := s.says(t, strings.Repeat("{\"type\":6}\x1e", 6000))
	is.Equal(status, http.StatusRequestEntityTooLarge)
	status, _ = s.says(t, strings.TrimSuffix(strings.Repeat("{\"type\":6}\x1e", 5000), "\x1e"))
	is.Equal(status, http.StatusOK)
	status, _ = s.says(t, `{"type":2}`, `{"type":3,"invocationId":"1","result":1,"error":"both"}`, `{"type":5}`, `{"type":7}`, `{"type":8,"sequenceId":1}`, `{"type":9,"sequenceId":1}`, `{"type":99}`)
	is.Equal(status, http.StatusOK)

	status, _ = s.says(t, `{"type":1,"target":"touch","arguments":[],"invocationId":"last"}`)
	is.Equal(status, http.StatusOK)
	for _, record := range stream.until(t, `"last"`) {
		is.True(!strings.Contains(record, "heeded"))
	}
}

// Who asks too often is told so on the stream, and nothing else is late for it.
func TestSignalRRates(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h := newTrustedHub(t, openDoor(t), access.RatesConfig{ClientRate: 1})
	s := h.negotiate(t, asMe)
	stream := s.stream(t)
	var all []string
	for n := range 200 {
		all = append(all, fmt.Sprintf(`{"type":1,"target":"Touch","arguments":[],"invocationId":"%d"}`, n))
	}
	status, _ := s.says(t, all...)
	is.Equal(status, http.StatusOK)
	is.True(strings.Contains(strings.Join(stream.until(t, `"199"`), "\n"), `"invocationId":"199","error":"RateLimited: `))
}

// A connectionToken is good for whom it was made, on hubs that have its key, and opens one stream
// within its time.
func TestSignalRConnectionToken(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret}), access.RatesConfig{})
	me, other, elsewhere := bearer(t, "sub", "user:me"), bearer(t, "sub", "user:other"), bearer(t, "tenant", "elsewhere", "sub", "user:me")
	s := h.negotiate(t, "", "Authorization", me)
	stream := s.stream(t)
	stream.until(t, "hub.ready")
	const ping = `{"type":6}`
	status, _ := s.says(t, ping)
	is.Equal(status, http.StatusOK)

	token := strings.TrimPrefix(s.query, "&id=")
	late := signalr.Pass{Session: uuid.New(), Tenant: "acme", Profile: event.Profile{Type: "user", ID: "me"}, Opens: time.Now().Add(-time.Second)}
	gone := late
	gone.Opens = time.Now().Add(time.Minute)
	for name, bad := range map[string]*session{
		"another's":        {h, s.query, []string{"Authorization", other}},
		"another tenant's": {h, s.query, []string{"Authorization", elsewhere}},
		"tampered with":    {h, "id=B" + token[1:], s.credentials},
		"another key's":    {h, "id=" + signalr.NewKeys("another").Sign(gone), s.credentials},
		"none":             {h, "id=", s.credentials},
	} {
		for _, method := range []string{"GET", "POST", "DELETE"} {
			res, text := bad.call(t, method, ping+"\x1e")
			if res.StatusCode != http.StatusNotFound || !strings.Contains(text, "ConnectionNotFound") {
				t.Errorf("%s of a token that is %s: %d %s", method, name, res.StatusCode, text)
			}
		}
	}
	expired := &session{h, "id=" + signalRKeys.Sign(late), s.credentials}
	for _, accept := range []string{"text/event-stream", "*/*"} {
		res, text := expired.call(t, "GET", "", "Accept", accept)
		is.Equal(res.StatusCode, http.StatusNotFound)
		is.True(strings.Contains(text, "has expired"))
	}
	if len(h.nodes) == 1 {
		res, text := s.call(t, "GET", "", "Accept", "text/event-stream")
		is.Equal(res.StatusCode, http.StatusNotFound)
		is.True(strings.Contains(text, "opened already"))
	}
	unproven := &session{h, s.query, nil}
	res, _ := unproven.call(t, "POST", ping+"\x1e")
	is.Equal(res.StatusCode, http.StatusUnauthorized) // the token alone proves nothing
	nobody := &session{h, "id=" + signalRKeys.Sign(gone), s.credentials}
	status, _ = nobody.says(t, `{"protocol":"json","version":1}`, ping)
	is.Equal(status, http.StatusOK) // for which nobody is looked for
	status, _ = nobody.says(t, `{"type":1,"target":"Touch","arguments":[]}`)
	is.Equal(status, http.StatusNotFound)

	// EventSource and WebSocket have the query alone for the credential.
	inQuery := h.negotiate(t, "", "Authorization", me)
	inQuery.query, inQuery.credentials = inQuery.query+"&access_token="+strings.TrimPrefix(me, "Bearer "), nil
	inQuery.stream(t).until(t, "hub.ready")
	res, _ = inQuery.call(t, "POST", ping+"\x1e")
	is.Equal(res.StatusCode, http.StatusUnauthorized)
}

// A client that asks for what cannot be is told so before it has a session.
func TestSignalRNegotiate(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h := newTestHub(t)
	for query, field := range map[string]string{
		"": "tenant", "tenant=acme": "profile", asMe + "&types=7": "types", asMe + "&presence=Bad:x": "presence[0]", asMe + "&ack=maybe": "ack",
	} {
		status, answer := h.post(t, "/signalr/negotiate?negotiateVersion=1&"+query, "")
		if status != http.StatusBadRequest || !strings.Contains(fmt.Sprint(answer["errors"]), "field:"+field) {
			t.Errorf("%s: %d %v", query, status, answer)
		}
	}
	status, answer := h.post(t, "/signalr/negotiate?"+asMe, "")
	is.Equal(status, http.StatusBadRequest)
	is.Equal(answer["detail"], "negotiateVersion: must be 1")
	status, answer = h.post(t, "/signalr/negotiate?negotiateVersion=1&useStatefulReconnect=true&"+asMe, "")
	is.Equal(status, http.StatusOK)
	is.Equal(answer["useStatefulReconnect"], nil) // who asks for it comes back with the cursor, too
}

// A page of a listed origin may send the headers that the client does, with credentials.
func TestSignalRPreflight(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret, Origins: []string{"https://app.example.com"}}), access.RatesConfig{})
	for path, method := range map[string]string{"/signalr/negotiate": "POST", "/signalr": "DELETE"} {
		r := httptest.NewRequest("OPTIONS", path+"?negotiateVersion=1", nil)
		r.Header.Set("Origin", "https://app.example.com")
		r.Header.Set("Access-Control-Request-Method", method)
		r.Header.Set("Access-Control-Request-Headers", "authorization,x-requested-with,x-signalr-user-agent")
		w := httptest.NewRecorder()
		h.API.Handler().ServeHTTP(w, r)
		is.Equal(w.Header().Get("Access-Control-Allow-Origin"), "https://app.example.com")
		is.Equal(w.Header().Get("Access-Control-Allow-Credentials"), "true")
		is.Equal(w.Header().Get("Access-Control-Allow-Methods"), method)
		is.Equal(w.Header().Get("Access-Control-Allow-Headers"), "authorization,x-requested-with,x-signalr-user-agent")
	}
}

// A session of long polling is opened by the first poll, has one poll at a time and ends with
// DELETE, or once its last words are told.
func TestSignalRPolls(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h := newTestHub(t)
	s := h.negotiate(t, asMe)
	poll := func(s *session) (int, string) {
		res, text := s.call(t, "GET", "")
		return res.StatusCode, text
	}
	status, text := poll(s)
	is.Equal(status, http.StatusOK)
	is.Equal(text, "")
	status, text = poll(s)
	is.Equal(status, http.StatusOK)
	is.True(strings.HasPrefix(text, "{}\x1e"+`{"type":1,"target":"hub.ready"`))

	var polls sync.WaitGroup
	first := make(chan int, 1)
	polls.Go(func() {
		status, _ := poll(s)
		first <- status
	})
	second := make(chan string, 1000) // more than there are polls
	eventually(t, func() bool {       // one of the two waits, and the other is over
		polls.Go(func() {
			if status, text := poll(s); status == http.StatusOK {
				second <- text
			}
		})
		select {
		case status := <-first:
			is.Equal(status, http.StatusNoContent)
			return true
		case <-time.After(100 * time.Millisecond):
			return false
		}
	})
	h.publish(t, "acme", "a.b", `{"kind":"profile","profiles":["me"]}`, `"for the one that waits"`)
	is.True(strings.Contains(<-second, "for the one that waits"))

	res, _ := s.call(t, "DELETE", "")
	is.Equal(res.StatusCode, http.StatusAccepted)
	polls.Wait()
	status, text = poll(s)
	is.Equal(status, http.StatusNotFound)
	is.True(strings.Contains(text, "has ended")) // and is not opened again
	eventually(t, func() bool {
		status, _ := s.says(t, `{"type":1,"target":"Touch","arguments":[]}`)
		return status == http.StatusNotFound
	})
	for _, node := range h.nodes {
		is.Equal(len(node.streams.Connections("acme", nil)), 0)
	}

	again := h.negotiate(t, asMe)
	poll(again)
	poll(again)
	var c *delivery.Connection
	for _, node := range h.nodes {
		for _, c = range node.streams.Connections("acme", nil) {
			node.streams.Kick(c, delivery.CloseKicked)
		}
	}
	status, text = poll(again)
	is.Equal(status, http.StatusOK)
	is.True(strings.Contains(text, `"target":"hub.closing","arguments":[{"reason":"kicked"`))
	is.True(strings.HasSuffix(text, `{"type":7,"error":"kicked"}`+"\x1e"))
	status, _ = poll(again)
	is.Equal(status, http.StatusNoContent)
}

// A hub that takes nobody says so, in a way that the client comes back from.
func TestSignalRTurnedAway(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h := newTestHub(t, func(c *HubConfig, _ *PresenceConfig) { c.Most.All = 1 })
	for _, node := range h.nodes {
		node.mustConnect(t, delivery.Subscription{Encoding: signalr.Encoding{}, Tenant: "acme", Profile: event.Profile{Type: "user", ID: "first"}})
	}
	told := h.negotiate(t, asMe).stream(t).until(t, `"type":7`)
	is.Equal(len(told), 3)
	is.Equal(told[0], "{}")
	is.True(strings.Contains(told[1], `"reason":"capacity"`))
	is.Equal(told[2], `{"type":7,"allowReconnect":true}`)

	res, text := h.negotiate(t, asMe).call(t, "GET", "")
	is.Equal(res.StatusCode, http.StatusServiceUnavailable)
	is.True(strings.Contains(text, `"code":"HubFull"`))
	is.True(res.Header.Get("Retry-After") != "")
}

// Who polls and has no room left for it is turned away like any stream, which is counted.
func TestSignalRPollWithoutRoom(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h := newTestHub(t, func(c *HubConfig, _ *PresenceConfig) { c.Quotas = allowance.New(plan.Memory{State: 64 << 10}) }).nodes[0]
	s := h.negotiate(t, asMe)
	before := h.Stats().Refused[delivery.CloseCapacity]
	res, text := s.call(t, "GET", "")
	is.Equal(res.StatusCode, http.StatusServiceUnavailable)
	is.True(res.Header.Get("Retry-After") != "")
	t.Log(text)
	is.Equal(h.Stats().Refused[delivery.CloseCapacity], before+1)
}

// Who gives up a first poll that waits to be opened pays for none.
func TestSignalRPollThatIsGivenUp(t *testing.T) {
	alone(t, "it stops one hub's log")
	t.Parallel()
	is := is.New(t)
	log := &stuckLog{history.NewMemory(testLimits), make(chan struct{})}
	h := newTestHub(t, func(c *HubConfig, _ *PresenceConfig) { c.Log = log })
	s := h.negotiate(t, asMe)
	me := event.TenantProfile{Tenant: "acme", Profile: event.Profile{Type: "user", ID: "me"}}
	before, tenant := h.quotas.Person.Of(me), h.quotas.State.Of("acme")
	ctx, giveUp := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL+"/signalr?"+s.query, nil)
	is.NoErr(err)
	answered := make(chan error, 1)
	go func() {
		_, err := h.client.Do(r)
		answered <- err
	}()
	eventually(t, func() bool { return h.quotas.Person.Of(me) > before })
	giveUp()
	is.True(errors.Is(<-answered, context.Canceled))
	eventually(t, func() bool { return h.quotas.Person.Of(me) == before && h.quotas.State.Of("acme") == tenant })
	close(log.let)
}

// Events of any JSON are one record each.
func TestSignalRPayloads(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h := newTestHub(t)
	s := h.negotiate(t, asMe)
	stream := s.stream(t)
	stream.until(t, "hub.ready")
	for _, payload := range []string{"{\n\"a\" :\r\n [1,\t2]\n}", `"\u001e"`, `"\u2028 \n"`} {
		h.publish(t, "acme", "a.b", `{"kind":"profile","profiles":["me"]}`, payload)
		record := stream.until(t, `"a.b"`)
		var m struct{ Arguments []json.RawMessage }
		is.NoErr(json.Unmarshal([]byte(record[len(record)-1]), &m))
		var envelope struct{ Payload any }
		is.NoErr(json.Unmarshal(m.Arguments[0], &envelope))
		var want any
		is.NoErr(json.Unmarshal([]byte(payload), &want))
		is.Equal(envelope.Payload, want)
	}
}

// A session that has begun at a hub is over once that one does not hold it any more, at all others too and
// while its token could open one: it would begin again where it began, and what it has told would come
// twice, or be lost.
func TestSignalRPollsDoNotBeginAgain(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h, nodes := threeHubs(t)
	s := h.negotiate(t, asMe)
	call := func(method string, node *testHub) (status int) {
		t.Helper()
		eventually(t, func() bool { // a hub that is slow is asked again
			res, text := (&session{node, s.query, nil}).call(t, method, "")
			status = res.StatusCode
			return !strings.Contains(text, `"code":"HubUnavailable"`)
		})
		return status
	}
	is.Equal(call("GET", nodes[0]), http.StatusOK)
	is.Equal(call("GET", nodes[0]), http.StatusOK)
	is.Equal(call("DELETE", nodes[0]), http.StatusAccepted)
	for _, node := range nodes {
		is.Equal(call("GET", node), http.StatusNotFound)
		is.Equal(len(node.streams.Connections("acme", nil)), 0)
	}
}

// A hub that has started behind the negotiation does not know whether a session has begun.
func TestSignalRPollsOfAHubBefore(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h := newTestHub(t)
	token := signalRKeys.Sign(signalr.Pass{Session: uuid.New(), Tenant: "acme", Profile: event.Profile{Type: "user", ID: "me"}, Opens: time.Now().Add(10 * time.Second)})
	res, text := (&session{h, asMe + "&id=" + token, nil}).call(t, "GET", "")
	is.Equal(res.StatusCode, http.StatusNotFound)
	is.True(strings.Contains(text, "has ended"))
}

// leftWriter is an answer whose client has left.
type leftWriter struct {
	*httptest.ResponseRecorder
	statuses int
}

func (w *leftWriter) WriteHeader(status int) {
	w.statuses++
	w.ResponseRecorder.WriteHeader(status)
}
func (*leftWriter) FlushError() error { return net.ErrClosed }

// A client that leaves before its answer is no failure of the hub: nothing is logged, and no second answer
// begun.
func TestSignalRClientThatLeaves(t *testing.T) {
	alone(t, "it reads one hub's log")
	is := is.New(t)
	var log syncBuffer
	h := newTestHub(t)
	h.API.cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	s := h.negotiate(t, asMe)
	for _, tc := range []struct{ method, body string }{{"GET", ""}, {"POST", touchRecord + "\x1e"}, {"DELETE", ""}} {
		r := httptest.NewRequest(tc.method, "/signalr?"+s.query, strings.NewReader(tc.body))
		r.Host = "localhost"
		w := &leftWriter{ResponseRecorder: httptest.NewRecorder()}
		h.API.Handler().ServeHTTP(w, r)
		is.Equal(w.statuses, 1)
	}
	is.Equal(log.String(), "")
}

// What the answer to a poll has is counted until it is read, however many answers one leaves unread; who has
// no memory left for one comes back from its cursor.
func TestSignalRAnswersUnderWayAreBounded(t *testing.T) {
	alone(t, "it looks at one hub's memory")
	is := is.New(t)
	h := newTestHub(t)
	s := h.negotiate(t, asMe)
	var over sync.WaitGroup
	poll := func(w http.ResponseWriter) {
		r := httptest.NewRequest("GET", "/signalr?"+s.query, nil)
		r.Host, r.RemoteAddr = "localhost", "192.0.2.7:1"
		h.Handler.ServeHTTP(w, r)
	}
	poll(httptest.NewRecorder())
	poll(httptest.NewRecorder()) // has hub.ready
	is.Equal(h.quotas.Answers.Total(), int64(0))
	const size = 50 << 10
	var unread []*heldWriter
	for n := range 3 {
		h.publish(t, "acme", "a.b", `{"kind":"profile","profiles":["me"]}`, `"`+strings.Repeat("x", size)+`"`)
		w := newHeldWriter()
		unread = append(unread, w)
		over.Go(func() { poll(w) })
		<-w.writes
		is.True(h.quotas.Answers.Total() >= int64(n+1)*size)
	}
	memory := h.quotas.Answer(event.TenantProfile{Tenant: "192.0.2.7"}) // who is charged in open mode
	for n := 1 << 24; n > 0; n /= 2 {
		for memory.Use(n) {
		}
	}
	h.publish(t, "acme", "a.b", `{"kind":"profile","profiles":["me"]}`, `"`+strings.Repeat("x", size)+`"`)
	w := httptest.NewRecorder()
	poll(w)
	is.Equal(w.Code, http.StatusServiceUnavailable)
	is.True(strings.Contains(w.Body.String(), `"code":"AnswersBusy"`))
	memory.Close()
	for _, w := range unread {
		close(w.reads)
	}
	over.Wait()
	is.Equal(h.quotas.Answers.Total(), int64(0))
	w = httptest.NewRecorder()
	poll(w)
	is.Equal(w.Code, http.StatusNotFound) // what it was not told would be lost
}
