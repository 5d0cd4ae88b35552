package ndjson

import (
	"errors"
	"net/http"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/allowance"
	"realtimehub/internal/event"
	"realtimehub/internal/quota"
)

// stuckWriter is an answer that nobody reads: a write waits, until the client is gone.
type stuckWriter struct {
	http.ResponseWriter
	waits, gone chan struct{}
}

func (w stuckWriter) Write([]byte) (int, error) {
	close(w.waits)
	<-w.gone
	return 0, errors.New("the client is gone")
}

// A reader that breaks off leaves nothing of its answers in the budget of all.
func TestABrokenReaderGivesItsSpoolBack(t *testing.T) {
	is := is.New(t)
	pool := quota.New[event.TenantProfile](1<<20, 1)
	for range 20 {
		w := stuckWriter{waits: make(chan struct{}), gone: make(chan struct{})}
		out := NewSpool(w, (&allowance.Pools{Answers: pool}).Answer(event.TenantProfile{}))
		is.NoErr(out.Put("being written"))
		<-w.waits
		for range 1000 {
			is.NoErr(out.Put("written by nobody"))
		}
		close(w.gone)
		out.Finish()
		is.True(out.Put("too late") != nil)
	}
	is.Equal(pool.Total(), int64(0)) // whole again
}
