package attack

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"realtimehub/internal/natstest"
	"realtimehub/internal/sse"
)

// attack is one way to harm a hub, or others by it.
type attack struct {
	// do is what the attacker does, in a process of its own.
	do func(*attacker)
	// settings are what the hub has besides credentials.
	settings func(*testing.T) []string
	// beside is done before the attack, in the tenant that does nothing or in others;
	// after it, after.
	beside   func(t *testing.T, s *scene) (after func())
	unproven bool   // its credential is to be refused
	broker   bool   // who publishes has to wait for a broker, which knows of no tenants
	wrong    bool   // what it sends is to be refused
	meets    string // an outcome without which it was no attack
}

// scene is who is there.
type scene struct {
	hub  *process
	well *bystander
}

// attacks are all that is known, by name.
var attacks = map[string]attack{
	"exclude_ids":       {do: excludeIDs, meets: "202"},
	"wrong_items":       {do: wrongItems, wrong: true, meets: "400 InvalidField"},
	"unread_pages":      {do: unreadPages, meets: "200"},
	"unread_files":      {do: unreadFiles, unproven: true, meets: "asked"},
	"ids":               {do: ids, settings: fewerIDs, beside: paidOnce, meets: "202"},
	"histories":         {do: largeHistory, beside: manySmall, meets: "202"},
	"histories_on_nats": {do: largeHistory, beside: fewSmall, settings: onNATS, broker: true, meets: "202"},
	"watch_lists":       {do: watchLists, meets: "204"},
	"metadata":          {do: metadata, meets: "stream"},
	"memberships":       {do: memberships, meets: "204"},
	"open_bodies":       {do: openBodies, meets: "body"},
	"unread_streams":    {do: unreadStreams, beside: slowReader, meets: "202"},
	"resets":            {do: resets, meets: "reset"},
	"polls":             {do: polls, meets: "200"},
	"junk_tokens":       {do: junkTokens, settings: manyKeys, unproven: true, meets: "401 InvalidCredential"},
}

// Sizes of what is sent: as much as a hub takes by default.
const (
	largeBody    = 1 << 20
	largePayload = 60_000
	mostExcluded = 1_000 // connections, that a target leaves out
)

// excludeIDs has events kept that exclude as many ids as one may: of no connection, and of
// what could be some.
func excludeIDs(a *attacker) {
	body := func(id string) []byte {
		list := make([]string, mostExcluded)
		for i := range list {
			list[i] = fmt.Sprintf(id, i)
		}
		text, _ := json.Marshal(list)
		return fmt.Appendf(nil, `{"tenantId":%q,"type":"load.test","payload":1,"target":{"kind":"tenant","exclude":{"connectionIds":%s}}}`, evil, text)
	}
	none, some := body("00000000-0000-0000-0000-%012x"), body("019a0000-0000-7000-8000-%012x")
	a.each(2_400, 600, 8, func(i int) {
		if i%8 == 0 {
			a.post("/v1/events", some)
		} else {
			a.post("/v1/events", none)
		}
	})
}

// wrongItems has lists refused of which each item is wrong: by a person's token, as long
// as any body and as long as a small one may be, and by a service's key.
func wrongItems(a *attacker) {
	const who, kind = "user:evil", "application/json"
	id, credential := a.stream(who, "presence=none"), token(evil, who)
	body := func(begin string, length int, end string) []byte {
		return []byte(begin + strings.Repeat("0,", length/2-100) + "0" + end)
	}
	types, few := body(`{"types":[`, largeBody, `]}`), body(`{"presence":[`, 60_000, `]}`)
	members := body(`{"members":[`, largeBody, `]}`)
	event := body(`{"tenantId":"acme","type":"load.test","payload":1,"target":{"kind":"profiles","profiles":[`, largeBody, `]}}`)
	events := body(`{"events":[`, largeBody, `]}`)
	a.each(120, 40, 24, func(i int) {
		switch i % 6 {
		case 0, 1:
			a.call("PATCH", "/v1/connections/"+id, credential, kind, types)
		case 2:
			a.call("PATCH", "/v1/connections/"+id, credential, kind, few)
		case 3:
			a.call("PUT", "/v1/tenants/"+evil+"/groups/1/members", keyEvil, kind, members)
		case 4:
			a.post("/v1/events", event)
		case 5:
			a.post("/v1/events/batch", events)
		}
	})
}

// unreadPages asks for all of a history, again and again, and reads nothing of it.
func unreadPages(a *attacker) {
	full := batch(evil, 16, largePayload, toAll)
	a.each(70, 200, 2, func(int) { a.post("/v1/events/batch", full) })
	question := head("GET", "/v1/tenants/"+evil+"/events?limit=1000", keyEvil, "", 0)
	a.each(150, 50, 50, func(int) {
		if conn := a.connect(); conn != nil && a.write(conn, "asked", question) {
			status := make([]byte, len("HTTP/1.1 200"))
			if n, _ := conn.Read(status); n == len(status) {
				a.count(string(status[len("HTTP/1.1 "):]), 1)
			}
		}
	})
}

// unreadFiles asks for files that anybody may have, and reads nothing of them.
func unreadFiles(a *attacker) {
	questions := strings.Repeat(head("GET", "/openapi.yaml", "", "", 0), 12)
	a.each(8_000, 2_000, 100, func(int) {
		if conn := a.connect(); conn != nil {
			a.write(conn, "asked", questions)
		}
	})
}

// ids publishes more than the hub remembers, of events for nobody.
func ids(a *attacker) {
	a.each(manyIDs*3/2/1000, 25, 4, func(i int) {
		a.post("/v1/events/batch", batch(evil, 1000, 4, func(k int) string {
			return fmt.Sprintf(`"id":"evil-%d","target":{"kind":"profile","profiles":["user:nobody"]}`, 1000*i+k)
		}))
	})
}

// manyIDs are remembered in all: a tenth of the default, for which an attack would last
// too long.
const manyIDs = 100_000

func fewerIDs(*testing.T) []string {
	return []string{fmt.Sprint("REALTIME_DEDUPE_IDS=", manyIDs)}
}

// paidOnce publishes an event that must not be delivered twice, and repeats it; and then another,
// which comes after whatever else does.
func paidOnce(t *testing.T, s *scene) func() {
	pay := func(n int) bool {
		duplicate, err := s.well.publish(t.Context(), fmt.Sprintf("order-%d-paid", n), paid, "user:0", n)
		if err != nil {
			t.Error(err)
		}
		return duplicate
	}
	pay(17)
	return func() {
		if !pay(17) {
			t.Error("an order was forgotten")
		}
		pay(18)
		if orders := s.well.ordersUntil(18); !slices.Equal(orders, []int{17, 18}) {
			t.Errorf("of the orders 17 and 18 came %v", orders)
		}
	}
}

// largeHistory publishes more than a tenant may keep.
func largeHistory(a *attacker) {
	full := batch(evil, 16, largePayload, toAll)
	a.each(100, 30, 2, func(int) { a.post("/v1/events/batch", full) })
}

// Small tenants, who with a large one have more than the hub keeps: of as much memory, and
// on a broker of the bytes of one tenant.
func manySmall(t *testing.T, s *scene) func() { return s.smallHistories(t, 3_800, 55_000) }
func fewSmall(t *testing.T, s *scene) func()  { return s.smallHistories(t, 500, 1_000) }

// smallHistories are of so many tenants with one event each, of so many bytes, which they
// have afterwards.
func (s *scene) smallHistories(t *testing.T, small, bytes int) (after func()) {
	tenant := func(i int) string { return fmt.Sprint("small-", i) }
	client := &http.Client{}
	filler := strings.Repeat("x", bytes)
	for at := 0; at < small; at += 16 {
		var events []map[string]any
		for i := at; i < min(at+16, small); i++ {
			events = append(events, map[string]any{
				"tenantId": tenant(i), "type": "load.test", "payload": filler, "target": map[string]string{"kind": "tenant"},
			})
		}
		body, _ := json.Marshal(map[string]any{"events": events})
		req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://"+s.hub.near()+"/v1/events/batch", strings.NewReader(string(body)))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-API-Key", keyAll)
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusAccepted {
			t.Fatalf("a batch of small tenants: %s", res.Status)
		}
	}
	return func() {
		var lost, asked atomic.Int64
		end := time.Now().Add(10 * time.Second)
		var wg sync.WaitGroup
		tenants := make(chan int)
		for range 4 {
			wg.Go(func() {
				for i := range tenants {
					for time.Now().Before(end) {
						body, err := ask(s.hub.near(), "/v1/tenants/"+tenant(i)+"/events?limit=1", keyAll)
						if err != nil && strings.Contains(err.Error(), "429") { // whoever asks so much has to wait
							time.Sleep(100 * time.Millisecond)
							continue
						}
						asked.Add(1)
						if err != nil || !strings.Contains(body, `"load.test"`) {
							lost.Add(1)
						}
						break
					}
				}
			})
		}
		for _, i := range mrand.Perm(small) {
			tenants <- i
		}
		close(tenants)
		wg.Wait()
		t.Logf("%d of %d small tenants were asked for", asked.Load(), small)
		if asked.Load() < 50 || lost.Load() > 0 {
			t.Errorf("%d of %d small tenants have lost their event", lost.Load(), asked.Load())
		}
	}
}

// onNATS has a broker keep the history.
func onNATS(t *testing.T) []string {
	return []string{"REALTIME_NATS_URL=" + natstest.StartProcesses(t, 1).URLs()}
}

// watchLists opens streams with the largest lists and filters that there are.
func watchLists(a *attacker) {
	list := func(length int) string {
		texts := make([]string, 200)
		for i := range texts {
			texts[i] = fmt.Sprintf(`"a%0*d"`, length-1, i)
		}
		return "[" + strings.Join(texts, ",") + "]"
	}
	bodies := []string{`{"presence":` + list(250) + `}`, `{"types":` + list(128) + `}`}
	a.each(4_000, 900, 16, func(i int) {
		who := fmt.Sprint("user:", i)
		if id := a.stream(who, "presence=none"); id != "" {
			for _, body := range bodies {
				a.call("PATCH", "/v1/connections/"+id, token(evil, who), "application/json", []byte(body))
			}
		}
	})
}

// metadata opens streams with as much of it as there may be.
func metadata(a *attacker) {
	var query strings.Builder
	for i := range 16 {
		fmt.Fprintf(&query, "&meta.%0256d=%0256d", i, i)
	}
	a.each(6_000, 1_500, 16, func(i int) { a.stream(fmt.Sprint("user:", i), "presence=none"+query.String()) })
}

// memberships names a hundred thousand members of each of many rooms.
func memberships(a *attacker) {
	var body strings.Builder
	body.WriteString(`{"members":["a:0"`)
	for i := 1; body.Len() < largeBody-20; i++ {
		body.WriteString(`,"a:` + strconv.FormatInt(int64(i), 36) + `"`)
	}
	body.WriteString("]}")
	a.each(100, 25, 4, func(i int) {
		a.call("PUT", fmt.Sprint("/v1/tenants/", evil, "/conversations/room-", i, "/members"), keyEvil, "application/json", []byte(body.String()))
	})
}

// openBodies sends the largest line, and most of another, of many bodies that do not end.
func openBodies(a *attacker) {
	line := strings.Repeat("x", largeBody-1_000)
	text := head("POST", "/v1/events", keyEvil, "application/x-ndjson", -1) + chunk(line+"\n") + chunk(line[1_000:])
	a.each(500, 125, 64, func(int) {
		if conn := a.connect(); conn != nil {
			a.write(conn, "body", text)
		}
	})
}

// unreadStreams opens streams that are not read, and has them owed as much as there may
// be in all, while none of them is owed as much as a stream may.
func unreadStreams(a *attacker) {
	const streams = 400
	a.each(streams, 400, 20, func(i int) { a.stream(fmt.Sprint("user:", i), "presence=none") })
	a.each(360, 90, 4, func(i int) {
		a.post("/v1/events/batch", batch(evil, 16, largePayload, func(k int) string {
			return fmt.Sprintf(`"target":{"kind":"profile","profiles":["user:%d"]}`, (16*i+k)%streams)
		}))
	})
}

// A slow reader's socket has room for so much, and half of that is taken now and then: of
// less, Linux ends a connection after 12 s as if nothing were taken (docs/limits.md).
const (
	slowRoom  = 64 << 10
	slowPause = 2 * time.Second
)

// slowReader is somebody who is owed nearly as much as a stream may be, 1 MiB, and takes
// little of it before the attack is over.
func slowReader(t *testing.T, s *scene) func() {
	const who, kind, events = "user:slow", "well.large", 17
	conn, err := dialer(slowRoom).DialContext(t.Context(), "tcp", s.hub.near())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprint(conn, head("GET", "/v1/stream?presence=none&types="+kind, token(well, who), "", 0))
	slow := &sipper{Conn: conn, quick: make(chan struct{})}
	res, err := http.ReadResponse(bufio.NewReader(slow), nil)
	if err != nil {
		t.Fatal(err)
	}
	reader := sse.NewReader(res.Body)
	if first, err := reader.Next(); err != nil || first.Type != "hub.ready" { // it gets what is published after this
		t.Fatal(err, first)
	}
	filler := strings.Repeat("x", largePayload)
	for i := range events {
		if _, err := s.well.publish(t.Context(), fmt.Sprint("large-", i), kind, who, filler); err != nil {
			t.Fatal(err)
		}
	}
	read := make(chan error, 1)
	go func() {
		for n := range events {
			event, err := reader.Next()
			if err == nil && !strings.HasPrefix(event.Data, fmt.Sprintf(`{"id":"large-%d",`, n)) {
				err = fmt.Errorf("%s %.100s", event.Type, event.Data)
			}
			if err != nil {
				read <- fmt.Errorf("after %d of %d events: %w", n, events, err)
				return
			}
		}
		read <- nil
	}()
	return func() {
		close(slow.quick)
		if err := <-read; err != nil {
			t.Errorf("the slow reader of the other tenant %v", err)
		}
	}
}

// sipper reads a little now and then, until it is to be quick.
type sipper struct {
	net.Conn
	quick chan struct{}
	taken int // since it paused
}

func (s *sipper) Read(p []byte) (int, error) {
	if s.taken >= slowRoom/2 {
		select {
		case <-s.quick:
		case <-time.After(slowPause):
			s.taken = 0
		}
	}
	s.SetReadDeadline(time.Now().Add(patience))
	n, err := s.Conn.Read(p)
	s.taken += n
	return n, err
}

// manyKeys are an identity provider's, of the kind that costs most to look at.
func manyKeys(t *testing.T) []string {
	var keys []map[string]string
	for i := range 8 {
		private, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		point, err := private.PublicKey.Bytes() // 4, x, y
		if err != nil {
			t.Fatal(err)
		}
		half := (len(point) - 1) / 2
		keys = append(keys, map[string]string{
			"kty": "EC", "crv": "P-521", "use": "sig", "alg": "ES512", "kid": fmt.Sprint("key-", i),
			"x": base64.RawURLEncoding.EncodeToString(point[1 : 1+half]), "y": base64.RawURLEncoding.EncodeToString(point[1+half:]),
		})
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(map[string]any{"keys": keys})
	}))
	t.Cleanup(server.Close)
	return []string{"REALTIME_JWKS_URL=" + server.URL}
}

// junkTokens comes with signatures that are none, of tokens that name a key and of some
// that name none.
func junkTokens(a *attacker) {
	encode := base64.RawURLEncoding.EncodeToString
	claims := encode(fmt.Appendf(nil, `{"tenant":%q,"sub":"user:evil","exp":%d}`, evil, time.Now().Add(time.Hour).Unix()))
	heads := []string{encode([]byte(`{"alg":"ES512"}`)), encode([]byte(`{"alg":"ES512","kid":"key-3"}`)), encode([]byte(`{"alg":"HS256"}`))}
	a.each(1_200, 300, 16, func(i int) {
		signature := make([]byte, 132)
		rand.Read(signature)
		signature[0], signature[66] = 0, 0 // else they are too large, which is seen at once
		junk := heads[i%len(heads)] + "." + claims + "." + encode(signature)
		a.call("GET", "/v1/presence?profile=user:1", junk, "", nil)
	})
}

// polls asks for the place now, again as soon as it is told.
func polls(a *attacker) {
	a.each(20_000, 1e9, 64, func(int) { a.call("GET", "/v1/poll?presence=none", token(evil, "user:evil"), "", nil) })
}
