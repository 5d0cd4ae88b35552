package broker

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/allowance"
	"realtimehub/internal/cluster"
	"realtimehub/internal/duty"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
	"realtimehub/internal/outbox"
	"realtimehub/internal/plan"
	"realtimehub/internal/testkit"
)

// people knows nothing of anybody.
type people struct{}

// Explain implements duty.People.
func (people) Explain(_ context.Context, _ *duty.Duty, of []event.Profile) []duty.Person {
	return make([]duty.Person, len(of))
}

// What was acknowledged at a hub that the broker does not hear as the deadline comes is waited
// for, and nobody is reported who gave it; but it is not waited for without end.
func TestDeadlinesWaitForASilentHub(t *testing.T) {
	t.Parallel()
	for name, back := range map[string]bool{"it comes back": true, "it does not": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			is := is.New(t)
			server := natstest.Start(t, 1)
			proxy := natstest.StartProxy(t, server.URL(0))
			one, two := join(t, server.URL(0), "test"), join(t, proxy.URL(), "test")
			if back {
				one.settling.patience = time.Hour
			}
			box := outbox.NewMemory(outbox.MemoryConfig{})
			keeper := func(b *Broker) duty.Keeper {
				return b.Duties(duty.Config{Box: box, People: people{}, Pools: allowance.New(plan.Of(1 << 30)), Logger: slog.New(slog.DiscardHandler)})
			}
			judges, other := keeper(one), keeper(two)
			ctx, stop := context.WithCancel(t.Context())
			judging := make(chan struct{})
			go func() { defer close(judging); judges.Run(ctx) }()
			defer func() { stop(); <-judging }()
			testkit.Eventually(t, func() bool {
				answers, _ := one.peers.AskAll(t.Context(), cluster.Call{Op: cluster.CallSettle})
				return len(answers) == 1
			})
			ann := event.Profile{Type: "user", ID: "ann"}
			at := history.Cursor{Epoch: one.log.key().Epoch(make([]byte, 8)), Seq: 1}
			e := &event.Event{ID: "e", TenantID: "acme", Type: "a.b", Timestamp: time.Now(), Deadline: time.Second, Target: event.ToProfile(ann)}
			proxy.Rule(func(*natstest.Message) natstest.Verdict { return natstest.Verdict{Drop: true} })
			other.Acknowledge(duty.Acknowledgement{Tenant: "acme", Profile: ann, Of: at.Epoch.Tag, UpTo: 1, Until: e.Timestamp.Add(e.Deadline)})
			testkit.Eventually(t, func() bool { return judges.Open(t.Context(), duty.New(e, at, []event.Profile{ann})) == nil })
			reported := func() bool {
				page, err := box.Read(t.Context(), "acme", outbox.Query{Limit: 10})
				return err == nil && len(page.Items) > 0
			}
			if !back {
				testkit.Eventually(t, reported)
				return
			}
			due := e.Timestamp.Add(e.Deadline + time.Second)
			testkit.Eventually(t, func() bool { return time.Now().After(due) })
			proxy.Rule(nil)
			testkit.Eventually(t, func() bool {
				came, err := judges.Results(t.Context(), "acme", at, duty.Query{Limit: 10})
				return err == nil && came.Counts[duty.Acknowledged] == 1
			})
			is.True(!reported())
		})
	}
}

// That one hub is not waited for any longer takes nothing from the others: what another one of them
// has yet to keep is waited for.
func TestEachHubIsWaitedForByItself(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	server := natstest.Start(t, 1)
	one := join(t, server.URL(0), "test")
	var proxies []*natstest.Proxy
	for range 2 {
		proxies = append(proxies, natstest.StartProxy(t, server.URL(0)))
		join(t, proxies[len(proxies)-1].URL(), "test")
	}
	testkit.Eventually(t, func() bool { return len(one.peers.peers.Nodes()) == 2 })
	one.settling.patience = 2 * time.Second
	settle := func() error { return one.settling.settle(t.Context()) }
	testkit.Eventually(t, func() bool { return settle() == nil })
	mute := func(*natstest.Message) natstest.Verdict { return natstest.Verdict{Drop: true} }
	proxies[0].Rule(mute)
	is.Equal(settle(), errUnsettled)
	testkit.Eventually(t, func() bool { return settle() == nil })
	proxies[1].Rule(mute)
	is.Equal(settle(), errUnsettled)
	testkit.Eventually(t, func() bool { return settle() == nil })
}
