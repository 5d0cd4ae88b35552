package event

import (
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/strictjson"
)

// DecodeStored reads an event as AppendWhole writes it, with its timestamp, and as any
// earlier version did. The error is of the first thing that is not understood.
func DecodeStored(body []byte) (*Event, error) {
	d := storedDecoder{event: new(Event)}
	if err := strictjson.Object(body, d.member); err != nil {
		return nil, err
	}
	if d.err != nil {
		return nil, d.err
	}
	return d.event, nil
}

type storedDecoder struct {
	event *Event
	err   error // the first
}

func (d *storedDecoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
}

// absent says that a field is there and means nothing.
func absent(v strictjson.Value) bool { return v == nil || v.IsNull() || string(v) == `""` }

func (d *storedDecoder) text(field string, v strictjson.Value) string {
	if absent(v) {
		return ""
	}
	text, ok := v.String()
	if !ok {
		d.fail("%s is not a string", field)
	}
	return text
}

func (d *storedDecoder) member(name []byte, v strictjson.Value) {
	e := d.event
	switch string(name) {
	case "id":
		e.ID = d.text("id", v)
	case "tenantId":
		e.TenantID = d.text("tenantId", v)
	case "type":
		e.Type = d.text("type", v)
	case "correlationId":
		e.CorrelationID = d.text("correlationId", v)
	case "traceparent":
		text := d.text("traceparent", v)
		var ok bool
		if e.TraceParent, ok = ParseTraceParent(text); !ok && text != "" {
			d.fail("traceparent is not a valid one")
		}
	case "timestamp":
		e.Timestamp, _ = time.Parse(TimeFormat, d.text("timestamp", v))
	case "ephemeral":
		e.Ephemeral = string(v) == "true"
		if !absent(v) && !e.Ephemeral && string(v) != "false" {
			d.fail("ephemeral is neither true nor false")
		}
	case "deadline":
		var ok bool
		text := d.text("deadline", v)
		if e.Deadline, ok = ParseDeadline(text); !ok && text != "" {
			d.fail("deadline is not a valid one")
		}
	case "offline":
		e.ReportOffline = d.text("offline", v) == OfflineReport
	case "payload":
		if !v.IsNull() {
			e.Payload = v.Compact()
		}
	case "target":
		if !absent(v) && !v.Object(d.targetMember) {
			d.fail("target is not an object")
		}
	default:
		d.fail("%q is not a field of an event", name)
	}
}

func (d *storedDecoder) targetMember(name []byte, v strictjson.Value) {
	t := &d.event.Target
	switch string(name) {
	case "kind":
		t.Kind = TargetKind(strings.ToLower(d.text("kind", v)))
	case "profiles":
		t.Profiles = d.profiles(v)
	case "conversationId":
		t.ConversationID = d.text("conversationId", v)
	case "groupId":
		t.GroupID = d.text("groupId", v)
	case "connectionId":
		t.ConnectionID = d.text("connectionId", v)
	case "exclude":
		if !absent(v) && !v.Object(d.excludeMember) {
			d.fail("exclude is not an object")
		}
	default:
		d.fail("%q is not a field of a target", name)
	}
}

func (d *storedDecoder) excludeMember(name []byte, v strictjson.Value) {
	switch string(name) {
	case "profiles":
		d.event.Target.ExcludeProfiles = d.profiles(v)
	case "connectionIds":
		d.event.Target.ExcludeConnections = d.connections(v)
	default:
		d.fail("%q is not a field of exclude", name)
	}
}

// profiles reads an array of profiles, without repeats.
func (d *storedDecoder) profiles(v strictjson.Value) (list []Profile) {
	if absent(v) {
		return nil
	}
	var seen map[Profile]bool // only one profile needs none
	if !v.Array(func(i int, v strictjson.Value) {
		p := d.profile(v)
		if seen == nil && len(list) == 1 {
			seen = map[Profile]bool{list[0]: true}
		}
		if !seen[p] {
			list = append(list, p)
		}
		if seen != nil {
			seen[p] = true
		}
	}) {
		d.fail("profiles is not an array")
	}
	return list
}

func (d *storedDecoder) profile(v strictjson.Value) Profile {
	if text, ok := v.String(); ok {
		p, err := ParseProfile(text)
		if err != nil {
			d.fail("a profile: %w", err)
		}
		return p
	}
	p := Profile{Type: "user"}
	if !v.Object(func(name []byte, v strictjson.Value) {
		switch string(name) {
		case "id":
			p.ID = d.text("a profile's id", v)
		case "type":
			if !absent(v) {
				p.Type = d.text("a profile's type", v)
			}
		default:
			d.fail("%q is not a field of a profile", name)
		}
	}) {
		d.fail("a profile is neither text nor an object")
	}
	if err := p.Check(); err != nil {
		d.fail("a profile: %w", err)
	}
	return p
}

// connections reads connections' ids. Those that are none are left out: earlier hubs took
// any text.
func (d *storedDecoder) connections(v strictjson.Value) (ids []uuid.UUID) {
	if absent(v) {
		return nil
	}
	if !v.Array(func(i int, v strictjson.Value) {
		text, _ := v.String()
		if id, err := uuid.Parse(text); err == nil && id.String() == text {
			ids = append(ids, id)
		}
	}) {
		d.fail("connectionIds is not an array")
	}
	return ids
}
