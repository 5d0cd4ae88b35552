package table

import (
	"context"
	"encoding/base64"
	"errors"
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
var ErrConflict = errors.New("the group was changed at the same time")

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
	looks   *stream.Joined[struct{}]
	proofs  *stream.Joined[uint64]
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
	t.looks, t.proofs = stream.NewJoined(t.look), stream.NewJoined(t.prove)
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
	if err := t.tellChanged(ctx, s.Last); err != nil {
		return none, err
	}
	t.seen = s.Last
	return none, nil
}

// tellChanged has Changed told of the topics that have changed up to a place. Read is the own
// row of each group that has changed: few, however many have.
func (t *Table) tellChanged(ctx context.Context, place uint64) error {
	var topics []string
	told := map[string]bool{}
	err := t.scan(ctx, t.cfg.Prefix+".row.*.*."+nameMark, t.seen, place, func(rows []Row) error {
		for _, r := range rows {
			if !told[r.Topic] {
				told[r.Topic], topics = true, append(topics, r.Topic)
			}
		}
		return nil
	})
	if err != nil || len(topics) == 0 {
		return err
	}
	return t.cfg.Changed(ctx, topics, place)
}

// Close ends reads that wait; the connection is the caller's.
func (t *Table) Close() { t.stream.Close() }
