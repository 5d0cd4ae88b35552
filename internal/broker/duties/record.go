package duties

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/duty"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
)

// mostOfPart is how many recipients one message names, so that it is small enough for any
// server: with the longest names 256 KiB.
const mostOfPart = 1000

// record is a duty as it is kept.
type record struct {
	Event      json.RawMessage `json:"event"`          // whole, its payload null
	Deadline   int64           `json:"deadline"`       // Unix milliseconds, by the clock of the hub that set it
	Left       int64           `json:"left,omitempty"` // milliseconds from when it was kept until then, by that clock; 0: it is over
	Recipients []string        `json:"recipients"`
	Absent     []string        `json:"absent,omitempty"` // of the recipients: who is to be reported at once
	Over       bool            `json:"over,omitempty"`
	Came       []int64         `json:"came,omitempty"` // of each recipient: when it acknowledged, in Unix milliseconds; negative: when it was reported; 0: it owes
}

// subjectOf is the place of a duty in the stream.
func (k *Keeper) subjectOf(tenant string, at history.Cursor, part int) string {
	return fmt.Sprintf("%s.open.%s.%016x.%d.%d", k.prefix, stream.Token(tenant), at.Epoch.Tag, at.Seq, part)
}

// earlySuffix is what the word that a duty's absent were reported has behind the duty's subject.
const earlySuffix = ".early"

// earlyRecord is that word.
type earlyRecord struct {
	Tenant string `json:"t"`
	At     int64  `json:"at"` // Unix milliseconds
}

// placeOf reads a subject that subjectOf made.
func (k *Keeper) placeOf(subject string) (at history.Cursor, part int, err error) {
	tokens := strings.Split(subject, ".")
	if len(tokens) < 4 {
		return at, 0, fmt.Errorf("%q is no duty's subject", subject)
	}
	tokens = tokens[len(tokens)-3:]
	tag, err := strconv.ParseUint(tokens[0], 16, 64)
	if err == nil {
		at.Seq, err = strconv.ParseUint(tokens[1], 10, 64)
	}
	if err == nil {
		part, err = strconv.Atoi(tokens[2])
	}
	var id [8]byte
	binary.BigEndian.PutUint64(id[:], tag)
	at.Epoch = k.cfg.Key().Epoch(id[:])
	return at, part, err
}

// encode makes the record of a duty, of which so much is left until its deadline, and of what
// came of it so far. With nothing left it is over.
func encode(d *duty.Duty, left time.Duration, came []duty.Result) []byte {
	e := *d.Event
	e.Payload = json.RawMessage("null")
	r := record{
		Event: e.AppendWhole(nil), Deadline: d.Deadline.UnixMilli(), Left: max(0, left.Milliseconds()),
		Recipients: textsOf(d.Recipients), Absent: textsOf(d.Absent), Over: left <= 0,
	}
	for _, c := range came {
		at := int64(0)
		switch c.State {
		case duty.Acknowledged:
			at = c.At.UnixMilli()
		case duty.Reported:
			at = -c.At.UnixMilli()
		}
		r.Came = append(r.Came, at)
	}
	data, _ := json.Marshal(r) // of texts and numbers
	return data
}

// leftOf is how much is left until a time, by this process's clock: at least a little.
func leftOf(due time.Time) time.Duration { return max(0, time.Until(due)) + time.Millisecond }

// kept is a record that was read.
type kept struct {
	duty *duty.Duty
	left time.Duration // from when it was kept until its deadline; 0: it is over, or the version before did not say
	came []duty.Result // of each recipient
	over bool
}

func (k *Keeper) decode(subject string, data []byte) (*kept, error) {
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, err
	}
	e, err := event.DecodeStored(r.Event)
	if err != nil {
		return nil, err
	}
	d := &duty.Duty{Event: e, Deadline: time.UnixMilli(r.Deadline)}
	if d.At, d.Part, err = k.placeOf(subject); err != nil {
		return nil, err
	}
	if d.Recipients, err = profilesOf(r.Recipients); err != nil {
		return nil, err
	}
	if d.Absent, err = profilesOf(r.Absent); err != nil {
		return nil, err
	}
	came := make([]duty.Result, len(d.Recipients))
	for i, p := range d.Recipients {
		came[i] = duty.Result{Profile: p, State: duty.Owed}
		if i >= len(r.Came) || r.Came[i] == 0 {
			continue
		}
		came[i].State, came[i].At = duty.Acknowledged, time.UnixMilli(max(r.Came[i], -r.Came[i]))
		if r.Came[i] < 0 {
			came[i].State = duty.Reported
		}
	}
	return &kept{duty: d, left: time.Duration(r.Left) * time.Millisecond, came: came, over: r.Over}, nil
}

func textsOf(profiles []event.Profile) []string {
	texts := make([]string, len(profiles))
	for i, p := range profiles {
		texts[i] = p.String()
	}
	return texts
}

func profilesOf(texts []string) ([]event.Profile, error) {
	profiles := make([]event.Profile, len(texts))
	for i, text := range texts {
		var err error
		if profiles[i], err = event.ParseProfile(text); err != nil {
			return nil, err
		}
	}
	return profiles, nil
}

// word is an acknowledgement as it is kept, or told to other hubs.
type word struct {
	Tenant     string    `json:"t"`
	Profile    string    `json:"p"`
	Connection uuid.UUID `json:"c"`
	Of         uint64    `json:"o"`
	After      uint64    `json:"a"`
	UpTo       uint64    `json:"u"`
	Types      []string  `json:"f,omitzero"`  // nil: all; empty: none
	Until      int64     `json:"x"`           // Unix milliseconds
	Left       int64     `json:"l,omitempty"` // of a connection that has ended: milliseconds until then, as clocks differ; 0: there is no Until, or the version before did not say
	Age        int64     `json:"g,omitempty"` // as it is kept: milliseconds since it was given
}

func wordOf(a duty.Acknowledgement) word {
	w := word{Tenant: a.Tenant, Profile: a.Profile.String(), Connection: a.Connection, Of: a.Of, After: a.After, UpTo: a.UpTo, Until: a.Until.UnixMilli()}
	if a.Types != nil {
		w.Types = a.Types.Patterns()
	}
	return w
}

func (w word) acknowledgement() (a duty.Acknowledgement, err error) {
	a = duty.Acknowledgement{Tenant: w.Tenant, Connection: w.Connection, Of: w.Of, After: w.After, UpTo: w.UpTo, Until: time.UnixMilli(w.Until)}
	if a.Profile, err = event.ParseProfile(w.Profile); err != nil {
		return a, err
	}
	var errs []error
	if a.Types, errs = event.ParseFilter(w.Types); len(errs) > 0 {
		err = errs[0]
	}
	return a, err
}
