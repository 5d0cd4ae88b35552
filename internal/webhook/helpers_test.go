package webhook

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"realtimehub/internal/outbox"
	"realtimehub/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m, nil) }

const testSecret = "whsec_QUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJD"

// reply is how a service answers a call.
type reply struct {
	status int
	header http.Header
	after  time.Duration // it takes
	err    error
}

// message is what a service was sent.
type message struct {
	at                       time.Time
	url                      string
	header                   http.Header
	id, timestamp, signature string
	body                     []byte
	seqs                     []uint64
	tenant                   string
}

// service is an endpoint. It answers as it is told to, and remembers what it was sent.
type service struct {
	mu       sync.Mutex
	answer   func(m message, nth int) reply // nil: 204
	got      []message
	underWay map[string]int
	most     int // that was under way for a tenant
	together int // that was under way for all
}

// RoundTrip implements http.RoundTripper.
func (s *service) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	m := message{
		at: time.Now(), url: r.URL.String(), header: r.Header, body: body,
		id: r.Header.Get("webhook-id"), timestamp: r.Header.Get("webhook-timestamp"), signature: r.Header.Get("webhook-signature"),
	}
	var said struct {
		Data struct {
			Items []struct {
				Data struct {
					TenantID string
					Seq      uint64
				}
			}
		}
	}
	if err := json.Unmarshal(body, &said); err != nil {
		return nil, err
	}
	for _, item := range said.Data.Items {
		m.tenant, m.seqs = item.Data.TenantID, append(m.seqs, item.Data.Seq)
	}
	reply := s.take(m)
	defer s.leave(m.tenant)
	select {
	case <-time.After(reply.after):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if reply.err != nil {
		return nil, reply.err
	}
	return &http.Response{StatusCode: reply.status, Header: reply.header, Body: http.NoBody, Request: r}, nil
}

func (s *service) take(m message) reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, m)
	if s.underWay == nil {
		s.underWay = map[string]int{}
	}
	s.underWay[m.tenant]++
	s.most = max(s.most, s.underWay[m.tenant])
	all := 0
	for _, n := range s.underWay {
		all += n
	}
	s.together = max(s.together, all)
	if s.answer == nil {
		return reply{status: http.StatusNoContent}
	}
	return s.answer(m, len(s.got))
}

func (s *service) leave(tenant string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.underWay[tenant]--
}

// sent are the messages since the last call.
func (s *service) sent() []message {
	s.mu.Lock()
	defer s.mu.Unlock()
	got := s.got
	s.got = nil
	return got
}

// answers has the service answer in another way.
func (s *service) answers(answer func(message, int) reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// crowd is how many calls were under way at most, for one tenant and for all.
func (s *service) crowd() (one, all int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most, s.together
}

// always answers each call alike.
func always(status int, header ...string) func(message, int) reply {
	h := http.Header{}
	for i := 0; i+1 < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return func(message, int) reply { return reply{status: status, header: h} }
}

// stage is a sender with what it sends, where.
type stage struct {
	*Sender
	box     *outbox.Memory
	service *service
	logs    *testkit.Buffer
	end     func()
}

// stand starts a sender in a bubble, with a box of its own if box is nil.
func stand(t *testing.T, url string, service *service, box outbox.Box) *stage {
	t.Helper()
	endpoint, err := ParseEndpoint(url)
	if err != nil {
		t.Fatal(err)
	}
	secrets, err := ParseSecrets([]string{testSecret})
	if err != nil {
		t.Fatal(err)
	}
	memory := outbox.NewMemory(outbox.MemoryConfig{})
	if box == nil {
		box = memory
	}
	s := &stage{box: memory, service: service, logs: &testkit.Buffer{}}
	s.Sender = New(Config{Box: box, Endpoint: endpoint, Secrets: secrets, Transport: service, Logger: slog.New(slog.NewTextHandler(s.logs, nil))})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	s.end = func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(s.end)
	return s
}

// put puts n items of a tenant.
func (s *stage) put(t *testing.T, tenant string, n int) {
	t.Helper()
	var drafts []outbox.Draft
	for range n {
		drafts = append(drafts, outbox.Draft{Type: outbox.TypePresence, At: time.Now(), Data: json.RawMessage(`{"profile":"user:1"}`)})
	}
	if err := s.box.Put(t.Context(), tenant, "", drafts); err != nil {
		t.Fatal(err)
	}
}

// kept are the items of a tenant, as a service pulls them.
func (s *stage) kept(t *testing.T, tenant string) (items []string, seqs []uint64) {
	t.Helper()
	page, err := s.box.Read(t.Context(), tenant, outbox.Query{Limit: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range page.Items {
		items, seqs = append(items, string(item.AppendJSON(nil))), append(seqs, item.Seq)
	}
	return items, seqs
}

// pushed are the items that were sent of a tenant, once each, as they came first.
func pushed(t *testing.T, tenant string, messages []message) (items []string) {
	t.Helper()
	seen := uint64(0)
	for _, m := range messages {
		if m.tenant != tenant {
			continue
		}
		var body struct {
			Data struct{ Items []json.RawMessage }
		}
		if err := json.Unmarshal(m.body, &body); err != nil {
			t.Fatal(err)
		}
		for i, seq := range m.seqs {
			if seq > seen {
				items, seen = append(items, string(body.Data.Items[i])), seq
			}
		}
	}
	return items
}

func (s *stage) says(text string) bool { return strings.Contains(s.logs.String(), text) }
