package journal

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrConflict: the group has changed since what the change was made from.
var ErrConflict = errors.New("changed meanwhile")

// Row is one row of a table: the last that was put at its name.
type Row struct {
	Group, Name string
	Data        []byte // empty for a group's own row, whose Name is empty
	Seq         uint64
	Fades       bool // it is of no use after the table's age
}

// Table keeps rows by topic and group. A group's rows are changed together, from
// what they were; who wants them reads what has changed since it last did.
type Table struct {
	*stream
	prefix string
	age    time.Duration
}

// OpenTable makes the table's stream, or adapts it. Rows that fade do so after age; 0:
// never.
func OpenTable(ctx context.Context, nc *nats.Conn, prefix string, replicas int, age time.Duration, logger *slog.Logger) (*Table, error) {
	g, err := newStream(nc, prefix+"_table")
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	err = untilMade(ctx, logger, func(ctx context.Context) error {
		_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
			Name: g.name, Subjects: []string{prefix + ".row.>"}, Storage: jetstream.FileStorage, Replicas: replicas,
			MaxMsgsPerSubject: 1, AllowDirect: true, AllowAtomicPublish: true, AllowMsgTTL: true,
		})
		return err
	})
	return &Table{g, prefix, age}, err
}

// names are what stands for names in subjects, after a mark: the empty one has a
// place of its own then.
var names = base64.RawURLEncoding

const nameMark = "_"

func (t *Table) subject(topic, group, name string) string {
	return t.prefix + ".row." + token(topic) + "." + names.EncodeToString([]byte(group)) + "." + nameMark + names.EncodeToString([]byte(name))
}

// Last is the place of a topic's last change, as the leader tells.
func (t *Table) Last(ctx context.Context, topic string) (uint64, error) {
	return t.last(ctx, t.prefix+".row."+token(topic)+".>")
}

// Read hands over a topic's rows that changed after a place, at least up to another,
// in the order of their changes; it returns the last one's place.
func (t *Table) Read(ctx context.Context, topic string, after, until uint64, take func([]Row)) (uint64, error) {
	subject := t.prefix + ".row." + token(topic) + ".>"
	for wait := time.Millisecond; ; {
		var rows []Row
		end, err := t.direct(ctx, get{Seq: after + 1, Next: subject, Batch: readBatch}, func(msg *nats.Msg) {
			rows = append(rows, t.rowOf(msg))
		})
		if err != nil {
			return after, err
		}
		if len(rows) > 0 {
			after = rows[len(rows)-1].Seq
			take(rows)
		}
		if len(rows) > 0 && parseSeq(end.Get("Nats-Num-Pending")) > 0 {
			continue
		}
		if after >= until {
			return after, nil
		}
		// A replica that is behind; or the row there was changed once more, or faded.
		if next, err := t.next(ctx, subject, after, 1<<62); err != nil || next == 0 {
			return max(after, until), err
		}
		select {
		case <-time.After(wait):
			wait = min(2*wait, 50*time.Millisecond)
		case <-ctx.Done():
			return after, ctx.Err()
		}
	}
}

func (t *Table) rowOf(msg *nats.Msg) Row {
	r := Row{Data: msg.Data, Seq: parseSeq(msg.Header.Get("Nats-Sequence"))}
	parts := strings.Split(msg.Header.Get("Nats-Subject"), ".")
	if n := len(parts); n >= 2 {
		group, _ := names.DecodeString(parts[n-2])
		name, _ := names.DecodeString(strings.TrimPrefix(parts[n-1], nameMark))
		r.Group, r.Name = string(group), string(name)
	}
	return r
}

// putTries is how often a batch is tried that the broker is too busy for.
const putTries = 100

// Put puts rows of one group, at once where they are fewer than BatchLimit. from is
// the place of the group's own row as the caller knows it; ErrConflict where it is
// another. It returns the place of the last.
func (t *Table) Put(ctx context.Context, topic, group string, from uint64, rows []Row) (uint64, error) {
	some := false // are put
	for tries := 0; ; {
		n := min(len(rows), BatchLimit-1)
		own := message(t.subject(topic, group, ""), nil, jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(from, 10))
		messages := []*nats.Msg{own}
		for _, r := range rows[:n] {
			msg := message(t.subject(topic, group, r.Name), r.Data)
			if r.Fades && t.age > 0 {
				msg.Header[jetstream.MsgTTLHeader] = []string{strconv.Itoa(int((t.age + time.Second - 1) / time.Second))}
			}
			messages = append(messages, msg)
		}
		once, cancel := context.WithTimeout(ctx, appendTimeout)
		last, err := t.putOnce(once, messages)
		cancel()
		if refused, ok := errors.AsType[*refusal](err); ok {
			switch refused.code {
			case codeWrongLast, codeWrongLastInBatch:
				if !some {
					return 0, ErrConflict
				}
			case codeBatchesFull, codeIncomplete, codeNotLeader:
				if tries++; tries < putTries && pause(ctx) {
					continue
				}
			}
		}
		if err != nil && some {
			return 0, fmt.Errorf("%w: %w", ErrUnconfirmed, err)
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
	seq, _, err := t.publish(ctx, fmt.Sprintf("%s-%d", t.inbox[len(t.inbox)-8:], t.asked.Add(1)), messages, nil)
	return seq, err
}

// Close ends reads that wait; the connection is the caller's.
func (t *Table) Close() { close(t.ended) }
