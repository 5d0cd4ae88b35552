package outbox

import (
	"errors"
	"strings"
	"testing"

	"github.com/matryer/is"
	"github.com/nats-io/nats-server/v2/server"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/natstest"
	"realtimehub/internal/outbox/outboxtest"
)

// parcels are put together with their keys, each of somebody of the same name.
func (b *Box) parcels(names ...string) (list []*parcel) {
	for _, name := range names {
		key, _, _ := strings.Cut(name, "'")
		list = append(list, &parcel{key: b.keySubject("acme", key, 0), drafts: outboxtest.Drafts(name)})
	}
	return list
}

// What is put together is put once each, also where some of it was put before, or comes twice.
func TestKeysOfABatch(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := open(t, natstest.Start(t, 1).URL(0), "test")
	outboxtest.Put(t, b, "acme", "a", "a")
	parcels := b.parcels("b", "a'", "c", "b'", "d")
	parcels[4].key = ""
	b.put("acme", parcels)
	for _, p := range parcels {
		is.NoErr(p.err)
	}
	items := outboxtest.ReadAll(t, b, "acme", 10)
	outboxtest.InOrder(t, items)
	is.Equal(outboxtest.Names(items), []string{"a", "b", "c", "d"})
}

// What the broker refuses is not in the way of what is put together with it.
func TestOneOfABatchIsRefused(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := open(t, natstest.Start(t, 1, func(o *server.Options) { o.MaxPayload = 4 << 10 }).URL(0), "test")
	parcels := b.parcels("a", strings.Repeat("x", 8<<10), "b")
	b.put("acme", parcels)
	is.NoErr(parcels[0].err)
	is.True(errors.Is(parcels[1].err, stream.ErrTooLarge))
	is.NoErr(parcels[2].err)
	is.Equal(outboxtest.Names(outboxtest.ReadAll(t, b, "acme", 10)), []string{"a", "b"})
}

// Those who wait go together, as many as one batch takes, in their order.
func TestQueue(t *testing.T) {
	is := is.New(t)
	var sizes []int
	q := newQueues(1, func(_ string, together []*parcel) { sizes = append(sizes, len(together)) })
	var waiting []*parcel
	for range 3000 {
		waiting = append(waiting, &parcel{drafts: outboxtest.Drafts("a"), done: make(chan struct{})})
	}
	big := &parcel{drafts: outboxtest.Drafts(strings.Repeat("x", 2*bytesOfBatch)), done: make(chan struct{})}
	q.of["acme"] = append([]*parcel{waiting[0], big}, waiting[1:]...)
	q.run("acme")
	is.Equal(sizes, []int{1, 1, 499, 499, 499, 499, 499, 499, 5})
	is.Equal(len(q.of), 0)
	for _, p := range append(waiting, big) {
		<-p.done
	}
}
