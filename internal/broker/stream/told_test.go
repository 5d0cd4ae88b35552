package stream

import (
	"fmt"
	"testing"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/natstest"
)

// The leader tells one after the other what a replica tells at once: the same, and of one
// that is asked for alone how many follow.
func TestTheLeaderTellsTheSame(t *testing.T) {
	is := is.New(t)
	nc := natstest.Start(t, 1).Connect(t, 0)
	js, err := jetstream.New(nc)
	is.NoErr(err)
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "test", Subjects: []string{"test.*"}, AllowDirect: true})
	is.NoErr(err)
	one, err := New(nc, "test")
	is.NoErr(err)
	defer one.Close()
	for i := range 30 {
		_, _, err := one.Request(t.Context(), NewMessage([]string{"test.k", "test.other"}[i%2], []byte(fmt.Sprint(i)), "Origin", fmt.Sprint("one ", i)))
		is.NoErr(err)
	}
	for _, q := range []Get{
		{Seq: 1, Next: "test.k", Batch: 100}, {Seq: 9, Next: "test.k", Batch: 100}, {Seq: 1, Next: "test.k", Batch: 5},
		{Seq: 1, Next: "test.k", Batch: 1}, {Seq: 100, Next: "test.k", Batch: 10}, {Seq: 1, Next: "test.none", Batch: 1},
		{Seq: 7}, {Seq: 1000},
	} {
		told := func(ask func(take func(*nats.Msg)) (nats.Header, error)) (list []string, end nats.Header) {
			end, err := ask(func(msg *nats.Msg) {
				h := msg.Header
				list = append(list, fmt.Sprintf("%s %s %s %q %s", h.Get("Nats-Subject"), h.Get("Nats-Sequence"), h.Get("Nats-Time-Stamp"), h.Get("Origin"), msg.Data))
			})
			is.NoErr(err)
			return list, end
		}
		many, end := told(func(take func(*nats.Msg)) (nats.Header, error) { return one.replica(t.Context(), q, AskTimeout, take) })
		each, end2 := told(func(take func(*nats.Msg)) (nats.Header, error) { return one.leaderEach(t.Context(), q, take) })
		is.Equal(each, many)
		left, left2 := ParseSeq(end.Get("Nats-Num-Pending")), ParseSeq(end2.Get("Nats-Num-Pending"))
		is.Equal(left > 0, left2 > 0)
		is.True(q.Batch != 1 || left == left2)
	}
}
