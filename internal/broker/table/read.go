package table

import (
	"context"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/stream"
)

// Bounds of reading: what is asked for at once; how many more make it worth a consumer,
// as the broker counts anew what is left at each get; how many of those there are.
const (
	readRows      = 512
	manyRows      = 4 * readRows
	fetchRows     = 4096
	readersAtOnce = 4
	readTimeout   = 10 * time.Second
)

// Read hands over a topic's rows that changed after a place, at least up to another,
// in the order of their changes.
func (t *Table) Read(ctx context.Context, topic string, after, until uint64, take func([]Row) error) error {
	return t.scan(ctx, t.cfg.Prefix+".row."+stream.Token(topic)+".>", after, until, take)
}

// scan is Read of rows whose subjects match.
func (t *Table) scan(ctx context.Context, subject string, after, until uint64, take func([]Row) error) error {
	for wait := time.Millisecond; ; {
		var rows []Row
		end, err := t.stream.Direct(ctx, stream.Get{Seq: after + 1, Next: subject, Batch: readRows}, func(msg *nats.Msg) {
			rows = append(rows, t.rowOf(msg.Header.Get("Nats-Subject"), stream.ParseSeq(msg.Header.Get("Nats-Sequence")), msg.Data))
		})
		if err != nil {
			return err
		}
		if len(rows) > 0 {
			after = rows[len(rows)-1].Seq
			if err := take(rows); err != nil {
				return err
			}
			more := stream.ParseSeq(end.Get("Nats-Num-Pending"))
			if more > manyRows {
				if after, err = t.consume(ctx, subject, after, take); err != nil {
					return err
				}
			}
			if more > 0 {
				continue
			}
		}
		if after >= until {
			return nil
		}
		// A replica that is behind; or the row there was changed once more, or faded. A leader
		// that has just become one may be behind as well, so it is asked first how far it has
		// come: not for its last row, which may have faded.
		s, err := t.stream.Info(ctx)
		if err != nil {
			return err
		}
		if s.Last < until {
			return stream.ErrStale // or there is no such place: it is of another life
		}
		if next, err := t.stream.Next(ctx, subject, after, 1<<62); err != nil || next == 0 {
			return err
		}
		select {
		case <-time.After(wait):
			wait = min(2*wait, 50*time.Millisecond)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// consume reads on to the end through a consumer of its own, which goes with it; it
// returns the last row's place.
func (t *Table) consume(ctx context.Context, subject string, after uint64, take func([]Row) error) (uint64, error) {
	select {
	case t.readers <- struct{}{}:
		defer func() { <-t.readers }()
	case <-ctx.Done():
		return after, ctx.Err()
	}
	js, err := jetstream.New(t.nc)
	if err != nil {
		return after, err
	}
	making, cancel := context.WithTimeout(ctx, stream.MakeTimeout)
	defer cancel()
	consumer, err := js.CreateConsumer(making, t.stream.Name, jetstream.ConsumerConfig{
		FilterSubject: subject, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: after + 1,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: readTimeout,
	})
	if err != nil {
		return after, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), stream.AskTimeout)
		defer cancel()
		js.DeleteConsumer(ctx, t.stream.Name, consumer.CachedInfo().Name) // else it goes by itself
	}()
	for number, left := uint64(0), consumer.CachedInfo().NumPending; left > 0; {
		batch, err := consumer.Fetch(int(min(left, fetchRows)), jetstream.FetchMaxWait(stream.AskTimeout))
		if err != nil {
			return after, err
		}
		var rows []Row
		for msg := range batch.Messages() {
			meta, err := msg.Metadata()
			if err != nil {
				return after, err
			}
			if number++; meta.Sequence.Consumer != number {
				return after, stream.ErrTorn
			}
			left = meta.NumPending
			rows = append(rows, t.rowOf(msg.Subject(), meta.Sequence.Stream, msg.Data()))
		}
		if len(rows) == 0 { // it is over, or has gone
			return after, batch.Error()
		}
		after = rows[len(rows)-1].Seq
		if err := take(rows); err != nil {
			return after, err
		}
	}
	return after, nil
}

func (t *Table) rowOf(subject string, seq uint64, data []byte) Row {
	r := Row{Data: data, Seq: seq}
	parts := strings.Split(subject, ".")
	if n := len(parts); n >= 3 {
		topic := stream.KeyOf(parts[n-3])
		group, _ := names.DecodeString(parts[n-2])
		name, _ := names.DecodeString(strings.TrimPrefix(parts[n-1], nameMark))
		r.Topic, r.Group, r.Name = topic, string(group), string(name)
	}
	return r
}
