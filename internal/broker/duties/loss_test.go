package duties

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/duty"
	"realtimehub/internal/event"
	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

// awaitOpen has a keeper keep a duty as soon as the broker is there.
func awaitOpen(t *testing.T, k *Keeper, d *duty.Duty) {
	t.Helper()
	testkit.Eventually(t, func() bool { return k.Open(t.Context(), d) == nil })
}

// knows says that a judge knows a duty.
func (r *reading) knows(d *duty.Duty) bool {
	_, open := r.judge.Standing(d)
	return open
}

// The broker has lost the last of what it had kept, and gives its places again: what is there now is
// judged.
func TestAnEndThatIsLost(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	k := readerAt(t, b.URL(0))
	lose := b.Snapshot(t)
	lost := []*duty.Duty{dutyOf(1, time.Hour, "a"), dutyOf(2, time.Hour, "a")}
	awaitOpen(t, k, lost[0])
	awaitOpen(t, k, lost[1])
	read := judgedBy(t, k)
	is.True(read.knows(lost[0]) && read.knows(lost[1]))
	lose()
	b.Restart(t, 0)
	again := []*duty.Duty{dutyOf(3, time.Hour, "a"), dutyOf(4, time.Hour, "a")}
	awaitOpen(t, k, again[0])
	awaitOpen(t, k, again[1])
	testkit.Eventually(t, func() bool { return read.knows(again[0]) && read.knows(again[1]) })
	testkit.Eventually(t, func() bool { // who judges next knows what was lost, too
		next := judgedBy(t, k)
		return next.knows(lost[0]) && next.knows(lost[1]) && next.knows(again[0]) && next.knows(again[1])
	})
}

// A message of a stream of before comes late, when another is read already: what it has is not taken
// for kept at its place.
func TestAMessageOfAStreamBefore(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	k := reader(t)
	d := dutyOf(1, time.Hour, "a")
	openDuty(t, k, d)
	read := &reading{keeper: k, moved: make(chan struct{}), judge: duty.NewJudge(k.duty)}
	confirmed(t, func() error { return read.follow(t.Context()) })
	confirmed(t, func() error { return read.catchUp(t.Context()) })
	before := read.begun
	consumer, err := k.js.OrderedConsumer(t.Context(), k.stream.Name, jetstream.OrderedConsumerConfig{FilterSubjects: []string{k.prefix + ".open.>"}})
	is.NoErr(err)
	late, err := consumer.Next()
	is.NoErr(err)
	is.NoErr(k.js.DeleteStream(t.Context(), k.stream.Name))
	is.NoErr(k.make(t.Context(), k.js))
	confirmed(t, func() error { return read.follow(t.Context()) })
	defer read.now().Stop()
	read.take(before, late)
	lost, _, _, _ := read.judge.KeptUpTo(0)
	is.Equal(len(lost), 1) // and is kept anew
}

// The stream is deleted and the lease with it, so that whoever judged does so no more: it leaves all
// that is owed to the next, with what has come of it.
func TestAStreamThatIsDeletedWithTheLease(t *testing.T) {
	t.Parallel()
	for name, made := range map[string]bool{"nobody has made it anew": false, "another hub has": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			is := is.New(t)
			k := reader(t)
			d := dutyOf(1, time.Hour, "a", "b")
			openDuty(t, k, d)
			acknowledgeAll(t, k, 1, "a")
			ctx, cancel := context.WithCancel(t.Context())
			read := &reading{keeper: k, moved: make(chan struct{}), judge: duty.NewJudge(k.duty)}
			read.readAll(t, ctx)
			is.NoErr(k.js.DeleteStream(ctx, k.stream.Name))
			if made {
				is.NoErr(k.make(ctx, k.js))
			}
			cancel()
			read.leave(ctx)
			next := judgedBy(t, k)
			is.Equal(next.counts(1), map[duty.State]int{duty.Acknowledged: 1, duty.Owed: 1})
		})
	}
}

// The broker did not take one part of a duty: when the event is published again, some have left the
// room and others joined, and each recipient is in one part.
func TestAPartThatIsLost(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	proxy := natstest.Start(t, 1).Proxies(t)[0]
	k := readerAt(t, proxy.URL())
	var all []string
	for i := range mostOfPart + 10 {
		all = append(all, fmt.Sprintf("p%05d", i))
	}
	first := dutyOf(1, time.Hour, all...)
	var lost atomic.Bool
	proxy.Rule(func(m *natstest.Message) natstest.Verdict {
		isPart := !m.FromServer && m.Subject == k.subjectOf("acme", first.At, 1)
		return natstest.Verdict{Drop: isPart && !lost.Swap(true)}
	})
	is.True(k.Open(t.Context(), first) != nil)
	second := dutyOf(1, time.Hour, all[1:]...)
	openDuty(t, k, second)
	openDuty(t, k, first) // it is open, and stays as it is
	var owing []event.Profile
	for _, r := range judgedBy(t, k).judge.Results("acme", first.At, []int{0, 1}, duty.Query{Limit: 2 * mostOfPart}).List {
		owing = append(owing, r.Profile)
	}
	is.Equal(owing, second.Recipients)
}

// The servers that follow are away, so that the leader only proposes what it is sent, and refuses the
// same a second time as if another had been first. A duty is open once it is kept, and not before.
func TestADutyThatIsProposedIsNotOpen(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b, prefix := natstest.Start(t, 3), natstest.Prefix()
	js := readerOf(t, b.URL(0), prefix, 3).js
	stream, err := js.Stream(t.Context(), prefix+"_duties")
	is.NoErr(err)
	var leader int
	_, err = fmt.Sscanf(stream.CachedInfo().Cluster.Leader, "n%d", &leader)
	is.NoErr(err)
	k := readerOf(t, b.URL(leader), prefix, 3)
	followers := []int{(leader + 1) % 3, (leader + 2) % 3}
	for _, i := range followers {
		b.Stop(i)
	}

	d := dutyOf(1, time.Hour, "a")
	for range 2 {
		is.True(k.Open(t.Context(), d) != nil)
	}
	judge := &reading{keeper: k, judge: duty.NewJudge(k.duty)}
	judge.judge.Open(d, d.Deadline, nil)
	is.True(judge.keepOneAnew(t.Context(), d) != nil)

	for _, i := range followers {
		b.Restart(t, i)
	}
	awaitOpen(t, k, d)
	openDuty(t, k, d) // it is open
	last, err := k.stream.Last(t.Context(), k.subjectOf("acme", d.At, 0))
	is.NoErr(err)
	is.True(last > 0)
}

// An event is published again when its room has more members than one part of a duty has: it is open
// as it was.
func TestADutyThatWouldHaveMoreParts(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	k := reader(t)
	openDuty(t, k, dutyOf(1, time.Hour, "a"))
	var all []string
	for i := range mostOfPart + 1 {
		all = append(all, fmt.Sprintf("p%05d", i))
	}
	openDuty(t, k, dutyOf(1, time.Hour, all...))
	is.Equal(judgedBy(t, k).counts(1), map[duty.State]int{duty.Owed: 1})
}
