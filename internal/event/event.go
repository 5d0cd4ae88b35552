package event

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/strictjson"
)

// The well-known event types. The set is open: any name that is not the hub's
// own may be published.
const (
	TypeActivityCreated     = "activity.created"
	TypeInboxItemCreated    = "inbox.item.created"
	TypeInboxItemUpdated    = "inbox.item.updated"
	TypeInboxItemRead       = "inbox.item.read"
	TypePostCreated         = "post.created"
	TypePostUpdated         = "post.updated"
	TypePostDeleted         = "post.deleted"
	TypeCommentCreated      = "comment.created"
	TypeCommentUpdated      = "comment.updated"
	TypeCommentDeleted      = "comment.deleted"
	TypeReactionAdded       = "reaction.added"
	TypeReactionRemoved     = "reaction.removed"
	TypeMessageReceived     = "message.received"
	TypeMessageEdited       = "message.edited"
	TypeMessageDeleted      = "message.deleted"
	TypeConversationCreated = "conversation.created"
	TypePresenceOnline      = "presence.online"
	TypePresenceOffline     = "presence.offline"
	TypePresenceAway        = "presence.away"
	TypePresenceDigest      = "presence.digest"
	TypeTypingStarted       = "typing.started"
	TypeTypingStopped       = "typing.stopped"
)

// Event is what is published and delivered. Payload is compact JSON.
type Event struct {
	ID            string
	TenantID      string
	Type          string
	Payload       json.RawMessage
	Target        Target
	Timestamp     time.Time
	CorrelationID string
	TraceParent   string // of the trace that its publisher works in (W3C Trace Context)
	Ephemeral     bool
}

// TimeFormat is RFC 3339 in UTC with exactly three fraction digits.
const TimeFormat = "2006-01-02T15:04:05.000Z"

// AppendTime appends t in TimeFormat, by way of the one layout that package time
// has a short cut for.
func AppendTime(b []byte, t time.Time) []byte {
	b = t.UTC().AppendFormat(b, time.RFC3339)
	ms := t.Nanosecond() / 1e6
	return append(b[:len(b)-1], '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z')
}

// FormatTime is t in TimeFormat.
func FormatTime(t time.Time) string { return string(AppendTime(make([]byte, 0, len(TimeFormat)), t)) }

// NewEphemeral is an ephemeral event of the hub's own making.
func NewEphemeral(tenant, kind string, to Target, now time.Time, payload any) *Event {
	data, _ := json.Marshal(payload)
	return &Event{
		ID: uuid.Must(uuid.NewV7()).String(), TenantID: tenant, Type: kind, Payload: data,
		Target: to, Timestamp: now, Ephemeral: true,
	}
}

// Stored says whether the event gets a place in the history.
func (e *Event) Stored() bool { return !e.Ephemeral && e.Target.Kind != KindConnection }

// AppendEnvelope appends the event as its recipients see it, one line of compact
// JSON: of the target only the kind and the room, since one recipient must not
// learn of the others.
func (e *Event) AppendEnvelope(b []byte) []byte {
	b, _ = e.appendJSON(b, false)
	return b
}

// Seal encodes the envelope for good: the payload is its part from now on, so that
// an event that is kept is kept once.
func (e *Event) Seal() []byte {
	b, at := e.appendJSON(make([]byte, 0, len(e.Payload)+256), false)
	end := at + len(e.Payload)
	e.Payload = json.RawMessage(b[at:end:end])
	return b
}

// AppendWhole appends the event with all of its target, for services.
func (e *Event) AppendWhole(b []byte) []byte {
	b, _ = e.appendJSON(b, true)
	return b
}

// appendJSON also returns where in b the payload begins.
func (e *Event) appendJSON(b []byte, whole bool) (_ []byte, payloadAt int) {
	text := func(name, value string) {
		b = append(b, name...)
		b = strictjson.AppendQuote(b, value)
	}
	text(`{"id":`, e.ID)
	text(`,"tenantId":`, e.TenantID)
	text(`,"type":`, e.Type)
	b = append(b, `,"payload":`...)
	payloadAt = len(b)
	b = append(b, e.Payload...)
	text(`,"target":{"kind":`, string(e.Target.Kind))
	switch e.Target.Kind {
	case KindConversation:
		text(`,"conversationId":`, e.Target.ConversationID)
	case KindGroup:
		text(`,"groupId":`, e.Target.GroupID)
	}
	if whole {
		b = e.Target.appendRecipients(b)
	}
	b = append(b, `},"timestamp":"`...)
	b = AppendTime(b, e.Timestamp)
	b = append(b, '"')
	if e.CorrelationID != "" {
		text(`,"correlationId":`, e.CorrelationID)
	}
	if e.TraceParent != "" {
		text(`,"traceparent":`, e.TraceParent)
	}
	if e.Ephemeral {
		b = append(b, `,"ephemeral":true`...)
	}
	return append(b, '}'), payloadAt
}

// traceParentLen is the length of version 00 of the W3C's traceparent.
const traceParentLen = len("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")

// ParseTraceParent reads a traceparent (W3C Trace Context, section 3.2). Of a version
// that is not known yet it takes what it knows, as version 00.
func ParseTraceParent(text string) (string, bool) {
	if len(text) < traceParentLen {
		return "", false
	}
	version, known, more := text[:2], text[:traceParentLen], text[traceParentLen:]
	if version == "ff" || more != "" && (version == "00" || more[0] != '-') {
		return "", false
	}
	for i := range len(known) {
		c, dash := known[i], i == 2 || i == 35 || i == 52
		if dash != (c == '-') || !dash && (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", false
		}
	}
	none := func(id string) bool { return strings.Trim(id, "0") == "" }
	if none(known[3:35]) || none(known[36:52]) {
		return "", false
	}
	if version != "00" {
		known = "00" + known[2:]
	}
	return strings.Clone(known), true
}
