package process

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/testkit"
)

// A tenant whose clients do not read fills the memory of a whole process: publishes are
// refused before it is used up, that tenant's streams give back what they owe, and then
// all is as before. Another tenant's reader keeps its stream, and gets all that was
// accepted.
func TestAnOverloadIsOverByItself(t *testing.T) {
	t.Parallel()
	t.Run("little is kept", func(t *testing.T) { overloadIsOver(t, 48, 64, 1) })
	t.Run("the history is full", func(t *testing.T) { overloadIsOver(t, 84, 20, 62) })
}

// overloadIsOver is of a process with so much memory, for what streams are owed and for
// histories, which are full, in MiB.
func overloadIsOver(t *testing.T, limit, budget, history int) {
	is := is.New(t)
	const mib, stalled = 1 << 20, 16
	p := startProcess(t, fmt.Sprintf("GOMEMLIMIT=%dMiB", limit), fmt.Sprint("REALTIME_MEMORY_BUDGET=", budget*mib), "REALTIME_STREAM_BUFFER=0",
		fmt.Sprint("REALTIME_HISTORY_TOTAL_BYTES=", history*mib), fmt.Sprint("REALTIME_STATE_BYTES=", 4*mib))
	var batch []string // to each an event of its own
	for i := range stalled {
		hubtest.Subscribe(t, p.Addr, fmt.Sprint("stalled-", i))
		batch = append(batch, fmt.Sprintf(`{"tenantId":"acme","type":"a.b","payload":%q,"target":{"kind":"profile","profiles":["stalled-%d"]}}`, strings.Repeat("x", 60_000), i))
	}
	reader := openBare(t, p.Addr, "other", "reader")
	client := hubtest.CheckedClient(t, &http.Transport{})
	defer client.CloseIdleConnections()
	whole := `{"events":[` + strings.Join(batch, ",") + `]}`
	publish := func(event string) (status int, code string) {
		t.Helper()
		res, err := client.Post("http://"+p.Addr+"/v1/events", "application/json", strings.NewReader(event))
		is.NoErr(err)
		defer res.Body.Close()
		var answer struct{ Code string }
		is.NoErr(json.NewDecoder(res.Body).Decode(&answer))
		io.Copy(io.Discard, res.Body)
		return res.StatusCode, answer.Code
	}
	mark := func(n int) bool { // of the other tenant
		status, code := publish(fmt.Sprintf(`{"tenantId":"other","type":"a.b","payload":"mark-%d.","target":{"kind":"tenant"}}`, n))
		if status == http.StatusServiceUnavailable {
			is.Equal(code, "Overloaded")
			return false
		}
		is.Equal(status, http.StatusAccepted)
		reader.until(t, fmt.Sprintf("mark-%d.", n), "hub.closing")
		return true
	}
	all := func(batch string) {
		t.Helper()
		res, err := http.DefaultClient.Post("http://"+p.Addr+"/v1/events/batch", "application/json", strings.NewReader(batch)) // not checked: that takes long
		is.NoErr(err)
		res.Body.Close()
	}
	for range history {
		all(strings.ReplaceAll(whole, "stalled-", "away-")) // 1 MB
	}
	n := 0
	for ; mark(n); n++ {
		all(whole)
		is.True(n < 200) // 190 MB
	}
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.After(time.Minute); !mark(n); {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatal("the overload does not end")
		}
	}
	http.DefaultClient.CloseIdleConnections()
	for _, line := range []string{`msg="overloaded: `, `msg="no longer overloaded"`, `msg="memory budget exceeded: slow streams lost ephemeral events or were cut"`} {
		testkit.Eventually(t, func() bool { return strings.Contains(p.Logs.String(), line) })
	}
	p.Stop()
}
