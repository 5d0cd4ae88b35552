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
)

// Config is what a judge needs to know.
type Config struct {
	Keep   time.Duration // how long what came of an event is known after its deadline
	Box    outbox.Box    // has the reports
	People People
	Pools  *allowance.Pools
	Logger *slog.Logger

	// Settle returns once all acknowledgements that were given before it was called have been
	// handed over. Before a deadline is judged it is called. nil: they are, always.
	Settle func(ctx context.Context) error
	// Over keeps what came of a duty whose deadline has come. With an error it is called again.
	// nil: it is kept here alone.
	Over func(ctx context.Context, d *Duty, came Results) error
}

// reportAgain is how long after a report that failed the next is tried.
const reportAgain = time.Second

// Judge knows what is owed, and has reported who has not acknowledged an event by its
// deadline.
type Judge struct {
	// Static.
	cfg  Config
	wake chan struct{} // something is due sooner

	mu sync.Mutex
	// Guarded by mu, which is a leaf.
	dockets map[string]*docket
	due     due.Queue[*open]
	settled time.Time // owned by Run: acknowledgements given before have been handed over
	swept   time.Time
	stats   Stats
}

// Stats are what a judge has seen since its start, by recipients.
type Stats struct {
	Open         int   // duties before their deadline
	Owed         int   // recipients of those who owe
	Acknowledged int64 // recipients of duties that are over
	Reported     int64
}

// NewJudge makes a judge. Run has it judge.
func NewJudge(cfg Config) *Judge {
	return &Judge{cfg: cfg, wake: make(chan struct{}, 1), dockets: map[string]*docket{}}
}

// Open has the recipients of an event owe until its deadline. One that is open, or was lately,
// is left as it is.
func (j *Judge) Open(d *Duty) {
	var early []event.Profile
	if d.Event.ReportOffline {
		early = j.cfg.People.Absent(d.Event.TenantID, d.Recipients)
	}
	j.mu.Lock()
	k := j.docketLocked(d.Event.TenantID)
	o := newOpen(d, k)
	if k.all[o.part()] != nil {
		j.mu.Unlock()
		return
	}
	o.early = early
	j.cfg.Pools.State.Force(k.tenant, o.bytes)
	k.enter(o, time.Now())
	j.stats.Open++
	at := d.Deadline
	if len(early) > 0 {
		at = time.Now()
	}
	j.due.Set(o, at)
	first, _ := j.due.First()
	j.mu.Unlock()
	if first == o {
		j.nudge()
	}
}

// Acknowledge notes an acknowledgement.
func (j *Judge) Acknowledge(a Acknowledgement) {
	j.mu.Lock()
	defer j.mu.Unlock()
	k := j.docketLocked(a.Tenant)
	was := k.bytes
	k.acknowledge(a, time.Now())
	j.cfg.Pools.State.Force(k.tenant, k.bytes-was)
}

func (j *Judge) docketLocked(tenant string) *docket {
	k := j.dockets[tenant]
	if k == nil {
		k = newDocket(tenant)
		j.dockets[tenant] = k
	}
	return k
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
		o, any := j.due.Next(now)
		if !any {
			wait := mostIdle
			if j.due.Len() > 0 {
				_, at := j.due.First()
				wait = min(wait, at.Sub(now))
			}
			j.sweepLocked(now)
			j.mu.Unlock()
			return wait
		}
		if o.over {
			j.forgetLocked(o)
			j.mu.Unlock()
			continue
		}
		early, unsettled := now.Before(o.Deadline), !o.Deadline.Before(j.settled)
		j.mu.Unlock()
		err := error(nil)
		if !early && unsettled && j.cfg.Settle != nil {
			if err = j.cfg.Settle(ctx); err == nil {
				j.settled = now
			}
		}
		var owing []event.Profile
		if err == nil {
			owing, err = j.conclude(ctx, o, early)
		}
		j.mu.Lock()
		j.judgedLocked(o, owing, early, err)
		j.mu.Unlock()
	}
	return mostIdle
}

// conclude reports who owes: early, those who were to be reported then.
func (j *Judge) conclude(ctx context.Context, o *open, early bool) ([]event.Profile, error) {
	j.mu.Lock()
	owing := o.owing()
	if early {
		owing = intersect(owing, o.early)
	}
	j.mu.Unlock()
	if len(owing) > 0 {
		if err := j.report(ctx, o.Duty, owing, early); err != nil {
			return nil, err
		}
	}
	if early || j.cfg.Over == nil {
		return owing, nil
	}
	j.mu.Lock()
	o.report(owing)
	o.late = true
	came := Results{Counts: map[State]int{}}
	o.results(Query{Limit: len(o.Recipients)}, &came)
	j.mu.Unlock()
	return owing, j.cfg.Over(ctx, o.Duty, came)
}

// judgedLocked notes that a report was made, or is to be made again.
func (j *Judge) judgedLocked(o *open, owing []event.Profile, early bool, err error) {
	if err != nil {
		j.cfg.Logger.Warn("who has not acknowledged an event could not be reported, and is reported again", "tenant", o.docket.tenant, "id", o.Event.ID, "err", err)
		j.due.Set(o, time.Now().Add(reportAgain))
		return
	}
	o.report(owing)
	if early {
		o.early, o.earlyAt = nil, time.Now()
		j.due.Set(o, o.Deadline)
		return
	}
	o.late, o.over = true, true
	o.docket.leave(o)
	j.stats.Open--
	for i := range o.Recipients {
		if o.state(i) == Acknowledged {
			j.stats.Acknowledged++
		} else {
			j.stats.Reported++
		}
	}
	j.due.Set(o, time.Now().Add(j.cfg.Keep))
}

// forgetLocked forgets what came of an event.
func (j *Judge) forgetLocked(o *open) {
	j.due.Set(o, time.Time{})
	delete(o.docket.all, o.part())
	j.cfg.Pools.State.Give(o.docket.tenant, o.bytes)
}

// sweepLocked forgets acknowledgements that no event can be waiting for, and tenants of which
// nothing is kept.
func (j *Judge) sweepLocked(now time.Time) {
	if now.Sub(j.swept) < markTime {
		return
	}
	j.swept = now
	for tenant, k := range j.dockets {
		was := k.bytes
		k.turn(now)
		j.cfg.Pools.State.Force(tenant, k.bytes-was)
		if k.empty() {
			delete(j.dockets, tenant)
		}
	}
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

// Results are what came of the event of a place.
func (j *Judge) Results(tenant string, at history.Cursor, q Query) Results {
	j.mu.Lock()
	defer j.mu.Unlock()
	r := Results{Counts: map[State]int{}}
	if k := j.dockets[tenant]; k != nil {
		for n := 0; k.all[part{at.Seq, at.Epoch.Tag, n}] != nil; n++ {
			k.all[part{at.Seq, at.Epoch.Tag, n}].results(q, &r)
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
