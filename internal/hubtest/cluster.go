package hubtest

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"realtimehub/internal/natstest"
	"realtimehub/internal/sse"
	"realtimehub/internal/testkit"
)

// Shared are the settings of a hub that shares NATS servers with others, announces no
// presence, and sends its streams away at once when it ends.
func Shared(replicas int, prefix string, servers ...string) []string {
	return []string{
		"REALTIME_NATS_URL=" + strings.Join(servers, ","), fmt.Sprint("REALTIME_NATS_REPLICAS=", replicas), "REALTIME_NATS_PREFIX=" + prefix,
		"REALTIME_PRESENCE_AUDIENCE=none", "REALTIME_DRAIN=100ms",
		"GORACE=atexit_sleep_ms=10", // it would sleep for a second, each hub after the other
	}
}

// StartCluster starts n hubs that are one: spread over the servers of a broker, each of
// which keeps all events. Settings override those of Shared.
func StartCluster(t testing.TB, n int, b *natstest.Broker, settings ...string) (hubs []*Program) {
	t.Helper()
	for i := range n {
		server := b.URL(i % len(b.Servers))
		hubs = append(hubs, Start(t, append(Shared(len(b.Servers), "test", server), settings...)...))
	}
	return hubs
}

// Back opens a stream again, from a cursor.
func (h *Hub) Back(t testing.TB, cursor, query string) *Stream {
	t.Helper()
	return h.Open(t, query+"&cursor="+cursor)
}

// Replayed are the payloads of what a stream has been sent so far, and the hub's own
// events by their type.
func (h *Hub) Replayed(t testing.TB, s *Stream) string {
	t.Helper()
	h.Publish(t, "acme", MarkerType, fmt.Sprintf(`{"kind":"connection","connectionId":%q}`, s.ConnectionID), "0")
	var words []string
	for {
		event := s.Next(t)
		switch {
		case event.Type == MarkerType:
			return strings.Join(words, " ")
		case strings.HasPrefix(event.Type, "hub."):
			words = append(words, event.Type)
		default:
			words = append(words, string(OpenEnvelope(t, event).Payload))
		}
	}
}

// Listed are the ids of the connections that a path lists, all on one page.
func (h *Hub) Listed(t testing.TB, path string) (ids []string) {
	t.Helper()
	status, answer := h.Answered(t, "GET", path, "")
	list, _ := answer["connections"].([]any)
	if status != http.StatusOK || answer["count"] != float64(len(list)) {
		t.Fatalf("%s: %d %v", path, status, answer)
	}
	for _, c := range list {
		ids = append(ids, c.(map[string]any)["id"].(string))
	}
	return ids
}

// History are the events of a tenant that are kept, after a cursor if it is not empty,
// oldest first: limit at most, or all if it is 0. It asks again while the servers do not
// answer, or while it has asked too often.
func (h *Hub) History(t testing.TB, tenant, after string, limit int) (all []Envelope) {
	t.Helper()
	query := url.Values{"limit": {fmt.Sprint(cmp.Or(limit, 1000))}}
	for deadline := time.Now().Add(time.Minute); ; {
		if after != "" {
			query.Set("after", after)
		}
		status, answer := h.Do(t, "GET", "/v1/tenants/"+tenant+"/events?"+query.Encode(), "")
		if (status == http.StatusTooManyRequests || answer["code"] == "BrokerUnavailable") && time.Now().Before(deadline) {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		if status != http.StatusOK {
			t.Fatalf("history: %d %v", status, answer)
		}
		text, err := json.Marshal(answer["events"])
		if err != nil {
			t.Fatal(err)
		}
		var page []Envelope
		if err := json.Unmarshal(text, &page); err != nil {
			t.Fatal(err)
		}
		all = append(all, page...)
		if len(page) == 0 || limit > 0 {
			return all
		}
		after = answer["cursor"].(string)
	}
}

// Place is where a cursor stands in a tenant's history: so many events are before it.
func (h *Hub) Place(t testing.TB, tenant, cursor string) int {
	t.Helper()
	return len(h.History(t, tenant, "", 0)) - len(h.History(t, tenant, cursor, 0))
}

// Knows waits until a hub knows of so many connections of a tenant that are a target,
// wherever they are: as the contract has it within a second.
func (h *Hub) Knows(t testing.TB, tenant, target string, connections int) {
	t.Helper()
	probe := strings.TrimSuffix(EventJSON(tenant, "test.probe", target, "0"), "}") + `,"ephemeral":true}`
	testkit.Eventually(t, func() bool {
		status, answer := h.Post(t, "/v1/events", probe)
		return status == http.StatusAccepted && answer["connections"] == float64(connections)
	})
}

// IsReady says what /readyz says.
func (h *Hub) IsReady(t testing.TB) bool {
	t.Helper()
	status, _ := h.Do(t, "GET", "/readyz", "")
	return status == http.StatusOK
}

// Becomes waits until /readyz says so, and says how long that took.
func (h *Hub) Becomes(t testing.TB, ready bool) time.Duration {
	t.Helper()
	start := time.Now()
	testkit.Eventually(t, func() bool { return h.IsReady(t) == ready })
	return time.Since(start)
}

// varies is of what no test can foresee: how long something took, how large it is, and
// connections that ask for the metrics.
var varies = regexp.MustCompile(`^(go|process|promhttp)_|_seconds_(sum|bucket)|_(queue|history|history_memory|quota)_bytes|replay_events_bucket|_memory_used_bytes|_unproven_open`)

// Moves checks that what happens moves these metrics of a hub, without their prefix, and
// none else.
func (h *Hub) Moves(t testing.TB, want map[string]float64, happens func()) {
	t.Helper()
	before := h.Scrape(t)
	happens()
	var got map[string]float64
	if !testkit.Comes(func() bool {
		got = map[string]float64{}
		for name, value := range h.Scrape(t) {
			if value != before[name] && !varies.MatchString(name) {
				got[strings.TrimPrefix(name, "realtime_")] = value - before[name]
			}
		}
		return maps.Equal(got, want)
	}) {
		t.Errorf("moved %v\nwant  %v", got, want)
	}
}

// CutClient is a stock client of the tenant acme, on a bare socket so that it can be cut
// at any byte: it comes back at once, with the id of the last event that it saw whole. It
// reads numbers, as events of the type a.b.
type CutClient struct {
	Addr, Profile string
	Next          string        // where to go when the hub ends the stream
	AnyOf         []string      // instead of Addr: one of them each time, which may be down
	Patience      time.Duration // how long it may hear nothing; 0: 30 s

	// To be read when Run is over.
	Connects int
	Resumes  map[string]int
	Got      []int
	Cursors  []string // of Got
	Fault    error

	reader *sse.Reader

	mu sync.Mutex
	// Guarded by mu.
	conn  net.Conn
	cuts  int  // to come while there was no connection
	heard bool // hub.ready, since it was cut
	over  bool // Run is
}

// Ready says whether it has heard hub.ready since it was cut, or is over.
func (c *CutClient) Ready() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.heard || c.over
}

// hears notes that hub.ready came by a connection, which may have been cut meanwhile.
func (c *CutClient) hears(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = c.conn == conn
}

func (c *CutClient) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
}

// Cut ends the connection, as a network does or as a crash.
func (c *CutClient) Cut(reset bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = false
	if c.conn == nil {
		c.cuts++
		return
	}
	if reset {
		c.conn.(*net.TCPConn).SetLinger(0)
	}
	c.conn.Close()
	c.conn = nil
}

func (c *CutClient) dial() (conn net.Conn, err error) {
	if len(c.AnyOf) == 0 {
		return net.Dial("tcp", c.Addr)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if conn, err = net.Dial("tcp", c.AnyOf[rand.IntN(len(c.AnyOf))]); err == nil || time.Now().After(deadline) {
			return conn, err
		}
	}
}

func (c *CutClient) connect() (net.Conn, error) {
	conn, err := c.dial()
	if err != nil {
		return nil, err
	}
	resume := ""
	if id := c.reader.LastEventID(); id != "" {
		resume = "Last-Event-ID: " + id + "\r\n"
	}
	fmt.Fprintf(conn, "GET /v1/stream?tenant=acme&profile=%s HTTP/1.1\r\nHost: localhost\r\n%s\r\n", c.Profile, resume)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn = conn; c.cuts > 0 {
		c.cuts--
		c.conn = nil
		conn.Close()
	}
	return conn, nil
}

// Run reads until the event "end", or until something is wrong. It tells ready of its
// first stream.
func (c *CutClient) Run(ready *sync.WaitGroup) {
	defer c.end()
	c.Resumes = map[string]int{}
	c.reader = sse.NewReader(nil)
	for {
		conn, err := c.connect()
		if err != nil {
			c.Fault = err
			return
		}
		again := c.read(conn, ready)
		conn.Close()
		if !again {
			return
		}
	}
}

// read reads one connection, and says whether it was cut.
func (c *CutClient) read(conn net.Conn, ready *sync.WaitGroup) (again bool) {
	conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return true
	}
	if res.StatusCode != http.StatusOK {
		c.Fault = fmt.Errorf("a stream is answered %s", res.Status)
		return false
	}
	c.reader.Reset(res.Body)
	for {
		conn.SetReadDeadline(time.Now().Add(cmp.Or(c.Patience, 30*time.Second)))
		event, err := c.reader.Next()
		var timeout net.Error
		switch {
		case errors.As(err, &timeout) && timeout.Timeout():
			c.Fault = err
			return false
		case err != nil:
			return true
		case event.Type == "hub.ready":
			var data struct{ Resume string }
			json.Unmarshal([]byte(event.Data), &data)
			c.Resumes[data.Resume]++
			c.hears(conn)
			if c.Connects++; c.Connects == 1 {
				ready.Done()
			}
		case event.Type == "end":
			return false
		case event.Type == "hub.closing" && c.Next != "":
			c.Addr = c.Next
			return true
		case event.Type == "hub.closing" && len(c.AnyOf) > 0:
			return true
		case event.Type != "a.b":
			c.Fault = fmt.Errorf("%+v", event)
			return false
		default:
			var e struct{ Payload int }
			json.Unmarshal([]byte(event.Data), &e)
			c.Got = append(c.Got, e.Payload)
			c.Cursors = append(c.Cursors, event.ID)
		}
	}
}
