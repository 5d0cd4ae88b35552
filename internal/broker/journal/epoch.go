package journal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/stream"
)

// life is one life of the stream. A broker that has lost the stream, or its end, gives the same
// sequence numbers (places) to other messages: those belong to another life.
//
// A life ends when the stream is made anew, or when a counter is raised that all processes
// share in a bucket beside the stream. A process raises it when a place was given again. Only
// two things prove that: the place that a stored message was acknowledged with, and another
// message at a place where one was seen before. Any other answer may come from a server that
// does not know yet that it is no longer the leader.
type life struct {
	// Static.
	epoch   string // its name
	created string // when the stream was made
	count   uint64
	secret  string // of all who share the journal

	highest atomic.Uint64 // place that was seen in it
	over    atomic.Bool   // a place was given again
	lasts   lasts
}

func newLife(created string, count uint64, secret string) *life {
	return &life{epoch: created + "." + strconv.FormatUint(count, 36), created: created, count: count, secret: secret}
}

// saw notes a place that exists.
func (l *life) saw(seq uint64) {
	for {
		highest := l.highest.Load()
		if seq <= highest || l.highest.CompareAndSwap(highest, seq) {
			return
		}
	}
}

// Epoch is new for each life of the stream: places of another mean nothing here.
func (j *Journal) Epoch() string { return j.life.Load().epoch }

// Secret is random bytes that all who share the journal have, and nobody else who
// cannot read it.
func (j *Journal) Secret() string { return j.life.Load().secret }

// Keys of the bucket.
const (
	epochKey  = "epoch"
	secretKey = "secret"
)

// lookTimeout is for all that a look asks.
const lookTimeout = 3 * stream.AskTimeout

// errUnagreed: the bucket cannot be reached. The state of the stream itself is known.
var errUnagreed = errors.New("what all hubs have agreed on cannot be read")

// look asks the leader for the stream and what life it is in. What the broker should
// keep and does not is made anew. With errUnagreed the state is known.
func (j *Journal) look() (s stream.State, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
	defer cancel()
	l := j.life.Load()
	seen := l.highest.Load()
	s, err = j.heads.Join(ctx)
	if stream.IsGone(err) {
		if err = j.prepare(ctx); err == nil {
			s, err = j.heads.Join(ctx)
		}
	}
	if err != nil {
		return s, err
	}
	created := s.Life()
	same := created == l.created
	mine := uint64(0)
	if same {
		mine = l.count
	}
	secret, err := j.agree(ctx, secretKey, l.secret, func(theirs string) string { return theirs })
	var count uint64
	if err == nil {
		count, err = j.countFrom(ctx, mine)
	}
	if same && !l.over.Load() {
		if again, err := j.givenAgain(ctx, l); err != nil {
			return s, err
		} else if again {
			j.gaveAgain(l, s.Last)
		}
	}
	switch {
	case same && (s.Last < seen || l.over.Load()) && (err != nil || count == mine):
		if !l.over.Load() {
			if time.Since(j.proved) < probeEvery {
				return s, stream.ErrStale
			}
			place, err := j.prove(ctx)
			if err != nil {
				return s, err
			}
			if place > seen { // nothing was lost, and what we were told was old
				j.proved = time.Now()
				l.saw(place)
				return s, stream.ErrStale
			}
			j.gaveAgain(l, place)
		}
		if err == nil {
			count, err = j.countFrom(ctx, mine+1)
		}
	case same && err != nil: // this stream goes on, whatever is with the bucket
		return s, fmt.Errorf("%w from the bucket %s: %w", errUnagreed, j.bucket(), err)
	}
	if err != nil {
		return s, err
	}
	j.begin(newLife(created, count, secret), s.Last)
	return s, nil
}

// givenAgain asks the leader for the last message that any feed has taken in a life: whether
// there is another at its place.
func (j *Journal) givenAgain(ctx context.Context, l *life) (bool, error) {
	place, at := uint64(0), time.Time{}
	for _, f := range j.followed() {
		f.mu.Lock()
		if f.of == l && f.last > place {
			place, at = f.last, f.lastAt
		}
		f.mu.Unlock()
	}
	if place == 0 || at.IsZero() {
		return false, nil
	}
	m, err := j.stream.Leader(ctx, stream.Get{Seq: place})
	return m.Seq == place && !m.At.Equal(at), err
}

// gaveAgain notes that a place was given again.
func (j *Journal) gaveAgain(l *life, place uint64) {
	if !l.over.Swap(true) {
		j.cfg.Logger.Error("the store has used a sequence number twice, so it lost messages", "place", place, "highest", l.highest.Load())
	}
}

// begin begins a life, unless it is the one that we know.
func (j *Journal) begin(l *life, last uint64) {
	before := j.life.Load()
	if l.epoch == before.epoch && l.secret == before.secret {
		before.saw(last)
		return
	}
	l.highest.Store(last)
	j.life.Store(l)
	if before.epoch == "" {
		return // it is the first
	}
	if l.epoch != before.epoch {
		j.lose("history", "the history is another than before: a backup was restored, or the store lost it or the end of it. It begins anew", "epoch", l.epoch)
	} else {
		j.lose("epoch", "the store lost the secret that all hubs share; another has replaced it")
	}
	j.nc.Publish(j.lookSubject(), nil) // else others do so within a second
	j.swept.Store(last)
	for _, f := range j.followed() {
		f.mu.Lock()
		if f.of != l {
			f.of, f.last = l, 0
			f.loseLocked(last, last)
		}
		f.mu.Unlock()
	}
}

// lose tells of something that the broker has lost.
func (j *Journal) lose(what, text string, about ...any) {
	j.cfg.Logger.Error(text, about...)
	if j.cfg.Gone != nil {
		j.cfg.Gone(what)
	}
}

// lifeOf is the life of places that the broker has just given. l and highest are the life and
// its highest place as they were known before the broker was asked.
func (j *Journal) lifeOf(ctx context.Context, l *life, highest, first, last uint64) (*life, error) {
	if first > highest && !l.over.Load() {
		l.saw(last)
		if j.life.Load() != l {
			return nil, stream.ErrUnconfirmed // it may have been given before the end
		}
		return l, nil
	}
	j.gaveAgain(l, first)
	_, err := j.looks.Join(ctx)
	if now := j.life.Load(); now != l {
		return now, nil
	}
	return nil, fmt.Errorf("%w: %w", stream.ErrUnconfirmed, errors.Join(err, stream.ErrStale))
}

// Confirm asks the leader whether a place that was given in the present life still exists. It
// returns nil once the leader knows the place, or if that life is over, which Epoch then
// shows. Place 0 only brings the life up to date.
func (j *Journal) Confirm(ctx context.Context, place uint64) error {
	ctx, cancel := context.WithTimeout(ctx, 2*stream.AskTimeout)
	defer cancel()
	l := j.life.Load()
	l.saw(place)
	for {
		s, err := j.looks.Join(ctx)
		switch there := s.Last >= place; {
		case err == nil && (there || j.life.Load() != l), there && place > 0 && errors.Is(err, errUnagreed):
			return nil
		case err == nil:
			err = stream.ErrStale
		}
		if !errors.Is(err, stream.ErrStale) || !stream.Pause(ctx) {
			return err
		}
	}
}

func (j *Journal) bucket() string { return j.cfg.Prefix + "_epoch" }

// countFrom returns the counter, after it was raised to least if it was lower.
func (j *Journal) countFrom(ctx context.Context, least uint64) (count uint64, err error) {
	ours := ""
	if least > 0 {
		ours = strconv.FormatUint(least, 10)
	}
	text, err := j.agree(ctx, epochKey, ours, func(theirs string) string {
		if stream.ParseSeq(theirs) < least {
			return ours
		}
		return theirs
	})
	return stream.ParseSeq(text), err
}

// agree returns the value that all processes share at a key of the bucket. If there is one,
// choose decides which it is to be; if there is none, it becomes ours.
func (j *Journal) agree(ctx context.Context, key, ours string, choose func(theirs string) string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, stream.AskTimeout)
	defer cancel()
	subject := "$KV." + j.bucket() + "." + key
	for {
		kept, err := j.stream.LeaderOf(ctx, "KV_"+j.bucket(), stream.Get{Last: subject})
		if stream.IsGone(err) {
			if err = j.prepareBucket(ctx); err == nil {
				j.lose("epoch", "the store lost the bucket of what all hubs share; it was made anew", "bucket", j.bucket())
				continue
			}
		}
		if err != nil {
			return "", err
		}
		theirs := string(kept.Data)
		want := ours
		if theirs != "" {
			want = choose(theirs)
		} else if key == secretKey && ours == "" {
			want = rand.Text() + rand.Text()
		}
		if want == theirs {
			return want, nil
		}
		_, _, err = j.stream.Request(ctx, stream.NewMessage(subject, []byte(want), jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(kept.Seq, 10)))
		if err == nil {
			return want, nil
		}
		if !stream.WasSecond(err) {
			return "", err
		}
		if !stream.Pause(ctx) { // another was first
			return "", ctx.Err()
		}
	}
}

// Renew begins another life for all processes, because something that is kept beside the stream
// was replaced: places that were remembered in it mean nothing any more. The first process
// that tells of it causes the change.
func (j *Journal) Renew(ctx context.Context, key, is string) error {
	other := false
	_, err := j.agree(ctx, key, is, func(theirs string) string {
		other = theirs != is
		return is
	})
	if err != nil || !other {
		return err
	}
	l := j.life.Load()
	l.over.Store(true)
	for {
		_, err := j.looks.Join(ctx)
		if j.life.Load() != l {
			return nil
		}
		if !stream.Pause(ctx) {
			return errors.Join(stream.ErrUnconfirmed, err)
		}
	}
}

// untilLooked has the life known for the first time.
func (j *Journal) untilLooked(ctx context.Context) error {
	return stream.UntilMade(ctx, j.cfg.Logger, func(ctx context.Context) error {
		s, err := j.looks.Join(ctx)
		if err == nil {
			j.swept.Store(s.Last)
		}
		return err
	})
}

// seldom is for what is said every ten seconds at the most, until it is over.
type seldom struct{ said atomic.Int64 }

func (s *seldom) due() bool {
	now, said := time.Now().UnixNano(), s.said.Load()
	return now-said >= int64(10*time.Second) && s.said.CompareAndSwap(said, now)
}

func (s *seldom) over() { s.said.Store(0) }

// probe looks, and then after what did not come.
func (j *Journal) probe() {
	ctx, cancel := context.WithTimeout(context.Background(), lookTimeout+stream.AskTimeout)
	defer cancel()
	s, err := j.looks.Join(ctx)
	if err == nil || errors.Is(err, errUnagreed) {
		err = errors.Join(err, j.sweep(ctx, s))
	}
	if err != nil && j.silent.due() {
		j.cfg.Logger.Warn("the store does not answer, or its answer could not be confirmed", "err", err)
	}
}
