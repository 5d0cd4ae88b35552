package outbox

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/broker/lease"
	"realtimehub/internal/natstest"
	"realtimehub/internal/outbox"
	"realtimehub/internal/outbox/outboxtest"
	"realtimehub/internal/testkit"
)

// log is what all couriers have sent, in order.
type log struct {
	mu sync.Mutex
	// Guarded by mu.
	names []string
	by    []string
}

func (l *log) add(by string, names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range names {
		l.names, l.by = append(l.names, name), append(l.by, by)
	}
}

func (l *log) sent() (names, by []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.names, l.by
}

// courier sends what a tenant has, while it is its turn.
func courier(ctx context.Context, name string, b *Box, to *log) {
	b.Lead(ctx, func(ctx context.Context) {
		more := make(chan uint64, 1)
		after := uint64(0)
		stop, err := b.Follow(ctx, func(_ string, taken, newest uint64) {
			select {
			case more <- taken:
			default:
			}
		})
		if err != nil {
			return
		}
		defer stop()
		for {
			select {
			case <-ctx.Done():
				return
			case taken := <-more:
				after = max(after, taken)
			case <-time.After(time.Second): // what was told meanwhile, or failed
			}
			page, err := b.Read(ctx, "acme", outbox.Query{After: after, Limit: 3})
			for ; err == nil && len(page.Items) > 0; page, err = b.Read(ctx, "acme", outbox.Query{After: after, Limit: 3}) {
				to.add(name, outboxtest.Names(page.Items))
				after = page.Next(after)
				if b.Taken(ctx, "acme", after) != nil {
					break
				}
			}
		}
	})
}

// One of several processes sends. When it is cut off, another one does, from where it was.
func TestAnotherSendsWhenOneIsCutOff(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	broker := natstest.Start(t, 1)
	puts := open(t, broker.URL(0), "test")
	ctx, cancel := context.WithCancel(t.Context())
	var couriers sync.WaitGroup
	defer couriers.Wait()
	defer cancel()
	sent := &log{}
	proxies := map[string]*natstest.Proxy{}
	for _, name := range []string{"one", "two"} {
		proxies[name] = natstest.StartProxy(t, broker.URL(0))
		var l *lease.Lease
		b := open(t, proxies[name].URL(), "test", func(c *Config) {
			c.Lead = func(ctx context.Context, do func(context.Context)) { l.Lead(ctx, do) }
		})
		l = lease.New(lease.Config{Stream: b.stream, Subject: "test.outbox.lease", Name: name, Logger: slog.New(slog.DiscardHandler)})
		t.Cleanup(l.Close)
		couriers.Go(func() { courier(ctx, name, b, sent) })
	}
	var want []string
	put := func(n int) {
		for range n {
			name := fmt.Sprint(len(want))
			want = append(want, name)
			outboxtest.Put(t, puts, "acme", name, name)
		}
		newest := outboxtest.Newest(t, puts, "acme")
		testkit.Eventually(t, func() bool {
			taken, _, err := puts.takenOf(t.Context(), "acme")
			return err == nil && taken == newest
		})
	}
	put(10)
	_, by := sent.sent()
	first := by[0]
	proxies[first].Cut()
	put(10)
	names, by := sent.sent()
	is.Equal(names, want) // each once, as nothing was under way when it was cut off
	for i := range by {
		is.Equal(by[i] == first, i < 10)
	}
	proxies[first].Mend()
	put(5)
	names, _ = sent.sent()
	is.Equal(names, want)
}

// A head comes late to who follows, after what was taken meanwhile: whoever has said so is not
// told of it as if it were still to be taken.
func TestWhatWasTakenIsNotToldOfAgain(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	proxy := natstest.Start(t, 1).Proxies(t)[0]
	b := open(t, proxy.URL(), "test")
	told, stop := outboxtest.Follow(t, b)
	defer stop()
	outboxtest.Put(t, b, "acme", "", "a")
	testkit.Eventually(t, func() bool { return told.Behind("acme", 1) })
	first := outboxtest.Newest(t, b, "acme")

	hold, head, taken := make(chan struct{}), b.subject(kindHead, "acme"), b.subject(kindTaken, "acme")
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		if m.FromServer && strings.HasPrefix(m.Reply, "$JS.ACK.") {
			switch m.Subject {
			case head:
				v.After = hold
			case taken:
				v.Drop = true // it comes after the head, in any case
			}
		}
		return v
	})
	outboxtest.Put(t, b, "acme", "", "b")
	outboxtest.Taken(t, b, "acme", first)
	close(hold)
	testkit.Eventually(t, func() bool { _, newest := told.Of("acme"); return newest == first+1 })
	is.True(told.Behind("acme", 1))
}
