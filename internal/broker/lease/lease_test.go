package lease

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

func TestMain(m *testing.M) {
	testkit.MostlyWaits(8)
	testkit.Main(m, nil)
}

const subject = "test.lease"

// word is one of the lease's messages, with the broker's time.
type word struct {
	by string // "": it was released
	at time.Time
}

// office is a broker and all words of one lease, as the broker has taken them.
type office struct {
	broker *natstest.Broker

	mu    sync.Mutex
	words []word // guarded by mu
}

func newOffice(t *testing.T) *office {
	t.Helper()
	is := is.New(t)
	o := &office{broker: natstest.Start(t, 1)}
	js, err := jetstream.New(o.broker.Connect(t, 0))
	is.NoErr(err)
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "leases", Subjects: []string{subject}, MaxMsgsPerSubject: 1, AllowMsgTTL: true})
	is.NoErr(err)
	consumer, err := js.OrderedConsumer(t.Context(), "leases", jetstream.OrderedConsumerConfig{})
	is.NoErr(err)
	hearing, err := consumer.Consume(func(msg jetstream.Msg) {
		meta, err := msg.Metadata()
		if err != nil {
			t.Error(err)
			return
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		o.words = append(o.words, word{string(msg.Data()), meta.Timestamp})
	})
	is.NoErr(err)
	t.Cleanup(hearing.Stop)
	return o
}

// said are the words of one holder so far.
func (o *office) said(by string) (words []word) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, w := range o.words {
		if w.by == by {
			words = append(words, w)
		}
	}
	return words
}

// says waits until a holder has said so many words.
func (o *office) says(t *testing.T, by string, n int) []word {
	t.Helper()
	testkit.Eventually(t, func() bool { return len(o.said(by)) >= n })
	return o.said(by)
}

// holder is one process's side, behind a proxy of its own.
type holder struct {
	*Lease
	proxy *natstest.Proxy
	stop  func()

	mu sync.Mutex
	// Guarded by mu.
	begun int
	ended []time.Time
}

// seek begins to seek the lease for a holder. Rule is its proxy's, and may be nil.
func (o *office) seek(t *testing.T, name string, rule func(*natstest.Message) natstest.Verdict) *holder {
	t.Helper()
	is := is.New(t)
	h := &holder{proxy: natstest.StartProxy(t, o.broker.URL(0))}
	h.proxy.Rule(rule)
	nc := natstest.Connect(t, h.proxy.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	s, err := stream.New(nc, "leases")
	is.NoErr(err)
	t.Cleanup(s.Close)
	h.Lease = New(Config{Stream: s, Subject: subject, Name: name, Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	var leading sync.WaitGroup
	leading.Go(func() { h.Lead(ctx, h.hold) })
	h.stop = sync.OnceFunc(h.Close)
	t.Cleanup(func() {
		h.stop()
		cancel()
		leading.Wait()
	})
	return h
}

func (h *holder) hold(ctx context.Context) {
	h.mu.Lock()
	h.begun++
	h.mu.Unlock()
	told := make(chan time.Time, 1)
	context.AfterFunc(ctx, func() { told <- time.Now() })
	<-ctx.Done()
	now := time.Now()
	if other := <-told; other.Before(now) { // whichever a busy machine let go on sooner
		now = other
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = append(h.ended, now)
}

// terms are how often it has held the lease, and when it had it no more.
func (h *holder) terms() (begun int, ended []time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.begun, h.ended
}

// holds waits until it has begun to hold the lease.
func (h *holder) holds(t *testing.T) {
	t.Helper()
	testkit.Eventually(t, func() bool {
		begun, ended := h.terms()
		return begun > len(ended)
	})
}

// heldOnce says that it has held the lease once, and holds it now or does not.
func (h *holder) heldOnce(t *testing.T, now bool) (ended time.Time) {
	t.Helper()
	begun, all := h.terms()
	if begun != 1 || now != (len(all) == 0) {
		t.Fatalf("it has held the lease %d times, to %v", begun, all)
	}
	if !now {
		ended = all[0]
	}
	return ended
}

// isWord finds what a holder says; isAnswer, what the broker answers.
func isWord(m *natstest.Message) bool { return !m.FromServer && m.Subject == subject }

func isAnswer(m *natstest.Message) bool {
	return m.FromServer && strings.Contains(string(m.Data), `"stream":"leases"`)
}

// One holds the lease. When it stops, it gives the lease up, and another has it soon.
func TestStop(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	o := newOffice(t)
	one := o.seek(t, "one", nil)
	one.holds(t)
	two := o.seek(t, "two", nil)
	o.says(t, "one", 3)
	begun, _ := two.terms()
	is.Equal(begun, 0)
	one.stop()
	two.holds(t)
	released, taken := o.says(t, "", 1), o.says(t, "two", 1)
	is.Equal(len(released), 1)
	is.True(one.heldOnce(t, false).Before(taken[0].at))
	is.True(taken[0].at.Sub(released[0].at) < fades) // it has not waited for that
}

// When a holder is dead, or cut off, another has the lease in some 10 s, and not before it has
// faded. By then the holder has stopped, and what it says later changes nothing.
func TestCutOff(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]func(*natstest.Proxy){"connection closed": (*natstest.Proxy).Cut, "silent": (*natstest.Proxy).Silence} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			is := is.New(t)
			o := newOffice(t)
			one := o.seek(t, "one", nil)
			one.holds(t)
			two := o.seek(t, "two", nil)
			o.says(t, "one", 2)
			cut(one.proxy)
			two.holds(t)
			taken := o.says(t, "two", 1)[0].at
			said := o.said("one")
			last := said[len(said)-1].at
			t.Logf("it stopped after %v, and another had it after %v", one.heldOnce(t, false).Sub(last), taken.Sub(last))
			is.True(one.heldOnce(t, false).Before(last.Add(fades)))
			is.True(taken.Sub(last) >= fades)
			one.proxy.Mend()
			o.says(t, "two", 3)
			two.heldOnce(t, true)
			one.heldOnce(t, false)
		})
	}
}

// A holder counts from when it began to say a word, and not from a late answer.
func TestALateAnswer(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	o := newOffice(t)
	one := o.seek(t, "one", func(m *natstest.Message) (v natstest.Verdict) {
		if isAnswer(m) {
			v.Late = stream.AskTimeout * 4 / 5
		}
		return v
	})
	one.holds(t)
	one.proxy.Silence()
	testkit.Eventually(t, func() bool { _, ended := one.terms(); return len(ended) > 0 })
	is.True(one.heldOnce(t, false).Before(o.says(t, "one", 1)[0].at.Add(fades)))
}

// A word that is lost ends nothing: the next one is in time.
func TestALostWord(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	o := newOffice(t)
	var words atomic.Int64
	one := o.seek(t, "one", func(m *natstest.Message) natstest.Verdict {
		return natstest.Verdict{Drop: isWord(m) && words.Add(1) == 2}
	})
	one.holds(t)
	two := o.seek(t, "two", nil)
	testkit.Eventually(t, func() bool { return words.Load() >= 2 })
	o.says(t, "one", 3)
	one.heldOnce(t, true)
	begun, _ := two.terms()
	is.Equal(begun, 0)
}

// A word was kept and its answer lost: its holder goes on from there, and gives the lease up as it
// stops.
func TestALostAnswer(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	o := newOffice(t)
	var lose atomic.Bool
	one := o.seek(t, "one", func(m *natstest.Message) natstest.Verdict {
		return natstest.Verdict{Drop: isAnswer(m) && lose.CompareAndSwap(true, false)}
	})
	one.holds(t)
	two := o.seek(t, "two", nil)
	lose.Store(true)
	testkit.Eventually(t, func() bool { return !lose.Load() })
	o.says(t, "one", len(o.said("one"))+3)
	one.heldOnce(t, true)
	begun, _ := two.terms()
	is.Equal(begun, 0)

	lose.Store(true)
	testkit.Eventually(t, func() bool { return !lose.Load() })
	one.stop()
	o.says(t, "", 1)
	two.holds(t)
}

// Who stops while it waits for an answer gives the lease up nonetheless.
func TestStopBeforeAnAnswer(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	var answers atomic.Int64
	later := make(chan struct{})
	one := o.seek(t, "one", func(m *natstest.Message) (v natstest.Verdict) {
		if isAnswer(m) && answers.Add(1) == 2 {
			v.After = later
		}
		return v
	})
	testkit.Eventually(t, func() bool { return answers.Load() == 2 })
	go one.stop()
	testkit.Eventually(t, func() bool { _, ended := one.terms(); return len(ended) > 0 })
	close(later)
	o.says(t, "", 1)
}
