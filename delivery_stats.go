package main

import (
	"strconv"
	"sync/atomic"
	"time"

	"realtimehub/internal/count"
	"realtimehub/internal/engine"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/overload"
)

// appendJSON appends the receipt as it goes over the wire.
func (r Receipt) appendJSON(b []byte) []byte {
	b = append(append(b, `{"id":"`...), r.ID...)
	b = event.AppendTime(append(b, `","timestamp":"`...), r.Timestamp)
	if r.Cursor != "" {
		b = append(append(b, `","cursor":"`...), r.Cursor...)
	}
	b = strconv.AppendInt(append(b, `","connections":`...), int64(r.Connections), 10)
	if r.Members >= 0 {
		b = strconv.AppendInt(append(b, `,"members":`...), int64(r.Members), 10)
	}
	return append(strconv.AppendBool(append(b, `,"duplicate":`...), r.Duplicate), '}')
}

// receipt is a Receipt on the wire.
type receipt struct {
	ID          string `json:"id"`
	Timestamp   string `json:"timestamp"`
	Cursor      string `json:"cursor,omitempty"`
	Connections int    `json:"connections"`
	Members     *int   `json:"members,omitempty"`
	Duplicate   bool   `json:"duplicate"`
}

func wireReceipt(r Receipt) receipt {
	wire := receipt{r.ID, event.FormatTime(r.Timestamp), r.Cursor, r.Connections, nil, r.Duplicate}
	if r.Members >= 0 {
		wire.Members = &r.Members
	}
	return wire
}

// hubCounts is what a hub counts as it happens.
type hubCounts struct {
	connects    count.Words[Resume]
	closes      count.Words[CloseReason]
	refused     count.Words[CloseReason]
	accepted    count.Words[event.TargetKind]
	gaps        count.Words[GapReason]
	duplicates  atomic.Int64
	unconfirmed atomic.Int64
	unanswered  atomic.Int64 // questions to other hubs
	behind      atomic.Int64 // ephemeral events too many to be held for who catches up
	replayed    *count.Sizes
}

func newHubCounts() *hubCounts {
	return &hubCounts{
		connects: count.NewWords(ResumeFresh, ResumeComplete, ResumePartial),
		closes: count.NewWords(CloseClient, CloseVanished, CloseNoisy, CloseExpired, CloseDrain, CloseKicked,
			CloseSlow, CloseReplaced, CloseUnavailable),
		refused:  count.NewWords(CloseDrain, CloseCapacity, ClosePending, CloseUnavailable),
		accepted: count.NewWords(event.KindProfile, event.KindProfiles, event.KindConversation, event.KindGroup, event.KindTenant, event.KindConnection),
		gaps:     count.NewWords(GapExpired, GapUnknown, GapSlow, GapLost, GapMembership),
		replayed: count.NewSizes(0, 1, 10, 100, 1_000, 10_000, 100_000),
	}
}

// Receipt answers one published event. Cursor is empty where nothing is stored; Members
// is how many the event's room has, and -1 where it is for none, where that is not
// known, and of a duplicate.
type Receipt struct {
	ID          string
	Timestamp   time.Time
	Cursor      string
	Connections int
	Members     int
	Duplicate   bool
}

// HubStats is what a hub has counted since it was made, and what it has now.
type HubStats struct {
	Streams     int
	Ready       bool // takes streams, and can store
	Connects    map[Resume]int64
	Closes      map[CloseReason]int64
	Refused     map[CloseReason]int64      // streams that were turned away
	Accepted    map[event.TargetKind]int64 // events
	Duplicates  int64
	Unconfirmed int64
	Unanswered  int64                // questions to other hubs
	Dropped     map[DropReason]int64 // events, by stream
	Gaps        map[GapReason]int64
	Replayed    count.Histogram // events, by resume
	Engine      engine.Stats
	Log         history.Stats
	Overload    overload.Stats
}
