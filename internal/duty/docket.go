package duty

import (
	"cmp"
	"slices"
	"time"

	"realtimehub/internal/event"
	"realtimehub/internal/sized"
)

// docket is what the people of one tenant owe. The judge's lock guards it.
type docket struct {
	tenant  string
	all     map[part]*open                        // those that are kept
	narrow  sized.Table[event.Profile, []*open]   // those before their deadline that have few recipients, of whoever has not acknowledged them
	wide    []*open                               // and many, by place
	lately  [2]sized.Table[event.Profile, []mark] // acknowledgements of this minute and the one before, by when they were kept
	rotated time.Time                             // when the minute began
	bytes   [2]int64                              // of lately
	owed    int                                   // recipients who owe, of all duties
	past    []*open                               // whose deadlines have come, in that order
	results int64                                 // bytes of past
}

// part names a duty of a tenant.
type part struct {
	place uint64
	of    uint64 // the tag of the history's epoch
	part  int
}

func (o *open) part() part { return part{o.At.Seq, o.At.Epoch.Tag, o.Part} }

// mark is an acknowledgement that may be of an event that the judge has not been told of: it
// can be faster than whoever opens the duty.
type mark = Acknowledgement

// MostEarly is how long before the judge is told of a duty an acknowledgement of it may come.
const MostEarly = time.Minute

// Bounds of what is kept of acknowledgements.
const (
	markTime  = MostEarly // at least; twice that at most
	mostMarks = 16        // of one profile in a minute: its connections, as a rule
	markBytes = 136       // of each, in its list
)

func newDocket(tenant string) *docket { return &docket{tenant: tenant, all: map[part]*open{}} }

// marksBytes is what the acknowledgements of lately take.
func (k *docket) marksBytes() int64 { return k.bytes[0] + k.bytes[1] }

// empty says that nothing is kept.
func (k *docket) empty() bool {
	return len(k.all) == 0 && k.lately[0].Len() == 0 && k.lately[1].Len() == 0
}

// enter has a duty's recipients owe, but for those who have acknowledged it already. Of a wide one
// these are yet to be recalled.
func (k *docket) enter(o *open, now time.Time) {
	o.docket = k
	k.all[o.part()] = o
	k.owed += o.left
	if o.wide() {
		at, _ := k.findWide(o.At.Seq)
		k.wide = slices.Insert(k.wide, at, o)
		return
	}
	k.recall(o, 0, len(o.Recipients), now)
	for i, p := range o.Recipients {
		if o.acked[i] == 0 {
			k.narrow.Put(p, append(k.narrow.Get(p), o))
		}
	}
}

// recall notes who has acknowledged a duty before it was entered: of its recipients from one index on
// and before another.
func (k *docket) recall(o *open, from, to int, now time.Time) {
	for i := from; i < to; i++ {
		for _, marks := range [...][]mark{k.lately[0].Get(o.Recipients[i]), k.lately[1].Get(o.Recipients[i])} {
			if o.acked[i] == 0 && slices.ContainsFunc(marks, func(m mark) bool { return o.isAnsweredBy(&m) }) {
				o.answer(i, now)
			}
		}
	}
}

// findWide is where among the wide duties the one of a place is, or would be.
func (k *docket) findWide(place uint64) (int, bool) {
	return slices.BinarySearchFunc(k.wide, place, func(o *open, place uint64) int { return cmp.Compare(o.At.Seq, place) })
}

// leave has nobody owe a duty any more. It stays known.
func (k *docket) leave(o *open) {
	k.owed -= o.left
	o.left = 0
	if o.wide() {
		k.wide = without(k.wide, o)
		return
	}
	for i, p := range o.Recipients {
		if o.acked[i] == 0 {
			k.put(p, without(k.narrow.Get(p), o))
		}
	}
}

// put replaces the narrow duties that somebody has not acknowledged.
func (k *docket) put(p event.Profile, list []*open) {
	if len(list) == 0 {
		k.narrow.Delete(p)
	} else {
		k.narrow.Put(p, list)
	}
}

// without takes one duty out of a list. As a rule it is the oldest, or near to it: many that are
// over together take no time for each other.
func without(list []*open, o *open) []*open {
	switch i := slices.Index(list, o); i {
	case -1:
		return list
	case 0:
		list[0] = nil
		return list[1:]
	default:
		return slices.Delete(list, i, i+1)
	}
}

// acknowledge notes an acknowledgement of all that it covers, and keeps it for a while.
func (k *docket) acknowledge(a Acknowledgement, kept time.Time) {
	was := k.narrow.Get(a.Profile)
	left := slices.DeleteFunc(was, func(o *open) bool { return o.isAnsweredBy(&a) && o.acknowledge(a.Profile, a.Given) })
	if len(left) < len(was) {
		k.put(a.Profile, left)
	}
	first, _ := k.findWide(a.After + 1)
	for _, o := range k.wide[first:] {
		if o.At.Seq > a.UpTo {
			break
		}
		if o.isAnsweredBy(&a) {
			o.acknowledge(a.Profile, a.Given)
		}
	}
	k.rotate(kept)
	if k.rotated.Sub(kept) < markTime {
		k.keep(a)
	}
}

// keep keeps an acknowledgement. One that goes on where another of its connection ended takes
// its place, and the oldest of too many goes.
func (k *docket) keep(a Acknowledgement) {
	marks := k.lately[0].Get(a.Profile)
	for i := range marks {
		if m := &marks[i]; m.Connection == a.Connection && m.Of == a.Of && m.UpTo == a.After && sameTypes(m.Types, a.Types) {
			m.UpTo, m.Given = a.UpTo, a.Given
			return
		}
	}
	if len(marks) == mostMarks {
		marks = slices.Delete(marks, 0, 1)
		k.bytes[0] -= markBytes
	}
	if marks == nil {
		k.bytes[0] += k.lately[0].Each() + a.Profile.Bytes()
	}
	k.bytes[0] += markBytes
	k.lately[0].Put(a.Profile, append(marks, a))
}

// sameTypes says that two filters want the same. Each acknowledgement that was kept is read with a
// filter of its own.
func sameTypes(a, b *event.Filter) bool { return a == b || slices.Equal(a.Patterns(), b.Patterns()) }

// rotate forgets what is older than a minute, once a minute has passed.
func (k *docket) rotate(now time.Time) {
	if now.Sub(k.rotated) < markTime {
		return
	}
	if now.Sub(k.rotated) >= 2*markTime {
		k.lately[0], k.bytes[0] = sized.Table[event.Profile, []mark]{}, 0
	}
	k.lately[1], k.lately[0] = k.lately[0], sized.Table[event.Profile, []mark]{}
	k.bytes[1], k.bytes[0] = k.bytes[0], 0
	k.rotated = now
}
