package delivery

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"realtimehub/internal/engine"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/sse"
)

// frames is what the hub itself says on a stream: hub.ready first, hub.closing last,
// and in between what its client must know.
type frames struct {
	// Static.
	retry     time.Duration // how long clients wait before they reconnect, at the hub's word up to twice that
	heartbeat time.Duration
}

// ready is the first frame of every stream: its id is the place before the
// first event to come, so that a client cut before that resumes there. A partial
// one has none: its client is to learn of the gap even if it is cut before. The
// heartbeat is told for those who read streams by themselves: a silence of three is
// a dead stream.
func (f *frames) ready(c *Connection, resume Resume, from history.Cursor) *engine.Frame {
	cursor := from.String()
	data := make([]byte, 0, 320) // by hand: it is part of what a connect costs
	data = append(append(data, `{"connectionId":"`...), c.ID.String()...)
	data = append(append(data, `","tenantId":"`...), c.Tenant...)
	data = c.Profile.AppendJSON(append(data, `","profile":`...))
	data = event.AppendTime(append(data, `,"connectedAt":"`...), c.ConnectedAt)
	data = append(append(data, `","resume":"`...), resume...)
	data = append(append(data, `","cursor":"`...), cursor...)
	data = append(data, `","heartbeatMs":`...)
	data = append(strconv.AppendInt(data, f.heartbeat.Milliseconds(), 10), '}')
	b := sse.AppendRetry(make([]byte, 0, len(data)+len(cursor)+64), f.retry)
	if resume == ResumePartial {
		cursor = ""
	}
	b, _ = sse.AppendEvent(b, cursor, "hub.ready", data)
	return engine.NewFrame(b, false)
}

// displacedRetry is how long who was displaced stays away, up to twice that. A client
// that knows who uses it waits for its person instead; stock EventSource cannot, and two
// of them must not take each other's place every few seconds for ever.
const displacedRetry = 5 * time.Minute

// closing is the last frame of a stream that the hub ends: when to come back is jittered, so
// that those cut together do not return together. The client is to stay away for so much
// longer. The id is place: what a client knows who has had all before; empty where it lacks
// something.
func (f *frames) closing(reason CloseReason, after time.Duration, place string) *engine.Frame {
	wait := f.retry
	if reason == CloseReplaced || reason == CloseKicked {
		wait = max(wait, displacedRetry)
	}
	wait += after + rand.N(wait)
	data, _ := json.Marshal(struct {
		Reason  CloseReason `json:"reason"`
		RetryMS int64       `json:"retryMs"`
	}{reason, wait.Milliseconds()})
	b, _ := sse.AppendEvent(sse.AppendRetry(nil, wait), place, "hub.closing", data)
	return engine.NewFrame(b, false)
}

// expiringFrame tells a client that its token is about to end.
func expiringFrame(at time.Time) *engine.Frame {
	data := event.AppendTime([]byte(`{"expiresAt":"`), at)
	frame, _ := sse.AppendEvent(nil, "", "hub.expiring", append(data, `"}`...))
	return engine.NewFrame(frame, false)
}

// gapFrame says that something was missed for good, and where things go on.
func gapFrame(count *Counts, why error, from history.Cursor) *engine.Frame {
	reason := GapExpired
	switch {
	case errors.Is(why, history.ErrUnknownCursor):
		reason = GapUnknown
	case errors.Is(why, history.ErrRoomUnknown):
		reason = GapMembership
	}
	count.gaps.Add(reason, 1)
	cursor := from.String()
	b, _ := sse.AppendEvent(nil, cursor, "hub.gap", []byte(`{"reason":"`+string(reason)+`","cursor":"`+cursor+`"}`))
	return engine.NewFrame(b, false)
}

// shedFrame stands in place of ephemeral events that were too much for a stream.
func shedFrame() *engine.Frame {
	gap, _ := sse.AppendEvent(nil, "", "hub.gap", []byte(`{"reason":"slow"}`))
	return engine.NewFrame(gap, false)
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

	CloseUnavailable CloseReason = "unavailable" // what the stream needs cannot be had now: the broker, or another hub, does not answer

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

// DropReason says why an event was not delivered to somebody it was for: one of the
// engine's ([engine.Drop]) or of these.
type DropReason string

// The reasons that the engine does not know of.
const (
	DropBehind     DropReason = "behind"     // ephemeral, and more than is held for who catches up
	DropRoom       DropReason = "room"       // typing in a conversation too large for it
	DropBroker     DropReason = "broker"     // ephemeral, and other hubs cannot be told
	DropUnreadable DropReason = "unreadable" // another hub's, and no event to this one
)

// ForGood says that a resume does not bring what was dropped.
func (d DropReason) ForGood() bool {
	return !slices.Contains([]DropReason{"cut", "gone", "closed"}, d)
}
