package main

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"time"

	"realtimehub/internal/lobby"
)

// problem is an answer of RFC 9457 whose cause is not a field.
type problem struct {
	status int
	code   string
	detail string
}

func (p *problem) Error() string { return p.code + ": " + p.detail }

// What several calls do not find.
var (
	errNothingHere  = &problem{http.StatusNotFound, "NotFound", "there is nothing at this path"}
	errNoConnection = &problem{http.StatusNotFound, "ConnectionNotFound", "there is no such connection"}
)

type fieldProblem struct {
	Code   Code   `json:"code"`
	Field  string `json:"field"`
	Index  *int   `json:"index,omitempty"`
	Detail string `json:"detail"`
}

func fieldProblems(err error) (told []fieldProblem) {
	for _, e := range FieldErrors(err) {
		field := fieldProblem{e.Code, e.Field, nil, e.Detail}
		if e.Index >= 0 {
			field.Index = &e.Index
		}
		told = append(told, field)
	}
	return told
}

// fail answers with problem details (RFC 9457); what it does not know is ours,
// and is logged rather than told.
func fail(w http.ResponseWriter, r *http.Request, logger *slog.Logger, err error) {
	body := struct {
		Type   string         `json:"type"`
		Title  string         `json:"title"`
		Status int            `json:"status"`
		Detail string         `json:"detail"`
		Code   string         `json:"code"`
		Errors []fieldProblem `json:"errors,omitempty"`
		ID     string         `json:"id,omitempty"`  // of an event that may have been stored
		IDs    []string       `json:"ids,omitempty"` // of a batch that may have been
	}{Type: "about:blank"}
	if ids := unconfirmed(err); len(ids) == 1 {
		body.ID = ids[0]
	} else {
		body.IDs = ids
	}
	p := describe(err)
	if isRead := r.Method == http.MethodGet || r.Method == http.MethodHead; isRead && errors.Is(err, ErrUnconfirmed) {
		p = errBroker // a question stores nothing
	}
	if p.status == http.StatusInternalServerError {
		logger.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	} else {
		logger.Debug("request refused", "method", r.Method, "status", p.status, "reason", p.code)
	}
	body.Title, body.Status, body.Detail, body.Code = http.StatusText(p.status), p.status, p.detail, p.code
	body.Errors = fieldProblems(err)
	switch p.status {
	case http.StatusUnauthorized: // RFC 6750, section 3
		challenge := `Bearer realm="realtime"`
		if p.code != errNoCredential.Code {
			challenge += `, error="invalid_token"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
	case http.StatusUnsupportedMediaType: // RFC 9110, section 15.5.16
		if errors.Is(err, errEncoding) {
			w.Header().Set("Accept-Encoding", "identity")
		}
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		wait := time.Second
		if limit, ok := errors.AsType[*RateError](err); ok {
			wait = max(wait, limit.After+time.Second-1)
		} else if refusal, ok := errors.AsType[*Refusal](err); ok {
			wait = max(wait, refusal.After+time.Second-1)
		} else if errors.Is(err, ErrOverloaded) {
			wait = jittered(overloadAway / 2)
		}
		w.Header().Set("Retry-After", strconv.Itoa(int(wait/time.Second)))
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.status)
	json.NewEncoder(w).Encode(body)
}

var errBroker = &problem{http.StatusServiceUnavailable, "BrokerUnavailable", "the broker does not answer; ask again"}

var errEncoding = &problem{http.StatusUnsupportedMediaType, "UnsupportedMediaType", "the body must not be compressed: Content-Encoding must be identity, or absent"}

// question is the error of a call that only asks, whatever its method: there is nothing
// to be confirmed.
func question(err error) error {
	if errors.Is(err, ErrUnconfirmed) {
		return errBroker
	}
	return err
}

// unconfirmed are the ids of events that may have been stored.
func unconfirmed(err error) []string {
	if e, ok := errors.AsType[*UnconfirmedError](err); ok {
		return e.IDs
	}
	return nil
}

func describe(err error) *problem {
	if fields := FieldErrors(err); len(fields) > 0 {
		p := &problem{http.StatusBadRequest, string(fields[0].Code), fields[0].Detail}
		if fields[0].Field != "" {
			p.detail = fields[0].Field + ": " + p.detail
		}
		if len(fields) >= mostFaults {
			p.detail = strconv.Itoa(mostFaults) + " faults and perhaps more, the first: " + p.detail
		} else if len(fields) > 1 {
			p.detail = strconv.Itoa(len(fields)) + " faults, the first: " + p.detail
		}
		differs := func(e *FieldError) bool { return string(e.Code) != p.code }
		switch {
		case slices.ContainsFunc(fields, differs):
			p.code = "ValidationFailed"
		case fields[0].Code == CodePayloadTooLarge:
			p.status = http.StatusRequestEntityTooLarge
		}
		return p
	}
	var tooLarge *http.MaxBytesError
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		return &problem{refusal.Status, refusal.Code, refusal.Detail}
	}
	if limit, ok := errors.AsType[*RateError](err); ok {
		return &problem{http.StatusTooManyRequests, "RateLimited", limit.Error()}
	}
	switch {
	case errors.As(err, &tooLarge):
		return &problem{http.StatusRequestEntityTooLarge, "BodyTooLarge", "the body has more than " + strconv.FormatInt(tooLarge.Limit, 10) + " bytes"}
	case errors.Is(err, lobby.ErrCrowded):
		return &problem{http.StatusTooManyRequests, "TooManyConnections", err.Error()}
	case errors.Is(err, ErrMembership):
		return &problem{http.StatusServiceUnavailable, "MembershipUnavailable", ErrMembership.Error() + "; nothing was stored"}
	case errors.Is(err, ErrUnconfirmed), errors.Is(err, ErrConflict):
		return &problem{http.StatusServiceUnavailable, "Unconfirmed", ErrUnconfirmed.Error() + "; it may have been stored: send it again with the same id, and the answer tells"}
	case errors.Is(err, ErrOverloaded):
		return &problem{http.StatusServiceUnavailable, "Overloaded", ErrOverloaded.Error() + "; nothing was stored, try again later"}
	case errors.Is(err, ErrNotStored):
		return &problem{http.StatusServiceUnavailable, "NotStored", ErrNotStored.Error()}
	case errors.Is(err, ErrTooLarge):
		return &problem{http.StatusRequestEntityTooLarge, "EventTooLarge", ErrTooLarge.Error()}
	case errors.Is(err, ErrExternal):
		return &problem{http.StatusConflict, "MembershipExternal", ErrExternal.Error()}
	case errors.Is(err, ErrMemberships):
		return &problem{http.StatusConflict, "TooManyMemberships", ErrMemberships.Error()}
	case errors.Is(err, ErrTenantShare), errors.Is(err, ErrPersonShare):
		return &problem{http.StatusServiceUnavailable, "ShareUsedUp", err.Error()}
	case errors.Is(err, ErrNoService):
		return &problem{http.StatusConflict, "MembershipNotExternal", ErrNoService.Error()}
	case errors.Is(err, ErrSilent):
		return &problem{http.StatusServiceUnavailable, "HubUnavailable", ErrSilent.Error() + "; ask again"}
	case errors.Is(err, ErrBodies):
		return &problem{http.StatusServiceUnavailable, "BodiesBusy", ErrBodies.Error()}
	case errors.Is(err, ErrAnswers):
		return &problem{http.StatusServiceUnavailable, "AnswersBusy", ErrAnswers.Error()}
	case errors.Is(err, ErrProbes), errors.Is(err, ErrOwnProbes), errors.Is(err, ErrDescriptors):
		return &problem{http.StatusServiceUnavailable, "ProbesBusy", err.Error()}
	case errors.Is(err, ErrNotMember):
		return &problem{http.StatusForbidden, "NotAMember", ErrNotMember.Error()}
	}
	return &problem{http.StatusInternalServerError, "Internal", "the hub failed; its log says why"}
}

// problemCodes is every code of an answer to a publish: a closed set.
func problemCodes() []string {
	codes := []string{
		"ValidationFailed", "UnsupportedMediaType", "BodyUnreadable", "BodyTooLarge", "BodyTimeout", "BodiesBusy", "AnswersBusy", "EventTooLarge", "RateLimited",
		"MembershipUnavailable", "ShareUsedUp", "Unconfirmed", "NotStored", "Draining", "Overloaded", "Internal",
		errNoCredential.Code, errCredential.Code, errExpired.Code, errTenant.Code, errCookieSite.Code, codeScope, codeNotYet, codeKeys,
	}
	for _, code := range []Code{
		CodeTenantIDRequired, CodeEventTypeRequired, CodePayloadRequired, CodeTargetRequired, CodeInvalidTarget, CodeProfileRequired,
		CodeConversationIDRequired, CodeGroupIDRequired, CodeConnectionIDRequired, CodeInvalidTenantID, CodeInvalidProfile,
		CodeInvalidEventType, CodeReservedType, CodeInvalidEventID, CodeInvalidCorrelationID, CodeInvalidField, CodeUnknownField,
		CodePayloadTooLarge, CodeMalformedJSON, CodeBatchSize,
	} {
		codes = append(codes, string(code))
	}
	return codes
}

func reply(w http.ResponseWriter, status int, body any) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body) // a client that left is not our failure
	return nil
}

// replyReceipt is reply for what is answered most, without reflection: what is
// in a receipt needs no escaping.
func replyReceipt(w http.ResponseWriter, r Receipt) error {
	b := r.appendJSON(make([]byte, 0, 256))
	w.Header()["Content-Type"] = []string{"application/json"}
	w.Header()["Cache-Control"] = []string{"no-store"}
	w.WriteHeader(http.StatusAccepted)
	w.Write(append(b, '\n'))
	return nil
}

// appendJSON appends the receipt as it goes over the wire.
func (r Receipt) appendJSON(b []byte) []byte {
	b = append(append(b, `{"id":"`...), r.ID...)
	b = AppendTime(append(b, `","timestamp":"`...), r.Timestamp)
	if r.Cursor != "" {
		b = append(append(b, `","cursor":"`...), r.Cursor...)
	}
	b = strconv.AppendInt(append(b, `","connections":`...), int64(r.Connections), 10)
	if r.Members >= 0 {
		b = strconv.AppendInt(append(b, `,"members":`...), int64(r.Members), 10)
	}
	return append(strconv.AppendBool(append(b, `,"duplicate":`...), r.Duplicate), '}')
}

func noContent(w http.ResponseWriter) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// done answers a call about a connection that was found, if it still was there.
func done(w http.ResponseWriter) func(found bool, err error) error {
	return func(found bool, err error) error {
		if err == nil && !found {
			err = errNoConnection
		}
		if err != nil {
			return err
		}
		return noContent(w)
	}
}

// receipt is a Receipt on the wire.
type receipt struct {
	ID          string `json:"id"`
	Timestamp   string `json:"timestamp"`
	Cursor      string `json:"cursor,omitempty"`
	Connections int    `json:"connections"`
	Members     *int   `json:"members,omitempty"`
	Duplicate   bool   `json:"duplicate"`
}

func wireReceipt(r Receipt) receipt {
	wire := receipt{r.ID, formatTime(r.Timestamp), r.Cursor, r.Connections, nil, r.Duplicate}
	if r.Members >= 0 {
		wire.Members = &r.Members
	}
	return wire
}

// connection is a Connection on the wire.
type connection struct {
	ID             string            `json:"id"`
	TenantID       string            `json:"tenantId"`
	Profile        ProfileRef        `json:"profile"`
	Transport      string            `json:"transport"`
	ConnectedAt    string            `json:"connectedAt"`
	LastActivityAt string            `json:"lastActivityAt"`
	Metadata       map[string]string `json:"metadata"`
}

func wireConnection(c *Connection) connection {
	metadata := c.Metadata
	if metadata == nil {
		metadata = map[string]string{}
	}
	return connection{c.ID.String(), c.Tenant, c.Profile, "sse", formatTime(c.ConnectedAt), formatTime(c.LastActivity()), metadata}
}
