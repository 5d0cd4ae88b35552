package event

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/strictjson"
)

// The types of events that the hub makes itself.
const (
	TypePresenceDigest = "presence.digest"
	TypeTypingStarted  = "typing.started"
	TypeTypingStopped  = "typing.stopped"
)

// Event is what is published and delivered.
type Event struct {
	ID            string // its publisher's, or a UUID of the hub's
	TenantID      string
	Type          string
	Payload       json.RawMessage // compact
	Target        Target
	Timestamp     time.Time // when the hub took it
	CorrelationID string    // its publisher's, or empty
	TraceParent   string    // of its publisher's trace (W3C Trace Context), or empty
	Ephemeral     bool      // it is delivered and not stored

	ReportOffline bool          // who has no connection is reported at once, not at the deadline
	Deadline      time.Duration // its recipients are to acknowledge it within; 0: they need not
}

// TimeFormat is RFC 3339 in UTC with exactly three fraction digits.
const TimeFormat = "2006-01-02T15:04:05.000Z"

// AppendTime appends t in TimeFormat. Package time formats RFC 3339 several times faster
// than any other layout, so the fraction is added by hand.
func AppendTime(b []byte, t time.Time) []byte {
	b = t.UTC().AppendFormat(b, time.RFC3339)
	ms := t.Nanosecond() / 1e6
	return append(b[:len(b)-1], '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z')
}

// FormatTime is t in TimeFormat.
func FormatTime(t time.Time) string { return string(AppendTime(make([]byte, 0, len(TimeFormat)), t)) }

// NewEphemeral is an event that the hub makes itself and does not store. The payload must be
// something that encoding/json takes.
func NewEphemeral(tenant, kind string, to Target, now time.Time, payload any) *Event {
	data, _ := json.Marshal(payload)
	return &Event{
		ID: uuid.Must(uuid.NewV7()).String(), TenantID: tenant, Type: kind, Payload: data,
		Target: to, Timestamp: now, Ephemeral: true,
	}
}

// Stored says whether the event gets a place in the history.
func (e *Event) Stored() bool { return !e.Ephemeral && e.Target.Kind != KindConnection }

// AppendEnvelope appends the event as its recipients see it, as one line of compact JSON. Of
// the target it has only the kind and the room, since no recipient may learn of the others.
func (e *Event) AppendEnvelope(b []byte) []byte {
	b, _ = e.appendJSON(b, false)
	return b
}

// Seal encodes the envelope. From then on Payload is a part of what it returns, so that an
// event that is kept takes its memory once.
func (e *Event) Seal() []byte {
	b, at := e.appendJSON(make([]byte, 0, len(e.Payload)+256), false)
	end := at + len(e.Payload)
	e.Payload = json.RawMessage(b[at:end:end])
	return b
}

// AppendWhole appends the event with its whole target, for services and for the history.
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
	if e.Deadline > 0 {
		b = append(AppendDeadline(append(b, `,"deadline":"`...), e.Deadline), '"')
		if whole && e.ReportOffline {
			b = append(b, `,"offline":"report"`...)
		}
	}
	return append(b, '}'), payloadAt
}

// traceParentLen is the length of version 00 of the W3C's traceparent.
const traceParentLen = len("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")

// ParseTraceParent reads a traceparent (W3C Trace Context, section 3.2). A version above 00
// is read as far as 00 goes, and becomes 00. The result shares no memory with text.
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
