package problem

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// Problem is an answer of RFC 9457. It is an error, and answered with itself.
type Problem struct {
	Status int
	Code   string
	Detail string        // for people
	After  time.Duration // of 429 and 503: when to ask again; at most a second: soon
	Header http.Header   // beside those that follow from the status; may be nil
	Asked  *Problem      // what a call that only asks is answered instead; nil: the same
}

func (p *Problem) Error() string { return p.Code + ": " + p.Detail }

// Problem implements Answerer.
func (p *Problem) Problem() *Problem { return p }

// Answerer is an error that says what it is answered with.
type Answerer interface {
	error
	Problem() *Problem
}

// cause is an error that is told apart by errors.Is, and its answer.
type cause struct {
	text   string
	answer Problem
}

func (c *cause) Error() string     { return c.text }
func (c *cause) Problem() *Problem { return &c.answer }

// New makes an error of a text to be told apart by errors.Is. Its answer's detail is
// the text as well, where it has none.
func New(text string, answer Problem) error {
	if answer.Detail == "" {
		answer.Detail = text
	}
	return &cause{text, answer}
}

// CodeCredentialRequired says that a call came without a credential.
const CodeCredentialRequired = "CredentialRequired"

type FieldProblem struct {
	Code   Code   `json:"code"`
	Field  string `json:"field"`
	Index  *int   `json:"index,omitempty"`
	Detail string `json:"detail"`
}

func FieldProblems(err error) (told []FieldProblem) {
	for _, e := range Fields(err) {
		field := FieldProblem{e.Code, e.Field, nil, e.Detail}
		if e.Index >= 0 {
			field.Index = &e.Index
		}
		told = append(told, field)
	}
	return told
}

// JSON is an error as it is told (RFC 9457).
func JSON(err error) []byte { return jsonOf(Of(err), err) }

// jsonOf is JSON of an error that is answered with p.
func jsonOf(p *Problem, err error) []byte {
	body := struct {
		Type   string         `json:"type"`
		Title  string         `json:"title"`
		Status int            `json:"status"`
		Detail string         `json:"detail"`
		Code   string         `json:"code"`
		Errors []FieldProblem `json:"errors,omitempty"`
		ID     string         `json:"id,omitempty"`  // of an event that may have been stored
		IDs    []string       `json:"ids,omitempty"` // of a batch that may have been
	}{"about:blank", http.StatusText(p.Status), p.Status, p.Detail, p.Code, FieldProblems(err), "", nil}
	if ids := EventIDs(err); len(ids) == 1 {
		body.ID = ids[0]
	} else {
		body.IDs = ids
	}
	text, _ := json.Marshal(body) // of texts and numbers alone
	return text
}

// Write answers with problem details (RFC 9457); what it does not know is ours,
// and is logged rather than told.
func Write(w http.ResponseWriter, r *http.Request, logger *slog.Logger, err error) {
	p := Of(err)
	if isRead := r.Method == http.MethodGet || r.Method == http.MethodHead; isRead && p.Asked != nil {
		p = p.Asked
	}
	if p.Status == http.StatusInternalServerError {
		logger.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	} else {
		logger.Debug("request refused", "method", r.Method, "status", p.Status, "reason", p.Code)
	}
	for name, values := range p.Header {
		w.Header()[name] = values
	}
	switch p.Status {
	case http.StatusUnauthorized: // RFC 6750, section 3
		challenge := `Bearer realm="realtime"`
		if p.Code != CodeCredentialRequired {
			challenge += `, error="invalid_token"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		wait := max(time.Second, p.After+time.Second-1)
		w.Header().Set("Retry-After", strconv.Itoa(int(wait/time.Second)))
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	w.Write(append(jsonOf(p, err), '\n'))
}

// OfQuestion is the error of a call that only asks, whatever its method: there is nothing
// to be confirmed.
func OfQuestion(err error) error {
	if err != nil {
		if p := Of(err); p.Asked != nil {
			return p.Asked
		}
	}
	return err
}

// EventIDs are the ids of events that may have been stored, as err's EventIDs says.
func EventIDs(err error) []string {
	var of interface{ EventIDs() []string }
	if errors.As(err, &of) {
		return of.EventIDs()
	}
	return nil
}

// Of is what an error is answered with: the faults of fields first, then what the
// error says of itself.
func Of(err error) *Problem {
	if fields := Fields(err); len(fields) > 0 {
		return ofFields(fields)
	}
	if e, ok := errors.AsType[Answerer](err); ok {
		return e.Problem()
	}
	if e, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &Problem{Status: http.StatusRequestEntityTooLarge, Code: "BodyTooLarge", Detail: "the body has more than " + strconv.FormatInt(e.Limit, 10) + " bytes"}
	}
	return &Problem{Status: http.StatusInternalServerError, Code: "Internal", Detail: "the hub failed; its log says why"}
}

func ofFields(fields []*FieldError) *Problem {
	first := fields[0]
	p := &Problem{Status: http.StatusBadRequest, Code: string(first.Code), Detail: first.Detail}
	if first.Field != "" {
		p.Detail = first.Field + ": " + p.Detail
	}
	if len(fields) >= mostFaults {
		p.Detail = strconv.Itoa(mostFaults) + " faults and perhaps more, the first: " + p.Detail
	} else if len(fields) > 1 {
		p.Detail = strconv.Itoa(len(fields)) + " faults, the first: " + p.Detail
	}
	switch {
	case slices.ContainsFunc(fields, func(e *FieldError) bool { return e.Code != first.Code }):
		p.Code = "ValidationFailed"
	case first.Code == CodePayloadTooLarge:
		p.Status = http.StatusRequestEntityTooLarge
	}
	return p
}
