package delivery

import (
	"errors"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"realtimehub/internal/count"
	"realtimehub/internal/engine"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/overload"
)

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
	CloseUnacked  CloseReason = "unacked" // it owed an acknowledgement for too long

	CloseRefused  CloseReason = "refused"  // by a door that tells on the stream what others tell by a status
	CloseProtocol CloseReason = "protocol" // its client broke the rules of its door

	CloseUnavailable CloseReason = "unavailable" // what the stream needs cannot be had now: the broker, or another hub, does not answer

	// Of these no hub.closing tells: nobody is there to be told, or to listen.
	CloseClient   CloseReason = "client"   // it left
	CloseVanished CloseReason = "vanished" // without a word
	CloseNoisy    CloseReason = "noisy"    // it kept sending

	CloseSuperseded CloseReason = "superseded" // its client has asked again meanwhile, which ended this request
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

// gapOf is the reason for what a history did not give.
func gapOf(why error) GapReason {
	switch {
	case errors.Is(why, history.ErrUnknownCursor):
		return GapUnknown
	case errors.Is(why, history.ErrRoomUnknown):
		return GapMembership
	}
	return GapExpired
}

// DropReason says why an event was not delivered to somebody it was for: one of the
// engine's ([engine.Drop]) or of these.
type DropReason string

// The reasons that the engine does not know of.
const (
	DropBehind     DropReason = "behind"     // ephemeral, and more than is held for who catches up
	DropRoom       DropReason = "room"       // typing in a conversation too large for it
	DropUntold     DropReason = "untold"     // that typing has stopped, as nobody knows whom to tell
	DropBroker     DropReason = "broker"     // ephemeral, and other hubs cannot be told
	DropUnreadable DropReason = "unreadable" // another hub's, and no event to this one
)

// ForGood says that a resume does not bring what was dropped.
func (d DropReason) ForGood() bool {
	return !slices.Contains([]DropReason{"cut", "gone", "closed"}, d)
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

// Accepted counts an event that was published.
func (c *Counts) Accepted(kind event.TargetKind) { c.accepted.Add(kind, 1) }

// Duplicate counts an event that had been published before.
func (c *Counts) Duplicate() { c.duplicates.Add(1) }

// Unconfirmed counts events of which it is not known whether they are stored.
func (c *Counts) Unconfirmed(events int) { c.unconfirmed.Add(int64(events)) }

// Unanswered counts questions that other hubs did not answer.
func (c *Counts) Unanswered(hubs int) { c.unanswered.Add(int64(hubs)) }

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
