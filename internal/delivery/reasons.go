package delivery

import (
	"errors"
	"slices"

	"realtimehub/internal/history"
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
	DropBroker     DropReason = "broker"     // ephemeral, and other hubs cannot be told
	DropUnreadable DropReason = "unreadable" // another hub's, and no event to this one
)

// ForGood says that a resume does not bring what was dropped.
func (d DropReason) ForGood() bool {
	return !slices.Contains([]DropReason{"cut", "gone", "closed"}, d)
}
