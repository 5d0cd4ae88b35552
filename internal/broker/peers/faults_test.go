package peers

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/natstest"
)

// fill gives a process n items, each of about 64 bytes, and returns them.
func (m *member) fill(n int) map[ID]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := map[ID]string{}
	for i := range n {
		id := ID{byte(i), byte(i >> 8), 1}
		m.own[id] = fmt.Appendf(nil, "%064d", i)
		all[id] = string(m.own[id])
	}
	return all
}

// ready says whether a hold waits for nobody.
func (m *member) ready(topic string) bool {
	m.Peers.mu.Lock()
	defer m.Peers.mu.Unlock()
	select {
	case <-m.holds[topic].ready:
		return true
	default:
		return false
	}
}

// silence is what a process's ticker says from a time on, for longer than others may be
// silent.
func (m *member) silence(from time.Time) {
	m.t.Helper()
	for ago := time.Duration(0); ago <= 2*Silence; ago += beatEvery / 2 {
		m.giveUp(from.Add(ago))
		eventually(m.t, func() bool { // it is sure, or not
			m.Peers.mu.Lock()
			defer m.Peers.mu.Unlock()
			return !m.doubted
		})
	}
}

// What a process has is told in messages as small as the server takes.
func TestItemsInSmallMessages(t *testing.T) {
	t.Parallel()
	b := natstest.Start(t, 1, func(o *server.Options) { o.MaxPayload = 4 << 10 })
	one, two := join(t, b, "one"), join(t, b, "two")
	defer one.Close()
	defer two.Close()
	want := one.fill(3001)
	two.hold()
	two.await(want)
	for i := range 500 { // together, also as news
		want[ID{2, byte(i), byte(i >> 8), 7}] = "news"
		one.mu.Lock()
		one.own[ID{2, byte(i), byte(i >> 8), 7}] = []byte("news")
		one.mu.Unlock()
		one.Tell("topic", Op{ID{2, byte(i), byte(i >> 8), 7}, []byte("news")})
	}
	two.await(want)
}

// A part of what a process has is lost on the way: it is seen, and asked for again.
func TestALostPart(t *testing.T) {
	t.Parallel()
	b := natstest.Start(t, 1, func(o *server.Options) { o.MaxPayload = 4 << 10 })
	one := join(t, b, "one")
	defer one.Close()
	want := one.fill(300)
	proxy := b.Proxies(t)[0]
	var parts atomic.Int64
	proxy.Rule(func(m *natstest.Message) natstest.Verdict {
		return natstest.Verdict{Drop: m.FromServer && len(m.Data) > 0 && m.Data[0] == kindSnapshot && parts.Add(1) == 2}
	})
	two := joinAt(t, proxy.URL(), "two")
	defer two.Close()
	two.hold()
	two.await(want)
}

// Nobody waits for a process that has died without a word, nor for one that was not heard
// for a beat and a half.
func TestNobodyWaitsForTheDead(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	one, dead := join(t, b, "one"), join(t, b, "dead")
	defer one.Close()
	dead.nc.Close()
	eventually(t, func() bool { // until the broker knows
		_, err := one.nc.Request(one.nodeSubject("dead"), nil, time.Second)
		return errors.Is(err, nats.ErrNoResponders)
	})
	is.NoErr(one.Hold(t.Context(), "topic"))
	is.True(one.ready("topic"))
	is.Equal(one.Nodes(), []string{"dead"}) // it may be back
	is.True(!one.Complete(t.Context(), "topic"))

	sleeper := b.Connect(t, 0)
	_, err := sleeper.SubscribeSync(one.nodeSubject("sleeper"))
	is.NoErr(err)
	is.NoErr(sleeper.Publish(one.all(), frame(kindBeat, "sleeper")))
	eventually(t, func() bool { return slices.Contains(one.Nodes(), "sleeper") })
	heard := time.Now()
	eventually(t, func() bool { return time.Since(heard) > beatEvery*3/2 })
	is.NoErr(one.Hold(t.Context(), "another"))
	is.True(one.ready("another"))
	dead.Peers.Close()
}

// A question to a process that is there and does not answer tells something else than one
// to a process that is not.
func TestGoneAndSilent(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	one, dead := join(t, b, "one"), join(t, b, "dead")
	defer one.Close()
	_, err := one.ask("nobody", "")
	is.Equal(errorsOf(err), "gone")
	dead.nc.Close()
	_, err = one.Ask(t.Context(), "dead", nil)
	is.Equal(errorsOf(err), "silent")
	_, silent := one.AskAll(t.Context(), nil)
	is.Equal(silent, []string{"dead"})
	dead.Peers.Close()
	large := join(t, b, "large")
	defer large.Close()
	large.Peers.cfg.Serve = func([]byte) []byte { return make([]byte, 2<<20) }
	_, err = one.Ask(t.Context(), "large", []byte("x"))
	is.Equal(errorsOf(err), "silent") // and not that it has nothing
}

// Who has slept has heard nobody meanwhile, and gives nobody up for it.
func TestWhoHasSleptGivesNobodyUp(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	one, two := join(t, b, "one"), join(t, b, "two")
	defer one.Close()
	defer two.Close()
	one.tell(1, "a")
	one.flush() // else it is told once more, as news
	two.hold()
	two.await(map[ID]string{{1}: "a"})
	two.giveUp(time.Now())
	woken := time.Now().Add(2 * Silence)
	two.giveUp(woken) // what its ticker says when it goes on
	two.giveUp(woken.Add(beatEvery / 2))
	is.Equal(two.Nodes(), []string{"one"})
	is.Equal(two.told(), nil)
	two.silence(woken) // awake, and still it hears nothing
	eventually(t, func() bool { return len(two.Nodes()) == 0 })
	_, lost := two.Known()
	is.Equal(lost, []string{"one"})
}

// Who was given up and is heard of again, if only by another, is lost no more.
func TestWhoIsHeardOfIsLostNoMore(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	one, dead := join(t, b, "one"), join(t, b, "dead")
	defer one.Close()
	dead.nc.Close()
	one.silence(time.Now().Add(2 * Silence))
	eventually(t, func() bool { _, lost := one.Known(); return slices.Equal(lost, []string{"dead"}) })
	third := b.Connect(t, 0)
	is.NoErr(third.Publish(one.nodeSubject("one"), appendNumbers(appendText(frame(kindBeat, "third"), "dead"), 5)))
	eventually(t, func() bool { there, _ := one.Known(); return slices.Contains(there, "dead") })
	_, lost := one.Known()
	is.Equal(lost, nil)
	dead.Peers.Close()
}

// Who is heard before it is dropped is not given up.
func TestWhoIsHeardBeforeItIsDropped(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	one, two := join(t, b, "one"), join(t, b, "two")
	defer one.Close()
	defer two.Close()
	heard := func() time.Time {
		two.Peers.mu.Lock()
		defer two.Peers.mu.Unlock()
		return two.nodes["one"].heard
	}
	before := heard()
	eventually(t, func() bool { return heard().After(before) })
	two.drop("one", before, true)
	there, lost := two.Known()
	is.Equal(there, []string{"one"})
	is.Equal(lost, nil)
}

// Who hears nobody and may be cut off itself gives nobody up, whatever it believes to be.
func TestWhoMayBeCutOffGivesNobodyUp(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	one, two := join(t, b, "one"), join(t, b, "two")
	defer one.Close()
	defer two.Close()
	one.tell(1, "a")
	one.flush() // else it is told once more, as news
	two.hold()
	two.await(map[ID]string{{1}: "a"})
	two.mu.Lock()
	two.cut = errors.New("no majority")
	two.mu.Unlock()
	two.silence(time.Now())
	is.Equal(two.Nodes(), []string{"one"})
	is.Equal(two.told(), nil)
	two.mu.Lock()
	two.cut = nil
	two.mu.Unlock()
	two.silence(time.Now().Add(2 * Silence))
	eventually(t, func() bool { return len(two.told()) == 1 })
}

// Those that have left are forgotten in time: each start is another.
func TestTheLeftAreForgotten(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	one := join(t, b, "one")
	defer one.Close()
	for n := range 20 {
		join(t, b, fmt.Sprint("guest-", n)).Close()
	}
	left := func() int {
		one.Peers.mu.Lock()
		defer one.Peers.mu.Unlock()
		return len(one.left)
	}
	eventually(t, func() bool { return left() == 20 })
	one.giveUp(time.Now().Add(time.Hour))
	is.Equal(left(), 0)
}

// After the broker was away each topic is asked for once.
func TestWantsAfterARestart(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	proxy := b.Proxies(t)[0]
	one, two := join(t, b, "one"), joinAt(t, proxy.URL(), "two")
	defer one.Close()
	defer two.Close()
	const topics = 20
	var mu sync.Mutex
	counted, open := map[string]int{}, map[string]bool{} // by topic; open until it is answered, and may be asked for again
	proxy.Rule(func(m *natstest.Message) natstest.Verdict {
		isWant := len(m.Data) > 0 && !m.FromServer && m.Data[0] == kindWant
		isAnswer := len(m.Data) > 0 && m.FromServer && m.Data[0] == kindSnapshot
		if !isWant && !isAnswer {
			return natstest.Verdict{}
		}
		r := &reader{b: m.Data[1:]}
		r.bytes()
		topic := string(r.bytes())
		mu.Lock()
		defer mu.Unlock()
		if isWant && !open[topic] {
			counted[topic]++
		}
		open[topic] = isWant
		return natstest.Verdict{}
	})
	for n := range topics {
		is.NoErr(two.Hold(t.Context(), fmt.Sprint("topic-", n)))
	}
	proxy.Cut()
	mu.Lock()
	is.Equal(len(counted), topics)
	clear(open)
	mu.Unlock()
	lost := time.Now()
	eventually(t, func() bool { return time.Since(lost) > beatEvery*2 }) // so that beats are missed
	proxy.Mend()
	eventually(t, two.nc.IsConnected)
	heard := func() time.Time {
		two.Peers.mu.Lock()
		defer two.Peers.mu.Unlock()
		return two.nodes["one"].heard
	}
	for range 3 { // and until all reasons to ask have passed
		before := heard()
		eventually(t, func() bool { return heard().Sub(before) > beatEvery/2 })
	}
	mu.Lock()
	defer mu.Unlock()
	for _, n := range counted {
		is.Equal(n, 2) // at first, and now
	}
}

// Who has just come hears of those that are silent.
func TestTheSilentAreToldOf(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	proxy := b.Proxies(t)[0]
	one, sleeper := join(t, b, "one"), joinAt(t, proxy.URL(), "sleeper")
	defer one.Close()
	defer sleeper.Close()
	eventually(t, func() bool { return len(one.Nodes()) == 1 })
	proxy.Rule(func(m *natstest.Message) natstest.Verdict {
		return natstest.Verdict{Drop: !m.FromServer && m.Verb != "PING" && m.Verb != "PONG"}
	})
	late := join(t, b, "late")
	defer late.Close()
	eventually(t, func() bool { return len(late.Nodes()) == 2 })
	is.NoErr(late.Hold(t.Context(), "topic"))
	is.True(!late.Complete(t.Context(), "topic"))
	sleeper.tell(1, "a")
	proxy.Rule(nil)
	late.await(map[ID]string{{1}: "a"})
	is.True(late.Complete(t.Context(), "topic"))
}

func errorsOf(err error) string {
	switch {
	case err == nil:
		return "none"
	case errors.Is(err, ErrGone):
		return "gone"
	case errors.Is(err, ErrSilent):
		return "silent"
	}
	return err.Error()
}

// A question about what a process has is lost on the way, as when a route between servers
// breaks and is there again: it is asked again, though nothing changes there any more.
func TestALostQuestion(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	one := join(t, b, "one")
	defer one.Close()
	one.tell(1, "a")
	one.flush()
	proxy := b.Proxies(t)[0]
	var wants atomic.Int64
	proxy.Rule(func(m *natstest.Message) natstest.Verdict {
		return natstest.Verdict{Drop: !m.FromServer && len(m.Data) > 0 && m.Data[0] == kindWant && wants.Add(1) == 1}
	})
	two := joinAt(t, proxy.URL(), "two")
	defer two.Close()
	eventually(t, func() bool { return time.Since(one.begun) > 3*beatEvery }) // it tells of the topic no more
	two.hold()
	two.await(map[ID]string{{1}: "a"})
	is.True(two.Complete(t.Context(), "topic"))
	is.Equal(two.told(), nil) // it was there already
}

// Of many answers after a time in which nothing was heard one is lost: it is asked for again.
func TestALostAnswerOfMany(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	proxy := b.Proxies(t)[0]
	one, two := join(t, b, "one"), joinAt(t, proxy.URL(), "two")
	defer one.Close()
	defer two.Close()
	for n := range 5 {
		is.NoErr(two.Hold(t.Context(), fmt.Sprint("topic-", n)))
	}
	two.hold()
	proxy.Cut()
	one.tell(1, "a")
	cut := time.Now()
	eventually(t, func() bool { return time.Since(cut) > 3*beatEvery }) // it tells of the topic no more
	var lost atomic.Bool
	proxy.Rule(func(m *natstest.Message) natstest.Verdict {
		if !m.FromServer || len(m.Data) == 0 || m.Data[0] != kindSnapshot {
			return natstest.Verdict{}
		}
		r := &reader{b: m.Data[1:]}
		r.bytes()
		return natstest.Verdict{Drop: string(r.bytes()) == "topic" && lost.CompareAndSwap(false, true)}
	})
	proxy.Mend()
	two.await(map[ID]string{{1}: "a"})
	is.True(lost.Load())
}

// Who comes knows the others before it does anything, also where they are slow to answer: it
// would take a cluster for one that has nobody else.
func TestWhoComesWaitsForTheOthers(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	one := join(t, b, "one")
	defer one.Close()
	proxy := b.Proxies(t)[0]
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		if m.FromServer && strings.Contains(m.Subject, ".peer.") {
			v.Late = 3 * answerTime
		}
		return v
	})
	two := joinAt(t, proxy.URL(), "two")
	defer two.Close()
	is.Equal(two.Nodes(), []string{"one"})
}

// Nobody is waited for who is not there.
func TestWhoComesAloneDoesNotWait(t *testing.T) {
	t.Parallel()
	b := natstest.Start(t, 1)
	one := join(t, b, "one")
	defer one.Close()
	<-one.met
}

// What cannot be held is asked of nobody, then or later.
func TestAHoldThatFails(t *testing.T) {
	is := is.New(t)
	broker := natstest.Start(t, 1)
	b := join(t, broker, "b")
	defer b.Close()
	a := join(t, broker, "a")
	defer a.Close()
	var known *node
	eventually(t, func() bool { // a busy machine may be late to hear it
		a.Peers.mu.Lock()
		defer a.Peers.mu.Unlock()
		known = a.nodes["b"]
		return known != nil
	})
	a.nc.Close()
	is.True(a.Hold(t.Context(), "acme") != nil)
	a.Peers.mu.Lock()
	defer a.Peers.mu.Unlock()
	is.Equal(len(known.lacks), 0)
}
