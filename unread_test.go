package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/allowance"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/plan"
	"realtimehub/internal/quota"
	"realtimehub/internal/serve"
	"realtimehub/internal/sse"
)

// heldWriter is an answer whose client reads when it is told to.
type heldWriter struct {
	header http.Header
	status int
	body   bytes.Buffer
	most   int           // bytes at a time
	writes chan struct{} // one each time that something waits to be read
	reads  chan struct{} // closed when all is
}

func newHeldWriter() *heldWriter {
	return &heldWriter{header: http.Header{}, writes: make(chan struct{}, 1), reads: make(chan struct{})}
}

func (w *heldWriter) Header() http.Header { return w.header }
func (w *heldWriter) WriteHeader(n int)   { w.status = n }
func (w *heldWriter) Flush()              {}
func (w *heldWriter) Write(b []byte) (int, error) {
	select {
	case w.writes <- struct{}{}:
	default:
	}
	<-w.reads
	w.most = max(w.most, len(b))
	return w.body.Write(b)
}

// fillHistory has a tenant's history hold so many events of so many bytes.
func fillHistory(t testing.TB, h *Hub, events, size int) {
	t.Helper()
	for range events {
		e := &event.Event{TenantID: "acme", Type: "a.b", Payload: []byte(`"` + strings.Repeat("x", size) + `"`), Target: event.ToTenant()}
		if _, err := h.Publish(t.Context(), []*event.Event{e}); err != nil {
			t.Fatal(err)
		}
	}
}

// However many items an answer has, a piece of them is in memory while it waits to be
// read; and what is read in the end is all.
func TestALongAnswerIsNeverThereAsAWhole(t *testing.T) {
	alone(t, "it looks at one hub's memory")
	h := newTestHub(t)
	fillHistory(t, h.Hub, 1000, 10_000)
	var members []event.Profile
	for i := range 1000 {
		p := event.Profile{Type: "user", ID: fmt.Sprintf("%04d%s", i, strings.Repeat("n", 200))}
		members = append(members, p)
		c, err := h.streams.Connect(t.Context(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: p, Metadata: map[string]string{"about": strings.Repeat("m", 256)}})
		if err != nil {
			t.Fatal(err)
		}
		defer h.streams.Kick(c, delivery.CloseKicked)
	}
	if err := h.members.SetMembers(t.Context(), "acme", event.Room{Kind: event.KindGroup, ID: "g"}, members); err != nil {
		t.Fatal(err)
	}
	for target, name := range map[string]string{
		"events?limit=1000": "events", "connections?limit=1000": "connections", "presence": "profiles", "groups/g/members": "members", "groups/g/presence": "profiles",
	} {
		t.Run(target, func(t *testing.T) {
			is := is.New(t)
			r := httptest.NewRequest("GET", "/v1/tenants/acme/"+target, nil)
			r.Host = "localhost"
			w, over := newHeldWriter(), make(chan struct{})
			go func() {
				h.API.Handler().ServeHTTP(w, r)
				close(over)
			}()
			<-w.writes
			held := h.quotas.Answers.Total()
			is.True(held > 0)
			is.True(held <= 160<<10)
			close(w.reads)
			<-over
			is.Equal(w.status, 200)
			is.True(w.most <= 64<<10)
			is.Equal(h.quotas.Answers.Total(), int64(0))
			var answer map[string]any
			is.NoErr(json.Unmarshal(w.body.Bytes(), &answer))
			is.Equal(len(answer[name].([]any)), 1000)
			if name == "events" {
				page, _, err := h.History(t.Context(), "acme", answer["cursor"].(string), 10)
				is.NoErr(err)
				is.Equal(len(page.Entries), 0) // the cursor is behind the last
			}
		})
	}
}

// A history that is read in pieces has each event once, wherever a page ends.
func TestPagesOfAHistoryMeet(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	var want []string
	for i := range 300 {
		text := fmt.Sprintf(`"%d %s"`, i, strings.Repeat("x", i*97%5000))
		h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, text)
		want = append(want, text)
	}
	for _, limit := range []int{1, 7, 100, 299, 300, 301} {
		var got []string
		for after, more := "", true; more; {
			status, answer := h.do(t, "GET", fmt.Sprintf("/v1/tenants/acme/events?limit=%d&after=%s", limit, after), "")
			is.Equal(status, 200)
			events := answer["events"].([]any)
			is.True(len(events) <= limit)
			for _, e := range events {
				got = append(got, `"`+e.(map[string]any)["payload"].(string)+`"`)
			}
			after, more = answer["cursor"].(string), len(events) > 0
		}
		is.Equal(got, want)
	}
}

// Who does not read what it asked for has a minute for each piece; then the call ends,
// and what it took is there again.
func TestAnAnswerHasATimeToBeRead(t *testing.T) {
	eachTransport(t, func(t *testing.T, secure, http2 bool) {
		is := is.New(t)
		h := newSilentHub(t, secure, http2)
		defer h.end()
		h.quotas.Answers = quota.New[event.TenantProfile](1<<30, 1)
		fillHistory(t, h.Hub, 400, 20_000)
		res, err := h.client.Get(h.url + "/v1/tenants/acme/events?limit=1000")
		is.NoErr(err)
		defer res.Body.Close()
		synctest.Wait()
		is.True(h.quotas.Answers.Total() > 0)
		time.Sleep(serve.AnswerTime - time.Second)
		synctest.Wait()
		is.True(h.quotas.Answers.Total() > 0)
		time.Sleep(serve.RequestTimeout + 2*time.Second)
		synctest.Wait()
		is.Equal(h.quotas.Answers.Total(), int64(0))
		_, err = io.ReadAll(res.Body)
		is.True(err != nil) // it was cut, and its client knows
	})
}

// Who reads slowly, but does, gets all of it, however long that takes.
func TestASlowReaderGetsAll(t *testing.T) {
	eachTransport(t, func(t *testing.T, secure, http2 bool) {
		is := is.New(t)
		h := newSilentHub(t, secure, http2)
		defer h.end()
		fillHistory(t, h.Hub, 300, 5000)
		start := time.Now()
		res, err := h.client.Get(h.url + "/v1/tenants/acme/events?limit=1000")
		is.NoErr(err)
		defer res.Body.Close()
		var got bytes.Buffer
		for err == nil {
			_, err = io.CopyN(&got, res.Body, 20_000)
			time.Sleep(5 * time.Second)
		}
		is.Equal(err, io.EOF)
		is.True(time.Since(start) > 5*time.Minute)
		var answer map[string]any
		is.NoErr(json.Unmarshal(got.Bytes(), &answer))
		is.Equal(len(answer["events"].([]any)), 300)
	})
}

// Answers that one does not read are not the memory of others: it is refused more, and
// they are not.
func TestAnswersUnderWayAreBounded(t *testing.T) {
	is := is.New(t)
	auth := newAuth(t, access.Config{APIKeys: []string{"acme=a-key-of-acme's-own", "globex=a-key-of-globex's-own"}})
	h := newNode(t, auth, access.RatesConfig{}, nil, func(cfg *HubConfig, _ *PresenceConfig) {
		cfg.Quotas = allowance.New(plan.Memory{Calls: 8 << 20})
	})
	fillHistory(t, h.Hub, 100, 10_000)
	get := func(w http.ResponseWriter, tenant string) {
		r := httptest.NewRequest("GET", "/v1/tenants/"+tenant+"/events?limit=1000", nil)
		r.Header.Set("X-API-Key", "a-key-of-"+tenant+"'s-own")
		h.Handler.ServeHTTP(w, r)
	}
	var unread []*heldWriter
	ended := make(chan int)
	begin := func() bool {
		w, over := newHeldWriter(), make(chan struct{})
		go func() {
			get(w, "acme")
			close(over)
			ended <- w.status
		}()
		<-w.writes
		unread = append(unread, w)
		return w.status == 200
	}
	for len(unread) < 1000 && begin() {
	}
	refused := unread[len(unread)-1]
	is.Equal(refused.status, 503)
	is.Equal(refused.header.Get("Retry-After"), "1")
	is.True(h.quotas.Answers.Total() <= 2<<20)
	is.True(len(unread) >= 10) // two megabytes are enough for some
	w := httptest.NewRecorder()
	get(w, "globex")
	is.Equal(w.Code, 200)
	codes := map[int]int{}
	for _, w := range unread {
		close(w.reads)
	}
	for range unread {
		codes[<-ended]++
	}
	is.Equal(codes, map[int]int{200: len(unread) - 1, 503: 1})
	is.True(strings.Contains(refused.body.String(), `"code":"AnswersBusy"`))
	is.Equal(h.quotas.Answers.Total(), int64(0))
}

// Lines that have come are published together, so many; and so much an open body of lines takes.
const (
	maxTogether = 64
	linesBytes  = 96 << 10
)

// piecesBody comes in the pieces that it was sent in, and then no more until it ends.
type piecesBody struct {
	pieces  []string
	waiting chan struct{}
	end     chan struct{}
}

func (b *piecesBody) Read(p []byte) (int, error) {
	if len(b.pieces) == 0 {
		close(b.waiting)
		<-b.end
		return 0, io.EOF
	}
	n := copy(p, b.pieces[0])
	if b.pieces[0] = b.pieces[0][n:]; b.pieces[0] == "" {
		b.pieces = b.pieces[1:]
	}
	return n, nil
}

// A body of lines that is kept open takes what one line does, whatever it has brought.
func TestLinesThatAreKeptOpenTakeLittle(t *testing.T) {
	t.Parallel()
	if !byItself(t) {
		return
	}
	is := is.New(t)
	h := newNode(t, openDoor(t), access.RatesConfig{}, nil, func(cfg *HubConfig, _ *PresenceConfig) {
		limits := testLimits
		limits.Events = 1
		cfg.Log = history.NewMemory(limits)
	})
	handler := h.API.Handler()
	large := strings.Repeat(" ", 20_000) + "\n"
	var pieces []string
	for i := range maxTogether { // each place among those that come together has had a large one
		pieces = append(pieces, strings.Repeat("7\n", i)+strings.Replace(large, " ", "7", 1))
	}
	pieces = append(pieces, strings.Repeat(" ", 900_000)+"7\n")
	const bodies = 20
	var open []*piecesBody
	over := make(chan int)
	before := liveHeap()
	for range bodies {
		body := &piecesBody{append([]string{}, pieces...), make(chan struct{}), make(chan struct{})}
		open = append(open, body)
		r := httptest.NewRequest("POST", "/v1/events", body)
		r.Host = "localhost"
		r.Header.Set("Content-Type", "application/x-ndjson")
		go func() {
			w := &discarded{header: http.Header{}, status: http.StatusOK}
			handler.ServeHTTP(w, r)
			over <- w.status
		}()
		<-body.waiting
	}
	is.Equal(h.quotas.Bodies.Total(), int64(bodies*linesBytes))
	each := (liveHeap() - before) / bodies
	t.Log(each, "bytes a body")
	is.True(each <= 2*linesBytes)
	for _, body := range open {
		close(body.end)
		is.Equal(<-over, 200)
	}
	is.Equal(h.quotas.Bodies.Total()+h.quotas.Answers.Total(), int64(0))
}

// So many bodies of lines may one keep open, and then others still may.
func TestLinesThatAreKeptOpenAreBounded(t *testing.T) {
	is := is.New(t)
	auth := newAuth(t, access.Config{APIKeys: []string{"acme=a-key-of-acme's-own", "globex=a-key-of-globex's-own"}})
	h := newNode(t, auth, access.RatesConfig{}, nil, func(cfg *HubConfig, _ *PresenceConfig) {
		cfg.Quotas = allowance.New(plan.Memory{Calls: 4 << 20})
	})
	over := make(chan int)
	var open []*piecesBody
	begin := func(tenant string) (status int) {
		body := &piecesBody{nil, make(chan struct{}), make(chan struct{})}
		r := httptest.NewRequest("POST", "/v1/events", body)
		r.Header.Set("Content-Type", "application/x-ndjson")
		r.Header.Set("X-API-Key", "a-key-of-"+tenant+"'s-own")
		done := make(chan int, 1)
		go func() {
			w := &discarded{header: http.Header{}, status: http.StatusOK}
			h.API.Handler().ServeHTTP(w, r)
			done <- w.status
		}()
		select {
		case status = <-done:
			return status
		case <-body.waiting:
			open = append(open, body)
			go func() { over <- <-done }()
			return 200
		}
	}
	for len(open) < 1000 && begin("acme") == 200 {
	}
	is.Equal(len(open), 1<<20/linesBytes) // a half of the half that is for bodies
	is.Equal(begin("acme"), 503)
	is.Equal(begin("globex"), 200)
	for _, body := range open {
		close(body.end)
		is.Equal(<-over, 200)
	}
	is.Equal(h.quotas.Bodies.Total(), int64(0))
}
