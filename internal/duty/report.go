package duty

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"realtimehub/internal/event"
	"realtimehub/internal/outbox"
)

// Person is what is known of somebody who has not acknowledged an event: what a decision about
// a push or a mail needs.
type Person struct {
	Profile      event.Profile `json:"profile"`
	Status       string        `json:"status"`
	LastActiveAt *string       `json:"lastActiveAt"` // null: not known to have been seen
	Connections  *int          `json:"connections"`  // null: unknown
	Why          string        `json:"why"`
}

// StatusUnknown is somebody's status where another hub that may know more does not answer.
const StatusUnknown = "unknown"

// People knows them.
type People interface {
	// Explain says why a duty's event is owed by some of its recipients.
	Explain(ctx context.Context, d *Duty, of []event.Profile) []Person
}

// undelivered is the data of an item of that type, but for the tenant and its place.
type undelivered struct {
	Event      eventBrief `json:"event"`
	DeadlineAt string     `json:"deadlineAt"`
	Offline    bool       `json:"offline,omitempty"` // it is reported before the deadline, as "offline":"report" asked
	Profiles   []Person   `json:"profiles"`
	More       bool       `json:"more"` // another item of the same event follows
}

// eventBrief is an event without its payload, and without who else it was for.
type eventBrief struct {
	ID            string      `json:"id"`
	Cursor        string      `json:"cursor"`
	Type          string      `json:"type"`
	Target        targetBrief `json:"target"`
	CorrelationID string      `json:"correlationId,omitempty"`
}

type targetBrief struct {
	Kind           event.TargetKind `json:"kind"`
	ConversationID string           `json:"conversationId,omitempty"`
	GroupID        string           `json:"groupId,omitempty"`
}

// mostOfItem is how many profiles one item names.
const mostOfItem = 100

// reportAbsent reports the absent who owe, unless that is known to have been done. It is not known
// where a judge was killed before it kept that: at the deadline too they have a report by the same
// name, or they would be reported twice.
func (j *Judge) reportAbsent(ctx context.Context, o *open, early bool, now time.Time) error {
	j.mu.Lock()
	if !o.waitsForEarly() {
		j.mu.Unlock()
		return nil
	}
	j.mu.Unlock()
	owing := o.onlyAbsent(j.owing(o))
	if err := j.report(ctx, o.Duty, o.profiles(owing), keyOf(o.Duty)+earlyKey, early, now); err != nil {
		return err
	}
	j.reported(o, &o.earlyAt, now, owing)
	return nil
}

// report puts into the outbox who owes an acknowledgement of an event, by a name: once, however
// often it is called.
func (j *Judge) report(ctx context.Context, d *Duty, owing []event.Profile, name string, early bool, now time.Time) error {
	e := d.Event
	brief := eventBrief{e.ID, d.At.String(), e.Type, targetBrief{e.Target.Kind, e.Target.ConversationID, e.Target.GroupID}, e.CorrelationID}
	var drafts []outbox.Draft
	for len(owing) > 0 {
		some := owing[:min(len(owing), mostOfItem)]
		owing = owing[len(some):]
		data, err := json.Marshal(undelivered{brief, event.FormatTime(d.Deadline), early, j.cfg.People.Explain(ctx, d, some), len(owing) > 0})
		if err != nil {
			return err
		}
		drafts = append(drafts, outbox.Draft{Type: outbox.TypeUndelivered, At: now, Data: data})
	}
	if len(drafts) == 0 {
		return nil
	}
	return j.cfg.Box.Put(ctx, e.TenantID, name, drafts)
}

// earlyKey is what the name of a report of the absent has behind the duty's.
const earlyKey = "-offline"

// keyOf names the report of a duty, so that it is put once.
func keyOf(d *Duty) string {
	key := d.At.Epoch.Text() + "-" + strconv.FormatUint(d.At.Seq, 10)
	if d.Part > 0 {
		key += "-" + strconv.Itoa(d.Part)
	}
	return key
}
