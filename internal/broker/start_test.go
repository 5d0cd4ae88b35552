package broker

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

// Who starts a hub is told why it does not come up, not only that it waits.
func TestAStartWithoutBrokerSaysWhy(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	var logs testkit.Buffer
	cfg := Config{URL: "nats://127.0.0.1:1", Prefix: "none", Replicas: 1, Limits: testLimits, Logger: slog.New(slog.NewTextHandler(&logs, nil))}
	failed := make(chan error, 1)
	go func() {
		_, err := Connect(ctx, cfg)
		failed <- err
	}()
	waits := func() bool { // the connection's own words may come before
		_, why, waits := strings.Cut(logs.String(), "waiting for the store")
		return waits && strings.Contains(why, "refused")
	}
	testkit.Eventually(t, waits)
	stop()
	err := <-failed
	is.True(err != nil && strings.Contains(err.Error(), "refused"))
}

// A hub that starts is connected to a server that is cut off from the others, and answers
// nothing that takes a leader: it tries the others.
func TestStartsOnAServerThatIsCutOff(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	proxies := natstest.Start(t, 3).Proxies(t)
	var urls []string
	var cut atomic.Int64 // where the hub is first, from 1
	for i, p := range proxies {
		urls = append(urls, p.URL())
		p.Rule(func(m *natstest.Message) (v natstest.Verdict) {
			if m.FromServer || m.Verb != "PUB" && m.Verb != "HPUB" {
				return v
			}
			cut.CompareAndSwap(0, int64(i+1))
			v.Drop = cut.Load() == int64(i+1)
			return v
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	b, err := Connect(ctx, Config{
		URL: strings.Join(urls, ","), Replicas: 3, Prefix: "t" + strings.ReplaceAll(uuid.NewString(), "-", ""),
		Limits: history.Limits{Events: 100, Bytes: 1 << 20}, Disk: 1 << 20, Logger: slog.New(slog.DiscardHandler),
	})
	is.NoErr(err)
	defer b.Close()
	is.True(b.watch.faults.Now()[history.FaultMoved] >= 1)
}

// What a hub that starts says first of each subject is lost, as where a stream has no leader yet: it
// says it again.
func TestStartsThoughWordsAreLost(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	proxy := natstest.Start(t, 1).Proxies(t)[0]
	prefix := "t" + strings.ReplaceAll(uuid.NewString(), "-", "")
	var mu sync.Mutex
	lost := map[string]bool{}
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		mu.Lock()
		defer mu.Unlock()
		if !m.FromServer && strings.HasPrefix(m.Subject, prefix) && (m.Verb == "PUB" || m.Verb == "HPUB") {
			v.Drop = !lost[m.Subject]
			lost[m.Subject] = true
		}
		return v
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	b, err := Connect(ctx, Config{URL: proxy.URL(), Replicas: 1, Prefix: prefix, Limits: history.Limits{Events: 100, Bytes: 1 << 20}, Disk: 1 << 20, Logger: slog.New(slog.DiscardHandler)})
	is.NoErr(err)
	defer b.Close()
	mu.Lock()
	defer mu.Unlock()
	t.Log(slices.Sorted(maps.Keys(lost)))
	is.True(lost[prefix+".outbox.beside"])
}
