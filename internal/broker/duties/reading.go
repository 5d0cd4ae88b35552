package duties

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/duty"
)

// reading hands a judge all that is kept, but for what lies behind; once more where the stream is
// made anew, or may have lost its end.
type reading struct {
	// Static.
	keeper *Keeper
	judge  *duty.Judge

	mu sync.Mutex
	// Guarded by mu.
	consuming jetstream.ConsumeContext
	begun     *beginning
	at        uint64        // its place up to which all is handed over
	moved     chan struct{} // closed when at moves
	passed    milestones
	unread    uint64        // the first place that was not understood; 0: none
	ahead     time.Duration // of this process's clock the leader's, as far as is known now, at most: more by the time of its answer
	prepared  uint64        // where reading may begin as soon as the disk has what was kept anew; 0: nowhere
	bytes     int64         // that were read since it was last made to begin later
}

// lookEvery is how often it is asked whether the stream is still the one that is read.
const lookEvery = 5 * time.Second

// begin reads through a consumer that goes with it, until ctx ends.
func (r *reading) begin(ctx context.Context) error {
	if err := r.follow(ctx); err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { r.now().Stop() })
	go r.watch(ctx)
	go r.keepCompact(ctx)
	return nil
}

func (r *reading) now() jetstream.ConsumeContext {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.consuming
}

// watch reads from the beginning again where the stream is another, may have lost its end, or can be
// read no more.
func (r *reading) watch(ctx context.Context) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		ended := false
		select {
		case <-ctx.Done():
			return
		case <-r.now().Closed():
			ended = true
		case <-ticker.C:
		}
		if !ended {
			same, err := r.same(ctx)
			if err != nil || same {
				continue
			}
		}
		if err := r.readAnew(ctx); err != nil && ctx.Err() == nil {
			r.keeper.cfg.Logger.Warn("what is owed cannot be read now", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
		if ctx.Err() != nil {
			r.now().Stop()
		}
	}
}

// readAnew reads from the beginning again, and has duties kept that the stream has no more.
func (r *reading) readAnew(ctx context.Context) error {
	if err := r.follow(ctx); err != nil {
		return err
	}
	if err := r.catchUp(ctx); err != nil {
		return err
	}
	return r.keepLost(ctx)
}

// leave has all that is owed kept where the stream has gone, or was made anew, as its judge ends:
// who judges next finds nothing else there.
func (r *reading) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTime)
	defer cancel()
	state, err := r.keeper.stream.Info(ctx)
	r.mu.Lock()
	same := err == nil && state.Life() == r.begun.life || err != nil && !stream.IsGone(err)
	r.mu.Unlock()
	if same {
		return
	}
	r.judge.Unplace()
	if err := r.keepLost(ctx); err != nil {
		r.keeper.cfg.Logger.Error("the stream of duties has gone, and what is owed could not be kept: of some events nobody is reported", "err", err)
	}
}

// same says whether the stream is the one that is read, and cannot have lost its end meanwhile:
// a broker that has gives the same places again.
func (r *reading) same(ctx context.Context) (bool, error) {
	k := r.keeper
	connected := k.nc.Stats().Reconnects
	asked := time.Now()
	state, err := k.stream.Info(ctx)
	if err == nil {
		full := k.cfg.Bytes > 0 && int64(state.Bytes) > k.cfg.Bytes
		if was := k.full.Swap(full); full && !was {
			k.cfg.Logger.Warn("store: what came of events with a deadline takes much: of further ones it is kept for a short time", "bytes", state.Bytes, "limit", k.cfg.Bytes)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.ahead = state.Now.Sub(asked)
	}
	return state.Life() == r.begun.life && connected == r.begun.connected && state.Last >= r.at, err
}

// follow reads the stream as it is now, from where that is to begin.
func (r *reading) follow(ctx context.Context) error {
	k := r.keeper
	connected := k.nc.Stats().Reconnects
	asked := time.Now()
	state, err := k.stream.Info(ctx)
	if err != nil {
		return err
	}
	from := &beginning{life: state.Life(), connected: connected, last: state.Last, ahead: time.Until(state.Now)}
	begin, err := k.begin(ctx)
	if err != nil {
		return err
	}
	consumer, err := k.js.OrderedConsumer(ctx, k.stream.Name, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{k.prefix + ".open.>", k.prefix + ".ack.>"},
		DeliverPolicy:  jetstream.DeliverByStartSequencePolicy, OptStartSeq: begin,
	})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.consuming != nil {
		r.consuming.Stop()
	}
	r.judge.Unplace()
	take := func(msg jetstream.Msg) { r.take(from, msg) }
	consuming, err := consumer.Consume(take, jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		k.cfg.Logger.Debug("reading duties", "err", err) // it goes on by itself
	}))
	if err != nil {
		return err
	}
	r.consuming, r.begun, r.at, r.ahead = consuming, from, begin-1, state.Now.Sub(asked)
	r.passed, r.unread, r.bytes, r.prepared = milestones{}, 0, 0, 0
	return nil
}

// beginning is the stream as it was when reading began.
type beginning struct {
	life      string
	connected uint64        // how often the process had connected again
	last      uint64        // its last place
	ahead     time.Duration // of this process's clock the leader's, at least: less by the time of its answer
}

// keptAt is when a message was kept, by this process's clock: not before. One that came since
// reading began was kept as it was read; of one from before the leader's clock says it.
func (b *beginning) keptAt(now time.Time, meta *jetstream.MsgMetadata) time.Time {
	if meta.Sequence.Stream > b.last {
		return now
	}
	return stampedAt(now, b.ahead, meta)
}

// stampedAt is when a message was kept by the leader's clock, which is so much ahead, by this
// process's: not in the future.
func stampedAt(now time.Time, ahead time.Duration, meta *jetstream.MsgMetadata) time.Time {
	return now.Add(-max(0, now.Add(ahead).Sub(meta.Timestamp)))
}

// take hands over one message of a stream.
func (r *reading) take(from *beginning, msg jetstream.Msg) {
	meta, err := msg.Metadata()
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if from != r.begun { // it is read anew meanwhile, and the judge must not take an old place for one of the new stream
		return
	}
	r.at = meta.Sequence.Stream
	now := time.Now()
	kept := from.keptAt(now, meta)
	if err := r.hand(msg, kept, stampedAt(now, r.ahead, meta)); err != nil {
		r.keeper.notUnderstood(msg.Subject(), err)
		if r.unread == 0 {
			r.unread = r.at
		}
	}
	r.passed.pass(r.at, kept)
	r.bytes += int64(len(msg.Data()))
	close(r.moved)
	r.moved = make(chan struct{})
}

// hand hands over what a message says. It was kept at a time, and not before; what was acknowledged
// in time is in time even where it is read late, so of that the leader's clock says it: not after.
func (r *reading) hand(msg jetstream.Msg, kept, stamped time.Time) error {
	k := r.keeper
	if of, is := strings.CutSuffix(msg.Subject(), earlySuffix); is {
		return r.handEarly(of, msg.Data())
	}
	if strings.HasPrefix(msg.Subject(), k.prefix+".open.") {
		record, err := k.decode(msg.Subject(), msg.Data())
		if err != nil || record.over {
			return err
		}
		record.duty.Kept = r.at
		due := kept.Add(record.left)
		if record.left == 0 {
			due = record.duty.Deadline
		}
		r.judge.Open(record.duty, due, record.came)
		return nil
	}
	var list []word
	if err := json.Unmarshal(msg.Data(), &list); err != nil {
		return err
	}
	var errs []error
	for _, w := range list {
		a, err := w.acknowledgement()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		a.Given = stamped.Add(-time.Duration(w.Age) * time.Millisecond)
		r.judge.Acknowledge(a, kept)
	}
	return errors.Join(errs...)
}

// handEarly hands over that the absent of the duty of a subject were reported.
func (r *reading) handEarly(subject string, data []byte) error {
	var early earlyRecord
	if err := json.Unmarshal(data, &early); err != nil {
		return err
	}
	at, part, err := r.keeper.placeOf(subject)
	if err == nil {
		r.judge.Reported(early.Tenant, at, part, time.UnixMilli(early.At))
	}
	return err
}

// errAnew: what is kept is read from the beginning again.
var errAnew = errors.New("the stream of duties was made anew")

// catchUp waits until all has been handed over that is kept now.
func (r *reading) catchUp(ctx context.Context) error {
	for {
		if same, err := r.same(ctx); err != nil || !same {
			return cmp.Or(err, errAnew)
		}
		last, err := r.last(ctx)
		if err != nil {
			return err
		}
		look := time.After(lookAgain) // what was last may fade before it is read
		for waiting := true; waiting; {
			r.mu.Lock()
			at, moved := r.at, r.moved
			r.mu.Unlock()
			if at >= last {
				return nil
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-look:
				waiting = false
			case <-moved:
			}
		}
	}
}

// lookAgain is how long what is kept is waited for, before it is asked anew what that is.
const lookAgain = 500 * time.Millisecond

// last is the place of the last of what is read.
func (r *reading) last(ctx context.Context) (last uint64, err error) {
	for _, what := range []string{".open.>", ".ack.>"} {
		place, err := r.keeper.stream.Last(ctx, r.keeper.prefix+what)
		if err != nil {
			return 0, err
		}
		last = max(last, place)
	}
	return last, nil
}
