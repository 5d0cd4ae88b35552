package main

import (
	"slices"
	"sync/atomic"
)

// counts is how often each word of a closed set has occurred. What is counted by a
// user's own word would grow with them: a word that is not of the set is not counted.
type counts[K comparable] map[K]*atomic.Int64

func newCounts[K comparable](words ...K) counts[K] {
	c := counts[K]{}
	for _, word := range words {
		c[word] = new(atomic.Int64)
	}
	return c
}

func (c counts[K]) add(word K, n int) {
	if count := c[word]; count != nil && n != 0 {
		count.Add(int64(n))
	}
}

// now is what was counted, of each word.
func (c counts[K]) now() map[K]int64 {
	now := make(map[K]int64, len(c))
	for word, count := range c {
		now[word] = count.Load()
	}
	return now
}

// sizes is how often something had which size.
type sizes struct {
	bounds  []int // static, rising
	buckets []atomic.Int64
	sum     atomic.Int64
}

func newSizes(bounds ...int) *sizes {
	return &sizes{bounds: bounds, buckets: make([]atomic.Int64, len(bounds)+1)}
}

func (s *sizes) add(n int) {
	at, _ := slices.BinarySearch(s.bounds, n)
	s.buckets[at].Add(1)
	s.sum.Add(int64(n))
}

// Histogram is how often a value was up to each bound, and in the last bucket above
// all of them.
type Histogram struct {
	Bounds  []float64
	Buckets []int64
	Sum     float64
}

func (s *sizes) now() Histogram {
	h := Histogram{Sum: float64(s.sum.Load())}
	for i := range s.buckets {
		h.Buckets = append(h.Buckets, s.buckets[i].Load())
	}
	for _, bound := range s.bounds {
		h.Bounds = append(h.Bounds, float64(bound))
	}
	return h
}

// Resume says how a stream began; the word is the contract's.
type Resume string

// The ways there are.
const (
	ResumeFresh    Resume = "fresh"    // at the head
	ResumeComplete Resume = "complete" // with all that was missed
	ResumePartial  Resume = "partial"  // with a gap
)

// CloseReason says why the hub ended a stream; the word is the contract's, the
// log's and the metrics' at once.
type CloseReason string

// The reasons that occur.
const (
	CloseExpired  CloseReason = "expired"
	CloseDrain    CloseReason = "drain"
	CloseKicked   CloseReason = "kicked"
	CloseSlow     CloseReason = "slow"
	CloseCapacity CloseReason = "capacity"
	CloseReplaced CloseReason = "replaced"
	ClosePending  CloseReason = "pending" // the token may be good later

	// Of these no hub.closing tells: nobody is there to be told, or to listen.
	CloseClient   CloseReason = "client"   // it left
	CloseVanished CloseReason = "vanished" // without a word
	CloseNoisy    CloseReason = "noisy"    // it kept sending
)

// GapReason says why something is missing for good.
type GapReason string

// The reasons there are; hub.gap tells of all but lost.
const (
	GapExpired GapReason = "expired" // the history no longer reaches back
	GapUnknown GapReason = "unknown" // no cursor of this history
	GapSlow    GapReason = "slow"    // ephemeral events were shed
	GapLost    GapReason = "lost"    // the broker lost events, and the stream is sent back

	GapMembership GapReason = "membership" // nobody said who belongs to a room that something was said in
)

// hubCounts is what a hub counts as it happens.
type hubCounts struct {
	connects    counts[Resume]
	closes      counts[CloseReason]
	refused     counts[CloseReason]
	accepted    counts[TargetKind]
	gaps        counts[GapReason]
	duplicates  atomic.Int64
	unconfirmed atomic.Int64
	unanswered  atomic.Int64 // questions to other hubs
	behind      atomic.Int64 // ephemeral events too many to be held for who catches up
	replayed    *sizes
}

func newHubCounts() *hubCounts {
	return &hubCounts{
		connects: newCounts(ResumeFresh, ResumeComplete, ResumePartial),
		closes: newCounts(CloseClient, CloseVanished, CloseNoisy, CloseExpired, CloseDrain, CloseKicked,
			CloseSlow, CloseCapacity, CloseReplaced),
		refused:  newCounts(CloseDrain, CloseCapacity, ClosePending),
		accepted: newCounts(KindProfile, KindProfiles, KindConversation, KindGroup, KindTenant, KindConnection),
		gaps:     newCounts(GapExpired, GapUnknown, GapSlow, GapLost, GapMembership),
		replayed: newSizes(0, 1, 10, 100, 1_000, 10_000, 100_000),
	}
}

// DropReason says why an event was not delivered to somebody it was for: one of the
// engine's ([sse.Drop]) or of these.
type DropReason string

// The reasons that the engine does not know of.
const (
	DropBehind     DropReason = "behind"     // ephemeral, and more than is held for who catches up
	DropRoom       DropReason = "room"       // typing in a conversation too large for it
	DropBroker     DropReason = "broker"     // ephemeral, and other hubs cannot be told
	DropUnreadable DropReason = "unreadable" // another hub's, and no event to this one
)

// forGood says that a resume does not bring what was dropped.
func (r DropReason) forGood() bool {
	return !slices.Contains([]DropReason{"cut", "gone", "closed"}, r)
}
