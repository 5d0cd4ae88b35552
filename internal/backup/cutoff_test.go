package backup

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/broker"
	"realtimehub/internal/history"
	"realtimehub/internal/settings"
	"realtimehub/internal/testkit"
)

// dying calls end once so much was read.
type dying struct {
	io.Reader
	left int
	end  func()
}

func (d *dying) Read(p []byte) (int, error) {
	if d.left -= len(p); d.left < 0 {
		d.end()
	}
	return d.Reader.Read(p)
}

// A restore whose process is killed leaves what a hub does not take for all of it: until
// another restore has brought that, the hub says what to do, and a backup is refused.
func TestRestoreThatWasKilled(t *testing.T) {
	t.Parallel()
	file := backedUp(t)
	text, err := os.ReadFile(file)
	is.New(t).NoErr(err)
	names, begins, _ := entriesOf(t, text)
	for _, test := range []struct {
		name, entry string // where it ends
		at          place
		left        int // streams, with the mark
	}{
		{"folder, history", prefix + "_journal/2", inFolder(t), 3},
		{"servers, history", prefix + "_journal/2", onServers(t, 1), 3},
		{"folder, duties", prefix + "_duties/1", inFolder(t), 4},
		{"servers, the end", endName, onServers(t, 1), 6},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			is := is.New(t)
			at, begin := test.at, begins[slices.Index(names, test.entry)]
			at.ask(t, func(nc *nats.Conn) {
				_, err := Restore(t.Context(), nc, prefix, at.replicas, &dying{bytes.NewReader(text), begin, nc.Close})
				is.True(errors.Is(err, nats.ErrConnectionClosed))
			})
			testkit.Eventually(t, func() bool { return len(at.streamsOf(t)) == test.left }) // the server itself sees where a stream ends

			_, err := at.command(t, "backup", filepath.Join(t.TempDir(), "file"))
			is.True(errors.Is(err, errHalf))

			cfg, err := settings.Load(at.settings)
			is.NoErr(err)
			nc, leave, err := connect(cfg, true) // where the hub finds it
			is.NoErr(err)
			ctx, stop := context.WithCancel(t.Context())
			var logs testkit.Buffer
			to := io.MultiWriter(&logs, &seeing{"a restore was cut off", stop})
			hub := broker.Config{URL: nc.ConnectedUrl(), Prefix: prefix, Replicas: 1, Limits: limits, Logger: slog.New(slog.NewTextHandler(to, nil))}
			if at.servers == nil {
				hub.Inside, hub.Alone = func(o *nats.Options) error {
					o.InProcessServer, o.Token = nc.Opts.InProcessServer, nc.Opts.Token
					return nil
				}, true
			}
			_, err = broker.Connect(ctx, hub)
			is.True(err != nil && strings.Contains(err.Error(), "run it again"))
			is.True(strings.Contains(logs.String(), "run it again"))

			_, err = Restore(t.Context(), nc, prefix, 1, bytes.NewReader(text))
			is.NoErr(err)
			leave()
			is.Equal(at.streamsOf(t), three(1))
			at.hub(t, func(b *broker.Broker) { whole(t, b, at.servers == nil) })
		})
	}
}

// While a backup is restored a hub that runs keeps nothing: a restore that fails removes all.
func TestNothingIsKeptBeforeAllIsRestored(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	at := inFolder(t)
	text, err := os.ReadFile(backedUp(t))
	is.NoErr(err)
	names, begins, _ := entriesOf(t, text)
	at.hub(t, func(b *broker.Broker) {
		publish := func(within time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			return b.Log().Append(ctx, []*history.Entry{sealed(`"meanwhile"`)})
		}
		at.ask(t, func(nc *nats.Conn) {
			var early error
			try := sync.OnceFunc(func() {
				testkit.Eventually(t, func() bool {
					early = publish(10 * time.Second)
					return early == nil || errors.Is(early, nats.ErrNoResponders) // all else may be of a busy machine
				})
			})
			_, err := Restore(t.Context(), nc, prefix, 1, &dying{bytes.NewReader(text), begins[slices.Index(names, prefix+"_outbox.json")], try})
			is.NoErr(err)
			is.True(early != nil) // though the history is there
		})
		testkit.Eventually(t, func() bool { return publish(10*time.Second) == nil })
	})
}

// seeing stops once a text is written.
type seeing struct {
	text string
	stop func()
}

func (s *seeing) Write(p []byte) (int, error) {
	if strings.Contains(string(p), s.text) {
		s.stop()
	}
	return len(p), nil
}

// Of two restores at once the second is refused, and changes nothing.
func TestOneRestoreAtATime(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	at := inFolder(t)
	file := backedUp(t)
	text, err := os.ReadFile(file)
	is.NoErr(err)
	at.ask(t, func(nc *nats.Conn) {
		var other error
		once := func() {
			if other == nil {
				_, other = at.command(t, "restore", file)
			}
		}
		_, err := Restore(t.Context(), nc, prefix, 1, &dying{bytes.NewReader(text), len(text) / 2, once})
		is.NoErr(err)
		is.True(other != nil && strings.Contains(other.Error(), "another restore goes on there"))
	})
	at.hub(t, func(b *broker.Broker) { whole(t, b, true) })
}

// What hubs keep together is restored with all of them, though the command is told of the
// folder alone.
func TestCopiesAreTheFoldersOwn(t *testing.T) {
	is := is.New(t)
	at := inFolder(t)
	is.NoErr(os.Mkdir(at.dir, 0o700))
	for about, want := range map[string]int{`{"version":1,"id":"x","peers":true}`: 3, `{"version":1,"id":"x"}`: 1} {
		is.NoErr(os.WriteFile(filepath.Join(at.dir, "realtimehub.json"), []byte(about), 0o600))
		cfg, err := settings.Load(at.settings)
		is.NoErr(err)
		is.Equal(replicas(cfg), want)
	}
}
