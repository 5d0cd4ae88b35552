package delivery

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/allowance"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/room"
	"realtimehub/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m, nil) }

// testLimits are the program's defaults.
var testLimits = history.Limits{Events: 10_000, Bytes: 64 << 20, TTL: 24 * time.Hour, Total: 1 << 30, Window: 2 * time.Minute, IDs: 1_000_000}

// rig is delivery on a log, without the hub around it, until the test ends.
type rig struct {
	Parts
	log history.Log
}

// newRig makes one that keeps its history in memory and is written by its handlers, unless
// it is configured otherwise.
func newRig(t testing.TB, configure ...func(*Config)) *rig {
	t.Helper()
	cfg := Config{
		Retry: 2 * time.Second, Heartbeat: 15 * time.Second, StreamBuffer: 1 << 20, Plain: true,
		Log: history.NewMemory(testLimits), Resolver: room.Own{}, Quotas: &allowance.Pools{}, Logger: slog.New(slog.DiscardHandler),
	}
	for _, c := range configure {
		c(&cfg)
	}
	r := &rig{New(cfg), cfg.Log}
	r.Streams.Observe(nobody{})
	t.Cleanup(func() {
		over, cancel := context.WithCancel(context.Background())
		cancel()
		r.Streams.Engine().Close(over)
	})
	return r
}

// keeping has the log keep so many events.
func keeping(events int) func(*Config) {
	return func(cfg *Config) {
		limits := testLimits
		limits.Events = events
		cfg.Log = history.NewMemory(limits)
	}
}

// nobody observes.
type nobody struct{}

func (nobody) Connected(*Connection)    {}
func (nobody) Again(*Connection)        {}
func (nobody) Disconnected(*Connection) {}

func user(id string) event.Profile { return event.Profile{Type: "user", ID: id} }

// connect opens a stream, which nobody serves: what it is sent, it owes.
func (r *rig) connect(t testing.TB, s Subscription) *Connection {
	t.Helper()
	c, err := r.Streams.Connect(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// publish accepts an event of a tenant's, as the hub does, and returns its cursor; it panics
// at an error.
func (r *rig) publish(tenant string, to event.Target, payload string, ephemeral bool) string {
	e := &event.Event{ID: uuid.NewString(), TenantID: tenant, Type: "a.b", Timestamp: time.Now(), Payload: []byte(payload), Target: to, Ephemeral: ephemeral}
	entry := &history.Entry{Event: e, Here: true}
	entry.Envelope = e.Seal()
	_, err := r.Members.ResolveRooms(context.Background(), false, e)
	if err == nil {
		err = r.log.Append(context.Background(), []*history.Entry{entry})
	}
	switch {
	case err != nil:
		panic(err)
	case ephemeral:
		return ""
	}
	return entry.Cursor.String()
}

// tell is publish to one profile of acme's.
func (r *rig) tell(to string, ephemeral bool) string {
	return r.publish("acme", event.ToProfile(user(to)), `"`+to+`"`, ephemeral)
}

// sweep forgets what nobody needs, as the hub does now and then.
func (r *rig) sweep(now time.Time) {
	r.Tenants.Prune(now, func(tenant string) (uint64, error) {
		oldest, err := r.log.Find(context.Background(), tenant, "", nil)
		return oldest.Seq, err
	})
	r.log.Sweep(now)
}

// head is a tenant's last place.
func (r *rig) head(t testing.TB, tenant string) history.Cursor {
	t.Helper()
	head, err := r.log.Attach(t.Context(), tenant)
	if err != nil {
		t.Fatal(err)
	}
	r.log.Detach(tenant)
	return head
}

// missed is what a subscription has missed for good, nil for nothing.
func (r *rig) missed(t testing.TB, s Subscription) error {
	t.Helper()
	_, missed, err := r.Streams.locate(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return missed
}

// read ends a stream that nobody serves, and returns all that it was sent.
func (r *rig) read(c *Connection) string {
	c.Stream.Close(c.encoder.Closing(CloseKicked, 0))
	rec := httptest.NewRecorder()
	r.Streams.Engine().Serve(rec, httptest.NewRequest("GET", "/", nil), c.Stream)
	return rec.Body.String()
}

// servedHere is a stream that is written to memory; written is what has come since it was
// last asked. It is for bubbles.
type servedHere struct {
	conn *Connection
	out  testkit.Buffer
	seen int
}

// memoryWriter answers into memory that may be read meanwhile.
type memoryWriter struct {
	http.ResponseWriter
	out io.Writer
}

func (m memoryWriter) Write(b []byte) (int, error) { return m.out.Write(b) }
func (m memoryWriter) WriteHeader(int)             {}
func (m memoryWriter) Flush()                      {}

// serveTo writes a stream to out, until the test ends.
func (r *rig) serveTo(t testing.TB, c *Connection, out io.Writer) {
	go r.Streams.Engine().Serve(memoryWriter{httptest.NewRecorder(), out}, httptest.NewRequest("GET", "/v1/stream", nil).WithContext(t.Context()), c.Stream)
}

func (r *rig) serve(t testing.TB, s Subscription) *servedHere {
	t.Helper()
	x := &servedHere{conn: r.connect(t, s)}
	r.serveTo(t, x.conn, &x.out)
	x.written()
	return x
}

func (s *servedHere) written() string {
	synctest.Wait()
	all := s.out.String()
	defer func() { s.seen = len(all) }()
	return all[s.seen:]
}

// endless is what a stream is written to, and says when it has had so many events.
type endless struct {
	testkit.Buffer
	until, events int
	over          chan struct{}
}

func (e *endless) Write(b []byte) (int, error) {
	before := e.events
	if e.events += bytes.Count(b, []byte("event: a.b\n")); before < e.until && e.events >= e.until {
		defer close(e.over)
	}
	return e.Buffer.Write(b)
}
