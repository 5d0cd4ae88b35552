package cluster

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// foremost says which hub does what one of them has to do: that of the smallest mark.
type foremost struct {
	mu sync.Mutex
	// Guarded by mu.
	began time.Time
	seen  map[[4]byte]time.Time // others, since when
	away  map[[4]byte]time.Time // hubs that sent clients away lately, as last heard
}

// awayTime is how long a hub that has sent a client away may still have zombies: connections
// that it counts as open, since their clients will be back elsewhere.
const awayTime = time.Minute

// Foremost says whether this hub does now what one hub of all has to do. Nobody is asked: while
// hubs come and go two may believe it, and for a moment none.
//
// A hub that has just come may not know yet what the others do. So the one that was the foremost
// stays it for some time, and the new one is it already.
func (c *Cluster) Foremost(now time.Time) bool {
	if c.peers == nil {
		return true
	}
	others, self := c.peers.Others(), c.peers.Node()
	if len(others) == 0 {
		return true
	}
	if c.cfg.Delivery.Streams.Draining() {
		return false // and does not know who is back elsewhere
	}
	f := &c.foremost
	f.mu.Lock()
	defer f.mu.Unlock()
	f.noteLocked(others, now)
	all := f.stayLocked(slices.Concat(others, [][4]byte{self}), now)
	old := slices.DeleteFunc(slices.Clone(all), func(mark [4]byte) bool {
		if mark == self {
			return now.Sub(f.began) < c.cfg.Settle
		}
		return now.Sub(f.seen[mark]) < 2*c.cfg.Settle
	})
	return first(all) == self || len(old) == 0 || first(old) == self
}

// noteLocked notes who is there.
func (f *foremost) noteLocked(others [][4]byte, now time.Time) {
	if f.seen == nil {
		f.began, f.seen = now, map[[4]byte]time.Time{}
	}
	for _, mark := range others {
		if _, known := f.seen[mark]; !known {
			f.seen[mark] = now
		}
	}
	for mark := range f.seen {
		if !slices.Contains(others, mark) {
			delete(f.seen, mark)
		}
	}
}

// stayLocked are the hubs that do not send their clients away; all, if all do.
func (f *foremost) stayLocked(all [][4]byte, now time.Time) [][4]byte {
	stay := slices.DeleteFunc(slices.Clone(all), func(mark [4]byte) bool {
		at, away := f.away[mark]
		return away && now.Sub(at) <= awayTime
	})
	if len(stay) == 0 {
		return all
	}
	return stay
}

// sentAway notes that a hub sends a client away now, and forgets those that did so long ago.
func (f *foremost) sentAway(mark [4]byte, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.away == nil {
		f.away = map[[4]byte]time.Time{}
	}
	f.away[mark] = now
	maps.DeleteFunc(f.away, func(_ [4]byte, at time.Time) bool { return now.Sub(at) > awayTime })
}

// first is the smallest mark.
func first(marks [][4]byte) [4]byte {
	return slices.MinFunc(marks, func(a, b [4]byte) int { return slices.Compare(a[:], b[:]) })
}
