// Package historytest is for tests of whoever keeps histories. [Run] holds a kind of Log to
// what the program expects of any; a [User] appends to one, and reads it; [To] and [ToAll]
// make what is appended.
package historytest

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/history"
)

// Limits are small, so that tests reach them.
var Limits = history.Limits{Events: 1000, Bytes: 1 << 20, TTL: time.Hour, Total: 1 << 20, Window: time.Minute, IDs: 1000}

// User uses a log, of which a test may have it follow, as a Sink, what is handed over.
type User struct {
	*testing.T
	history.Log
	is *is.I

	mu sync.Mutex
	// Guarded by mu.
	got     map[string][]*history.Entry
	parts   map[string][]int // how many were handed over together
	flushed int
}

// NewUser makes a user of a log, which it does not follow yet.
func NewUser(t *testing.T, l history.Log) *User {
	return &User{T: t, Log: l, is: is.New(t), got: map[string][]*history.Entry{}, parts: map[string][]int{}}
}

// Deliver implements [history.Sink].
func (u *User) Deliver(tenant string, entries []*history.Entry) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.got[tenant] = append(u.got[tenant], entries...)
	u.parts[tenant] = append(u.parts[tenant], len(entries))
}

// Prepare implements [history.Sink].
func (u *User) Prepare(string, []*history.Entry) {}

// Quiet implements [history.Sink].
func (u *User) Quiet(string, history.Cursor) {}

// Lost implements [history.Sink].
func (u *User) Lost(string, history.Cursor) {}

// Flush implements [history.Sink].
func (u *User) Flush(string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.flushed++
}

// attachTo asks to be told of a tenant.
func (u *User) attachTo(tenant string) history.Cursor {
	u.Helper()
	head, err := u.Attach(u.Context(), tenant)
	u.is.NoErr(err)
	return head
}

// Add appends entries, as of now. once says that a busy broker was not asked again: then
// they may be handed over in parts, and what is not stored behind the rest.
func (u *User) Add(entries ...*history.Entry) (once bool) {
	u.Helper()
	for _, e := range entries {
		e.Event.Timestamp = time.Now()
		e.Envelope = e.Event.Seal()
	}
	err := u.Append(u.Context(), entries)
	once = !errors.Is(err, history.ErrUnconfirmed)
	for deadline := time.Now().Add(time.Minute); errors.Is(err, history.ErrUnconfirmed) && time.Now().Before(deadline); {
		err = u.again(entries)
	}
	if err != nil {
		u.Error(err)
	}
	return once
}

// again appends what a slow broker did not confirm, by its ids: what it has stored all the
// same is no duplicate of anything else.
func (u *User) again(entries []*history.Entry) error {
	chosen := make([]bool, len(entries))
	for i, e := range entries {
		chosen[i], e.Chosen = e.Chosen, true
	}
	err := u.Append(u.Context(), entries)
	for i, e := range entries {
		e.Chosen, e.Duplicate = chosen[i], false
	}
	return err
}

// To is an entry whose payload is its name.
func To(tenant, name string, target event.Target) *history.Entry {
	return &history.Entry{Event: &event.Event{ID: uuid.NewString(), TenantID: tenant, Type: "a.b", Payload: []byte(name), Target: target}}
}

// ToAll is one to all of "acme".
func ToAll(name string) *history.Entry { return To("acme", name, event.ToTenant()) }

// Chosen has the publisher of an entry choose its id, which is its name.
func Chosen(e *history.Entry) *history.Entry {
	e.Chosen, e.Event.ID = true, string(e.Event.Payload)
	return e
}

// Names are the payloads of entries, in their order.
func Names(entries []*history.Entry) string {
	var list []string
	for _, e := range entries {
		list = append(list, string(e.Event.Payload))
	}
	return strings.Join(list, " ")
}

// ReadAll reads all there is of "acme" for a query, page by page, and returns the names.
func (u *User) ReadAll(q history.Query) string {
	u.Helper()
	var all []string
	for {
		page, err := u.Read(u.Context(), "acme", q)
		u.is.NoErr(err)
		if len(page.Entries) > 0 {
			all = append(all, Names(page.Entries))
		}
		if page.Next.Seq == q.After {
			return strings.Join(all, " ")
		}
		q.After = page.Next.Seq
	}
}

// Oldest is the first place of "acme".
func (u *User) Oldest() uint64 {
	c, err := u.Find(u.Context(), "acme", "", nil)
	u.is.NoErr(err)
	return c.Seq
}

// Persist appends to a log, as of now, until there is room.
func Persist(t *testing.T, l history.Log, entries ...*history.Entry) {
	t.Helper()
	for _, e := range entries {
		e.Event.Timestamp = time.Now()
		e.Envelope = e.Event.Seal()
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		err := l.Append(t.Context(), entries)
		if !errors.Is(err, history.ErrNotStored) && !errors.Is(err, history.ErrUnconfirmed) || time.Now().After(deadline) {
			is.New(t).NoErr(err)
			return
		}
	}
}

// Answered asks again while a broker that is slow does not answer.
func Answered[T any](ask func() (T, error)) (answer T, err error) {
	for deadline := time.Now().Add(time.Minute); ; {
		answer, err = ask()
		if !errors.Is(err, history.ErrUnconfirmed) || time.Now().After(deadline) {
			return answer, err
		}
	}
}
