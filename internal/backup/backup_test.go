package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
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
	"realtimehub/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m, nil) }

// prefix is that of hubs by default.
const prefix = "realtime"

var limits = history.Limits{Events: 10_000, Bytes: 64 << 20, TTL: 24 * time.Hour, Total: 1 << 30, Window: 2 * time.Minute, IDs: 1_000_000}

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
	noise := rand.New(rand.NewPCG(uint64(i), 0))
	var text strings.Builder
	for range 1000 {
		fmt.Fprintf(&text, "%x", noise.Uint64())
	}
	e := historytest.To(tenant, fmt.Sprintf(`"%d %s"`, i, &text), event.ToTenant())
	e.Chosen, e.Event.ID = true, fmt.Sprint("order-", i)
	return e
}

// fill publishes events, and has ann belong to a room.
func fill(t *testing.T, b *broker.Broker) {
	t.Helper()
	is := is.New(t)
	b.Rooms().Follow(func(string, history.Epoch, event.Room, []room.Membership) {}, func(string) {})
	for i := range tenants {
		name := tenantName(i)
		for i := range each {
			historytest.Persist(t, b.Log(), order(name, i))
		}
		is.NoErr(b.Rooms().Attach(t.Context(), name))
		now, err := b.Rooms().Now(t.Context(), name, talk)
		is.NoErr(err)
		m := room.Membership{Profile: ann, Member: true, Stays: []history.Stay{{Room: talk, From: now.Now.Seq, Until: math.MaxUint64}}}
		is.NoErr(b.Rooms().Change(t.Context(), name, talk, now, []room.Membership{m}, false))
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

// backedUp is a file with what fill gives a hub.
func backedUp(t *testing.T) (file string) {
	t.Helper()
	from := inFolder(t)
	from.hub(t, func(b *broker.Broker) { fill(t, b) })
	file = filepath.Join(t.TempDir(), "file")
	_, err := from.command(t, "backup", file)
	is.New(t).NoErr(err)
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

// From a folder that nobody has open, or a hub has, all goes into new folders, and to three
// NATS servers and back. Only who made the file can read it.
func TestBackup(t *testing.T) {
	is := is.New(t)
	files := t.TempDir()
	at := func(name string) string { return filepath.Join(files, name) }
	save := func(p place, file string) {
		t.Helper()
		said, err := p.command(t, "backup", at(file))
		is.NoErr(err)
		is.True(strings.HasPrefix(said, "backup of "+at(file)+": ") && strings.Contains(said, " messages, "))
		info, err := os.Stat(at(file))
		is.NoErr(err)
		is.Equal(info.Mode().Perm(), fs.FileMode(0o600))
	}
	load := func(p place, file string) {
		t.Helper()
		said, err := p.command(t, "restore", at(file))
		is.NoErr(err)
		is.True(strings.HasPrefix(said, "restore of "+at(file)+": "))
		is.Equal(p.streamsOf(t), three(p.replicas))
		p.hub(t, func(b *broker.Broker) { whole(t, b, p.servers == nil) })
	}
	first, second, third, servers := inFolder(t), inFolder(t), inFolder(t), onServers(t, 3)
	first.hub(t, func(b *broker.Broker) {
		fill(t, b)
		save(first, "while it is open")
	})
	load(second, "while it is open")
	save(first, "closed")
	first.hub(t, func(b *broker.Broker) { whole(t, b, true) }) // as it was
	load(servers, "closed")
	save(servers, "of servers")
	load(third, "of servers")
	left, err := os.ReadDir(files)
	is.NoErr(err)
	is.Equal(len(left), 3)
}

// Where a hub runs that has nothing yet, it has what was restored.
func TestRestoreWhileAHubRuns(t *testing.T) {
	file := backedUp(t)
	for name, at := range map[string]place{"folder": inFolder(t), "servers": onServers(t, 3)} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			at.hub(t, func(b *broker.Broker) {
				_, err := b.Log().Attach(t.Context(), tenantName(0)) // it has been asked
				is.NoErr(err)
				_, err = at.command(t, "restore", file)
				is.NoErr(err)
				testkit.Eventually(t, func() bool {
					begin, err := b.Log().Find(t.Context(), tenantName(0), "", nil)
					if err != nil {
						return false
					}
					page, err := b.Log().Read(t.Context(), tenantName(0), history.Query{After: begin.Seq, Limit: 1})
					return err == nil && len(page.Entries) == 1
				})
				whole(t, b, false)
			})
			at.hub(t, func(b *broker.Broker) { whole(t, b, at.servers == nil) })
		})
	}
}

// Where events are kept a restore changes nothing.
func TestRestoreReplacesNothing(t *testing.T) {
	file := backedUp(t)
	for name, at := range map[string]place{"folder": inFolder(t), "servers": onServers(t, 1)} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			at.hub(t, func(b *broker.Broker) { historytest.Persist(t, b.Log(), historytest.ToAll("1")) })
			refused := func() {
				t.Helper()
				_, err := at.command(t, "restore", file)
				is.True(err != nil && strings.Contains(err.Error(), "events of 1 tenants are kept there already"))
			}
			refused()
			at.hub(t, func(b *broker.Broker) {
				refused() // also through one that runs
				begin, err := b.Log().Find(t.Context(), "acme", "", nil)
				is.NoErr(err)
				page, err := b.Log().Read(t.Context(), "acme", history.Query{After: begin.Seq})
				is.NoErr(err)
				is.Equal(historytest.Names(page.Entries), "1")
			})
			is.Equal(at.streamsOf(t), three(1))
		})
	}
}

// What cannot be done is said, and leaves nothing behind.
func TestCommandsThatCannot(t *testing.T) {
	good := backedUp(t)
	dir := t.TempDir()
	write := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	archive := func(name, entry, text string) string {
		var to bytes.Buffer
		tw := tar.NewWriter(&to)
		if err := errors.Join(put(tw, entry, []byte(text)), put(tw, endName, nil), tw.Close()); err != nil {
			t.Fatal(err)
		}
		return write(name, to.Bytes())
	}
	missing := filepath.Join(dir, "missing")
	for name, test := range map[string]struct {
		command, file, setting, says string
	}{
		"no file":         {"restore", missing, "", "no such file"},
		"empty":           {"restore", write("empty", nil), "", "the file is no backup of a hub"},
		"text":            {"restore", write("text", []byte("hello")), "", "the file is no backup of a hub"},
		"another archive": {"restore", archive("tar", "hello.txt", "{}"), "", "the file is no backup of a hub"},
		"newer":           {"restore", archive("newer", aboutName, `{"format":2,"prefix":"realtime"}`), "", "the backup has format 2, and this program reads format 1"},
		"another prefix":  {"restore", good, "REALTIME_NATS_PREFIX=other", "the backup is of hubs with REALTIME_NATS_PREFIX=realtime, and it is other here"},
		"nowhere to":      {"restore", good, "REALTIME_DATA=", "REALTIME_DATA or REALTIME_NATS_URL says what is meant, and neither is set"},
		"a wrong setting": {"restore", good, "REALTIME_SYNC=0", "REALTIME_SYNC: "},
		"no folder":       {"backup", missing, "", "REALTIME_DATA: "},
		"nowhere from":    {"backup", missing, "REALTIME_DATA=", "REALTIME_DATA or REALTIME_NATS_URL says what is meant, and neither is set"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			at := inFolder(t)
			_, err := at.command(t, test.command, test.file, test.setting)
			is.True(err != nil)
			is.True(strings.Contains(err.Error(), test.says))
			for _, path := range []string{at.dir, missing} {
				_, err := os.Stat(path)
				is.True(errors.Is(err, fs.ErrNotExist))
			}
		})
	}
	is := is.New(t)
	at := inFolder(t)
	at.hub(t, func(*broker.Broker) {})
	_, err := at.command(t, "backup", missing, "REALTIME_NATS_PREFIX=other")
	is.True(errors.Is(err, errNothing))
	_, err = at.command(t, "backup", filepath.Join(missing, "file"))
	is.True(errors.Is(err, fs.ErrNotExist))
	is.True(Command(t.Context(), "backup", nil, at.settings, io.Discard) != nil) // a file has to be named
	left, err := os.ReadDir(dir)
	is.NoErr(err)
	is.Equal(len(left), 4) // those that were written above
}
