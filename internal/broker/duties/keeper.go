package duties

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/lease"
	"realtimehub/internal/broker/stream"
	"realtimehub/internal/duty"
	"realtimehub/internal/history"
	"realtimehub/internal/pace"
)

// Config is what a keeper needs to know.
type Config struct {
	Prefix   string // of its subjects; its stream's name too, with "_duties"
	Replicas int
	Bytes    int64               // past so many at the broker, about, what came of events is kept for a short time; 0: no limit
	Alone    bool                // no other hub can be there
	Node     string              // this hub's name
	Key      func() *history.Key // of the cursors
	Settle   func(ctx context.Context) error
	Logger   *slog.Logger
}

// Keeper is one hub's side of what all hubs keep.
type Keeper struct {
	// Static.
	cfg    Config
	duty   duty.Config // set by Judge
	prefix string
	nc     *nats.Conn
	js     jetstream.JetStream
	stream *stream.Stream
	lease  *lease.Lease
	heard  []*nats.Subscription

	returns *duty.Returns
	judge   atomic.Pointer[duty.Judge] // nil: another hub judges
	words   words
	unread  atomic.Int64 // messages that were not understood
	telling pace.Counter // of them
	lost    atomic.Int64 // acknowledgements that were not kept
	full    atomic.Bool  // the stream is past its bound, as far as who judges knows
	lastUse atomic.Pointer[time.Time]
	ended   chan struct{}
	done    sync.WaitGroup
}

// Open makes the stream, or adapts it.
func Open(ctx context.Context, nc *nats.Conn, cfg Config) (*Keeper, error) {
	k := &Keeper{cfg: cfg, prefix: cfg.Prefix + ".duty", nc: nc, ended: make(chan struct{})}
	k.words.more, k.words.keeping = make(chan struct{}, 1), make(chan struct{}, 1)
	var err error
	if k.js, err = jetstream.New(nc); err != nil {
		return nil, err
	}
	if k.stream, err = stream.New(nc, cfg.Prefix+"_duties"); err != nil {
		return nil, err
	}
	if err := k.stream.Make(ctx, cfg.Logger, k.make); err != nil {
		return nil, err
	}
	k.lease = lease.New(lease.Config{Stream: k.stream, Subject: k.prefix + ".lease", Name: cfg.Node, Alone: cfg.Alone, Logger: cfg.Logger})
	k.use()
	k.done.Go(k.keepWords)
	k.done.Go(k.keepLooking)
	return k, nil
}

func (k *Keeper) make(ctx context.Context, js jetstream.JetStream) error {
	_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: k.stream.Name, Subjects: []string{k.prefix + ".>"}, Storage: jetstream.FileStorage, Replicas: k.cfg.Replicas,
		MaxMsgsPerSubject: 1, AllowDirect: true, AllowMsgTTL: true, AllowAtomicPublish: true,
	})
	return err
}

// Lease is what has one hub judge, and do what else one alone is to do.
func (k *Keeper) Lease() *lease.Lease { return k.lease }

// Judge names who is told of what is owed, and makes the Keeper of a hub. It is called once,
// before anything else.
func (k *Keeper) Judge(cfg duty.Config) duty.Keeper {
	k.duty = cfg
	k.duty.Keep = time.Minute // what came of an event is read from the stream
	k.returns = duty.NewReturns(cfg.Pools)
	for subject, do := range map[string]nats.MsgHandler{k.cfg.Prefix + ".dutyended": k.hearEnded, k.cfg.Prefix + ".dutycame": k.answerResults} {
		if sub, err := k.nc.Subscribe(subject, do); err == nil {
			k.heard = append(k.heard, sub)
		} else {
			k.cfg.Logger.Error("what other hubs say of acknowledgements cannot be heard", "err", err)
		}
	}
	k.nc.FlushTimeout(time.Second) // or what is said before the broker knows that we listen is not heard
	return k
}

// Close ends it, once Run has returned. The connection is the caller's.
func (k *Keeper) Close() {
	for _, sub := range k.heard {
		sub.Unsubscribe()
	}
	close(k.ended)
	k.done.Wait()
	k.lease.Close()
	k.stream.Close()
}

// margin is how long after a deadline acknowledgements of its event are kept: all hubs, or the
// broker, may be away as it comes.
const margin = 24 * time.Hour

// Open implements duty.Keeper. Parts of a duty are kept together, all or none: when its event is
// published again, others may be its recipients, and somebody would be in no part.
func (k *Keeper) Open(ctx context.Context, d *duty.Duty) error {
	k.use()
	var parts []*nats.Msg
	for _, part := range d.Parts(mostOfPart) {
		subject := k.subjectOf(d.Event.TenantID, d.At, part.Part)
		parts = append(parts, stream.NewMessage(subject, encode(part, leftOf(part.Deadline), nil), jetstream.ExpectedLastSubjSeqHeader, "0"))
	}
	for together := range slices.Chunk(parts, stream.BatchLimit) { // as a rule all
		if err := k.writeFirst(ctx, together...); err != nil {
			return err
		}
	}
	return nil
}

// over has what came of a duty take its place, unless another hub has judged it meanwhile: of whom
// the service was told that one knows.
func (k *Keeper) over(ctx context.Context, d *duty.Duty, came duty.Results) error {
	subject := k.subjectOf(d.Event.TenantID, d.At, d.Part)
	err := k.write(ctx, stream.NewMessage(subject, encode(d, 0, came.List),
		jetstream.MsgTTLHeader, stream.FormatTTL(k.resultsTime()), jetstream.ExpectedLastSubjSeqHeader, stream.FormatSeq(d.Kept)))
	if !stream.WasSecond(err) {
		return err
	}
	last, failed := k.stream.Leader(ctx, stream.Get{Last: subject})
	if failed != nil {
		return failed
	}
	if record, unread := k.decode(subject, last.Data); unread == nil && record.over {
		return nil
	}
	return err // it was kept anew here just now, or the judge has yet to read where it is
}

// early keeps when the absent of a duty were reported.
func (k *Keeper) early(ctx context.Context, d *duty.Duty, at time.Time) error {
	data, _ := json.Marshal(earlyRecord{d.Event.TenantID, at.UnixMilli()}) // of a text and a number
	subject := k.subjectOf(d.Event.TenantID, d.At, d.Part) + earlySuffix
	return k.write(ctx, stream.NewMessage(subject, data, jetstream.MsgTTLHeader, stream.FormatTTL(time.Until(d.Deadline)+margin)))
}

// writeFirst is write of what is to be kept once, whoever comes first. Where the first message's
// subject has something, all of them were kept before. The broker says that another was first also of
// what it has yet to keep (10164), which comes to nothing where its leader is cut off: so it is asked
// what it has.
func (k *Keeper) writeFirst(ctx context.Context, messages ...*nats.Msg) error {
	err := k.write(ctx, messages...)
	ctx, cancel := context.WithTimeout(ctx, stream.AskTimeout)
	defer cancel()
	for stream.WasSecond(err) {
		if first, _ := k.stream.Leader(ctx, stream.Get{Last: messages[0].Subject}); first.Seq > 0 {
			return nil
		}
		if !stream.Pause(ctx) {
			return fmt.Errorf("%w: %w", stream.ErrUnconfirmed, err)
		}
		err = k.write(ctx, messages...)
	}
	return err
}

// write has messages kept, all or none. A stream that has gone is made anew.
func (k *Keeper) write(ctx context.Context, messages ...*nats.Msg) error {
	err := k.writeOnce(ctx, messages)
	if errors.Is(err, nats.ErrNoResponders) {
		if _, gone := k.stream.Info(ctx); stream.IsGone(gone) {
			if err = k.remake(ctx); err == nil {
				err = k.writeOnce(ctx, messages)
			}
		}
	}
	return err
}

// remake makes the stream anew, unless that takes long: a backup may be restored for hours.
func (k *Keeper) remake(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stream.MakeTimeout)
	defer cancel()
	return k.stream.Make(ctx, k.cfg.Logger, k.make)
}

// writeSpeed is how many bytes a second the broker keeps at least, beside its time for a message.
const writeSpeed = 4 << 20

func (k *Keeper) writeOnce(ctx context.Context, messages []*nats.Msg) error {
	bytes := 0
	for _, msg := range messages {
		bytes += len(msg.Data)
	}
	ctx, cancel := context.WithTimeout(ctx, stream.AppendTimeout+time.Duration(bytes)*time.Second/writeSpeed)
	defer cancel()
	for {
		_, _, err := k.stream.Publish(ctx, k.stream.BatchName(), messages, nil)
		if !stream.WasBusy(err) || !stream.Pause(ctx) {
			return err
		}
	}
}

// How long it is known after a deadline what came of its event, at least.
const (
	resultsTTL = 24 * time.Hour
	fullTTL    = 5 * time.Minute // where much is kept
)

func (k *Keeper) resultsTime() time.Duration {
	if k.full.Load() {
		return max(fullTTL, k.duty.Repeats)
	}
	return max(resultsTTL, k.duty.Repeats)
}

// Run implements duty.Keeper.
func (k *Keeper) Run(ctx context.Context) { k.lease.Lead(ctx, k.lead) }

// lead judges until ctx ends.
func (k *Keeper) lead(ctx context.Context) {
	for ctx.Err() == nil {
		if err := k.leadOnce(ctx); err != nil && ctx.Err() == nil {
			k.cfg.Logger.Warn("deadlines cannot be judged now", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// judgedAtOnce are duties for each of which other hubs are asked, and the broker keeps what came
// of it.
const judgedAtOnce = 32

// leadOnce reads all that is kept, and judges as long as more can be read.
func (k *Keeper) leadOnce(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cfg := k.duty
	read := &reading{keeper: k, moved: make(chan struct{})}
	cfg.Settle = func(ctx context.Context) error { return k.settle(ctx, read) }
	cfg.Over, cfg.Early, cfg.AtOnce = k.over, k.early, judgedAtOnce
	read.judge = duty.NewJudge(cfg)
	defer read.judge.Close()
	if err := read.begin(ctx); err != nil {
		return err
	}
	if err := read.catchUp(ctx); err != nil {
		return err
	}
	k.judge.Store(read.judge)
	defer k.judge.Store(nil)
	read.judge.Run(ctx)
	read.leave(ctx)
	return ctx.Err()
}

// settle has all hubs hand over what their clients have acknowledged, and waits until it is read.
func (k *Keeper) settle(ctx context.Context, read *reading) error {
	if err := k.Flush(ctx); err != nil {
		return err
	}
	if k.cfg.Settle != nil {
		if err := k.cfg.Settle(ctx); err != nil {
			return err
		}
	}
	return read.catchUp(ctx)
}

// notUnderstood counts a message of a subject, which another version may have kept or told. There may
// be very many.
func (k *Keeper) notUnderstood(subject string, err error) {
	k.unread.Add(1)
	if times, due := k.telling.Due(time.Now()); due {
		k.cfg.Logger.Error("a duty, or an acknowledgement, cannot be read: another version may have kept it", "subject", subject, "times", times, "err", err)
	}
}

// Stats implements duty.Keeper: what is judged here.
func (k *Keeper) Stats() (s duty.Stats) {
	if j := k.judge.Load(); j != nil {
		s = j.Stats()
	}
	s.Unread, s.Lost = k.unread.Load(), k.lost.Load()
	return s
}
