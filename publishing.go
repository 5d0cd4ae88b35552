package main

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"realtimehub/internal/access"
	"realtimehub/internal/allowance"
	"realtimehub/internal/answer"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/metrics"
	"realtimehub/internal/ndjson"
	"realtimehub/internal/overload"
	"realtimehub/internal/problem"
	"realtimehub/internal/request"
)

// publisher takes events from services, one or many in a call.
type publisher struct {
	// Static.
	hub      *Hub
	auth     *access.Auth
	limits   *access.Rates
	metrics  *metrics.Metrics
	bodies   request.Limit
	maxEvent int // bytes of a payload; 0 lifts the limit
	quotas   *allowance.Pools

	calls   atomic.Int64 // that are being answered
	storing atomic.Int64 // that are with the hub
	ended   atomic.Bool  // nothing more is stored
}

// events takes one event, or a body of lines.
func (p *publisher) events(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	if kind, err := request.MediaType(r); err == nil && kind == "application/x-ndjson" {
		body, answer := p.quotas.Body(who.Holder(r)), p.quotas.Answer(who.Holder(r))
		defer body.Close()
		trace := traceOf(r)
		lines := func(ctx, taking context.Context, lines [][]byte) ([]delivery.Receipt, []error) {
			return p.each(ctx, taking, lines, who, trace, body)
		}
		return ndjson.Serve(w, r, ndjson.Intake{MaxLine: int(p.bodies), Publish: lines, Refused: p.refused, Body: body, Answer: answer, Ending: p.hub.streams.Drained(), Expires: who.Expires()})
	}
	return p.one(w, r, who, nil)
}

// read reads a body, unless its caller is past the rate already, as far as can be told.
func (p *publisher) read(r *http.Request, who *access.Caller, memory *allowance.Call) ([]byte, error) {
	if tenant := who.Only(); tenant != "" {
		if err := p.limits.MayPublish(tenant); err != nil {
			return nil, err
		}
	}
	return p.bodies.Read(r, memory)
}

// decodeBody reads a body and decodes it in its turn. What is sent is the body.
func decodeBody[T any](p *publisher, r *http.Request, who *access.Caller, memory *allowance.Call, decode func(body []byte) (T, error)) (decoded T, sent sending, err error) {
	body, err := p.read(r, who, memory)
	if err != nil {
		return decoded, sent, err
	}
	sent = sending{memory.Tenant(), len(body)}
	over, err := sent.turn(r.Context())
	if err != nil {
		return decoded, sent, err
	}
	defer over()
	decoded, err = decode(body)
	return decoded, sent, err
}

func (p *publisher) one(w http.ResponseWriter, r *http.Request, who *access.Caller, at *Address) error {
	memory := p.quotas.Body(who.Holder(r))
	defer memory.Close()
	e, sent, err := decodeBody(p, r, who, memory, func(body []byte) (*event.Event, error) {
		return decodeEvent(body, at, p.maxEvent, memory.Use)
	})
	if err != nil {
		return err
	}
	within(traceOf(r), e)
	receipts, err := p.accept(r.Context(), nil, who, []*event.Event{e}, sent)
	if err != nil {
		return err
	}
	return replyReceipt(w, receipts[0])
}

// to publishes to the target that the path names.
func (p *publisher) to(kind event.TargetKind) handler {
	return func(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
		var faults problem.Faults
		at := &Address{TenantID: who.Tenant(), Target: event.Target{Kind: kind}}
		faults.Tenant("tenantId", at.TenantID)
		switch id := strings.Clone(r.PathValue("id")); kind {
		case event.KindProfile:
			at.Target = event.ToProfile(faults.Profile("profile", id))
		case event.KindConversation:
			at.Target = event.ToConversation(id)
		case event.KindGroup:
			at.Target = event.ToGroup(id)
		case event.KindConnection:
			at.Target = event.ToConnection(id)
		}
		if err := faults.Err(); err != nil {
			return err
		}
		return p.one(w, r, who, at)
	}
}

func (p *publisher) batch(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	memory, a := p.quotas.Body(who.Holder(r)), p.quotas.Answer(who.Holder(r))
	defer memory.Close()
	defer a.Close()
	events, sent, err := decodeBody(p, r, who, memory, func(body []byte) ([]*event.Event, error) {
		return decodeBatch(body, p.maxEvent, memory.Use)
	})
	if err != nil {
		return err
	}
	out, err := answer.NewRows(w, http.StatusAccepted, a, "results") // before anything is stored
	if err != nil {
		return err
	}
	within(traceOf(r), events...)
	receipts, err := p.accept(r.Context(), nil, who, events, sent)
	if err != nil {
		return err
	}
	for _, receipt := range receipts {
		if !out.Add(receipt.AppendJSON) {
			break
		}
	}
	return out.End()
}

// each publishes lines, each for itself, though together where nothing speaks
// against it. It waits where a rate limit would refuse, as long as taking does: so the
// reading slows down.
func (p *publisher) each(ctx, taking context.Context, lines [][]byte, who *access.Caller, trace string, memory *allowance.Call) ([]delivery.Receipt, []error) {
	receipts := make([]delivery.Receipt, len(lines))
	sent := sending{tenant: memory.Tenant()}
	for _, line := range lines {
		sent.size += len(line)
	}
	events, of, errs := p.decodeLines(ctx, lines, trace, sent, memory)
	if len(events) == 0 {
		return receipts, errs
	}
	publish := func(events []*event.Event, of []int) error {
		ids := make([]string, len(events))
		for i, e := range events {
			ids[i] = e.ID
		}
		got, err := p.accept(ctx, taking, who, events, sent)
		unsure, _ := errors.AsType[*history.UnconfirmedError](err)
		for i, n := range of {
			switch {
			case err == nil:
				receipts[n] = got[i]
			case unsure != nil:
				errs[n] = unsure.Part(i)
			default:
				errs[n] = err
				events[i].ID = ids[i] // as its publisher gave it, to be tried again
			}
		}
		return err
	}
	err := publish(events, of)
	if err != nil && err != request.ErrBrokeOff && problem.EventIDs(err) == nil && len(events) > 1 { // nothing was stored: one of them may be why
		for i := range events {
			errs[of[i]] = nil
			publish(events[i:i+1], of[i:i+1])
		}
	}
	return receipts, errs
}

// decodeLines decodes the events of lines, and says which line each is of, and why a line is
// none.
func (p *publisher) decodeLines(ctx context.Context, lines [][]byte, trace string, sent sending, memory *allowance.Call) (events []*event.Event, of []int, errs []error) {
	errs = make([]error, len(lines))
	for i, line := range lines {
		over, err := sent.turn(ctx) // one each: together they may take long
		if err != nil {
			errs[i] = err
			continue
		}
		event, err := decodeEvent(line, nil, p.maxEvent, memory.Use)
		over()
		if errs[i] = err; err == nil {
			within(trace, event)
			events, of = append(events, event), append(of, i)
		}
	}
	return events, of, errs
}

// accept hands events to the hub that the caller may publish: its one way there. Past a rate limit
// it waits until taking ends, unless that is nil. What is not stored costs nothing of the rate, so
// that it may be tried again.
func (p *publisher) accept(ctx, taking context.Context, who *access.Caller, events []*event.Event, sent sending) ([]delivery.Receipt, error) {
	counts := map[string]int{} // on the stack: nobody keeps it
	for _, e := range events {
		if !who.Reaches(e.TenantID) {
			return nil, access.ErrTenant
		}
		counts[e.TenantID]++
	}
	if err := p.limit(ctx, taking, counts); err != nil {
		return nil, err
	}
	receipts, err := p.publish(ctx, events, sent)
	if err != nil && problem.EventIDs(err) == nil {
		p.limits.Unpublish(counts)
	}
	return receipts, err
}

// limit takes events of the rate, or waits until it can, as accept says.
func (p *publisher) limit(ctx, taking context.Context, events map[string]int) error {
	if taking == nil {
		return p.limits.Publish(events)
	}
	err := p.limits.AwaitPublish(taking, events)
	if err != nil && ctx.Err() != nil {
		return request.ErrBrokeOff // nobody is there to be told
	}
	return err
}

// sending is who sends so many bytes at once.
type sending struct {
	tenant string
	size   int
}

// turn waits for one, if they are many; over is to be called.
func (s sending) turn(ctx context.Context) (over func(), err error) {
	return request.BodyTurn(ctx, s.tenant, s.size)
}

// publish hands events to the hub, unless its streams are at their end or its memory is:
// in their turn, where nobody else is waited for.
func (p *publisher) publish(ctx context.Context, events []*event.Event, sent sending) ([]delivery.Receipt, error) {
	if !p.hub.Waits() {
		over, err := sent.turn(ctx)
		if err != nil {
			return nil, err
		}
		defer over()
	}
	p.storing.Add(1) // before ended is looked at: end waits for it
	defer p.storing.Add(-1)
	if p.ended.Load() {
		return nil, errLate
	}
	if p.hub.Overloaded() {
		return nil, overload.ErrOverloaded
	}
	return p.hub.Publish(ctx, events)
}

// end has no event taken any more, and waits for those that are being stored: an
// acknowledgement after the last stream has ended could be of an event that nobody
// gets.
func (p *publisher) end(ctx context.Context) {
	p.ended.Store(true)
	untilNone(ctx, &p.storing)
}

var errLate = &problem.Problem{Status: http.StatusServiceUnavailable, Code: "Draining", Detail: "the hub is draining and has ended its streams; nothing was stored"}

// refused counts a publish call, or a line of one, that is answered with an error.
func (p *publisher) refused(err error) {
	p.metrics.RefusePublish(problem.Of(err).Code)
	p.auth.Refuse(err)
}

// traceOf is the trace that a request belongs to; a malformed header, or several, is
// as if there were none (W3C Trace Context, section 4.3).
func traceOf(r *http.Request) string {
	headers := r.Header["Traceparent"]
	if len(headers) != 1 {
		return ""
	}
	trace, _ := event.ParseTraceParent(headers[0])
	return trace
}

// within has events without a trace of their own belong to one.
func within(trace string, events ...*event.Event) {
	for _, e := range events {
		if e.TraceParent == "" {
			e.TraceParent = trace
		}
	}
}

// problemCodes is every code of an answer to a publish: a closed set.
func problemCodes() []string {
	codes := []string{
		"ValidationFailed", "UnsupportedMediaType", "BodyUnreadable", "BodyTooLarge", "BodyTimeout", "BodiesBusy", "AnswersBusy", "EventTooLarge", "RateLimited",
		"MembershipUnavailable", "ShareUsedUp", "Unconfirmed", "NotStored", "Draining", "Overloaded", "Internal",
		"CredentialRequired", "InvalidCredential", "CredentialExpired", "TenantForbidden", "CrossSite", "ScopeRequired", "CertificateRequired", "CredentialNotYetValid", "KeysUnavailable",
	}
	for _, code := range []problem.Code{
		problem.CodeTenantIDRequired, problem.CodeEventTypeRequired, problem.CodePayloadRequired, problem.CodeTargetRequired, problem.CodeInvalidTarget, problem.CodeProfileRequired,
		problem.CodeConversationIDRequired, problem.CodeGroupIDRequired, problem.CodeConnectionIDRequired, problem.CodeInvalidTenantID, problem.CodeInvalidProfile,
		problem.CodeInvalidEventType, problem.CodeReservedType, problem.CodeInvalidEventID, problem.CodeInvalidCorrelationID, problem.CodeInvalidField, problem.CodeUnknownField,
		problem.CodePayloadTooLarge, problem.CodeMalformedJSON, problem.CodeBatchSize,
	} {
		codes = append(codes, string(code))
	}
	return codes
}

// replyReceipt is reply for what is answered most, without reflection: what is
// in a receipt needs no escaping.
func replyReceipt(w http.ResponseWriter, r delivery.Receipt) error {
	b := r.AppendJSON(make([]byte, 0, 256))
	header := w.Header()
	header["Content-Type"], header["Cache-Control"] = typeJSON, noStore
	w.WriteHeader(http.StatusAccepted)
	w.Write(append(b, '\n'))
	return nil
}

// Header values that many answers share. Nobody may change them.
var typeJSON, noStore = []string{"application/json"}, []string{"no-store"}

// untilNone waits until a count is zero, or ctx ends.
func untilNone(ctx context.Context, count *atomic.Int64) {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for count.Load() > 0 && ctx.Err() == nil {
		<-ticker.C
	}
}
