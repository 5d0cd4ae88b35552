package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/outbox"
	"realtimehub/internal/plan"
	"realtimehub/internal/settings"
)

// tell puts n items of a tenant into a hub's outbox at once, each with so much text.
func tell(t testing.TB, h *testHub, tenant string, n, bytes int) {
	t.Helper()
	drafts := make([]outbox.Draft, n)
	for i := range drafts {
		data := fmt.Sprintf(`{"profile":{"type":"user","id":"%d"},"status":"online","since":"2026-11-24T02:39:02.296Z","text":%q}`, i, strings.Repeat("x", bytes))
		drafts[i] = outbox.Draft{Type: outbox.TypePresence, At: time.Now(), Data: json.RawMessage(data)}
	}
	if err := h.outbox.Put(t.Context(), tenant, "", drafts); err != nil {
		t.Fatal(err)
	}
}

// outboxPage is an answer of GET …/outbox.
type outboxPage struct {
	Items []json.RawMessage
	Next  uint64
	Gap   bool
}

func readOutbox(t testing.TB, h *testHub, query string) (page outboxPage) {
	t.Helper()
	w := ask(h.Handler, "GET", "/v1/tenants/acme/outbox"+query, "")
	if w.Code != http.StatusOK {
		t.Fatal(w.Code, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil {
		t.Fatal(err)
	}
	return page
}

// A service reads its tenant's items, from where it was on, however large they are.
func TestOutboxIsRead(t *testing.T) {
	alone(t, "each hub has an outbox in memory")
	is := is.New(t)
	h := newTestHub(t)
	is.Equal(readOutbox(t, h, ""), outboxPage{Items: []json.RawMessage{}})
	tell(t, h, "acme", 250, 2000)
	tell(t, h, "other", 5, 0)
	whole := readOutbox(t, h, "?limit=1000") // of many pieces
	is.Equal(len(whole.Items), 250)
	is.True(!whole.Gap)
	var all []json.RawMessage
	page := readOutbox(t, h, "")
	for pages := 1; len(page.Items) > 0; pages++ {
		is.True(pages <= 3)
		is.True(!page.Gap)
		all = append(all, page.Items...)
		page = readOutbox(t, h, fmt.Sprint("?after=", page.Next))
	}
	is.Equal(all, whole.Items)
	is.Equal(page.Next, whole.Next) // where it is in step
	var first struct {
		Type, Timestamp string
		Data            struct {
			TenantID string
			Seq      uint64
			N        int
		}
	}
	is.NoErr(json.Unmarshal(whole.Items[0], &first))
	is.Equal(first.Type, "presence.changed")
	is.Equal(first.Data.TenantID, "acme")
	is.Equal(first.Data.Seq, whole.Next-249)
	before := readOutbox(t, h, fmt.Sprint("?limit=1&after=", first.Data.Seq-2)) // of a life before
	is.True(before.Gap)
	is.Equal(before.Items, whole.Items[:1])
	for _, query := range []string{"?after=-1", "?after=soon", "?after=1.0", "?after=9007199254740992", "?limit=0", "?limit=1001"} {
		w := ask(h.Handler, "GET", "/v1/tenants/acme/outbox"+query, "")
		is.Equal(w.Code, http.StatusBadRequest)
		name, _, _ := strings.Cut(query[1:], "=")
		is.True(strings.Contains(w.Body.String(), `"field":"`+name+`"`))
	}
}

// hookCall is what a webhook was sent over HTTP.
type hookCall struct {
	path   string
	header http.Header
	body   string
}

// What a hub sends by HTTP is what it would answer; and it follows nobody elsewhere.
func TestWebhookOfAHub(t *testing.T) {
	alone(t, "each hub has an outbox in memory")
	is := is.New(t)
	h := newTestHub(t)
	calls := make(chan hookCall, 100)
	answers := make(chan int, 100)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		calls <- hookCall{r.URL.String(), r.Header, string(body)}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(<-answers)
		io.WriteString(w, strings.Repeat("who reads that? ", 1<<16))
	}))
	defer server.Close()
	cfg, err := settings.Load([]string{"REALTIME_WEBHOOK_URL=" + server.URL + "/hooks?of={tenant}", "REALTIME_WEBHOOK_SECRET=whsec_QUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJD"})
	is.NoErr(err)
	end := h.Tell(t.Context(), cfg)
	defer end()
	handler := h.API.Handler()
	answers <- http.StatusFound
	answers <- http.StatusOK
	moves(t, handler, map[string]float64{
		`webhook_answers_total{answer="3xx"}`: 1, `webhook_answers_total{answer="2xx"}`: 1, "webhook_retries_total": 1,
		`webhook_items_total{fate="taken"}`: 3, "outbox_items": 3,
	}, func() {
		tell(t, h, "acme", 3, 0)
		first, second := <-calls, <-calls
		is.Equal(first.path, "/hooks?of=acme")
		is.Equal(second.path, first.path) // and not elsewhere
		is.Equal(second.body, first.body)
		is.Equal(second.header.Get("webhook-id"), first.header.Get("webhook-id"))
		is.True(strings.HasPrefix(second.header.Get("webhook-signature"), "v1,"))
		var sent struct {
			Type string
			Data struct{ Items []json.RawMessage }
		}
		is.NoErr(json.Unmarshal([]byte(second.body), &sent))
		is.Equal(sent.Type, "batch")
		is.Equal(sent.Data.Items, readOutbox(t, h, "").Items)
		documented(t, second)
	})
	answers <- http.StatusGone
	moves(t, handler, map[string]float64{`webhook_answers_total{answer="4xx"}`: 1, "webhook_stopped": 1, "outbox_items": 1, "outbox_untaken_items": 1}, func() {
		tell(t, h, "acme", 1, 0)
		<-calls
	})
	is.Equal(len(calls), 0)
}

// documented holds a call of the webhook against the document.
func documented(t *testing.T, call hookCall) {
	t.Helper()
	is := is.New(t)
	batch := readDocument(t).Webhooks["batch"].Post
	var body any
	is.NoErr(json.Unmarshal([]byte(call.body), &body))
	is.NoErr(batch.RequestBody.Value.Content["application/json"].Schema.Value.VisitJSON(body))
	is.Equal(len(batch.Parameters), 3)
	for _, p := range batch.Parameters {
		is.NoErr(p.Value.Schema.Value.VisitJSON(call.header.Get(p.Value.Name)))
	}
}

// What goes for want of room is counted, and told of in the log.
func TestAnOutboxThatIsFull(t *testing.T) {
	alone(t, "each hub has an outbox in memory")
	is := is.New(t)
	var logs syncBuffer
	h := newTestHub(t, func(hub *HubConfig, _ *PresenceConfig) { hub.Logger = slog.New(slog.NewTextHandler(&logs, nil)) })
	limit := h.outbox.Stats().Limit
	is.Equal(limit, plan.Of(1<<30).State/8) // as newNode has it, of which ids have a part
	data := json.RawMessage(`{"text":"` + strings.Repeat("x", 1<<20) + `"}`)
	for range limit>>20 + 5 {
		is.NoErr(h.outbox.Put(t.Context(), "acme", "", []outbox.Draft{{Type: outbox.TypePresence, Data: data}}))
	}
	cut := h.outbox.Stats().Cut
	is.True(cut >= 5)
	is.True(h.outbox.Stats().Bytes <= limit)
	is.Equal(h.quotas.State.Of("acme"), h.outbox.Stats().Bytes) // which is its share
	h.Sweep(time.Now())
	h.Sweep(time.Now())
	is.Equal(strings.Count(logs.String(), fmt.Sprint("before their time\" items=", cut)), 1)
	is.Equal(scrape(t, h.API.Handler())["realtime_outbox_cut_total"], float64(cut))
}
