package duties

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/allowance"
	"realtimehub/internal/duty"
	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
	"realtimehub/internal/outbox"
	"realtimehub/internal/plan"
)

// judgedBy has a keeper that does not lead read all that is kept, and judge it without a turn of
// its own.
func judgedBy(t *testing.T, k *Keeper) *reading {
	t.Helper()
	read := &reading{keeper: k, moved: make(chan struct{}), judge: duty.NewJudge(k.duty)}
	read.readAll(t, t.Context())
	return read
}

// readAll begins to read, until ctx ends, and returns when all that is kept is read.
func (r *reading) readAll(t *testing.T, ctx context.Context) {
	t.Helper()
	confirmed(t, func() error { return r.begin(ctx) })
	confirmed(t, func() error { return r.catchUp(t.Context()) })
}

// acknowledgements counts the messages that are kept of them.
func acknowledgements(t *testing.T, k *Keeper) (messages int) {
	t.Helper()
	js, err := jetstream.New(k.nc)
	if err != nil {
		t.Fatal(err)
	}
	confirmed(t, func() error {
		stream, err := js.Stream(t.Context(), k.stream.Name)
		if err != nil {
			return err
		}
		info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(k.prefix+".ack.>"))
		if err == nil {
			messages = len(info.State.Subjects)
		}
		return err
	})
	return messages
}

// acknowledgeAll has people acknowledge everything up to a place, each in a message of its own, or
// in several where the broker is late.
func acknowledgeAll(t *testing.T, k *Keeper, upTo uint64, people ...string) {
	t.Helper()
	for _, id := range people {
		k.Acknowledge(ackOf(id, upTo))
		confirmed(t, func() error { return k.Flush(t.Context()) })
	}
}

// pass has what was read up to now lie so far back that no duty can be opened for it.
func (r *reading) pass() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.passed = milestones{milestone{r.at + 1, time.Now()}, milestone{r.at + 1, time.Now()}}
}

// judgeNow has what came of a duty take its place.
func judgeNow(t *testing.T, k *Keeper, d *duty.Duty, came duty.Results) {
	t.Helper()
	confirmed(t, func() error {
		last, err := k.stream.Last(t.Context(), k.subjectOf(d.Event.TenantID, d.At, d.Part))
		if err != nil {
			return err
		}
		kept := *d
		kept.Kept = last
		return k.over(t.Context(), &kept, came)
	})
}

// shorten has what is kept made shorter, in both steps.
func (r *reading) shorten(t *testing.T, from int64) {
	t.Helper()
	for range 2 {
		confirmed(t, func() error { return r.compact(t.Context(), from) })
	}
}

func (r *reading) counts(place uint64) map[duty.State]int {
	return r.judge.Results("acme", dutyOf(place, time.Hour, "a").At, []int{0}, duty.Query{Limit: 10}).Counts
}

// reader is a keeper that judges nothing by itself.
func reader(t *testing.T) *Keeper {
	t.Helper()
	return readerAt(t, natstest.Start(t, 1).URL(0))
}

func readerAt(t *testing.T, url string) *Keeper {
	t.Helper()
	return readerOf(t, url, natstest.Prefix(), 1)
}

func readerOf(t *testing.T, url, prefix string, replicas int) *Keeper {
	t.Helper()
	nc := natstest.Connect(t, url, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond), nats.ReconnectBufSize(-1))
	k, err := Open(t.Context(), nc, Config{Prefix: prefix, Replicas: replicas, Alone: true, Node: "n", Key: func() *history.Key { return key }, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	k.Judge(duty.Config{Box: outbox.NewMemory(outbox.MemoryConfig{}), People: nobody{}, Pools: allowance.New(plan.Of(1 << 30)), Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(k.Close)
	return k
}
