package duty

import (
	"math"
	"slices"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/due"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/sized"
)

// Duty is an event with a deadline, and whom it was for.
type Duty struct {
	Event      *event.Event   // without its payload, and the profiles of its target
	At         history.Cursor // its place
	Deadline   time.Time
	Recipients []event.Profile // sorted, each once
	Absent     []event.Profile // of them: who had no connection, and is to be reported at once; sorted
	Part       int             // of an event's duty that is kept in parts: which one, from 0
	Kept       uint64          // where its keeper has it, as it says to the judge
}

// Slack is how long after a deadline it is known what acknowledgements are of, since it may be judged
// late, on what was given in time.
const Slack = time.Minute

// Parts are a duty's, of so many recipients at most.
func (d *Duty) Parts(most int) []*Duty {
	parts := []*Duty{}
	for some := range slices.Chunk(d.Recipients, most) {
		part := *d
		part.Recipients, part.Absent, part.Part = some, intersect(some, d.Absent), len(parts)
		parts = append(parts, &part)
	}
	return parts
}

// New makes the duty of an event that has its place. The recipients may come in any order, and
// are the duty's from then on.
func New(e *event.Event, at history.Cursor, recipients []event.Profile) *Duty {
	brief := *e
	brief.Payload, brief.Target.Profiles, brief.Target.ExcludeProfiles = nil, nil, nil // the recipients say it
	slices.SortFunc(recipients, event.CompareProfiles)
	return &Duty{Event: &brief, At: at, Deadline: e.Timestamp.Add(e.Deadline), Recipients: slices.Compact(recipients)}
}

// Acknowledgement is the word of one connection's client that it has handled everything that
// the connection was sent after one place and up to another.
type Acknowledgement struct {
	Tenant     string
	Profile    event.Profile
	Connection uuid.UUID // zero: it is one of several, of which is not known
	Of         uint64    // the tag of the history's epoch
	After      uint64
	UpTo       uint64
	Types      *event.Filter // what the connection wanted meanwhile
	Until      time.Time     // by then the last deadline of what it may be of has passed, by this process's clock
	Given      time.Time     // by this process's clock; zero: just now
}

// covers says whether an acknowledgement is one of an event: its connection was sent it.
func (a *Acknowledgement) covers(d *Duty) bool {
	without := d.Event.Target.ExcludeConnections
	excluded := slices.Contains(without, a.Connection) || a.Connection == uuid.Nil && len(without) > 0
	return a.Of == d.At.Epoch.Tag && a.After < d.At.Seq && d.At.Seq <= a.UpTo && a.Types.Wants(d.Event.Type) && !excluded
}

// State is what came of an event for one of its recipients.
type State string

// The states.
const (
	Acknowledged State = "acknowledged"
	Reported     State = "reported"
	Owed         State = "owed"
)

// open is a duty as the judge keeps it: until its deadline, and then for those who ask.
type open struct {
	*Duty
	due      due.Item
	docket   *docket
	acked    []uint32 // of Recipients, by their index: milliseconds since the event; 0: not yet
	answered int      // of Recipients who have acknowledged
	reported bits
	left     int       // of Recipients who have neither acknowledged nor been reported
	judgeAt  time.Time // by this process's clock
	earlyAt  time.Time // when the absent were reported; zero: they are to be
	lateAt   time.Time // when who owed at the deadline was
	over     bool      // and what came of it is kept
	bytes    int64
}

func (o *open) Due() *due.Item { return &o.due }

// openBytes is what a duty takes beside its recipients and its event's names.
const openBytes = 512

// newOpen is a duty that is to be judged at a time, of which it is known what has come.
func newOpen(d *Duty, judgeAt time.Time, came []Result) *open {
	n := len(d.Recipients)
	o := &open{Duty: d, acked: make([]uint32, n), reported: newBits(n), left: n, judgeAt: judgeAt}
	o.restore(came)
	o.bytes = weight(d.Event, n)
	for _, p := range d.Recipients {
		o.bytes += p.Bytes() // which members share with their room, while they are in it
	}
	return o
}

// weight is how many bytes the duty of an event takes with so many recipients, without their names.
func weight(e *event.Event, recipients int) int64 {
	bytes := openBytes + e.Weight() + sized.Block(32*recipients) + sized.Block(4*recipients) + sized.Block(recipients/8)
	if recipients <= mostNarrow {
		var k docket
		bytes += int64(recipients) * (k.narrow.Each() + 16)
	}
	return bytes
}

// mostNarrow is how many recipients a duty has at most that are found by who they are.
const mostNarrow = 64

// wide says that a duty has so many recipients that they are searched for in its list.
func (o *open) wide() bool { return len(o.Recipients) > mostNarrow }

// acknowledge notes that somebody has acknowledged the event, and says whether they are one of
// its recipients.
func (o *open) acknowledge(p event.Profile, at time.Time) bool {
	i, found := slices.BinarySearchFunc(o.Recipients, p, event.CompareProfiles)
	if found && o.acked[i] == 0 {
		o.answer(i, at)
	}
	return found
}

// answer notes that the recipient of an index has acknowledged the event, who had not.
func (o *open) answer(i int, at time.Time) {
	o.acked[i] = o.since(at)
	o.answered++
	if !o.reported.has(i) {
		o.settle(1)
	}
}

// lateAfter is how long after its deadline an event may be acknowledged: word of what was handled in
// time may be under way for so long. A client goes on 2 s after a deadline, past what it has not
// handled. That is no acknowledgement, and the judge may be later.
const lateAfter = 500 * time.Millisecond

// isAnsweredBy says that an acknowledgement is one of the event, and was given in time.
func (o *open) isAnsweredBy(a *Acknowledgement) bool {
	return a.covers(o.Duty) && a.Given.Sub(o.judgeAt) < lateAfter
}

// since is how many milliseconds after its event something was: one at least.
func (o *open) since(at time.Time) uint32 {
	return uint32(min(max(at.Sub(o.Event.Timestamp).Milliseconds(), 1), math.MaxUint32))
}

// settle notes that so many recipients owe no more.
func (o *open) settle(n int) {
	o.left -= n
	o.docket.owed -= n
}

// report notes that recipients, by their index, have been reported.
func (o *open) report(list []int) {
	for _, i := range list {
		if o.reported.has(i) {
			continue
		}
		o.reported.set(i)
		if o.acked[i] == 0 {
			o.settle(1)
		}
	}
}

// absent says whether a recipient was to be reported at once.
func (o *open) absent(p event.Profile) bool {
	_, is := slices.BinarySearchFunc(o.Absent, p, event.CompareProfiles)
	return is
}

// onlyAbsent are those of some recipients, by their index, who were to be reported at once.
func (o *open) onlyAbsent(list []int) []int {
	return slices.DeleteFunc(list, func(i int) bool { return !o.absent(o.Recipients[i]) })
}

// waitsForEarly says that the absent are still to be reported.
func (o *open) waitsForEarly() bool { return len(o.Absent) > 0 && o.earlyAt.IsZero() }

// restore notes what is known to have come of a duty, for each recipient, before it is entered.
func (o *open) restore(came []Result) {
	for i, r := range came {
		switch r.State {
		case Acknowledged:
			o.acked[i] = o.since(r.At)
			o.answered++
		case Reported:
			o.reported.set(i)
			o.earlyAt = r.At
		default:
			continue
		}
		o.left--
	}
}

// owing adds those to a list, by their index, who have neither acknowledged the event nor been
// reported: of the recipients from one index on and before another.
func (o *open) owing(list []int, from, to int) []int {
	for i := from; i < to; i++ {
		if o.acked[i] == 0 && !o.reported.has(i) {
			list = append(list, i)
		}
	}
	return list
}

// profiles are the recipients of some indexes.
func (o *open) profiles(list []int) []event.Profile {
	profiles := make([]event.Profile, len(list))
	for n, i := range list {
		profiles[n] = o.Recipients[i]
	}
	return profiles
}

// state is what came of the event for the recipient of an index.
func (o *open) state(i int) State {
	switch {
	case o.acked[i] > 0:
		return Acknowledged
	case o.reported.has(i):
		return Reported
	}
	return Owed
}

// at is when the state of the recipient of an index came about; zero for one who owes.
func (o *open) at(i int) time.Time {
	switch {
	case o.acked[i] > 0:
		return o.Event.Timestamp.Add(time.Duration(o.acked[i]) * time.Millisecond)
	case !o.reported.has(i):
		return time.Time{}
	case !o.earlyAt.IsZero() && o.absent(o.Recipients[i]):
		return o.earlyAt
	}
	return o.lateAt
}

// results adds what came of the event for its recipients, as far as a query asks for it. It looks at
// those alone: the judge waits meanwhile.
func (o *open) results(q Query, r *Results) {
	r.Duty = o.Duty
	for state, n := range o.counts() {
		if n > 0 {
			r.Counts[state] += n
		}
	}
	from, to := o.asked(q)
	most := min(to, from+q.Limit-len(r.List))
	for i := from; i < most; i++ {
		r.List = append(r.List, Result{o.Recipients[i], o.state(i), o.at(i)})
	}
	r.More = r.More || most < to
}

// counts are how many recipients the event came to what for.
func (o *open) counts() map[State]int {
	return map[State]int{Acknowledged: o.answered, Owed: o.left, Reported: len(o.Recipients) - o.answered - o.left}
}

// asked are the indexes of the recipients that a query is about, from one on and before another.
func (o *open) asked(q Query) (from, to int) {
	ref := q.After
	if q.Only != nil {
		ref = *q.Only
	}
	at, found := slices.BinarySearchFunc(o.Recipients, ref, event.CompareProfiles)
	next := at
	if found {
		next++
	}
	if q.Only != nil {
		return at, next
	}
	return next, len(o.Recipients)
}

// bits is a set of small numbers.
type bits []uint64

func newBits(n int) bits { return make(bits, (n+63)/64) }

func (b bits) has(i int) bool { return b[i/64]>>(i%64)&1 == 1 }
func (b bits) set(i int)      { b[i/64] |= 1 << (i % 64) }
