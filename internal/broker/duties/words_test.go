package duties

import (
	"context"
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/duty"
	"realtimehub/internal/event"
	"realtimehub/internal/natstest"
	"realtimehub/internal/outbox"
	"realtimehub/internal/testkit"
)

// While clients acknowledge without a break, what they had given before is kept, and deadlines are
// judged: nobody waits for a moment in which nothing comes.
func TestAcknowledgementsWithoutABreak(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	proxy := natstest.Start(t, 1).Proxies(t)[0]
	k := readerAt(t, proxy.URL())
	var kept atomic.Int64
	proxy.Rule(func(m *natstest.Message) natstest.Verdict {
		if !m.FromServer && strings.HasPrefix(m.Subject, k.prefix+".ack.") {
			kept.Add(1)
			k.Acknowledge(ackOf("b", 1)) // before the broker has answered
		}
		return natstest.Verdict{}
	})
	k.Acknowledge(ackOf("a", 1))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	confirmed(t, func() error { return k.Flush(ctx) })
	is.True(kept.Load() > 0)
}

// The stream has gone while a backup is restored, so that nobody may make it: a hub that is to keep
// acknowledgements ends nonetheless, and says that it lost them.
func TestAHubEndsWhileABackupIsRestored(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	prefix := natstest.Prefix()
	k, stop := start(t, natstest.Start(t, 1), prefix, outbox.NewMemory(outbox.MemoryConfig{}))
	restored, err := stream.BeginRestoring(t.Context(), k.nc, prefix)
	is.NoErr(err)
	is.NoErr(k.js.DeleteStream(t.Context(), k.stream.Name))
	k.Acknowledge(ackOf("a", 1))
	testkit.Eventually(t, func() bool { return len(k.words.keeping) > 0 })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		stop()
	}()
	select {
	case <-ended:
		is.Equal(k.Stats().Lost, int64(1))
	case <-time.After(time.Minute):
		t.Error("it does not end")
		restored.End(true)
		<-ended
	}
}

// Who has acknowledgements kept while others are being kept does not wait for longer than it will.
func TestWhoHasAcknowledgementsKeptMayLeave(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	k := reader(t)
	k.words.keeping <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	is.Equal(k.Flush(ctx), context.Canceled)
	<-k.words.keeping
}

// A word says what the connection wanted: all, some types, or nothing.
func TestWhatAConnectionWanted(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		patterns []string
		wants    bool
	}{
		"all":     {nil, true},
		"some":    {[]string{"a.*"}, true},
		"others":  {[]string{"x.*"}, false},
		"nothing": {[]string{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			a := ackOf("a", 1)
			var errs []error
			a.Types, errs = event.ParseFilter(tc.patterns)
			is.Equal(len(errs), 0)
			is.Equal(a.Types.Wants("a.b"), tc.wants)
			data, err := json.Marshal(wordOf(a))
			is.NoErr(err)
			var w word
			is.NoErr(json.Unmarshal(data, &w))
			read, err := w.acknowledgement()
			is.NoErr(err)
			is.Equal(read.Types.Wants("a.b"), tc.wants)
		})
	}
}

// What was given in time counts, though it could be kept only after the deadline; what was given later
// does not, though the judge has yet to judge.
func TestWhenAnAcknowledgementWasGiven(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	k := reader(t)
	before := time.Now()
	k.Acknowledge(ackOf("c", 2))
	is.True(!k.words.list[0].Given.Before(before))
	openDuty(t, k, dutyOf(1, time.Second, "a", "b"))
	early, late := ackOf("a", 1), ackOf("b", 1)
	early.Given, late.Given = time.Now().Add(-time.Minute), time.Now().Add(time.Minute)
	_, err := k.keep(t.Context(), []duty.Acknowledgement{early, late}, 1000)
	is.NoErr(err)
	read := judgedBy(t, k)
	is.Equal(read.counts(1), map[duty.State]int{duty.Acknowledged: 1, duty.Owed: 1})
	read.ahead = time.Hour // by the clock of another leader
	_, err = read.same(t.Context())
	is.NoErr(err)
	is.True(read.ahead.Abs() < time.Minute)
}
