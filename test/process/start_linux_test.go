package process

import (
	"flag"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
)

// What a start is measured with. By default it is little: what is right is looked at in any
// case, and how long it takes is only told.
var (
	startBytes   = flag.Int64("start.bytes", 4<<20, "of history there are so many bytes where a start is measured")
	startEvent   = flag.Int("start.event", 1000, "of which each event has so many")
	startTenants = flag.Int("start.tenants", 10, "which are of so many tenants")
)

// A hub starts with the history that is in its folder, after its end and after a crash, and
// has all of it. For a person who wants to know how long that takes:
//
//	go test -run TestStartWithHistory -v ./test/process -start.bytes 1073741824
func TestStartWithHistory(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	settings := []string{
		"REALTIME_DATA=" + t.TempDir(), "REALTIME_HISTORY_EVENTS=0", "REALTIME_HISTORY_BYTES=0", "REALTIME_DRAIN=0",
		"REALTIME_ADMIN_RATE=0", "REALTIME_PRESENCE_AUDIENCE=none",
	}
	hub := hubtest.StartPlain(t, settings...)
	begun := time.Now()
	last := fillHistory(t, &hub.Hub)
	t.Logf("%d bytes published in %.1f s", *startBytes, time.Since(begun).Seconds())
	for _, end := range []struct {
		name string
		do   func()
	}{{"SIGTERM", func() { hub.Stop() }}, {"SIGKILL", func() { hub.Kill() }}} {
		begun := time.Now()
		end.do()
		ended := time.Now()
		hub = hubtest.StartPlain(t, settings...)
		listens := time.Since(ended)
		hub.Becomes(t, true)
		t.Logf("%s: ended in %.2f s; listens after %.2f s, ready after %.2f s, having spent %v of processors; %d MiB resident at most", end.name,
			ended.Sub(begun).Seconds(), listens.Seconds(), time.Since(ended).Seconds(), hub.CPU(t), hub.Peak(t)>>20)
		for tenant, cursor := range last { // of each the last event is there, and a stream goes on behind it
			is.Equal(len(hub.History(t, tenant, cursor, 0)), 0)
			stream := hub.Open(t, "tenant="+tenant+"&profile=a&cursor="+cursor)
			is.True(strings.Contains(stream.Ready.Data, `"resume":"complete"`))
			stream.Close()
		}
	}
}

// fillHistory publishes to each tenant what a start is measured with, and says where each then
// is.
func fillHistory(t *testing.T, hub *hubtest.Hub) map[string]string {
	t.Helper()
	const batch = 200
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	text := strings.Repeat("x", *startEvent)
	var next atomic.Int64
	var publishers sync.WaitGroup
	for range 8 {
		publishers.Go(func() {
			for !t.Failed() {
				n := next.Add(1)
				if (n-1)*batch*int64(*startEvent) >= *startBytes {
					return
				}
				tenant := fmt.Sprint("tenant-", n%int64(*startTenants))
				events := make([]string, batch)
				for i := range events {
					events[i] = hubtest.EventJSON(tenant, "a.b", `{"kind":"tenant"}`, fmt.Sprintf(`"%d %s"`, n*batch+int64(i), text))
				}
				res, err := client.Post(hub.URL+"/v1/events/batch", "application/json", strings.NewReader(`{"events":[`+strings.Join(events, ",")+`]}`))
				if err != nil {
					t.Error(err)
					return
				}
				res.Body.Close()
				if res.StatusCode != http.StatusAccepted && res.StatusCode != http.StatusServiceUnavailable { // a slow disk does not confirm in time
					t.Error(res.Status)
				}
			}
		})
	}
	publishers.Wait()
	last := map[string]string{}
	for i := range *startTenants {
		tenant := fmt.Sprint("tenant-", i)
		last[tenant] = hub.Open(t, "tenant="+tenant+"&profile=a").Cursor
	}
	return last
}
