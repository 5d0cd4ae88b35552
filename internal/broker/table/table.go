package table

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/stream"
)

// ErrConflict: the group has changed since what the change was made from.
var ErrConflict = errors.New("changed meanwhile")

// Row is one row of a table: the last that was put at its name.
type Row struct {
	Topic, Group, Name string

	Data  []byte // empty for a group's own row, whose Name is empty
	Seq   uint64
	Fades bool // it is of no use after the table's age
}

// Config is what a table needs to know.
type Config struct {
	Prefix   string // of its subjects; its stream's name too, with "_"
	Replicas int
	Age      time.Duration // after which rows that fade do; 0: never
	Logger   *slog.Logger
	// Changed reads the rows of topics that have changed, up to a place.
	Changed func(ctx context.Context, topics []string, place uint64) error
	// Lost says that rows are gone: the broker has lost the table, or the last of it. What
	// it has is told again then. life names the table as it is since; the first time nothing
	// is gone that was known here.
	Lost func(ctx context.Context, life string, known bool) error
}

// Table keeps rows by topic and group. A group's rows are changed together, from
// what they were; who wants them reads what has changed since it last did.
type Table struct {
	nc      *nats.Conn
	stream  *stream.Stream
	cfg     Config
	looks   stream.Joined[struct{}]
	proofs  stream.Joined[uint64]
	readers chan struct{} // of much at once

	// Owned by look.
	life string
	seen uint64 // all that changed up to here is read
}

// Open makes the table's stream, or adapts it, and looks at it.
func Open(ctx context.Context, nc *nats.Conn, cfg Config) (*Table, error) {
	g, err := stream.New(nc, cfg.Prefix+"_table")
	if err != nil {
		return nil, err
	}
	t := &Table{nc: nc, stream: g, cfg: cfg, readers: make(chan struct{}, readersAtOnce)}
	t.looks.Ask, t.proofs.Ask = t.look, t.prove
	if err := t.prepare(ctx, 0); err != nil {
		return nil, err
	}
	return t, stream.UntilMade(ctx, cfg.Logger, t.Look)
}

// prepare makes the table's stream, or adapts it, and notes that it has lost its end at least
// so often.
func (t *Table) prepare(ctx context.Context, losses int) error {
	return t.stream.Make(ctx, t.cfg.Logger, func(ctx context.Context, js jetstream.JetStream) error {
		config := jetstream.StreamConfig{
			Name: t.stream.Name, Subjects: []string{t.cfg.Prefix + ".row.>"}, Storage: jetstream.FileStorage, Replicas: t.cfg.Replicas,
			MaxMsgsPerSubject: 1, AllowDirect: true, AllowAtomicPublish: true, AllowMsgTTL: true,
		}
		was, err := js.Stream(ctx, t.stream.Name)
		if err == nil {
			config.Metadata = maps.Clone(was.CachedInfo().Config.Metadata)
		} else if !errors.Is(err, jetstream.ErrStreamNotFound) {
			return err
		}
		if known, _ := strconv.Atoi(config.Metadata[stream.LossesKey]); losses > known {
			if config.Metadata == nil {
				config.Metadata = map[string]string{}
			}
			config.Metadata[stream.LossesKey] = strconv.Itoa(losses)
		}
		_, err = js.CreateOrUpdateStream(ctx, config)
		return err
	})
}

// names are what stands for names in subjects, after a mark: the empty one has a
// place of its own then.
var names = base64.RawURLEncoding

const nameMark = "_"

func (t *Table) subject(topic, group, name string) string {
	return t.cfg.Prefix + ".row." + stream.Token(topic) + "." + names.EncodeToString([]byte(group)) + "." + nameMark + names.EncodeToString([]byte(name))
}

// Try tries whether rows can be kept: none is.
func (t *Table) Try(ctx context.Context) error {
	return t.stream.PurgeNothing(ctx, t.cfg.Prefix+".row."+stream.TryName)
}

// Last is a place up to which all of a topic has changed that anybody was told of before. A
// table that has gone is made anew, without rows.
func (t *Table) Last(ctx context.Context, topic string) (uint64, error) {
	place, err := t.lastOf(ctx, topic)
	if err != nil && t.Look(ctx) == nil {
		place, err = t.lastOf(ctx, topic)
	}
	return place, err
}

func (t *Table) lastOf(ctx context.Context, topic string) (uint64, error) {
	if t.cfg.Replicas == 1 {
		return t.stream.Last(ctx, t.cfg.Prefix+".row."+stream.Token(topic)+".>")
	}
	return t.proofs.Join(ctx)
}

// prove has a message kept, so that its place is after all that was kept before. Who leads no
// more, and does not know it yet, tells of an earlier end.
func (t *Table) prove() (place uint64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), stream.AskTimeout)
	defer cancel()
	place, _, err = t.stream.Request(ctx, stream.NewMessage(t.cfg.Prefix+".row."+stream.ProofName, nil, jetstream.MsgTTLHeader, "60"))
	return place, err
}

// Version is the place of a group's own row, as the leader tells, and that of the last row
// of the group.
func (t *Table) Version(ctx context.Context, topic, group string) (version, last uint64, err error) {
	own := t.subject(topic, group, "")
	if version, err = t.stream.Last(ctx, own); err == nil {
		last, err = t.stream.Last(ctx, strings.TrimSuffix(own, nameMark)+"*")
	}
	return version, last, err
}

// Look has Changed told of all that had changed in the table when it was called.
func (t *Table) Look(ctx context.Context) error {
	_, err := t.looks.Join(ctx)
	return err
}

// look asks the leader how far the table is, and has what has changed read.
func (t *Table) look() (none struct{}, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	s, err := t.stream.Info(ctx)
	if stream.IsGone(err) {
		if err = t.prepare(ctx, 0); err == nil {
			s, err = t.stream.Info(ctx)
		}
	}
	var place uint64
	if err == nil && t.cfg.Replicas > 1 {
		place, err = t.prove()
	}
	if err == nil && s.Last < place {
		if s, err = t.stream.Info(ctx); err == nil && s.Last < place {
			err = stream.ErrStale
		}
	}
	if err == nil && s.Life() == t.life && s.Last < t.seen {
		// The others are told: once it is as long again they would not see it.
		if err = t.prepare(ctx, s.Losses+1); err == nil {
			s, err = t.stream.Info(ctx)
		}
		if err == nil && s.Life() == t.life {
			err = stream.ErrStale
		}
	}
	if err != nil {
		return none, err
	}
	if life := s.Life(); life != t.life {
		if err := t.cfg.Lost(ctx, life, t.life != ""); err != nil {
			return none, err
		}
		if t.seen = 0; t.life == "" {
			t.seen = s.Last // nobody has asked for anything yet
		}
		t.life = life
	}
	if s.Last == t.seen {
		return none, nil
	}
	// The own row of each group that has changed: few, however many have.
	var topics []string
	told := map[string]bool{}
	err = t.scan(ctx, t.cfg.Prefix+".row.*.*."+nameMark, t.seen, s.Last, func(rows []Row) error {
		for _, r := range rows {
			if !told[r.Topic] {
				told[r.Topic], topics = true, append(topics, r.Topic)
			}
		}
		return nil
	})
	if err == nil && len(topics) > 0 {
		err = t.cfg.Changed(ctx, topics, s.Last)
	}
	if err == nil {
		t.seen = s.Last
	}
	return none, err
}

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
		msg.Header[jetstream.MsgTTLHeader] = []string{strconv.Itoa(int((after + time.Second - 1) / time.Second))}
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

// Close ends reads that wait; the connection is the caller's.
func (t *Table) Close() { t.stream.Close() }
