package broker

import (
	"math"
	"sync/atomic"
	"time"
)

// attendance says whether other hubs may have given this one up since it last knew all of
// their changes. They do so when they have not heard it for long, and then no longer wait until
// it knows a change.
type attendance struct {
	ticked atomic.Pointer[time.Time] // when this process was last seen to run
	left   atomic.Int64              // counts how often it was away
	alone  atomic.Bool               // some other hub cannot be heard
	known  atomic.Pointer[inquiry]   // the last that was answered
}

// inquiry is when this hub asked for what has changed, and how often it had been away.
type inquiry struct {
	left int64
	at   time.Time
}

const (
	// tickEvery is how often a hub notes that it runs. If its last note is older than awayAfter
	// it was away. That is less than the time after which others give it up.
	tickEvery = 500 * time.Millisecond
	awayAfter = 3 * time.Second
	// knownFor is how long an answer holds while some other hub cannot be heard: that one may
	// not hear this hub either, and give it up.
	knownFor = 6 * time.Second
)

// since is how long ago a time was, by the monotonic clock or the wall clock, whichever says
// more: the monotonic one stops while the machine sleeps.
func since(t time.Time) time.Duration {
	now := time.Now()
	return max(now.Sub(t), now.Round(0).Sub(t.Round(0)))
}

func (a *attendance) awake() bool {
	ticked := a.ticked.Load()
	return ticked != nil && since(*ticked) <= awayAfter
}

// tick notes that this process runs.
func (a *attendance) tick(connected, heard bool) {
	a.alone.Store(!heard)
	if !connected {
		a.leave()
	}
	a.wake()
}

// wake notes that this process runs again.
func (a *attendance) wake() {
	now := time.Now() // taken first: the process may be suspended right after this line
	if !a.awake() {
		a.leave()
	}
	a.ticked.Store(&now)
}

func (a *attendance) leave() { a.left.Add(1) }

// asks begins an inquiry; knows tells that it was answered.
func (a *attendance) asks() inquiry {
	a.wake()
	return inquiry{a.left.Load(), time.Now()}
}

func (a *attendance) knows(q inquiry) { a.known.Store(&q) }

// age is how old the last answer is.
func (a *attendance) age() time.Duration {
	if q := a.known.Load(); q != nil {
		return since(q.at)
	}
	return math.MaxInt64
}

func (a *attendance) sure() bool {
	q := a.known.Load()
	return q != nil && a.awake() && q.left == a.left.Load() && (!a.alone.Load() || since(q.at) <= knownFor)
}
