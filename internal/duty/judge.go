package duty

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"realtimehub/internal/allowance"
	"realtimehub/internal/due"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/outbox"
	"realtimehub/internal/pace"
)

// Config is what a judge needs to know.
type Config struct {
	Keep    time.Duration // how long what came of an event is known after its deadline
	Repeats time.Duration // for which an event may be published again, and is the same one: it is not judged anew
	Box     outbox.Box    // has the reports
	People  People
	Pools   *allowance.Pools
	Logger  *slog.Logger

	// Settle returns once all acknowledgements that were given before it was called have been
	// handed over. Before a deadline is judged it is called. nil: they are, always.
	Settle func(ctx context.Context) error
	// Over keeps what came of a duty whose deadline has come. With an error it is called again.
	// nil: it is kept here alone.
	Over func(ctx context.Context, d *Duty, came Results) error
	// Early keeps when the absent of a duty were reported, for Reported. With an error it is called
	// again, until the deadline. nil: it is kept here alone.
	Early func(ctx context.Context, d *Duty, at time.Time) error
	// AtOnce is how many duties are judged at a time, where that is waiting, mostly. Their
	// reports are in no order then. 0: one.
	AtOnce int
}

// reportAgain is how long after a report that failed the next is tried.
const reportAgain = time.Second

// Judge knows what is owed, and has reported who has not acknowledged an event by its
// deadline.
type Judge struct {
	// Static.
	cfg  Config
	wake chan struct{} // something is due sooner

	failing   pace.Counter // guards itself
	unsettled pace.Counter // likewise, when acknowledgements could not be handed over

	mu sync.Mutex
	// Guarded by mu, which is a leaf.
	dockets map[string]*docket
	due     due.Queue[*open]
	settled time.Time // owned by Run: acknowledgements given before have been handed over
	swept   time.Time
	stats   Stats
	closed  bool
}

// Stats are what a judge has seen since its start, by recipients.
type Stats struct {
	Open         int   // duties before their deadline
	Owed         int   // recipients of those who owe
	Acknowledged int64 // recipients of duties that are over
	Reported     int64
	Unread       int64 // duties and acknowledgements of other hubs that were not understood
	Lost         int64 // acknowledgements that could not be kept, while the broker was away: who gave them is reported
}

// NewJudge makes a judge. Run has it judge.
func NewJudge(cfg Config) *Judge {
	return &Judge{cfg: cfg, wake: make(chan struct{}, 1), dockets: map[string]*docket{}}
}

// Reported says that the absent of a duty were reported at a time, by a judge of before.
func (j *Judge) Reported(tenant string, at history.Cursor, n int, when time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	k := j.dockets[tenant]
	if k == nil {
		return
	}
	if o := k.all[part{at.Seq, at.Epoch.Tag, n}]; o != nil && !o.over && o.earlyAt.IsZero() {
		o.earlyAt = when
		o.report(o.onlyAbsent(o.owing(nil, 0, len(o.Recipients))))
		j.due.Set(o, o.judgeAt)
	}
}

// Acknowledge notes an acknowledgement that was kept at a time, by this process's clock. It counts for
// those events whose deadline had not come as it was given.
func (j *Judge) Acknowledge(a Acknowledgement, kept time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return
	}
	k := j.docketLocked(a.Tenant)
	was := k.marksBytes()
	k.acknowledge(a, kept)
	j.cfg.Pools.State.Force(k.tenant, k.marksBytes()-was)
}

func (j *Judge) docketLocked(tenant string) *docket {
	k := j.dockets[tenant]
	if k == nil {
		k = newDocket(tenant)
		j.dockets[tenant] = k
	}
	return k
}

// mayOwe says whether somebody may be a recipient of a duty before its deadline.
func (j *Judge) mayOwe(tenant string, p event.Profile) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	k := j.dockets[tenant]
	return k != nil && (len(k.wide) > 0 || len(k.narrow.Get(p)) > 0)
}

// nudge has Run look again.
func (j *Judge) nudge() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// Run judges until ctx ends.
func (j *Judge) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-j.wake:
		case <-timer.C:
		}
		timer.Reset(j.judge(ctx))
	}
}

// mostIdle is how long Run waits when nothing is due.
const mostIdle = time.Minute

// judge does what is due, and says how long it is until something more is.
func (j *Judge) judge(ctx context.Context) time.Duration {
	for ctx.Err() == nil {
		now := time.Now()
		j.mu.Lock()
		ready, unsettled := j.dueLocked(now)
		if len(ready) == 0 {
			wait := mostIdle
			if j.due.Len() > 0 {
				_, at := j.due.First()
				wait = min(wait, at.Sub(now))
			}
			j.sweepLocked(now)
			j.mu.Unlock()
			return wait
		}
		j.mu.Unlock()
		var late error // why no deadline can be judged
		if unsettled && j.cfg.Settle != nil {
			if late = j.cfg.Settle(ctx); late == nil {
				j.settled = now
			}
		}
		var judging sync.WaitGroup
		for _, v := range ready {
			if v.err = late; v.early || late == nil {
				judging.Go(func() { v.err = j.conclude(ctx, v.open, v.early, now) })
			}
		}
		judging.Wait()
		if late != nil {
			if times, is := j.unsettled.Due(time.Now()); is {
				j.cfg.Logger.Warn("deadlines are judged later: what was acknowledged is not known yet", "times", times, "err", late)
			}
		}
		j.mu.Lock()
		for _, v := range ready {
			if v.err != nil && v.err != late {
				if times, is := j.failing.Due(time.Now()); is {
					j.cfg.Logger.Warn("who has not acknowledged an event could not be reported, and is reported again", "tenant", v.open.docket.tenant, "id", v.open.Event.ID, "times", times, "err", v.err)
				}
			}
			j.judgedLocked(v.open, v.early, v.err)
		}
		j.mu.Unlock()
	}
	return mostIdle
}

// verdict is a duty that is due.
type verdict struct {
	open  *open
	early bool // before its deadline
	err   error
}

// dueLocked takes off the queue what is due at a time, but not too many, and says whether there
// may be acknowledgements of it that have not been handed over.
func (j *Judge) dueLocked(now time.Time) (ready []*verdict, unsettled bool) {
	for forgotten := 0; len(ready) < max(1, j.cfg.AtOnce) && forgotten < forgetPiece; {
		o, any := j.due.Next(now)
		if !any {
			break
		}
		if o.over {
			j.forgetLocked(o)
			forgotten++
			continue
		}
		j.due.Set(o, time.Time{}) // judgedLocked says when again
		v := &verdict{open: o, early: now.Before(o.judgeAt)}
		unsettled = unsettled || !v.early && !o.judgeAt.Before(j.settled)
		ready = append(ready, v)
	}
	return ready, unsettled
}

// conclude reports who owes, at a time: early, the absent alone. Where it fails it is called again.
func (j *Judge) conclude(ctx context.Context, o *open, early bool, now time.Time) error {
	if err := j.reportAbsent(ctx, o, early, now); err != nil {
		return err
	}
	if early {
		if j.cfg.Early == nil {
			return nil
		}
		j.mu.Lock()
		at := o.earlyAt
		j.mu.Unlock()
		return j.cfg.Early(ctx, o.Duty, at)
	}
	owing := j.owing(o)
	if err := j.report(ctx, o.Duty, o.profiles(owing), keyOf(o.Duty), false, now); err != nil {
		return err
	}
	j.reported(o, &o.lateAt, now, owing)
	if j.cfg.Over == nil {
		return nil
	}
	j.mu.Lock()
	came := Results{Counts: map[State]int{}}
	o.results(Query{Limit: len(o.Recipients)}, &came)
	kept := *o.Duty
	j.mu.Unlock()
	return j.cfg.Over(ctx, &kept, came)
}

// owing are the recipients of a duty, by their index, who have neither acknowledged it nor been reported.
func (j *Judge) owing(o *open) []int {
	list := make([]int, 0, len(o.Recipients))
	j.inPieces(len(o.Recipients), func(from, to int) { list = o.owing(list, from, to) })
	return list
}

// reported notes that recipients of a duty were reported, and when: the first time.
func (j *Judge) reported(o *open, at *time.Time, when time.Time, list []int) {
	j.inPieces(max(1, len(list)), func(from, to int) {
		if at.IsZero() {
			*at = when
		}
		o.report(list[from:min(to, len(list))])
	})
}

// judgedLocked notes that a report was made, and that it was is kept, or has it made again.
func (j *Judge) judgedLocked(o *open, early bool, err error) {
	if err != nil {
		j.due.Set(o, time.Now().Add(reportAgain))
		return
	}
	if early {
		j.due.Set(o, o.judgeAt)
		return
	}
	o.over = true
	o.docket.leave(o)
	j.stats.Open--
	j.stats.Acknowledged += int64(o.answered)
	j.stats.Reported += int64(len(o.Recipients) - o.answered)
	now := time.Now()
	j.due.Set(o, now.Add(j.cfg.Keep))
	o.docket.past, o.docket.results = append(o.docket.past, o), o.docket.results+o.bytes
	j.fitLocked(o.docket, now)
}

// intersect are those of a sorted list who are in another.
func intersect(list, with []event.Profile) (both []event.Profile) {
	in := make(map[event.Profile]bool, len(with))
	for _, p := range with {
		in[p] = true
	}
	for _, p := range list {
		if in[p] {
			both = append(both, p)
		}
	}
	return both
}

// Results are what came of some parts of the duty of a place, in order, as far as they are known.
func (j *Judge) Results(tenant string, at history.Cursor, parts []int, q Query) Results {
	j.mu.Lock()
	defer j.mu.Unlock()
	r := Results{Counts: map[State]int{}}
	if k := j.dockets[tenant]; k != nil {
		for _, n := range parts {
			if o := k.all[part{at.Seq, at.Epoch.Tag, n}]; o != nil {
				o.results(q, &r)
			}
		}
	}
	return r
}

// Stats are the judge's counts.
func (j *Judge) Stats() Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	c := j.stats
	for _, k := range j.dockets {
		c.Owed += k.owed
	}
	return c
}
