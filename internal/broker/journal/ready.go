package journal

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"realtimehub/internal/broker/stream"
)

// Whether the broker can store something is tested again and again. The test purges a subject
// that has no messages: the servers have to agree on it and write it down as they do with a
// message, but it takes no place and removes nothing. A single server has nobody to agree with
// and writes nothing, so there the test also puts a key into the bucket, which is on the same
// disk. If that fails, or an append has failed, the test appends an anchor, and its outcome
// decides.
const (
	tryEach = 600 * time.Millisecond
	// believed is how long a success counts, from when its test began. By then the next test
	// has succeeded or failed.
	believed = tryEach + stream.AppendTimeout + 250*time.Millisecond
	// bucketTimeout is short, as an anchor may have to be tried after it.
	bucketTimeout = 300 * time.Millisecond
	againAfter    = 100 * time.Millisecond
	mostTries     = 4 // at once, while nobody answers
)

// trial is what is tried again and again.
type trial struct {
	// Static.
	what  string // cannot be changed if it fails
	try   func(context.Context) error
	again chan struct{} // has it tried at once; nil: nobody does

	went, failed stream.Latest
	why          atomic.Pointer[error] // it failed
	said         seldom
}

// run tries until it goes well, or for as long as an append may take.
func (t *trial) run(ctx context.Context) error {
	begun := stream.Uptime()
	ctx, cancel := context.WithTimeout(ctx, stream.AppendTimeout)
	defer cancel()
	for {
		err := t.try(ctx)
		if err == nil {
			t.went.Set(begun)
			return nil
		}
		select {
		case <-time.After(againAfter):
		case <-ctx.Done():
			t.why.Store(&err)
			t.failed.Set(begun)
			return err
		}
	}
}

// fault is why something cannot be done.
func (t *trial) fault() error {
	went := t.went.Get()
	switch {
	case t.failed.Get() > went:
		return fmt.Errorf("%s cannot be changed: %w", t.what, *t.why.Load())
	case stream.Uptime()-went > believed:
		return fmt.Errorf("%s cannot be changed: the store has confirmed no test of that for %.1f s", t.what, (stream.Uptime() - went).Seconds())
	}
	return nil
}

// readiness is what is known of whether something can be kept.
type readiness struct {
	trials []*trial // static once somebody asks; the first is the history's

	kept, unkept stream.Latest // appends, by when they were begun
	why          atomic.Pointer[error]
}

// ErrAway is that nothing can be asked now.
var ErrAway = errors.New("not connected to the store")

// Ready says why nothing can be kept now, nil when it can: that was tried.
func (j *Journal) Ready() error {
	if !j.cfg.Connected() {
		return ErrAway
	}
	if j.ready.unkept.Get() > j.ready.kept.Get() {
		return fmt.Errorf("the store did not keep the last append: %w", *j.ready.why.Load())
	}
	for _, t := range j.ready.trials {
		if err := t.fault(); err != nil {
			return err
		}
	}
	return nil
}

// Heard says whether a leader has answered lately, as it does when nothing can be kept.
func (j *Journal) Heard() bool {
	return j.cfg.Connected() && stream.Uptime()-j.answered.Get() < staleAfter
}

// Stuck is how long ago the last test succeeded that changes the history; 0 unless a later one
// has failed.
func (j *Journal) Stuck() time.Duration {
	t := j.ready.trials[0]
	if t.failed.Get() <= t.went.Get() {
		return 0
	}
	return stream.Uptime() - t.went.Get()
}

// Requires has Ready try whether something else can be changed as well. It is called before
// anybody asks.
func (j *Journal) Requires(what string, try func(context.Context) error) {
	tries := &trial{what: what, try: try}
	tries.went.Set(stream.Uptime()) // it has just been opened
	j.ready.trials = append(j.ready.trials, tries)
	j.done.Go(func() { j.keepTrying(tries) })
}

// TryThrough tries the history through another connection.
func (j *Journal) TryThrough(ctx context.Context, nc *nats.Conn) error {
	s, err := stream.New(nc, j.stream.Name)
	if err != nil {
		return err
	}
	return s.PurgeNothing(ctx, j.cutSubject(stream.TryName))
}

func (j *Journal) tryHistory(ctx context.Context) error {
	if j.ready.unkept.Get() > j.ready.kept.Get() {
		return j.tryAnchor(ctx)
	}
	err := j.stream.PurgeNothing(ctx, j.cutSubject(stream.TryName))
	if err == nil && j.cfg.Replicas == 1 {
		once, cancel := context.WithTimeout(ctx, bucketTimeout)
		defer cancel()
		if _, _, err = j.stream.Request(once, stream.NewMessage("$KV."+j.bucket()+"."+stream.TryName, nil)); err != nil {
			err = j.tryAnchor(ctx)
		}
	}
	return err
}

func (j *Journal) tryAnchor(ctx context.Context) error {
	begun := stream.Uptime()
	_, _, err := j.stream.Request(ctx, stream.NewMessage(j.cutSubject(anchorName), nil))
	if err == nil {
		j.ready.kept.Set(begun)
	}
	return err
}

// appended notes what became of an append.
func (j *Journal) appended(ctx context.Context, begun time.Duration, err error) {
	if err == nil {
		j.ready.kept.Set(begun)
		return
	}
	refused, ok := errors.AsType[*stream.Refusal](err)
	switch {
	case errors.Is(err, errKnown), errors.Is(err, stream.ErrTooLarge), errors.Is(err, nats.ErrReconnectBufExceeded):
		return
	case ok && (refused.Code == stream.CodeInProcess || refused.Code == stream.CodeBatchesFull):
		return // other publishers caused it, not a fault of the broker
	case !ok && (!errors.Is(ctx.Err(), context.DeadlineExceeded) || stream.Uptime()-begun < stream.AppendTimeout/2):
		return // the caller has not waited long enough to tell
	}
	j.ready.why.Store(&err)
	j.ready.unkept.Set(begun)
	select {
	case j.ready.trials[0].again <- struct{}{}:
	default:
	}
}

// beginTrying tries the history, and from then on again and again.
func (j *Journal) beginTrying(ctx context.Context) {
	t := &trial{what: "history", try: j.tryHistory, again: make(chan struct{}, 1)}
	j.ready.trials = []*trial{t}
	t.run(ctx)
	j.done.Go(func() { j.keepTrying(t) })
}

// keepTrying tries until the journal's end.
func (j *Journal) keepTrying(t *trial) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	status := j.nc.StatusChanged(nats.CONNECTED)
	defer j.nc.RemoveStatusListener(status)
	ticker := time.NewTicker(tryEach)
	defer ticker.Stop()
	running := make(chan struct{}, mostTries)
	for {
		select {
		case <-j.stream.Done():
			return
		case <-status:
		case <-t.again:
		case <-ticker.C:
		}
		if !j.cfg.Connected() {
			continue
		}
		select {
		case running <- struct{}{}:
			j.done.Go(func() {
				j.tryOnce(ctx, t)
				<-running
			})
		default:
		}
	}
}

func (j *Journal) tryOnce(ctx context.Context, t *trial) {
	failed := t.failed.Get() > t.went.Get()
	err := t.run(ctx)
	switch {
	case ctx.Err() != nil, err != nil && !j.cfg.Connected(): // it is known why
	case err != nil:
		if t.said.due() {
			j.cfg.Logger.Warn("the store takes no changes", "what", t.what, "err", err)
		}
		if j.cfg.Fault != nil {
			j.cfg.Fault(t.what)
		}
	case failed:
		t.said.over()
		j.cfg.Logger.Info("the store takes changes again", "what", t.what)
	}
}
