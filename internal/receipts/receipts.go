package receipts

import (
	"context"
	"net/http"
	"net/url"
	"slices"

	"realtimehub/internal/access"
	"realtimehub/internal/allowance"
	"realtimehub/internal/answer"
	"realtimehub/internal/delivery"
	"realtimehub/internal/duty"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/problem"
	"realtimehub/internal/request"
	"realtimehub/internal/strictjson"
)

// Hub knows events and what came of them.
type Hub interface {
	// Event finds an event by its id, or by its cursor; nil: the history has none.
	Event(ctx context.Context, tenant, ref string) (*history.Entry, error)
	// Recipients are those whom it was for, as far as is known now.
	Recipients(ctx context.Context, e *history.Entry) ([]event.Profile, error)
	// IsRecipient says whether it was for somebody; known is false where that is not known any more.
	IsRecipient(ctx context.Context, e *history.Entry, p event.Profile) (is, known bool, err error)
	// Results are what came of it, if it had a deadline.
	Results(ctx context.Context, e *history.Entry, q duty.Query) (duty.Results, error)
	// Why says of each of some recipients why it did not reach them, or that it did.
	Why(ctx context.Context, e *history.Entry, of []event.Profile) []delivery.Why
}

// Server answers.
type Server struct {
	// Static.
	hub    Hub
	quotas *allowance.Pools
}

// New makes a server.
func New(hub Hub, quotas *allowance.Pools) *Server { return &Server{hub, quotas} }

var errNoEvent = &problem.Problem{Status: http.StatusNotFound, Code: "EventNotFound", Detail: "the history has no such event: it never had, or the event has grown too old"}

// find is the event that a path names.
func (s *Server) find(r *http.Request, who *access.Caller) (*history.Entry, error) {
	tenant := who.Tenant()
	var faults problem.Faults
	faults.Tenant("tenantId", tenant)
	if err := faults.Err(); err != nil {
		return nil, err
	}
	e, err := s.hub.Event(r.Context(), tenant, r.PathValue("id"))
	if err == nil && e == nil {
		err = errNoEvent
	}
	return e, err
}

// Event answers an event as it is kept.
func (s *Server) Event(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	e, err := s.find(r, who)
	if err != nil {
		return err
	}
	memory := s.quotas.Answer(who.Holder(r))
	defer memory.Close()
	body := len(e.Envelope) + answer.RowsBytes
	if !memory.Use(body) {
		return allowance.ErrAnswers
	}
	b := strictjson.AppendQuote([]byte(`{"cursor":`), e.Cursor.String())
	b = append(e.Event.AppendWhole(append(b, `,"event":`...)), "}\n"...)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Write(b)
	return nil
}

// State is what came of an event for a recipient; the word is the contract's.
type State string

// The states that duty does not know of.
const (
	Sent    State = "sent"
	Unknown State = "unknown" // it had a deadline, and what came of it is not kept; or it is not known whom it was for
	Owed    State = State(duty.Owed)
)

// receipt is what came of an event for one profile.
type receipt struct {
	Profile event.Profile `json:"profile"`
	State   State         `json:"state"`
	At      *string       `json:"at"` // null: nothing has come about yet
	Why     delivery.Why  `json:"why,omitempty"`
}

// brief is an event, without what it says.
type brief struct {
	ID        string `json:"id"`
	Cursor    string `json:"cursor"`
	Type      string `json:"type"`
	Timestamp string `json:"timestamp"`
	Deadline  string `json:"deadline,omitempty"`
}

// List answers what came of an event for its recipients, or for one profile.
func (s *Server) List(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	var faults problem.Faults
	query := faults.Query(r.URL.RawQuery)
	q := duty.Query{Limit: request.PageLimit(&faults, query)}
	one := profileOf(&faults, query, "profile")
	if after := profileOf(&faults, query, "after"); after != nil {
		q.After = *after
	}
	if err := faults.Err(); err != nil {
		return err
	}
	e, err := s.find(r, who)
	if err != nil {
		return err
	}
	list, counts, more, err := s.results(r.Context(), e, one, q)
	if err != nil {
		return err
	}
	memory := s.quotas.Answer(who.Holder(r))
	defer memory.Close()
	out, err := answer.NewRows(w, http.StatusOK, memory, "receipts")
	if err != nil {
		return err
	}
	var next *string
	for some := range slices.Chunk(list, rowsTogether) {
		for _, receipt := range s.receipts(r.Context(), e, some, counts != nil) {
			if !out.Value(receipt) {
				return nil
			}
		}
	}
	if more && len(list) > 0 {
		last := list[len(list)-1].Profile.String()
		next = &last
	}
	return out.End("event", briefOf(e), "counts", counts, "next", next)
}

// rowsTogether is how many receipts are explained at once.
const rowsTogether = 100

func profileOf(f *problem.Faults, query url.Values, name string) *event.Profile {
	text := query.Get(name)
	if text == "" {
		return nil
	}
	p := f.Profile(name, text)
	return &p
}

func briefOf(e *history.Entry) brief {
	b := brief{ID: e.Event.ID, Cursor: e.Cursor.String(), Type: e.Event.Type, Timestamp: event.FormatTime(e.Event.Timestamp)}
	if e.Event.Deadline > 0 {
		b.Deadline = string(event.AppendDeadline(nil, e.Event.Deadline))
	}
	return b
}

// results are what is known of an event's recipients, or of one profile. Of an event without a
// deadline nobody owes anything, and nobody is counted.
func (s *Server) results(ctx context.Context, e *history.Entry, one *event.Profile, q duty.Query) (list []duty.Result, counts map[duty.State]int, more bool, err error) {
	asked := q
	if one != nil {
		asked = duty.Query{Limit: 1, Only: one}
	}
	results, err := s.hub.Results(ctx, e, asked)
	if err != nil {
		return nil, nil, false, err
	}
	if results.Duty == nil {
		return s.recipients(ctx, e, one, q)
	}
	if one != nil && len(results.List) == 0 {
		results.List = []duty.Result{{Profile: *one, State: ""}}
	}
	return results.List, results.Counts, results.More && one == nil, nil
}

// recipients are those whom an event was for of which it is not kept what came of it.
func (s *Server) recipients(ctx context.Context, e *history.Entry, one *event.Profile, q duty.Query) (list []duty.Result, counts map[duty.State]int, more bool, err error) {
	if one != nil {
		is, known, err := s.hub.IsRecipient(ctx, e, *one)
		state := duty.State("")
		switch {
		case !known:
			state = duty.State(Unknown)
		case is:
			state = duty.Owed
		}
		return []duty.Result{{Profile: *one, State: state}}, nil, false, err
	}
	profiles, err := s.hub.Recipients(ctx, e)
	if err != nil {
		return nil, nil, false, err
	}
	profiles = slices.Clone(profiles)
	slices.SortFunc(profiles, event.CompareProfiles)
	for _, p := range profiles {
		switch {
		case event.CompareProfiles(p, q.After) <= 0:
		case len(list) == q.Limit:
			return list, nil, true, nil
		default:
			list = append(list, duty.Result{Profile: p, State: duty.Owed})
		}
	}
	return list, nil, false, nil
}

// receipts explain results. kept says that they are what came of the event, and not whom it was
// for.
func (s *Server) receipts(ctx context.Context, e *history.Entry, results []duty.Result, kept bool) []receipt {
	profiles := make([]event.Profile, len(results))
	for i, r := range results {
		profiles[i] = r.Profile
	}
	why := s.hub.Why(ctx, e, profiles)
	list := make([]receipt, len(results))
	for i, r := range results {
		list[i] = receipt{Profile: r.Profile, State: State(r.State), Why: why[i]}
		if !r.At.IsZero() {
			at := event.FormatTime(r.At)
			list[i].At = &at
		}
		switch {
		case r.State == duty.Acknowledged:
			list[i].Why = ""
		case r.State == "":
			list[i].State, list[i].Why = Owed, outside(e, r.Profile)
		case list[i].State == Unknown:
			list[i].Why = delivery.WhyUnknown
		case e.Event.Deadline > 0 && !kept:
			list[i].State = Unknown
		case r.State == duty.Owed && why[i] == delivery.WhySentUnacknowledged:
			list[i].State = Sent
		}
	}
	return list
}

// outside says why an event is not for a profile.
func outside(e *history.Entry, p event.Profile) delivery.Why {
	if slices.Contains(e.Event.Target.ExcludeProfiles, p) {
		return delivery.WhyExcluded
	}
	if _, isRoom := e.Event.Target.Room(); isRoom {
		return delivery.WhyNotAMember
	}
	return delivery.WhyNotATarget
}
