package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

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

// Limits of the contract; those an operator may choose are in Config.
const (
	MaxBatchEvents    = 1_000
	MaxTargetProfiles = 10_000
	MaxAskedProfiles  = 200
)

// Code names a fault; the set is closed and part of the contract.
type Code string

// The codes of invalid requests.
const (
	CodeTenantIDRequired       Code = "TenantIdRequired"
	CodeEventTypeRequired      Code = "EventTypeRequired"
	CodePayloadRequired        Code = "PayloadRequired"
	CodeTargetRequired         Code = "TargetRequired"
	CodeInvalidTarget          Code = "InvalidTarget"
	CodeProfileRequired        Code = "ProfileRequired"
	CodeConversationIDRequired Code = "ConversationIdRequired"
	CodeGroupIDRequired        Code = "GroupIdRequired"
	CodeConnectionIDRequired   Code = "ConnectionIdRequired"
	CodeInvalidTenantID        Code = "InvalidTenantId"
	CodeInvalidProfile         Code = "InvalidProfile"
	CodeInvalidEventType       Code = "InvalidEventType"
	CodeReservedType           Code = "ReservedType"
	CodeInvalidEventID         Code = "InvalidEventId"
	CodeInvalidCorrelationID   Code = "InvalidCorrelationId"
	CodeInvalidField           Code = "InvalidField"
	CodeUnknownField           Code = "UnknownField"
	CodePayloadTooLarge        Code = "PayloadTooLarge"
	CodeMalformedJSON          Code = "MalformedJson"
	CodeBatchSize              Code = "InvalidBatchSize"
)

// FieldError is one fault of a request: its code, the field as the request
// names it ("target.profiles[3]"), and in a batch the event's index, else -1.
type FieldError struct {
	Code   Code
	Field  string
	Index  int
	Detail string
}

func (e *FieldError) Error() string {
	if e.Index >= 0 {
		return fmt.Sprintf("%s: event %d, %s: %s", e.Code, e.Index, e.Field, e.Detail)
	}
	return fmt.Sprintf("%s: %s: %s", e.Code, e.Field, e.Detail)
}

// Faults gathers all that is wrong with a request, to be told at once.
type Faults struct{ list []*FieldError }

func (f *Faults) add(code Code, field, format string, args ...any) {
	f.list = append(f.list, &FieldError{code, field, -1, fmt.Sprintf(format, args...)})
}

// within says whether field, what encloses it or one of its elements is at fault
// already.
func (f *Faults) within(field string) bool {
	for _, e := range f.list {
		if field == e.Field || strings.HasPrefix(field, e.Field+".") || strings.HasPrefix(e.Field, field+"[") {
			return true
		}
	}
	return false
}

// Err joins the faults, nil when there are none.
func (f *Faults) Err() error {
	errs := make([]error, len(f.list))
	for i, e := range f.list {
		errs[i] = e
	}
	return errors.Join(errs...)
}

// FieldErrors takes a joined error of this file apart; nil for any other.
func FieldErrors(err error) (list []*FieldError) {
	if e, ok := err.(*FieldError); ok {
		return []*FieldError{e}
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			list = append(list, FieldErrors(e)...)
		}
	}
	return list
}

// ProfileRef names one person or actor of a tenant. It is comparable, a map key
// as it is: joining it to one string would let "a:b"+"c" meet "a"+"b:c".
type ProfileRef struct {
	Type string `json:"type"` // 1–32 of a-z0-9_-
	ID   string `json:"id"`   // 1–256 bytes of UTF-8 without control characters
}

// AppendJSON appends the object form.
func (p ProfileRef) AppendJSON(b []byte) []byte {
	b = strictjson.AppendQuote(append(b, `{"type":`...), p.Type)
	b = strictjson.AppendQuote(append(b, `,"id":`...), p.ID)
	return append(b, '}')
}

// String is the text form, type:id.
func (p ProfileRef) String() string { return p.Type + ":" + p.ID }

// word says whether s is 1 to most of A-Za-z0-9 and the bytes in more.
func word(s string, most int, more string) bool {
	if s == "" || len(s) > most {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && strings.IndexByte(more, c) < 0 {
			return false
		}
	}
	return true
}

// plainWord is a word that means no folder, where it stands in a path.
func plainWord(s string, more string) bool { return word(s, 128, more) && s != "." && s != ".." }

func validType(s string) bool {
	return word(s, 128, "._-") && 'a' <= s[0]|0x20 && s[0]|0x20 <= 'z'
}

// reserved says whether a type is the hub's own.
func reserved(s string) bool {
	switch kind, _, dot := strings.Cut(s, "."); kind {
	case "hub", "presence", "connection":
		return dot
	case "error", "open":
		return !dot
	}
	return false
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c > '~' })
}

// ParseProfile reads the text form: split at the first colon, type "user" when
// there is none.
func ParseProfile(text string) (ProfileRef, error) {
	p := ProfileRef{Type: "user", ID: text}
	if kind, id, found := strings.Cut(text, ":"); found {
		p = ProfileRef{kind, id}
	}
	return p, p.check()
}

func (p ProfileRef) check() error {
	if !word(p.Type, 32, "_-") || strings.ToLower(p.Type) != p.Type {
		return errors.New("the type must be 1–32 of a-z0-9_-")
	}
	return checkName(p.ID)
}

// checkName is the rule of profile, conversation and group ids.
func checkName(id string) error {
	switch {
	case id == "" || len(id) > 256:
		return errors.New("the id must have 1–256 bytes")
	case !utf8.ValidString(id) || strings.ContainsFunc(id, unicode.IsControl):
		return errors.New("the id must be UTF-8 without control characters")
	case id == "." || id == "..":
		return errors.New(`an id must not be "." or ".."`)
	}
	return nil
}

func (f *Faults) tenant(field, id string) {
	if id == "" {
		f.add(CodeTenantIDRequired, field, "a tenant is needed")
	} else if err := checkTenant(id); err != nil {
		f.add(CodeInvalidTenantID, field, "%v", err)
	}
}

func checkTenant(id string) error {
	if !plainWord(id, "._~@-") {
		return errors.New("must be 1–128 of A-Za-z0-9._~@-")
	}
	return nil
}

func (f *Faults) profile(field, text string) ProfileRef {
	if text == "" {
		f.add(CodeProfileRequired, field, "a profile is needed")
		return ProfileRef{}
	}
	p, err := ParseProfile(text)
	if err != nil {
		f.add(CodeInvalidProfile, field, "%v", err)
	}
	return p
}

// TargetKind says how a target is resolved.
type TargetKind string

// The kinds of targets.
const (
	KindProfile      TargetKind = "profile"
	KindProfiles     TargetKind = "profiles"
	KindConversation TargetKind = "conversation"
	KindGroup        TargetKind = "group"
	KindTenant       TargetKind = "tenant"
	KindConnection   TargetKind = "connection"
)

// Target says whom an event is for.
type Target struct {
	Kind           TargetKind
	Profiles       []ProfileRef // profile, profiles
	ConversationID string
	GroupID        string
	ConnectionID   string

	ExcludeProfiles    []ProfileRef
	ExcludeConnections []string
}

// ToProfile targets all connections of p.
func ToProfile(p ProfileRef) Target { return Target{Kind: KindProfile, Profiles: []ProfileRef{p}} }

// ToProfiles targets all connections of each of ps, filled in later or now.
func ToProfiles(ps ...ProfileRef) Target { return Target{Kind: KindProfiles, Profiles: ps} }

// ToConversation targets a conversation's members.
func ToConversation(id string) Target { return Target{Kind: KindConversation, ConversationID: id} }

// ToGroup targets a group's members.
func ToGroup(id string) Target { return Target{Kind: KindGroup, GroupID: id} }

// ToTenant targets every connection of the tenant.
func ToTenant() Target { return Target{Kind: KindTenant} }

// ToConnection targets one connection.
func ToConnection(id string) Target { return Target{Kind: KindConnection, ConnectionID: id} }

// Room is the conversation or group that t names.
func (t *Target) Room() (Room, bool) {
	switch t.Kind {
	case KindConversation:
		return Room{t.Kind, t.ConversationID}, true
	case KindGroup:
		return Room{t.Kind, t.GroupID}, true
	}
	return Room{}, false
}

// Room names a conversation or a group of a tenant: a set of profiles.
type Room struct {
	Kind TargetKind // KindConversation or KindGroup
	ID   string
}

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

// appendRecipients appends what AppendEnvelope leaves out.
func (t *Target) appendRecipients(b []byte) []byte {
	if t.ConnectionID != "" {
		b = strictjson.AppendQuote(append(b, `,"connectionId":`...), t.ConnectionID)
	}
	if len(t.Profiles) > 0 {
		b = appendList(append(b, `,"profiles":`...), t.Profiles, ProfileRef.AppendJSON)
	}
	if len(t.ExcludeProfiles)+len(t.ExcludeConnections) > 0 {
		b = appendList(append(b, `,"exclude":{"profiles":`...), t.ExcludeProfiles, ProfileRef.AppendJSON)
		b = appendList(append(b, `,"connectionIds":`...), t.ExcludeConnections, func(id string, b []byte) []byte {
			return strictjson.AppendQuote(b, id)
		})
		b = append(b, '}')
	}
	return b
}

func appendList[T any](b []byte, list []T, item func(T, []byte) []byte) []byte {
	b = append(b, '[')
	for i, x := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = item(x, b)
	}
	return append(b, ']')
}

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
				d.Target.Profiles = d.profiles("profiles", v)
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

// traceParent takes the field, if it is not absent.
func (d *eventDecoder) traceParent(text string) {
	var ok bool
	if d.TraceParent, ok = ParseTraceParent(text); !ok && text != "" {
		d.add(CodeInvalidField, "traceparent", "must be version-trace-parent-flags in lower-case hex, such as 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	}
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

// absent: null and "" mean that a field is not there; a payload may be "".
func absent(v strictjson.Value) bool { return v.IsNull() || string(v) == `""` }

type eventDecoder struct {
	*Event
	Faults
	hasTarget bool
	stored    bool // the hub wrote it itself
}

func (f *Faults) text(code Code, field string, v strictjson.Value) string {
	if v == nil || absent(v) {
		return ""
	}
	s, ok := v.String()
	if !ok {
		f.add(code, field, "must be a string")
	}
	return s
}

func (d *eventDecoder) target(v strictjson.Value) {
	if !v.Object(func(name []byte, v strictjson.Value) {
		switch string(name) {
		case "kind":
			d.Target.Kind = TargetKind(strings.ToLower(d.text(CodeInvalidTarget, "target.kind", v)))
		case "profiles":
			d.Target.Profiles = d.profiles("target.profiles", v)
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
			d.Target.ExcludeProfiles = d.profiles(field, v)
		case "connectionIds":
			d.Target.ExcludeConnections = d.texts(CodeInvalidTarget, field, v)
		default:
			d.add(CodeUnknownField, field, "is not a field of exclude")
		}
	}) {
		d.add(CodeInvalidTarget, "target.exclude", "must be an object")
	}
}

// texts reads an array of strings; absent is nil, an empty array is not.
func (f *Faults) texts(code Code, field string, v strictjson.Value) []string {
	if v == nil || absent(v) {
		return nil
	}
	list := []string{}
	if !v.Array(func(i int, v strictjson.Value) {
		s, ok := v.String()
		if !ok || s == "" {
			f.add(code, fmt.Sprintf("%s[%d]", field, i), "must be a string that is not empty")
		}
		list = append(list, s)
	}) {
		f.add(code, field, "must be an array of strings")
	}
	return list
}

// profiles reads an array of profiles, each in either form, without repeats.
func (f *Faults) profiles(field string, v strictjson.Value) []ProfileRef {
	if v == nil || absent(v) {
		return nil
	}
	var list []ProfileRef
	var seen map[ProfileRef]bool // only one profile needs none
	if !v.Array(func(i int, v strictjson.Value) {
		p, err := decodeProfile(v)
		if err != nil {
			f.add(CodeInvalidProfile, fmt.Sprintf("%s[%d]", field, i), "%v", err)
			return
		}
		if seen == nil && len(list) == 1 {
			seen = map[ProfileRef]bool{list[0]: true}
		}
		if !seen[p] {
			list = append(list, p)
		}
		if seen != nil {
			seen[p] = true
		}
	}) {
		f.add(CodeInvalidTarget, field, "must be an array of profiles")
	}
	return list
}

func decodeProfile(v strictjson.Value) (ProfileRef, error) {
	if text, ok := v.String(); ok {
		return ParseProfile(text)
	}
	p := ProfileRef{Type: "user"}
	var faults Faults
	if !v.Object(func(name []byte, v strictjson.Value) {
		switch string(name) {
		case "id":
			p.ID = faults.text(CodeInvalidProfile, "id", v)
		case "type":
			if !absent(v) {
				p.Type = faults.text(CodeInvalidProfile, "type", v)
			}
		default:
			faults.add(CodeUnknownField, string(name), "is not a field of a profile")
		}
	}) {
		return p, errors.New(`must be "type:id" or {"type","id"}`)
	}
	return p, errors.Join(faults.Err(), p.check())
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
	check(len(t.ExcludeConnections) > MaxTargetProfiles, CodeInvalidTarget, "target.exclude.connectionIds", "10,000 ids at most")
}

func checkConnectionID(id string) error {
	if !word(id, 128, "._~-") {
		return errors.New("is not a connection's id")
	}
	return nil
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

// TypeFilter is the set of types that a stream wants: names, "name.*", or "*".
type TypeFilter struct {
	exact    map[string]bool
	prefixes []string // with their final dot, or ""
}

// ParseTypes reads patterns; nil patterns mean no filter (nil).
func (f *Faults) ParseTypes(field string, patterns []string) *TypeFilter {
	if patterns == nil {
		return nil
	}
	if len(patterns) > MaxAskedProfiles {
		f.add(CodeInvalidField, field, "%d types at most", MaxAskedProfiles)
		return nil
	}
	filter, all := &TypeFilter{exact: map[string]bool{}}, false
	for _, pattern := range patterns {
		prefix, star := strings.CutSuffix(pattern, "*")
		switch {
		case star && prefix == "":
			all = true // the others may still be at fault
		case star && strings.HasSuffix(prefix, ".") && validType(prefix):
			filter.prefixes = append(filter.prefixes, strings.Clone(prefix))
		case !star && validType(pattern):
			filter.exact[strings.Clone(pattern)] = true
		default:
			f.add(CodeInvalidField, field, "%q is not a type, or a type's beginning with .*", pattern)
		}
	}
	if all {
		return nil
	}
	return filter
}

// Patterns are what ParseTypes reads as f: of no filter "*".
func (f *TypeFilter) Patterns() []string {
	if f == nil {
		return []string{"*"}
	}
	list := slices.Sorted(maps.Keys(f.exact))
	for _, prefix := range f.prefixes {
		list = append(list, prefix+"*")
	}
	return list
}

// Wants says whether an event of this type passes; a nil filter lets all pass.
func (f *TypeFilter) Wants(name string) bool {
	if f == nil || f.exact[name] {
		return true
	}
	for _, prefix := range f.prefixes {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}
