package outbox

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/stream"
)

const (
	fetchRows  = 512
	fetchTime  = 5 * time.Second
	readerEnds = 30 * time.Second // after the last question of a process that has gone
)

// reader reads all that the stream has of some subjects, and then what comes, through a consumer
// of its own.
type reader struct {
	b        *Box
	js       jetstream.JetStream
	consumer jetstream.Consumer
	number   uint64 // of messages that have come
	left     uint64 // of those that were there
}

// entry is a message as a reader has it.
type entry struct {
	kind, tenant string
	place        uint64 // of an item
	seq          uint64
	at           time.Time
	msg          jetstream.Msg
}

func (b *Box) newReader(ctx context.Context, headersOnly bool, subjects ...string) (*reader, error) {
	js, err := jetstream.New(b.nc)
	if err != nil {
		return nil, err
	}
	making, cancel := context.WithTimeout(ctx, stream.MakeTimeout)
	defer cancel()
	consumer, err := js.CreateConsumer(making, b.stream.Name, jetstream.ConsumerConfig{
		FilterSubjects: subjects, AckPolicy: jetstream.AckNonePolicy, HeadersOnly: headersOnly,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: readerEnds,
	})
	if err != nil {
		return nil, err
	}
	return &reader{b: b, js: js, consumer: consumer, left: consumer.CachedInfo().NumPending}, nil
}

func (r *reader) close() {
	ctx, cancel := context.WithTimeout(context.Background(), stream.AskTimeout)
	defer cancel()
	r.js.DeleteConsumer(ctx, r.b.stream.Name, r.consumer.CachedInfo().Name) // else it goes by itself
}

// next hands over what comes within a time, each as it comes, and at most so many.
func (r *reader) next(ctx context.Context, most int, within time.Duration, take func(entry) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	batch, err := r.consumer.Fetch(most, jetstream.FetchContext(ctx))
	if err != nil {
		return err
	}
	for msg := range batch.Messages() {
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		if r.number++; meta.Sequence.Consumer != r.number {
			return stream.ErrTorn
		}
		r.left = min(r.left, meta.NumPending)
		r.b.saw(meta.Sequence.Stream)
		e := entry{seq: meta.Sequence.Stream, at: meta.Timestamp, msg: msg}
		e.kind, e.tenant, e.place = r.b.parts(msg.Subject())
		if err := take(e); err != nil {
			return err
		}
	}
	if err := batch.Error(); err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nats.ErrTimeout) {
		return err
	}
	return nil
}

// whole hands over all that was there.
func (r *reader) whole(ctx context.Context, take func(entry) error) error {
	for made := time.Now(); r.left > 0; {
		before := r.number
		err := r.next(ctx, int(min(r.left, fetchRows)), stream.AskTimeout, take)
		if errors.Is(err, nats.ErrNoResponders) && time.Since(made) < stream.MakeTimeout && stream.Pause(ctx) {
			continue // another server has it, and is not known to yet
		}
		if err != nil {
			return err
		}
		if r.number == before {
			return stream.ErrTorn // or what was left has gone: who reads again knows
		}
	}
	return nil
}

// readAll hands over all that the stream has of some subjects.
func (b *Box) readAll(ctx context.Context, headersOnly bool, take func(entry) error, subjects ...string) error {
	r, err := b.newReader(ctx, headersOnly, subjects...)
	if err != nil {
		return err
	}
	defer r.close()
	return r.whole(ctx, take)
}
