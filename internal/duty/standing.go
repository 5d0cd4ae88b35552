package duty

import "time"

// Standing is a duty before its deadline, as its judge knows it.
type Standing struct {
	Duty
	Due  time.Time // by this process's clock
	Came []Result  // so far, of each recipient
}

// KeptUpTo are the duties before their deadline that are kept up to a place, and how many bytes
// they take here. Those that are about to be judged stay where they are: due is the first place of
// theirs, 0 for none. Not ready: one has people who are to be reported at once and are not yet.
func (j *Judge) KeptUpTo(place uint64) (list []*Duty, bytes int64, due uint64, ready bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	ready = true
	now := time.Now()
	for _, k := range j.dockets {
		for _, o := range k.all {
			switch {
			case o.over || o.Kept > place:
			case o.Kept > 0 && !now.Before(o.judgeAt):
				if due == 0 || o.Kept < due {
					due = o.Kept
				}
			default:
				list, bytes = append(list, o.Duty), bytes+o.bytes
				ready = ready && !o.waitsForEarly()
			}
		}
	}
	return list, bytes, due, ready
}

// Standing is what has come of a duty so far; false: it is over.
func (j *Judge) Standing(d *Duty) (Standing, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	k := j.dockets[d.Event.TenantID]
	if k == nil {
		return Standing{}, false
	}
	o := k.all[part{d.At.Seq, d.At.Epoch.Tag, d.Part}]
	if o == nil || o.over {
		return Standing{}, false
	}
	came := Results{Counts: map[State]int{}}
	o.results(Query{Limit: len(o.Recipients)}, &came)
	return Standing{*o.Duty, o.judgeAt, came.List}, true
}

// Unplace says that it is not known any more where duties are kept, nor whether they are.
func (j *Judge) Unplace() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, k := range j.dockets {
		for _, o := range k.all {
			o.Kept = 0
		}
	}
}
