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
