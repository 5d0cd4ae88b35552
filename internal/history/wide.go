package history

import (
	"cmp"
	"hash/maphash"
	"slices"

	"realtimehub/internal/event"
)

// wide is an entry that names many profiles. It is on no list of theirs, since that would take
// long: whoever reads looks at all that are wide. They are few, as each takes much memory.
type wide struct {
	number uint64
	people *people
}

// manyPeople is how many profiles an entry names, at most, that is on their lists.
const manyPeople = 1000

// people are the many profiles that an entry names, and what else takes long to find out.
type people struct {
	named  []event.Profile
	byHash []mention // in the order of the hashes
	weight int64     // of the event
}

// mention is one of them.
type mention struct {
	hash uint64
	at   int32 // in named
}

// What wide entries take: each, and each mention.
const (
	wideBytes    = 16
	mentionBytes = 16
)

// Prepare makes what takes long for an entry that names many profiles. It is called before
// anything is locked; else it is done as the entry is put on a shelf, or not at all.
func (e *Entry) Prepare() {
	named := e.Event.Target.Profiles
	if e.people != nil || len(named) <= manyPeople {
		return
	}
	p := &people{named: named, byHash: make([]mention, len(named)), weight: e.Event.Weight()}
	for i, who := range named {
		p.byHash[i] = mention{maphash.Comparable(droppedSeed, who), int32(i)}
	}
	slices.SortFunc(p.byHash, func(a, b mention) int { return cmp.Compare(a.hash, b.hash) })
	e.people = p
}

// Names says whether an entry names a profile.
func (e *Entry) Names(who event.Profile) bool {
	if e.people != nil {
		return e.people.has(who)
	}
	return slices.Contains(e.Event.Target.Profiles, who)
}

func (p *people) has(who event.Profile) bool {
	hash := maphash.Comparable(droppedSeed, who)
	i, _ := find(p.byHash, hash)
	for ; i < len(p.byHash) && p.byHash[i].hash == hash; i++ {
		if p.named[p.byHash[i].at] == who {
			return true
		}
	}
	return false
}

// find is the place of the first mention with a hash.
func find(list []mention, hash uint64) (at int, is bool) {
	return slices.BinarySearchFunc(list, hash, func(m mention, hash uint64) int { return cmp.Compare(m.hash, hash) })
}
