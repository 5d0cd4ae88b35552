package delivery

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

// AppendJSON appends the receipt as it goes over the wire.
func (r Receipt) AppendJSON(b []byte) []byte {
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

// ReceiptJSON is a Receipt on the wire.
type ReceiptJSON struct {
	ID          string `json:"id"`
	Timestamp   string `json:"timestamp"`
	Cursor      string `json:"cursor,omitempty"`
	Connections int    `json:"connections"`
	Members     *int   `json:"members,omitempty"`
	Duplicate   bool   `json:"duplicate"`
}

// NewReceiptJSON is a Receipt as it goes over the wire.
func NewReceiptJSON(r Receipt) ReceiptJSON {
	wire := ReceiptJSON{r.ID, event.FormatTime(r.Timestamp), r.Cursor, r.Connections, nil, r.Duplicate}
	if r.Members >= 0 {
		wire.Members = &r.Members
	}
	return wire
}

// Counts is what a hub counts as it happens.
type Counts struct {
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

func newCounts() *Counts {
	return &Counts{
		connects: count.NewWords(ResumeFresh, ResumeComplete, ResumePartial),
		closes: count.NewWords(CloseClient, CloseVanished, CloseNoisy, CloseExpired, CloseDrain, CloseKicked,
			CloseSlow, CloseReplaced, CloseUnacked, CloseUnavailable, CloseCapacity, CloseProtocol),
		refused:  count.NewWords(CloseDrain, CloseCapacity, ClosePending, CloseUnavailable, CloseRefused, CloseProtocol, CloseVanished),
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

// Stats is what a hub has counted since it was made, and what it has now.
type Stats struct {
	Streams     int
	Transports  map[Transport]int64 // how many streams came by each door
	Tenants     int                 // that this hub has to do with
	Ready       bool                // takes streams, and can store
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

// Accepted counts an event that was published.
func (c *Counts) Accepted(kind event.TargetKind) { c.accepted.Add(kind, 1) }

// Duplicate counts an event that had been published before.
func (c *Counts) Duplicate() { c.duplicates.Add(1) }

// Unconfirmed counts events of which it is not known whether they are stored.
func (c *Counts) Unconfirmed(events int) { c.unconfirmed.Add(int64(events)) }

// Unanswered counts questions that other hubs did not answer.
func (c *Counts) Unanswered(hubs int) { c.unanswered.Add(int64(hubs)) }

// Stats looks at everything; for a broker's answer it may wait a second. Ready says only that
// the hub does not drain.
func (s *Streams) Stats() Stats {
	c, written, log := s.count, s.engine.Stats(), s.log.Stats()
	open, by, draining := s.open.now()
	dropped := map[DropReason]int64{
		DropBehind: c.behind.Load(), DropBroker: int64(log.Unsent), DropUnreadable: int64(log.Unread),
	}
	for why, n := range written.Dropped {
		dropped[DropReason(engine.Drop(why).String())] = n
	}
	gaps := c.gaps.Now()
	gaps[GapSlow] += written.Shed
	return Stats{
		Streams: open, Transports: by, Tenants: s.tenants.number(), Ready: !draining,
		Connects: c.connects.Now(), Closes: c.closes.Now(), Refused: c.refused.Now(),
		Accepted: c.accepted.Now(), Duplicates: c.duplicates.Load(), Unconfirmed: c.unconfirmed.Load(), Unanswered: c.unanswered.Load(),
		Dropped: dropped, Gaps: gaps, Replayed: c.replayed.Now(), Engine: written, Log: log,
		Overload: s.overload.Stats(),
	}
}

// TenantStats is one tenant's part.
type TenantStats struct {
	Name     string
	Streams  int
	Accepted int64 // events, since the tenant was last found here
}
