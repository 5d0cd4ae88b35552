package duty

import "time"

// Open has the recipients of an event owe until it is due: at its deadline, by this process's
// clock. came is what is known to have come of it for each; nil: nothing. One that is open, or was
// lately, is left as it is, but for where it is kept.
func (j *Judge) Open(d *Duty, due time.Time, came []Result) {
	o, now := newOpen(d, due, came), time.Now()
	if !j.enter(o, now) {
		return
	}
	if o.wide() {
		j.inPieces(len(o.Recipients), func(from, to int) { o.docket.recall(o, from, to, now) })
	}
	if j.await(o) {
		j.nudge()
	}
}

// enter has its docket know a duty, unless it knows it already.
func (j *Judge) enter(o *open, now time.Time) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return false
	}
	k := j.docketLocked(o.Event.TenantID)
	if was := k.all[o.part()]; was != nil {
		was.Kept = o.Kept
		return false
	}
	j.cfg.Pools.State.Force(k.tenant, o.bytes)
	k.enter(o, now)
	j.stats.Open++
	return true
}

// await has a duty judged once it is due, and says whether that is sooner than any other.
func (j *Judge) await(o *open) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return false
	}
	at := o.judgeAt
	if o.waitsForEarly() {
		at = time.Now()
	}
	j.due.Set(o, at)
	first, _ := j.due.First()
	return first == o
}

// piece is how many recipients of a duty are looked at before others have the lock, which is one for
// all tenants.
const piece = 1000

// inPieces does something with so many things, some at a time, with the lock.
func (j *Judge) inPieces(n int, do func(from, to int)) {
	for from := 0; from < n; from += piece {
		j.mu.Lock()
		do(from, min(from+piece, n))
		j.mu.Unlock()
	}
}
