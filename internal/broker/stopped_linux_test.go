package broker

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/history/historytest"
	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

// The broker stops reading while much is published, so that what is sent fills the network's
// buffers: who publishes is answered, and the connection ends, in seconds and not in a minute.
// Then all goes on.
func TestAStoppedServerHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	servers := natstest.StartProcesses(t, 1)
	b := join(t, servers.URL(0), "test")
	large := func(id string) *history.Entry {
		e := historytest.To("acme", id, event.ToTenant())
		e.Event.Payload = []byte(`"` + strings.Repeat("x", 60_000) + `"`)
		e.Event.Timestamp = time.Now()
		e.Envelope = e.Event.Seal()
		return e
	}
	const publishers, bound = 300, 15 * time.Second // 18 MB, of which Linux takes about 10
	entries := make([]*history.Entry, publishers)
	for i := range entries {
		entries[i] = large(fmt.Sprint("stopped", i))
	}
	testkit.Pause(t, servers.PID(0))
	defer servers.Signal(0, syscall.SIGCONT)
	begun := time.Now()
	var all sync.WaitGroup
	for _, e := range entries {
		all.Go(func() {
			if err := b.log.Append(t.Context(), []*history.Entry{e}); !errors.Is(err, history.ErrUnconfirmed) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	answered := time.Since(begun)
	testkit.Eventually(t, func() bool { return !b.connected.Load() })
	noticed := time.Since(begun)
	t.Logf("all are answered after %v, and the connection has ended after %v", answered, noticed)
	is.True(answered < bound)
	is.True(noticed < bound)

	servers.Signal(0, syscall.SIGCONT)
	testkit.Eventually(t, b.connected.Load)
	head, err := historytest.Answered(func() (history.Cursor, error) { return b.log.Attach(t.Context(), "acme") })
	is.NoErr(err)
	last := large("last")
	historytest.Persist(t, b.log, last)
	is.True(last.Cursor.Seq > head.Seq)
}
