package duty

import (
	"context"
	"slices"
	"time"

	"realtimehub/internal/event"
	"realtimehub/internal/history"
)

// Keeper has duties judged, wherever they are kept. One that a broker keeps for several hubs has
// calls that wait and fail; it judges on one hub at a time.
type Keeper interface {
	// Open has the recipients of an event owe. Once it has returned they are reported unless
	// they acknowledge. One that is open, or was lately, is left as it is.
	Open(ctx context.Context, d *Duty) error
	// Acknowledge notes an acknowledgement, soon.
	Acknowledge(a Acknowledgement)
	// Ended says what a connection had been sent and not acknowledged as it ended; with no Until,
	// nothing of that has a deadline.
	Ended(sent Acknowledgement)
	// Resumed says that a client has come back: see [Returns.Of].
	Resumed(back Acknowledgement, others []Acknowledgement)
	// Results are what came of the event of a place for its recipients.
	Results(ctx context.Context, tenant string, at history.Cursor, q Query) (Results, error)
	// Run judges until ctx ends.
	Run(ctx context.Context)
	// Stats are counts.
	Stats() Stats
}

// Query asks for some of an event's recipients.
type Query struct {
	After event.Profile // those after it, in order; zero: from the first
	Limit int
	Only  *event.Profile // that one alone; nil: all
}

// Results are what came of an event for some of its recipients.
type Results struct {
	Duty   *Duty // nil: it had no deadline, or it is too long ago
	List   []Result
	Counts map[State]int // of all
	More   bool
}

// Add adds what came of an event for some more of its recipients, as far as a query asks for it.
func (r *Results) Add(list []Result, q Query) {
	for _, result := range list {
		r.Counts[result.State]++
		switch {
		case q.Only != nil && result.Profile != *q.Only:
		case event.CompareProfiles(result.Profile, q.After) <= 0:
		case len(r.List) < q.Limit:
			r.List = append(r.List, result)
		default:
			r.More = true
		}
	}
}

// Total is how many recipients there are.
func (r *Results) Total() (n int) {
	for _, of := range r.Counts {
		n += of
	}
	return n
}

// Join adds what is known of others of an event's recipients, as far as a query asks for it.
func (r *Results) Join(others Results, q Query) {
	for state, n := range others.Counts {
		r.Counts[state] += n
	}
	r.List = append(r.List, others.List...)
	slices.SortFunc(r.List, func(a, b Result) int { return event.CompareProfiles(a.Profile, b.Profile) })
	r.More = r.More || others.More || len(r.List) > q.Limit
	r.List = r.List[:min(len(r.List), q.Limit)]
}

// Result is what came of an event for one recipient.
type Result struct {
	Profile event.Profile
	State   State
	At      time.Time // when it came about; zero for who owes
}

// Memory is the Keeper of one hub, which ends with it.
type Memory struct {
	// Static.
	judge   *Judge
	returns *Returns
}

// NewMemory makes one.
func NewMemory(cfg Config) *Memory {
	cfg.Keep = max(cfg.Keep, cfg.Repeats)
	return &Memory{NewJudge(cfg), NewReturns(cfg.Pools)}
}

// Open implements Keeper.
func (m *Memory) Open(_ context.Context, d *Duty) error {
	m.judge.Open(d, d.Deadline, nil)
	return nil
}

// Acknowledge implements Keeper.
func (m *Memory) Acknowledge(a Acknowledgement) {
	a.Given = time.Now()
	m.judge.Acknowledge(a, a.Given)
}

// Ended implements Keeper.
func (m *Memory) Ended(sent Acknowledgement) {
	if !sent.Until.IsZero() || m.judge.mayOwe(sent.Tenant, sent.Profile) {
		m.returns.Ended(sent)
	}
}

// Resumed implements Keeper.
func (m *Memory) Resumed(back Acknowledgement, others []Acknowledgement) {
	for _, a := range m.returns.Of(back, others) {
		m.Acknowledge(a)
	}
}

// Results implements Keeper.
func (m *Memory) Results(_ context.Context, tenant string, at history.Cursor, q Query) (Results, error) {
	return m.judge.Results(tenant, at, []int{0}, q), nil
}

// Run implements Keeper.
func (m *Memory) Run(ctx context.Context) { m.judge.Run(ctx) }

// Stats implements Keeper.
func (m *Memory) Stats() Stats { return m.judge.Stats() }
