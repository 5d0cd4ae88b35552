package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/natstest"
	"realtimehub/internal/outbox"
	"realtimehub/internal/outbox/outboxtest"
	"realtimehub/internal/testkit"
)

// Processes that put for the same tenants at once are in one order.
func TestSeveralProcesses(t *testing.T) {
	t.Parallel()
	for _, servers := range []int{1, 3} {
		t.Run(fmt.Sprint(servers), func(t *testing.T) {
			is := is.New(t)
			b := natstest.Start(t, servers)
			var boxes []*Box
			for i := range 3 {
				boxes = append(boxes, open(t, b.URL(i%servers), "test", func(c *Config) { c.Replicas = servers }))
			}
			var wg sync.WaitGroup
			for i, box := range boxes {
				for k := range 20 {
					wg.Go(func() {
						own := fmt.Sprint(i, " ", k)
						outboxtest.Put(t, box, "acme", own, own, own+"'")
						outboxtest.Put(t, box, "acme", fmt.Sprint("shared", k), fmt.Sprint("shared", k))
					})
				}
			}
			wg.Wait()
			for _, box := range boxes {
				items := outboxtest.ReadAll(t, box, "acme", 50)
				outboxtest.InOrder(t, items)
				is.Equal(len(items), 3*20*2+20)
				names := outboxtest.Names(items)
				for i, name := range names {
					is.True(strings.HasPrefix(name, "shared") || strings.HasSuffix(name, "'") || names[i+1] == name+"'")
				}
			}
		})
	}
}

// A server is killed again and again while two processes put: nothing is lost, and nothing is
// there twice.
func TestServersThatAreKilled(t *testing.T) {
	t.Parallel()
	for _, servers := range []int{1, 3} {
		t.Run(fmt.Sprint(servers), func(t *testing.T) {
			t.Parallel()
			is := is.New(t)
			p := natstest.StartProcesses(t, servers)
			var boxes []*Box
			for range 2 {
				boxes = append(boxes, open(t, p.URLs(), "test", func(c *Config) { c.Replicas = servers }))
			}
			var want []string
			for round := range 3 {
				var putting sync.WaitGroup
				var put atomic.Int32
				for i, box := range boxes {
					for k := range 30 {
						name := fmt.Sprint(round, " ", i, " ", k)
						want = append(want, name)
						putting.Go(func() {
							outboxtest.Put(t, box, "acme", name, name)
							put.Add(1)
						})
					}
				}
				testkit.Eventually(t, func() bool { return put.Load() > 10 })
				victim := round % servers
				p.Kill(victim)
				p.Start(t, victim)
				putting.Wait()
			}
			var items []outbox.Item
			testkit.Eventually(t, func() bool {
				page, err := boxes[0].Read(t.Context(), "acme", outbox.Query{Limit: 1000})
				items = page.Items
				return err == nil && len(items) > 0 && items[len(items)-1].Seq == page.Newest
			})
			outboxtest.InOrder(t, items)
			got := outboxtest.Names(items)
			slices.Sort(got)
			slices.Sort(want)
			is.Equal(got, want)
		})
	}
}

// Nobody knows whether it was put, as the answer is lost: it is put again, and is there once.
func TestAnAnswerThatIsLost(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	proxy := natstest.Start(t, 1).Proxies(t)[0]
	b := open(t, proxy.URL(), "test")
	var lost atomic.Bool
	proxy.Rule(func(m *natstest.Message) natstest.Verdict {
		isAck := m.FromServer && strings.HasPrefix(string(m.Data), `{"stream":`)
		return natstest.Verdict{Drop: isAck && !lost.Swap(true)}
	})
	err := b.Put(t.Context(), "acme", "k", outboxtest.Drafts("a", "b"))
	is.True(errors.Is(err, stream.ErrUnconfirmed))
	is.True(lost.Load())
	outboxtest.Put(t, b, "acme", "k", "a", "b")
	is.Equal(outboxtest.Names(outboxtest.ReadAll(t, b, "acme", 10)), []string{"a", "b"})
}

// Of what is more than one batch only a part was put: all of it again puts the rest.
func TestAPartThatIsLost(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	proxy := natstest.Start(t, 1).Proxies(t)[0]
	b := open(t, proxy.URL(), "test")
	var names []string
	for i := range 2*mostOfBatch + 5 {
		names = append(names, fmt.Sprint(i))
	}
	var lost atomic.Bool
	proxy.Rule(func(m *natstest.Message) natstest.Verdict {
		isKey := !m.FromServer && m.Subject == b.keySubject("acme", "k", 1) // the end of the second batch
		return natstest.Verdict{Drop: isKey && !lost.Swap(true)}
	})
	for !lost.Load() {
		err := b.Put(t.Context(), "acme", "k", outboxtest.Drafts(names...))
		is.True(errors.Is(err, stream.ErrUnconfirmed))
	}
	is.Equal(len(outboxtest.ReadAll(t, b, "acme", 1000)), mostOfBatch)
	outboxtest.Put(t, b, "acme", "k", names...)
	items := outboxtest.ReadAll(t, b, "acme", 1000)
	outboxtest.InOrder(t, items)
	is.Equal(outboxtest.Names(items), names)
}

// The stream is deleted: it is made anew by whoever needs it, services are told of a gap, and
// who follows learns of what is put then.
func TestAStreamThatIsDeleted(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	broker := natstest.Start(t, 1)
	puts, reads, fresh := open(t, broker.URL(0), "test"), open(t, broker.URL(0), "test"), open(t, broker.URL(0), "test")
	outboxtest.Put(t, puts, "acme", "k", "a", "b")
	outboxtest.Put(t, puts, "other", "k", "c")
	place, other := outboxtest.Newest(t, reads, "acme"), outboxtest.Newest(t, puts, "other")
	told, stop := outboxtest.Follow(t, reads)
	defer stop()
	js, err := jetstream.New(broker.Connect(t, 0))
	is.NoErr(err)
	is.NoErr(js.DeleteStream(t.Context(), puts.stream.Name))

	page := outboxtest.Read(t, reads, "acme", outbox.Query{After: place, Limit: 10})
	is.True(page.Gap(place))
	page = outboxtest.Read(t, fresh, "other", outbox.Query{After: other, Limit: 10})
	is.True(page.Gap(other))
	outboxtest.Put(t, puts, "acme", "k", "d") // the key has gone with all else
	outboxtest.Put(t, fresh, "other", "k", "e")
	page = outboxtest.Read(t, fresh, "acme", outbox.Query{After: place, Limit: 10})
	is.True(page.Gap(place))
	is.True(page.Oldest > place+1)
	is.Equal(outboxtest.Names(page.Items), []string{"d"})
	page = outboxtest.Read(t, reads, "other", outbox.Query{After: other, Limit: 10})
	is.True(page.Gap(other))
	is.Equal(outboxtest.Names(page.Items), []string{"e"})
	testkit.Eventually(t, func() bool { return told.Behind("acme", 1) && told.Behind("other", 1) })
}

// The broker has lost the last of what it had kept. Whoever knew of it has places begin past
// those that were given, for all, however the others have gone on.
func TestAnEndThatIsLost(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	broker := natstest.Start(t, 1)
	one := open(t, broker.URL(0), "test")
	outboxtest.Put(t, one, "acme", "", "a")
	outboxtest.Put(t, one, "other", "", "x")
	first := outboxtest.Newest(t, one, "acme")
	lose := broker.Snapshot(t)
	outboxtest.Put(t, one, "acme", "k", "b")
	outboxtest.Put(t, one, "acme", "k2", "c")
	place := outboxtest.Newest(t, one, "acme")
	is.Equal(place, first+2)
	lose()
	broker.Restart(t, 0)
	two := open(t, broker.URL(0), "test")
	outboxtest.Put(t, two, "acme", "", "d") // it knows of nothing
	is.Equal(outboxtest.Newest(t, two, "acme"), first+1)
	outboxtest.Put(t, one, "other", "k", "y")
	for _, b := range []*Box{one, two} {
		page := outboxtest.Read(t, b, "acme", outbox.Query{After: place, Limit: 10})
		is.True(page.Gap(place))
	}
	outboxtest.Put(t, two, "acme", "", "e")
	page := outboxtest.Read(t, two, "acme", outbox.Query{After: place, Limit: 10})
	is.True(page.Gap(place))
	is.Equal(outboxtest.Names(page.Items), []string{"e"})
	page = outboxtest.Read(t, two, "acme", outbox.Query{Limit: 10})
	is.Equal(outboxtest.Names(page.Items), []string{"a", "d"})
	place = page.Next(0)
	page = outboxtest.Read(t, two, "acme", outbox.Query{After: place, Limit: 10})
	is.True(page.Gap(place))
	var rest []string
	told, stop := outboxtest.Follow(t, two)
	defer stop()
	after, newest := told.Of("acme")
	for after < newest { // as a sender reads, which does not mind
		page := outboxtest.Read(t, two, "acme", outbox.Query{After: after, Limit: 10})
		rest = append(rest, outboxtest.Names(page.Items)...)
		after = page.Next(after)
	}
	is.Equal(rest, []string{"a", "d", "e"})
	is.Equal(two.Stats().Untaken, 5) // with two of the other tenant
}

// Somebody knows that the broker may have lost the last of what it had: places of all tenants
// begin past those that were given, and what is there is still read and sent.
func TestRenew(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	broker := natstest.Start(t, 1)
	one, two := open(t, broker.URL(0), "test"), open(t, broker.URL(0), "test")
	outboxtest.Surely(t, func() error { return one.Renew(t.Context()) }) // of nobody
	outboxtest.Put(t, one, "acme", "", "a", "b")
	outboxtest.Put(t, one, "taken", "", "c")
	outboxtest.Taken(t, one, "taken", outboxtest.Newest(t, one, "taken"))
	place := outboxtest.Newest(t, one, "acme")
	for range 2 {
		outboxtest.Surely(t, func() error { return two.Renew(t.Context()) })
	}
	for _, b := range []*Box{one, two} {
		page := outboxtest.Read(t, b, "acme", outbox.Query{After: place - 1, Limit: 10})
		is.True(!page.Gap(place - 1))
		is.Equal(outboxtest.Names(page.Items), []string{"b"})
		page = outboxtest.Read(t, b, "acme", outbox.Query{After: place, Limit: 10})
		is.True(page.Gap(place))
		is.Equal(len(page.Items), 0)
		is.Equal(page.Next(place), page.Newest)
	}
	outboxtest.Put(t, one, "taken", "", "d")
	told, stop := outboxtest.Follow(t, two)
	defer stop()
	is.True(told.Behind("taken", 1))
	is.Equal(two.Stats().Untaken, 3)
	after, _ := told.Of("acme")
	is.Equal(after, place-2) // it has both of what was there
}

// Who leads the servers no more, and does not know it, tells of an earlier end: that is no gap,
// and nothing that a follower was told of is missing.
func TestAnEarlierEndIsNoGap(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	broker := natstest.Start(t, 3)
	proxy := natstest.StartProxy(t, broker.URL(0))
	puts := open(t, broker.URL(0), "test", threeReplicas)
	behind, follows := open(t, proxy.URL(), "test", threeReplicas), open(t, proxy.URL(), "test", threeReplicas)
	outboxtest.Put(t, puts, "acme", "", "a")
	subject, earlier := puts.subject(kindHead, "acme"), []byte(nil)
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		if m.FromServer && strings.Contains(string(m.Data), `"subject":"`+subject+`"`) {
			if earlier == nil {
				earlier = slices.Clone(m.Data)
			}
			v.Instead = earlier
		}
		return v
	})
	before := outboxtest.Newest(t, behind, "acme")
	told, stop := outboxtest.Follow(t, follows)
	defer stop()
	outboxtest.Put(t, puts, "acme", "", "b")
	isStale := func(b *Box, after uint64) bool {
		page, err := b.Read(t.Context(), "acme", outbox.Query{After: after, Limit: 10})
		is.Equal(page, outbox.Page{})
		return errors.Is(err, stream.ErrStale)
	}
	testkit.Eventually(t, func() bool { return isStale(behind, before+1) })
	testkit.Eventually(t, func() bool { return told.Behind("acme", 2) })
	testkit.Eventually(t, func() bool { return isStale(follows, before) })
	proxy.Rule(nil)
	for _, b := range []*Box{behind, follows} {
		page := outboxtest.Read(t, b, "acme", outbox.Query{After: before, Limit: 10})
		is.True(!page.Gap(before))
		is.Equal(outboxtest.Names(page.Items), []string{"b"})
	}
}

// A question that nobody answers ends with its context.
func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	proxy := natstest.Start(t, 1).Proxies(t)[0]
	b := open(t, proxy.URL(), "test")
	outboxtest.Put(t, b, "acme", "", "a")
	testkit.Eventually(t, func() bool { return !b.Stats().Unknown })
	proxy.Silence()
	defer proxy.Mend()
	is.True(b.Stats().Unknown)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	is.True(b.Put(ctx, "acme", "", outboxtest.Drafts("b")) != nil)
	_, err := b.Read(ctx, "acme", outbox.Query{Limit: 1})
	is.True(err != nil)
	is.True(b.Taken(ctx, "acme", 1) != nil)
	_, err = b.Follow(ctx, func(string, uint64, uint64) {})
	is.True(err != nil)
}
