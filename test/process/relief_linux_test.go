package process

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
)

// What a tenant's stalled streams together owe is that tenant's: they are cut for it, and
// not another tenant's reader that is behind, though it owes more than any of them has
// as its part.
func TestATenantPaysForWhatItsStreamsOwe(t *testing.T) {
	is := is.New(t)
	const budget, stalled, together = 16 << 20, 100, 15
	p := startProgram(t, fmt.Sprint("REALTIME_MEMORY_BUDGET=", budget), "REALTIME_STREAM_BUFFER=0")
	reader := openBare(t, p.Addr, "other", "reader")
	filler := strings.Repeat("x", 60_000)
	publish := func(tenant string, n int) {
		t.Helper()
		event := fmt.Sprintf(`{"tenantId":"%s","type":"a.b","payload":"%s","target":{"kind":"tenant"}}`, tenant, filler)
		events := slices.Repeat([]string{event}, n)
		res, err := http.DefaultClient.Post("http://"+p.Addr+"/v1/events/batch", "application/json", strings.NewReader(`{"events":[`+strings.Join(events, ",")+`]}`))
		is.NoErr(err)
		res.Body.Close()
		is.Equal(res.StatusCode, http.StatusAccepted)
	}
	const behind = 4 // batches that the reader is behind
	for range behind {
		publish("other", together)
	}
	const anew = 2 * budget / together / 60_000
	for rounds := 0; !strings.Contains(p.Logs.String(), "slow streams lost ephemeral events or were cut"); rounds++ {
		if rounds%anew == 0 { // those before have ended, if the machine is so slow: they take nothing for 12 s
			for i := range stalled {
				openBare(t, p.Addr, "acme", fmt.Sprintf("stalled-%d-%d", rounds, i))
			}
		}
		is.True(rounds < 3*anew)
		publish("acme", together)
		reader.SetReadDeadline(time.Now().Add(time.Minute))
		_, err := io.ReadFull(reader, make([]byte, 32<<10)) // it is alive, and behind all the time
		is.NoErr(err)
	}
	publish("acme", 1)

	// It was not cut: what it is sent now comes at the end of all that it is owed.
	res, err := http.DefaultClient.Post("http://"+p.Addr+"/v1/tenants/other/events", "application/json", strings.NewReader(`{"type":"a.b","payload":"the end"}`))
	is.NoErr(err)
	res.Body.Close()
	reader.until(t, "the end", "hub.closing")

	is.True(!strings.Contains(p.Logs.String(), "cut=0")) // but others were
	http.DefaultClient.CloseIdleConnections()
}
