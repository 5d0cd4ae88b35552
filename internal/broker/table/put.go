package table

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/stream"
)

// putTries is how often a batch is tried that the broker is too busy for.
const putTries = 100

// emptyAge is how much longer the own row of an empty group is kept than rows that fade:
// who knows the group by it changes it from there.
const emptyAge = 24 * time.Hour

// Put puts rows of one group, at once where they are fewer than BatchLimit. from is
// the place of the group's own row as the caller knows it; ErrConflict where it is
// another. empty: nothing is in the group any more, so that its own row fades as well. It
// returns the place of the last.
func (t *Table) Put(ctx context.Context, topic, group string, from uint64, rows []Row, empty bool) (uint64, error) {
	fade := func(msg *nats.Msg, after time.Duration) {
		msg.Header[jetstream.MsgTTLHeader] = []string{stream.FormatTTL(after)}
	}
	some := false // are put
	for tries := 0; ; {
		n := min(len(rows), stream.BatchLimit-1)
		own := stream.NewMessage(t.subject(topic, group, ""), nil, jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(from, 10))
		if empty && t.cfg.Age > 0 && n == len(rows) {
			fade(own, t.cfg.Age+emptyAge)
		}
		messages := []*nats.Msg{own}
		for _, r := range rows[:n] {
			msg := stream.NewMessage(t.subject(topic, group, r.Name), r.Data)
			if r.Fades && t.cfg.Age > 0 {
				fade(msg, t.cfg.Age)
			}
			messages = append(messages, msg)
		}
		once, cancel := context.WithTimeout(ctx, stream.AppendTimeout)
		last, err := t.putOnce(once, messages)
		cancel()
		if refused, ok := errors.AsType[*stream.Refusal](err); ok {
			switch refused.Code {
			case stream.CodeWrongLast, stream.CodeWrongLastInBatch:
				if !some {
					return 0, ErrConflict
				}
			case stream.CodeBatchesFull, stream.CodeIncomplete, stream.CodeNotLeader:
				if tries++; tries < putTries && stream.Pause(ctx) {
					continue
				}
			}
		}
		if err != nil && some {
			return 0, fmt.Errorf("%w: %w", stream.ErrUnconfirmed, err)
		}
		if err != nil {
			return 0, err
		}
		some = true
		if from, rows = last-uint64(n), rows[n:]; len(rows) == 0 {
			return last, nil
		}
	}
}

func (t *Table) putOnce(ctx context.Context, messages []*nats.Msg) (uint64, error) {
	seq, _, err := t.stream.Publish(ctx, t.stream.BatchName(), messages, nil)
	return seq, err
}
