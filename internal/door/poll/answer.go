package poll

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"realtimehub/internal/allowance"
	answers "realtimehub/internal/answer"
	"realtimehub/internal/delivery"
	"realtimehub/internal/engine"
)

// answer is gathered piece by piece.
type answer struct {
	// Static.
	asked  string          // the place that the client knows; empty: it asks for one
	limit  int             // of events
	memory *allowance.Call // of whom it is for
	first  func()          // called at the first event

	known  string   // the place that the client knows with it
	events []byte   // envelopes, with a comma after each
	places []string // the place after each event
	count  int      // of events
	gap    json.RawMessage
	hub    map[string]json.RawMessage // what the hub itself says, by its type without hub.
	more   bool                       // what follows did not fit
	end    ending
}

// ending is hub.closing.
type ending struct {
	Reason  delivery.CloseReason `json:"reason"` // empty: the answer was full before
	RetryMs int64                `json:"retryMs"`
}

// take adds whole pieces, until there are as many as there may be.
func (a *answer) take(pieces []byte) error {
	before := a.count
	for len(pieces) > 0 {
		var p piece
		p, pieces = cut(pieces)
		switch {
		case p.kind != "":
			a.word(p)
		case len(p.data) == 0:
			a.place(p.cursor)
		case a.count == a.limit || a.count > 0 && len(a.events)+len(p.data) > mostBytes:
			a.more = true
			return engine.Enough(a.count - before)
		case a.count > 0 && !a.memory.Use(len(p.data)+len(p.cursor)+pieceHead):
			a.more = true
			return engine.Enough(a.count - before)
		default:
			a.event(p)
		}
	}
	return nil
}

func (a *answer) event(p piece) {
	if a.count == 0 {
		a.first()
	}
	a.count++
	a.events = append(append(a.events, p.data...), ',')
	a.place(p.cursor)
	a.places = append(a.places, a.known)
}

func (a *answer) place(cursor string) {
	if cursor != "" {
		a.known = cursor
	}
}

func (a *answer) word(p piece) {
	data := json.RawMessage(bytes.Clone(p.data))
	switch p.kind {
	case "gap":
		if a.gap == nil {
			a.gap = data
		}
	case "closing":
		json.Unmarshal(data, &a.end) // it is the hub's own
		if a.end.Reason == delivery.CloseClient {
			break // all is told
		}
		fallthrough
	default:
		a.hub[p.kind] = data
	}
	a.place(p.cursor)
}

// write answers with what there is.
func (a *answer) write(w http.ResponseWriter) error {
	told := a.end.Reason != "" && a.end.Reason != delivery.CloseClient
	switch {
	case a.end.Reason == delivery.CloseSuperseded: // the newer poll has what follows
		return a.nothing(w, cmp.Or(a.asked, a.known))
	case a.asked != "" && a.count == 0 && a.gap == nil && !told && a.hub["expiring"] == nil:
		return a.nothing(w, a.known)
	}
	if told {
		wait := (time.Duration(a.end.RetryMs)*time.Millisecond + time.Second - 1) / time.Second
		w.Header().Set("Retry-After", strconv.Itoa(int(wait)))
	}
	rest, err := json.Marshal(struct {
		Cursors []string                   `json:"cursors"`
		Cursor  string                     `json:"cursor"`
		Gap     json.RawMessage            `json:"gap"`
		More    bool                       `json:"more"`
		Hub     map[string]json.RawMessage `json:"hub"`
	}{a.places, a.known, a.gap, a.more, a.hub})
	if err != nil {
		return err
	}
	const begin = `{"events":[`
	events := bytes.TrimSuffix(a.events, []byte(","))
	rest = append([]byte("],"), rest[1:]...)
	header(w)
	w.Header().Set("Content-Length", strconv.Itoa(len(begin)+len(events)+len(rest)))
	for _, part := range [][]byte{[]byte(begin), events, rest} {
		w.Write(part) // a client that left asks again
	}
	return nil
}

// nothing answers that there was nothing for so long.
func (a *answer) nothing(w http.ResponseWriter, cursor string) error {
	w.Header()["Cursor"] = []string{cursor}
	w.Header()["Cache-Control"] = []string{"no-store"}
	return answers.NoContent(w)
}
