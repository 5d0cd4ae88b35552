package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/strictjson"
)

// Address is what a call's path says of an event, so that its body must not.
type Address struct {
	TenantID string
	Target   Target // Kind KindProfiles: the body brings "profiles"
}

// DecodeEvent reads and validates one event; at is nil where the body carries
// the whole envelope, and maxPayload 0 lifts that limit. The error joins all
// faults ([FieldErrors]).
func DecodeEvent(body []byte, at *Address, maxPayload int) (*Event, error) {
	d := eventDecoder{Event: new(Event)}
	if err := d.decode(body, at, maxPayload); err != nil {
		return nil, err
	}
	d.validate(at == nil)
	return d.Event, d.Err()
}

// DecodeStored reads an event as AppendWhole writes it, with its timestamp.
func DecodeStored(body []byte) (*Event, error) {
	d := eventDecoder{Event: new(Event), stored: true}
	if err := d.decode(body, nil, 0); err != nil {
		return nil, err
	}
	return d.Event, d.Err()
}

// DecodeBatch reads {"events":[…]}; the error joins the faults of all events,
// each with its index.
func DecodeBatch(body []byte, maxPayload int) ([]*Event, error) {
	var events []*Event
	var faults Faults
	err := strictjson.Object(body, func(name []byte, v strictjson.Value) {
		if string(name) != "events" {
			faults.add(CodeUnknownField, string(name), `a batch has "events" only`)
			return
		}
		if !v.Array(func(i int, v strictjson.Value) {
			if i >= MaxBatchEvents {
				events = append(events, nil) // counted, not read
				return
			}
			e, err := DecodeEvent(v, nil, maxPayload)
			events = append(events, e)
			for _, fault := range FieldErrors(err) {
				fault.Index = i
				faults.list = append(faults.list, fault)
			}
		}) {
			faults.add(CodeInvalidField, "events", "must be an array of events")
		}
	})
	if err != nil {
		return nil, &FieldError{CodeMalformedJSON, "", -1, err.Error()}
	}
	if len(events) == 0 || len(events) > MaxBatchEvents {
		if !faults.within("events") {
			faults.add(CodeBatchSize, "events", "1–%d events, not %d", MaxBatchEvents, len(events))
		}
	}
	return events, faults.Err()
}

type eventDecoder struct {
	*Event
	Faults
	hasTarget bool
	stored    bool // the hub wrote it itself
}

// decode reads the fields; an error is of what is not JSON.
func (d *eventDecoder) decode(body []byte, at *Address, maxPayload int) error {
	if at != nil {
		d.TenantID, d.Target, d.hasTarget = at.TenantID, at.Target, true
	}
	err := strictjson.Object(body, func(name []byte, v strictjson.Value) {
		if absent(v) && (string(name) != "payload" || v.IsNull()) {
			v = nil
		}
		unknown := false
		switch string(name) {
		case "id":
			d.ID = d.text(CodeInvalidEventID, "id", v)
		case "type":
			d.Type = d.text(CodeInvalidEventType, "type", v)
		case "correlationId":
			d.CorrelationID = d.text(CodeInvalidCorrelationID, "correlationId", v)
		case "traceparent":
			d.traceParent(d.text(CodeInvalidField, "traceparent", v))
		case "timestamp":
			if d.stored {
				d.Timestamp, _ = time.Parse(TimeFormat, d.text(CodeInvalidField, "timestamp", v))
			}
		case "ephemeral":
			d.Ephemeral = string(v) == "true"
			if v != nil && !d.Ephemeral && string(v) != "false" {
				d.add(CodeInvalidField, "ephemeral", "must be true or false")
			}
		case "payload":
			if v == nil {
				return
			}
			if maxPayload > 0 && len(v) > maxPayload {
				d.add(CodePayloadTooLarge, "payload", "has %d bytes, at most %d are taken", len(v), maxPayload)
				return
			}
			d.Payload = v.Compact()
		case "tenantId":
			if unknown = at != nil; !unknown {
				d.TenantID = d.text(CodeInvalidTenantID, "tenantId", v)
			}
		case "target":
			if unknown = at != nil; !unknown && v != nil {
				d.hasTarget = true
				d.target(v)
			}
		case "profiles":
			if unknown = at == nil || at.Target.Kind != KindProfiles; !unknown {
				d.Target.Profiles = d.profiles(CodeInvalidTarget, "profiles", v)
			}
		default:
			unknown = true
		}
		if unknown {
			d.add(CodeUnknownField, string(name), "is not a field of an event here")
		}
	})
	if err != nil {
		return &FieldError{CodeMalformedJSON, "", -1, err.Error()}
	}
	return nil
}

func (d *eventDecoder) target(v strictjson.Value) {
	if !v.Object(func(name []byte, v strictjson.Value) {
		switch string(name) {
		case "kind":
			d.Target.Kind = TargetKind(strings.ToLower(d.text(CodeInvalidTarget, "target.kind", v)))
		case "profiles":
			d.Target.Profiles = d.profiles(CodeInvalidTarget, "target.profiles", v)
		case "conversationId":
			d.Target.ConversationID = d.text(CodeInvalidTarget, "target.conversationId", v)
		case "groupId":
			d.Target.GroupID = d.text(CodeInvalidTarget, "target.groupId", v)
		case "connectionId":
			d.Target.ConnectionID = d.text(CodeInvalidTarget, "target.connectionId", v)
		case "exclude":
			if !absent(v) {
				d.exclude(v)
			}
		default:
			d.add(CodeUnknownField, "target."+string(name), "is not a field of a target")
		}
	}) {
		d.add(CodeInvalidTarget, "target", "must be an object")
	}
}

func (d *eventDecoder) exclude(v strictjson.Value) {
	if !v.Object(func(name []byte, v strictjson.Value) {
		field := "target.exclude." + string(name)
		switch string(name) {
		case "profiles":
			d.Target.ExcludeProfiles = d.profiles(CodeInvalidTarget, field, v)
		case "connectionIds":
			d.Target.ExcludeConnections = d.connections(field, v)
		default:
			d.add(CodeUnknownField, field, "is not a field of exclude")
		}
	}) {
		d.add(CodeInvalidTarget, "target.exclude", "must be an object")
	}
}

// connections reads connections' ids. Of an event that is stored those that are none are
// left out: earlier hubs took any text.
func (d *eventDecoder) connections(field string, v strictjson.Value) []uuid.UUID {
	if absent(v) {
		return nil
	}
	var ids []uuid.UUID
	count := 0
	if !v.Array(func(i int, v strictjson.Value) {
		if count++; count > MaxExcludedIDs {
			return
		}
		text, _ := v.String()
		if id, ok := parseConnection(text); ok {
			ids = append(ids, id)
		} else if !d.stored {
			d.add(CodeInvalidTarget, fmt.Sprintf("%s[%d]", field, i), "must be a connection's id, as hub.ready tells it")
		}
	}) {
		d.add(CodeInvalidTarget, field, "must be an array of connections' ids")
	}
	if count > MaxExcludedIDs && !d.stored {
		d.add(CodeInvalidTarget, field, "%d ids at most", MaxExcludedIDs)
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
	if d.TraceParent, ok = ParseTraceParent(text); !ok && text != "" {
		d.add(CodeInvalidField, "traceparent", "must be version-trace-parent-flags in lower-case hex, such as 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	}
}

// validate checks what the decoder understood; a field that it could not read
// is not named twice.
func (d *eventDecoder) validate(whole bool) {
	decoded := d.Faults
	check := func(bad bool, code Code, field, detail string) {
		if bad && !decoded.within(field) {
			d.add(code, field, "%s", detail)
		}
	}
	if whole && !decoded.within("tenantId") {
		d.tenant("tenantId", d.TenantID)
	}
	check(d.ID != "" && !plainWord(d.ID, "._~-"),
		CodeInvalidEventID, "id", "must be 1–128 of A-Za-z0-9._~-")
	check(len(d.CorrelationID) > 128 || !printable(d.CorrelationID),
		CodeInvalidCorrelationID, "correlationId", "must be 1–128 printable ASCII characters")
	check(d.Type == "", CodeEventTypeRequired, "type", "a type is needed")
	check(d.Type != "" && !validType(d.Type),
		CodeInvalidEventType, "type", "must be 1–128 of A-Za-z0-9._-, starting with a letter")
	check(reserved(d.Type), CodeReservedType, "type", "is the hub's own")
	check(d.Payload == nil, CodePayloadRequired, "payload", "a payload is needed")
	check(!d.hasTarget, CodeTargetRequired, "target", "a target is needed")
	if d.hasTarget {
		d.validateTarget(check, whole)
	}
}

func (d *eventDecoder) validateTarget(check func(bool, Code, string, string), whole bool) {
	t, at := &d.Target, "target."
	if !whole {
		at = ""
	}
	var need Code
	switch t.Kind {
	case KindProfile, KindProfiles:
		check(len(t.Profiles) == 0, CodeProfileRequired, at+"profiles", "a profile is needed")
		check(t.Kind == KindProfile && len(t.Profiles) > 1, CodeInvalidTarget, at+"profiles", "one profile exactly, or the kind profiles")
		check(len(t.Profiles) > MaxTargetProfiles, CodeInvalidTarget, at+"profiles", "10,000 profiles at most")
	case KindConversation:
		need = CodeConversationIDRequired
	case KindGroup:
		need = CodeGroupIDRequired
	case KindConnection:
		need = CodeConnectionIDRequired
	case KindTenant:
	default:
		check(true, CodeInvalidTarget, "target.kind", "must be profile, profiles, conversation, group, tenant or connection")
		return
	}
	for _, f := range []struct {
		kind        TargetKind
		field, text string
		valid       func(string) error
	}{
		{KindConversation, "conversationId", t.ConversationID, checkName},
		{KindGroup, "groupId", t.GroupID, checkName},
		{KindConnection, "connectionId", t.ConnectionID, checkConnectionID},
	} {
		switch {
		case f.kind != t.Kind:
			check(f.text != "", CodeInvalidTarget, at+f.field, "belongs to another kind of target")
		case f.text == "":
			check(true, need, at+f.field, "is needed for this kind of target")
		default:
			err := f.valid(f.text)
			check(err != nil, CodeInvalidTarget, at+f.field, fmt.Sprint(err))
		}
	}
	if t.Kind != KindProfile && t.Kind != KindProfiles {
		check(len(t.Profiles) > 0, CodeInvalidTarget, at+"profiles", "belongs to another kind of target")
	}
	check(len(t.ExcludeProfiles) > MaxTargetProfiles, CodeInvalidTarget, "target.exclude.profiles", "10,000 profiles at most")
}
