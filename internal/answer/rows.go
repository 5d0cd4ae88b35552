package answer

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"realtimehub/internal/allowance"
	"realtimehub/internal/event"
	"realtimehub/internal/serve"
)

// rowsPiece is what is written at a time, in bytes, about.
const rowsPiece = 16 << 10

// RowsBytes is what an answer of rows takes in memory, with net/http's part.
const RowsBytes = 40 << 10

// Rows is an answer of many items that is written piece by piece. However many items there
// are, and however slowly they are read, only one piece is in memory.
type Rows struct {
	w      http.ResponseWriter
	status int
	b      []byte
	more   bool  // what comes is not the first item
	sent   bool  // the head is
	err    error // nobody reads
}

// NewRows begins an answer {"name":[…]} within an allowance; allowance.ErrAnswers where that has no
// room.
func NewRows(w http.ResponseWriter, status int, memory *allowance.Call, name string) (*Rows, error) {
	if !memory.Use(RowsBytes) {
		return nil, allowance.ErrAnswers
	}
	return &Rows{w: w, status: status, b: append(append([]byte(`{"`), name...), `":[`...)}, nil
}

// Add adds an item that appends itself; false when nobody reads any more.
func (r *Rows) Add(item func([]byte) []byte) bool {
	r.Put(item)
	r.writeMuch()
	return r.err == nil
}

// Put adds an item that is written later.
func (r *Rows) Put(item func([]byte) []byte) {
	if r.more {
		r.b = append(r.b, ',')
	}
	r.more = true
	r.b = item(r.b)
}

func (r *Rows) writeMuch() {
	if len(r.b) >= rowsPiece {
		r.write()
	}
}

// rowsTogether is how many profiles are looked at in one turn.
const rowsTogether = 100

// Profiles adds an item for each profile, some at a time. It does so in a turn, which is over
// before it waits for the reader.
func (r *Rows) Profiles(list []event.Profile, turn func(size int) (over func(), err error), put func(some []event.Profile)) error {
	for some := range slices.Chunk(list, rowsTogether) {
		over, err := turn(len(list))
		if err != nil && r.sent {
			return nil // who asked has left
		}
		if err != nil {
			return err
		}
		put(some)
		over()
		if r.writeMuch(); r.err != nil {
			return nil
		}
	}
	return r.End()
}

// Value adds an item of any kind.
func (r *Rows) Value(item any) bool {
	text, err := json.Marshal(item)
	if err != nil {
		r.err = err
		return false
	}
	return r.Add(func(b []byte) []byte { return append(b, text...) })
}

// End ends the items, and the answer with other members: a name and a value each.
func (r *Rows) End(members ...any) error {
	r.b = append(r.b, ']')
	for i := 0; i+1 < len(members); i += 2 {
		value, err := json.Marshal(members[i+1])
		if err != nil {
			return nil // not reached for numbers, texts and truth
		}
		r.b = append(append(append(append(r.b, `,"`...), members[i].(string)...), `":`...), value...)
	}
	r.b = append(r.b, "}\n"...)
	r.write()
	return nil
}

// write writes what there is. Each piece has a time of its own, which is not lifted: the
// next request of the connection has another, and HTTP/2's ends with the stream.
func (r *Rows) write() {
	if r.err != nil {
		return
	}
	if !r.sent {
		r.sent = true
		r.w.Header().Set("Content-Type", "application/json")
		r.w.Header().Set("Cache-Control", "no-store")
		r.w.WriteHeader(r.status)
	}
	http.NewResponseController(r.w).SetWriteDeadline(time.Now().Add(serve.AnswerTime))
	_, r.err = r.w.Write(r.b)
	if r.b = r.b[:0]; cap(r.b) > 4*rowsPiece {
		r.b = nil
	}
}

// profileSize is what a list takes for each profile; the names are the rooms' own.
const profileSize = 32

// ProfileRows answers with a list of profiles.
func ProfileRows(w http.ResponseWriter, memory *allowance.Call, name string, list []event.Profile, turn func(size int) (over func(), err error)) error {
	out, err := NewRows(w, http.StatusOK, memory, name)
	if err != nil {
		return err
	}
	return out.Profiles(list, turn, func(some []event.Profile) {
		for _, p := range some {
			out.Put(p.AppendJSON)
		}
	})
}
