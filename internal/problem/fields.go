package problem

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"realtimehub/internal/event"
	"realtimehub/internal/strictjson"
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

// Fields takes a joined error of Faults apart; nil for any other.
func Fields(err error) (list []*FieldError) {
	if e, ok := err.(*FieldError); ok {
		return []*FieldError{e}
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			list = append(list, Fields(e)...)
		}
	}
	return list
}

// mostFaults are told of one request, and no more are looked for: a body of nothing else
// would cost many times what it is.
const mostFaults = 1000

// What memory is counted for what is read, in bytes.
const (
	FaultBytes    = 256 // of one fault
	listedProfile = 96  // of one profile in a list, and to know it again
	listedText    = 48  // of one text in a list
	mostRepeated  = 256 // of a field's name or a fault's detail; the rest is cut
)

// ErrBodies says that what one sends at once takes more memory than it may have.
var ErrBodies = New("this caller's requests have used up its share of memory; nothing was stored; send less at a time, or try again later", Problem{Status: http.StatusServiceUnavailable, Code: "BodiesBusy"})

// Faults gathers all that is wrong with a request, to be told at once.
type Faults struct {
	list    []*FieldError
	Room    func(bytes int) bool // takes memory for what is read; nil: there is enough
	Crowded bool                 // there was not: nothing more is read
}

func (f *Faults) Add(code Code, field, format string, args ...any) {
	if !f.Full() && f.Take(FaultBytes) {
		f.list = append(f.list, &FieldError{code, short(field), -1, short(fmt.Sprintf(format, args...))})
	}
}

// Query reads a query. What of it cannot be read is a fault: without it a filter would filter nothing.
func (f *Faults) Query(raw string) url.Values {
	query, err := url.ParseQuery(raw)
	if err == nil {
		return query
	}
	whole := true
	for pair := range strings.SplitSeq(raw, "&") {
		if _, err := url.ParseQuery(pair); err != nil {
			f.Add(CodeInvalidField, parameterIn(pair), "must be percent-encoded, a semicolon too (%%3B)")
			whole = false
		}
	}
	if whole {
		f.Add(CodeInvalidField, "query", "has too many parameters")
	}
	return query
}

// parameterIn is the name in a pair that cannot be read; query: that cannot either.
func parameterIn(pair string) string {
	name, _, _ := strings.Cut(pair, "=")
	if text, err := url.QueryUnescape(name); err == nil && !strings.Contains(name, ";") {
		return text
	}
	return "query"
}

// Join adds faults that were gathered elsewhere.
func (f *Faults) Join(faults []*FieldError) {
	f.list = append(f.list, faults[:min(len(faults), mostFaults-len(f.list))]...)
}

// Full says that nothing more has to be read: it would change nothing.
func (f *Faults) Full() bool { return f.Crowded || len(f.list) >= mostFaults }

// Take takes memory for what is read, if there is as much.
func (f *Faults) Take(bytes int) bool {
	if f.Room != nil && !f.Crowded {
		f.Crowded = !f.Room(bytes)
	}
	return !f.Crowded
}

// short is a text as it may be repeated.
func short(text string) string {
	if len(text) <= mostRepeated {
		return text
	}
	return strings.ToValidUTF8(text[:mostRepeated], "") + "…"
}

// Within says whether field, what encloses it or one of its elements is at fault
// already.
func (f *Faults) Within(field string) bool {
	for _, e := range f.list {
		if field == e.Field || begins(field, e.Field, '.') || begins(e.Field, field, '[') {
			return true
		}
	}
	return false
}

// begins says whether text is more than its beginning, which a mark ends.
func begins(text, beginning string, mark byte) bool {
	n := len(beginning)
	return len(text) > n && text[n] == mark && text[:n] == beginning
}

// Err joins the faults, nil when there are none; ErrBodies when not all was read.
func (f *Faults) Err() error {
	if f.Crowded {
		return ErrBodies
	}
	errs := make([]error, len(f.list))
	for i, e := range f.list {
		errs[i] = e
	}
	return errors.Join(errs...)
}

func (f *Faults) Tenant(field, id string) {
	if id == "" {
		f.Add(CodeTenantIDRequired, field, "a tenant is needed")
	} else if err := event.CheckTenant(id); err != nil {
		f.Add(CodeInvalidTenantID, field, "%v", err)
	}
}

func (f *Faults) Profile(field, text string) event.Profile {
	if text == "" {
		f.Add(CodeProfileRequired, field, "a profile is needed")
		return event.Profile{}
	}
	p, err := event.ParseProfile(text)
	if err != nil {
		f.Add(CodeInvalidProfile, field, "%v", err)
	}
	return p
}

// Types reads patterns of types ([event.ParseFilter]).
func (f *Faults) Types(field string, patterns []string) *event.Filter {
	filter, errs := event.ParseFilter(patterns)
	for _, err := range errs {
		f.Add(CodeInvalidField, field, "%v", err)
	}
	return filter
}

// Absent: null and "" mean that a field is not there; a payload may be "".
func Absent(v strictjson.Value) bool { return v.IsNull() || string(v) == `""` }

func (f *Faults) Text(code Code, field string, v strictjson.Value) string {
	if v == nil || Absent(v) {
		return ""
	}
	s, ok := v.String()
	if !ok {
		f.Add(code, field, "must be a string")
	}
	return s
}

// TooMany says whether v is an array of more than most items, which is a fault: it is
// not read then.
func (f *Faults) TooMany(code Code, field string, v strictjson.Value, most int, what string) bool {
	count := 0
	v.Array(func(int, strictjson.Value) { count++ })
	if count > most {
		f.Add(code, field, "%d %s at most", most, what)
	}
	return count > most
}

// Texts reads an array of strings; absent is nil, an empty array is not.
func (f *Faults) Texts(code Code, field string, v strictjson.Value) []string {
	if v == nil || Absent(v) {
		return nil
	}
	list := []string{}
	if !v.Array(func(i int, v strictjson.Value) {
		if f.Full() || !f.Take(listedText) {
			return
		}
		s, ok := v.String()
		if !ok || s == "" {
			f.Add(code, fmt.Sprintf("%s[%d]", field, i), "must be a string that is not empty")
		}
		list = append(list, s)
	}) {
		f.Add(code, field, "must be an array of strings")
	}
	return list
}

// Profiles reads an array of profiles, each in either form, without repeats.
func (f *Faults) Profiles(code Code, field string, v strictjson.Value) []event.Profile {
	if v == nil || Absent(v) {
		return nil
	}
	var list []event.Profile
	var seen map[event.Profile]bool // only one profile needs none
	if !v.Array(func(i int, v strictjson.Value) {
		if f.Full() {
			return
		}
		p, faults := decodeProfile(v)
		if len(faults) > 0 {
			if !f.Take(FaultBytes * len(faults)) {
				return
			}
			for _, e := range faults {
				e.Field = fmt.Sprintf("%s[%d]%s", field, i, e.Field)
			}
			f.Join(faults)
			return
		}
		if seen == nil && len(list) == 1 {
			seen = map[event.Profile]bool{list[0]: true}
		}
		if !seen[p] {
			if !f.Take(listedProfile) {
				return
			}
			list = append(list, p)
		}
		if seen != nil {
			seen[p] = true
		}
	}) {
		f.Add(code, field, "must be an array of profiles")
	}
	return list
}

// decodeProfile reads a profile in either form; its faults name the field below it,
// such as ".id".
func decodeProfile(v strictjson.Value) (event.Profile, []*FieldError) {
	if text, ok := v.String(); ok {
		p, err := event.ParseProfile(text)
		return p, atFault(err)
	}
	p := event.Profile{Type: "user"}
	var faults Faults
	if !v.Object(func(name []byte, v strictjson.Value) {
		if faults.Full() {
			return
		}
		switch string(name) {
		case "id":
			p.ID = faults.Text(CodeInvalidProfile, ".id", v)
		case "type":
			if !Absent(v) {
				p.Type = faults.Text(CodeInvalidProfile, ".type", v)
			}
		default:
			faults.Add(CodeUnknownField, "."+string(name), "is not a field of a profile")
		}
	}) {
		return p, atFault(errors.New(`must be "type:id" or {"type","id"}`))
	}
	if len(faults.list) > 0 {
		return p, faults.list
	}
	return p, atFault(p.Check())
}

// atFault says that a profile is not valid as a whole, if err does.
func atFault(err error) []*FieldError {
	if err == nil {
		return nil
	}
	return []*FieldError{{CodeInvalidProfile, "", -1, err.Error()}}
}
