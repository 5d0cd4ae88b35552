package backup

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker"
	"realtimehub/internal/event"
	"realtimehub/internal/folder"
	"realtimehub/internal/history"
	"realtimehub/internal/history/historytest"
	"realtimehub/internal/natstest"
	"realtimehub/internal/room"
	"realtimehub/internal/settings"
)

// prefix is that of hubs by default.
const prefix = "realtime"

var limits = history.Limits{Events: 10_000, Bytes: 64 << 20, TTL: 24 * time.Hour, Total: 1 << 30, Window: time.Hour, IDs: 1_000_000}

// place is where hubs keep everything: a folder, or NATS servers.
type place struct {
	settings []string // of hubs there
	replicas int
	dir      string
	servers  *natstest.Broker
}

func inFolder(t *testing.T) place {
	dir := filepath.Join(t.TempDir(), "data")
	return place{settings: []string{"REALTIME_DATA=" + dir}, replicas: 1, dir: dir}
}

func onServers(t *testing.T, n int) place {
	servers := natstest.Start(t, n, func(o *server.Options) { o.MaxPayload = 8 << 20 })
	return place{settings: []string{"REALTIME_NATS_URL=" + servers.URL(0), fmt.Sprint("REALTIME_NATS_REPLICAS=", n)}, replicas: n, servers: servers}
}

// hub has a hub's side run there while do is done.
func (p place) hub(t *testing.T, do func(*broker.Broker)) {
	t.Helper()
	cfg := broker.Config{Prefix: prefix, Replicas: p.replicas, Limits: limits, Logger: slog.New(slog.DiscardHandler)}
	if p.servers != nil {
		cfg.URL = p.servers.URL(0)
	} else {
		f, err := folder.Open(folder.Config{Dir: p.dir, Sync: time.Second, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cfg.Inside, cfg.Alone = f.Connect(), true
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b, err := broker.Connect(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	do(b)
}

var (
	ann  = event.Profile{Type: "user", ID: "ann"}
	talk = event.Room{Kind: event.KindConversation, ID: "talk"}
)

// What fill publishes: for each of some tenants so many events, each with an id of its own.
const (
	tenants = 3
	each    = 60
)

func tenantName(i int) string { return fmt.Sprint("tenant-", i) }

// order is an event whose publisher has chosen its id. It does not compress well.
func order(tenant string, i int) *history.Entry {
	noise := make([]byte, 8000)
	rand.NewChaCha8([32]byte{byte(i)}).Read(noise)
	e := historytest.To(tenant, fmt.Sprintf(`"%d %x"`, i, noise), event.ToTenant())
	e.Chosen, e.Event.ID = true, fmt.Sprint("order-", i)
	return e
}

// fill publishes events, and has ann belong to a room.
func fill(t *testing.T, b *broker.Broker) {
	t.Helper()
	for i := range tenants {
		name := tenantName(i)
		for i := range each {
			historytest.Persist(t, b.Log(), order(name, i))
		}
		join(t, b, name)
	}
}

// whole checks that a hub has what fill gave it, each event once, and who belongs where; and
// that it knows the ids again, where a server has been started since they came.
func whole(t *testing.T, b *broker.Broker, started bool) {
	t.Helper()
	is := is.New(t)
	var mu sync.Mutex
	members := map[string]bool{}
	b.Rooms().Follow(func(tenant string, _ history.Epoch, in event.Room, changed []room.Membership) {
		mu.Lock()
		defer mu.Unlock()
		for _, m := range changed {
			members[tenant] = m.Profile == ann && m.Member && in == talk
		}
	}, func(string) {})
	for i := range tenants {
		name := tenantName(i)
		begin, err := historytest.Answered(func() (history.Cursor, error) { return b.Log().Find(t.Context(), name, "", nil) })
		is.NoErr(err)
		var got, want []string
		for after := begin.Seq; ; {
			page, err := historytest.Answered(func() (history.Page, error) { return b.Log().Read(t.Context(), name, history.Query{After: after}) })
			is.NoErr(err)
			for _, e := range page.Entries {
				got = append(got, string(e.Event.Payload))
			}
			if page.Next.Seq == after {
				break
			}
			after = page.Next.Seq
		}
		for i := range each {
			e := order(name, i)
			want = append(want, string(e.Event.Payload))
			if started {
				historytest.Persist(t, b.Log(), e)
				is.True(e.Duplicate)
			}
		}
		is.Equal(got, want)
		_, err = historytest.Answered(func() (any, error) { return nil, b.Rooms().Attach(t.Context(), name) })
		is.NoErr(err)
		mu.Lock()
		is.True(members[name])
		mu.Unlock()
	}
}

// command is what the program does for "backup" and "restore".
func (p place) command(t *testing.T, name, file string, settings ...string) (said string, err error) {
	t.Helper()
	var out strings.Builder
	err = Command(t.Context(), name, []string{file}, append(slices.Clone(p.settings), settings...), &out)
	return out.String(), err
}

// made is a backup of what fill gives a hub, for all tests that restore it.
var made struct {
	once sync.Once
	text []byte
}

// backedUp is a file with what fill gives a hub.
func backedUp(t *testing.T) (file string) {
	t.Helper()
	is := is.New(t)
	file = filepath.Join(t.TempDir(), "file")
	made.once.Do(func() {
		from := inFolder(t)
		from.hub(t, func(b *broker.Broker) { fill(t, b) })
		_, err := from.command(t, "backup", file)
		is.NoErr(err)
		made.text, err = os.ReadFile(file)
		is.NoErr(err)
	})
	is.NoErr(os.WriteFile(file, made.text, 0o600))
	return file
}

// ask has a connection to what a place keeps, as the commands have.
func (p place) ask(t *testing.T, do func(*nats.Conn)) {
	t.Helper()
	cfg, err := settings.Load(p.settings)
	if err != nil {
		t.Fatal(err)
	}
	nc, leave, err := connect(cfg, true)
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	do(nc)
}

// streamsOf are the streams that a place has, each with its replicas.
func (p place) streamsOf(t *testing.T) map[string]int {
	t.Helper()
	all := map[string]int{}
	p.ask(t, func(nc *nats.Conn) {
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		list := js.ListStreams(t.Context())
		for info := range list.Info() {
			all[info.Config.Name] = info.Config.Replicas
		}
		if list.Err() != nil {
			t.Fatal(list.Err())
		}
	})
	return all
}

// three are all streams of hubs, with so many replicas.
func three(replicas int) map[string]int {
	all := map[string]int{}
	for _, name := range streams(prefix) {
		all[name] = replicas
	}
	return all
}
