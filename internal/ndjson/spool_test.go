package ndjson

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/allowance"
	"realtimehub/internal/event"
	"realtimehub/internal/quota"
	"realtimehub/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m, nil) }

// stuckWriter is an answer that nobody reads: a write waits, until the client is gone.
type stuckWriter struct {
	http.ResponseWriter
	waits, gone chan struct{}
}

func (s stuckWriter) Write([]byte) (int, error) {
	close(s.waits)
	<-s.gone
	return 0, errors.New("the client is gone")
}

// A reader that breaks off leaves nothing of its answers in the budget of all.
func TestABrokenReaderGivesItsSpoolBack(t *testing.T) {
	is := is.New(t)
	pool := quota.New[event.TenantProfile](1<<20, 1)
	for range 20 {
		w := stuckWriter{waits: make(chan struct{}), gone: make(chan struct{})}
		out := newSpool(w, (&allowance.Pools{Answers: pool}).Answer(event.TenantProfile{}))
		is.NoErr(out.put("being written"))
		<-w.waits
		for range 1000 {
			is.NoErr(out.put("written by nobody"))
		}
		close(w.gone)
		out.finish()
		is.True(out.put("too late") != nil)
	}
	is.Equal(pool.Total(), int64(0)) // whole again
}

// lateWriter is an answer that is read once it is let.
type lateWriter struct {
	http.ResponseWriter
	body  bytes.Buffer
	reads chan struct{}
}

func (l *lateWriter) Flush() {}
func (l *lateWriter) Write(b []byte) (int, error) {
	<-l.reads
	return l.body.Write(b)
}

// The answers to a publisher's lines are its own share too: it waits, and others do not.
func TestASpoolIsItsHoldersShare(t *testing.T) {
	is := is.New(t)
	pool := quota.New[event.TenantProfile](1<<20, 1)
	spoolOf := func(tenant string) (*spool, *lateWriter) {
		w := &lateWriter{reads: make(chan struct{})}
		return newSpool(w, (&allowance.Pools{Answers: pool}).Answer(event.TenantProfile{Tenant: tenant})), w
	}
	greedy, unread := spoolOf("acme")
	waits := make(chan struct{})
	go func() {
		defer close(waits)
		for range 1000 {
			greedy.put(strings.Repeat("x", 1000))
		}
	}()
	testkit.Eventually(t, func() bool { return pool.Refused() > 0 })
	is.True(pool.Of(event.TenantProfile{Tenant: "acme"}) <= 1<<19)
	other, read := spoolOf("globex")
	close(read.reads)
	for range 100 {
		is.NoErr(other.put(strings.Repeat("x", 1000)))
	}
	other.finish()
	more, unread2 := spoolOf("acme") // one line is always taken, so that each goes on
	is.NoErr(more.put("x"))
	close(unread2.reads)
	more.finish()
	close(unread.reads)
	<-waits
	greedy.finish()
	is.Equal(unread.body.Len(), 1000*1003)
	is.Equal(pool.Total(), int64(0))
}
