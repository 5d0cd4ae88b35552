package main

import (
	"fmt"
	"strings"

	"github.com/google/uuid"

	"realtimehub/internal/event"
	"realtimehub/internal/problem"
	"realtimehub/internal/strictjson"
)

// Address is what a call's path says of an event, so that its body must not.
type Address struct {
	TenantID string
	Target   event.Target // Kind KindProfiles: the body brings "profiles"
}

// DecodeEvent reads and validates one event; at is nil where the body carries
// the whole envelope, and maxPayload 0 lifts that limit. The error joins all
// faults ([problem.Fields]).
func DecodeEvent(body []byte, at *Address, maxPayload int) (*event.Event, error) {
	return decodeEvent(body, at, maxPayload, nil)
}

// decodeEvent is DecodeEvent that takes the memory for what is read, if room is not
// nil, and is ErrBodies where there is too little.
func decodeEvent(body []byte, at *Address, maxPayload int, room func(bytes int) bool) (*event.Event, error) {
	d := eventDecoder{Event: new(event.Event), Faults: problem.Faults{Room: room}}
	if err := d.decode(body, at, maxPayload); err != nil {
		return nil, err
	}
	d.validate(at == nil)
	return d.Event, d.Err()
}

// DecodeBatch reads {"events":[…]}; the error joins the faults of all events,
// each with its index.
func DecodeBatch(body []byte, maxPayload int) ([]*event.Event, error) {
	return decodeBatch(body, maxPayload, nil)
}

// decodeBatch is DecodeBatch as decodeEvent is DecodeEvent.
func decodeBatch(body []byte, maxPayload int, room func(bytes int) bool) ([]*event.Event, error) {
	var events []*event.Event
	faults := problem.Faults{Room: room}
	err := strictjson.Object(body, func(name []byte, v strictjson.Value) {
		if faults.Full() {
			return
		}
		if string(name) != "events" {
			faults.Add(problem.CodeUnknownField, string(name), `a batch has "events" only`)
			return
		}
		count := 0
		v.Array(func(int, strictjson.Value) { count++ })
		if count > MaxBatchEvents {
			faults.Add(problem.CodeBatchSize, "events", "1–%d events, not %d", MaxBatchEvents, count)
			return
		}
		if !v.Array(func(i int, v strictjson.Value) {
			if faults.Full() || !faults.Take(eventBytes) {
				return
			}
			e, err := decodeEvent(v, nil, maxPayload, room)
			events = append(events, e)
			faults.Crowded = err == problem.ErrBodies
			list := problem.Fields(err)
			for _, fault := range list {
				fault.Index = i
			}
			faults.Join(list)
		}) {
			faults.Add(problem.CodeInvalidField, "events", "must be an array of events")
		}
	})
	if err != nil {
		return nil, &problem.FieldError{Code: problem.CodeMalformedJSON, Field: "", Index: -1, Detail: err.Error()}
	}
	if len(events) == 0 && !faults.Within("events") {
		faults.Add(problem.CodeBatchSize, "events", "1–%d events, not 0", MaxBatchEvents)
	}
	return events, faults.Err()
}

// eventBytes is what an event takes beside what it brings, on its way.
const eventBytes = 1024

type eventDecoder struct {
	*event.Event
	problem.Faults
	hasTarget bool
}

// decode reads the fields; an error is of what is not JSON.
func (d *eventDecoder) decode(body []byte, at *Address, maxPayload int) error {
	if at != nil {
		d.TenantID, d.Target, d.hasTarget = at.TenantID, at.Target, true
	}
	err := strictjson.Object(body, func(name []byte, v strictjson.Value) {
		if d.Full() {
			return
		}
		if problem.Absent(v) && (string(name) != "payload" || v.IsNull()) {
			v = nil
		}
		unknown := false
		switch string(name) {
		case "id":
			d.ID = d.Text(problem.CodeInvalidEventID, "id", v)
		case "type":
			d.Type = d.Text(problem.CodeInvalidEventType, "type", v)
		case "correlationId":
			d.CorrelationID = d.Text(problem.CodeInvalidCorrelationID, "correlationId", v)
		case "traceparent":
			d.traceParent(d.Text(problem.CodeInvalidField, "traceparent", v))
		case "timestamp":
			// The hub's own: an event may be published as it was received.
		case "ephemeral":
			d.Ephemeral = string(v) == "true"
			if v != nil && !d.Ephemeral && string(v) != "false" {
				d.Add(problem.CodeInvalidField, "ephemeral", "must be true or false")
			}
		case "deadline":
			d.deadline(d.Text(problem.CodeInvalidField, "deadline", v))
		case "offline":
			d.offline(d.Text(problem.CodeInvalidField, "offline", v))
		case "payload":
			if v == nil {
				return
			}
			if maxPayload > 0 && len(v) > maxPayload {
				d.Add(problem.CodePayloadTooLarge, "payload", "has %d bytes, at most %d are taken", len(v), maxPayload)
				return
			}
			d.Payload = v.Compact()
		case "tenantId":
			if unknown = at != nil; !unknown {
				d.TenantID = d.Text(problem.CodeInvalidTenantID, "tenantId", v)
			}
		case "target":
			if unknown = at != nil; !unknown && v != nil {
				d.hasTarget = true
				d.target(v)
			}
		case "profiles":
			if unknown = at == nil || at.Target.Kind != event.KindProfiles; !unknown {
				d.Target.Profiles = d.recipients("profiles", v)
			}
		default:
			unknown = true
		}
		if unknown {
			d.Add(problem.CodeUnknownField, string(name), "is not a field of an event here")
		}
	})
	if err != nil {
		return &problem.FieldError{Code: problem.CodeMalformedJSON, Field: "", Index: -1, Detail: err.Error()}
	}
	return nil
}

// recipients reads profiles, as many as a target may name.
func (d *eventDecoder) recipients(field string, v strictjson.Value) []event.Profile {
	if d.TooMany(problem.CodeInvalidTarget, field, v, event.MaxTargetProfiles, "profiles") {
		return nil
	}
	return d.Profiles(problem.CodeInvalidTarget, field, v)
}

func (d *eventDecoder) target(v strictjson.Value) {
	if !v.Object(func(name []byte, v strictjson.Value) {
		if d.Full() {
			return
		}
		switch string(name) {
		case "kind":
			d.Target.Kind = event.TargetKind(strings.ToLower(d.Text(problem.CodeInvalidTarget, "target.kind", v)))
		case "profiles":
			d.Target.Profiles = d.recipients("target.profiles", v)
		case "conversationId":
			d.Target.ConversationID = d.Text(problem.CodeInvalidTarget, "target.conversationId", v)
		case "groupId":
			d.Target.GroupID = d.Text(problem.CodeInvalidTarget, "target.groupId", v)
		case "connectionId":
			d.Target.ConnectionID = d.Text(problem.CodeInvalidTarget, "target.connectionId", v)
		case "exclude":
			if !problem.Absent(v) {
				d.exclude(v)
			}
		default:
			d.Add(problem.CodeUnknownField, "target."+string(name), "is not a field of a target")
		}
	}) {
		d.Add(problem.CodeInvalidTarget, "target", "must be an object")
	}
}

func (d *eventDecoder) exclude(v strictjson.Value) {
	if !v.Object(func(name []byte, v strictjson.Value) {
		if d.Full() {
			return
		}
		field := "target.exclude." + string(name)
		switch string(name) {
		case "profiles":
			d.Target.ExcludeProfiles = d.recipients(field, v)
		case "connectionIds":
			d.Target.ExcludeConnections = d.connections(field, v)
		default:
			d.Add(problem.CodeUnknownField, field, "is not a field of exclude")
		}
	}) {
		d.Add(problem.CodeInvalidTarget, "target.exclude", "must be an object")
	}
}

// connections reads connections' ids.
func (d *eventDecoder) connections(field string, v strictjson.Value) []uuid.UUID {
	if problem.Absent(v) || d.TooMany(problem.CodeInvalidTarget, field, v, event.MaxExcludedIDs, "ids") {
		return nil
	}
	var ids []uuid.UUID
	if !v.Array(func(i int, v strictjson.Value) {
		if d.Full() || !d.Take(len(uuid.UUID{})) {
			return
		}
		text, _ := v.String()
		if id, ok := parseConnection(text); ok {
			ids = append(ids, id)
		} else {
			d.Add(problem.CodeInvalidTarget, fmt.Sprintf("%s[%d]", field, i), "must be a connection's id, as hub.ready tells it")
		}
	}) {
		d.Add(problem.CodeInvalidTarget, field, "must be an array of connections' ids")
	}
	return ids
}

// parseConnection reads a connection's id in the one form that the hub gives.
func parseConnection(text string) (uuid.UUID, bool) {
	id, err := uuid.Parse(text)
	return id, err == nil && id.String() == text
}

// traceParent takes the field, if it is not absent.
func (d *eventDecoder) traceParent(text string) {
	var ok bool
	if d.TraceParent, ok = event.ParseTraceParent(text); !ok && text != "" {
		d.Add(problem.CodeInvalidField, "traceparent", "must be version-trace-parent-flags in lower-case hex, such as 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	}
}

// deadline takes the field, if it is not absent.
func (d *eventDecoder) deadline(text string) {
	var ok bool
	if d.Deadline, ok = event.ParseDeadline(text); !ok && text != "" {
		d.Add(problem.CodeInvalidField, "deadline", "must be a duration of 1s to 24h in whole milliseconds, such as 30s or 1h30m")
	}
}

// offline takes the field, if it is not absent.
func (d *eventDecoder) offline(text string) {
	d.ReportOffline = text == event.OfflineReport
	if text != "" && text != event.OfflineWait && !d.ReportOffline {
		d.Add(problem.CodeInvalidField, "offline", "must be wait or report")
	}
}

// validate checks what the decoder understood; a field that it could not read
// is not named twice.
func (d *eventDecoder) validate(whole bool) {
	decoded := d.Faults
	check := func(bad bool, code problem.Code, field, detail string) {
		if bad && !decoded.Within(field) {
			d.Add(code, field, "%s", detail)
		}
	}
	if whole && !decoded.Within("tenantId") {
		d.Tenant("tenantId", d.TenantID)
	}
	check(d.ID != "" && !event.PlainWord(d.ID, "._~-"),
		problem.CodeInvalidEventID, "id", "must be 1–128 of A-Za-z0-9._~-")
	check(len(d.CorrelationID) > 128 || !event.Printable(d.CorrelationID),
		problem.CodeInvalidCorrelationID, "correlationId", "must be 1–128 printable ASCII characters")
	check(d.Type == "", problem.CodeEventTypeRequired, "type", "a type is needed")
	check(d.Type != "" && !event.ValidType(d.Type),
		problem.CodeInvalidEventType, "type", "must be 1–128 of A-Za-z0-9._-, starting with a letter")
	check(event.Reserved(d.Type), problem.CodeReservedType, "type", "is the hub's own")
	check(d.Payload == nil, problem.CodePayloadRequired, "payload", "a payload is needed")
	check(!d.hasTarget, problem.CodeTargetRequired, "target", "a target is needed")
	check(d.ReportOffline && d.Deadline == 0, problem.CodeInvalidField, "offline", "needs a deadline")
	check(d.Deadline > 0 && d.Ephemeral, problem.CodeInvalidField, "deadline", "does not go with ephemeral")
	kind := d.Target.Kind
	check(d.Deadline > 0 && (kind == event.KindTenant || kind == event.KindConnection), problem.CodeInvalidField, "deadline", "needs a target whose people the hub knows: profiles, a conversation or a group")
	if d.hasTarget {
		d.validateTarget(check, whole)
	}
}

func (d *eventDecoder) validateTarget(check func(bool, problem.Code, string, string), whole bool) {
	t, at := &d.Target, "target."
	if !whole {
		at = ""
	}
	var need problem.Code
	switch t.Kind {
	case event.KindProfile, event.KindProfiles:
		check(len(t.Profiles) == 0, problem.CodeProfileRequired, at+"profiles", "a profile is needed")
		check(t.Kind == event.KindProfile && len(t.Profiles) > 1, problem.CodeInvalidTarget, at+"profiles", "one profile exactly, or the kind profiles")
	case event.KindConversation:
		need = problem.CodeConversationIDRequired
	case event.KindGroup:
		need = problem.CodeGroupIDRequired
	case event.KindConnection:
		need = problem.CodeConnectionIDRequired
	case event.KindTenant:
	default:
		check(true, problem.CodeInvalidTarget, "target.kind", "must be profile, profiles, conversation, group, tenant or connection")
		return
	}
	for _, f := range []struct {
		kind        event.TargetKind
		field, text string
		valid       func(string) error
	}{
		{event.KindConversation, "conversationId", t.ConversationID, event.CheckName},
		{event.KindGroup, "groupId", t.GroupID, event.CheckName},
		{event.KindConnection, "connectionId", t.ConnectionID, event.CheckConnectionID},
	} {
		switch {
		case f.kind != t.Kind:
			check(f.text != "", problem.CodeInvalidTarget, at+f.field, "belongs to another kind of target")
		case f.text == "":
			check(true, need, at+f.field, "is needed for this kind of target")
		default:
			err := f.valid(f.text)
			check(err != nil, problem.CodeInvalidTarget, at+f.field, fmt.Sprint(err))
		}
	}
	if t.Kind != event.KindProfile && t.Kind != event.KindProfiles {
		check(len(t.Profiles) > 0, problem.CodeInvalidTarget, at+"profiles", "belongs to another kind of target")
	}
}

const MaxBatchEvents = 1_000
