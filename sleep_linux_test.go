package main

import (
	"encoding/json"
	"syscall"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/broker/peers"
	"realtimehub/internal/event"
)

// A hub that was stopped for longer than others may be silent has heard nobody meanwhile:
// when it goes on it tells nobody offline for that.
func TestAStoppedHubTellsNobodyOffline(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes longer than a hub may be silent")
	}
	is := is.New(t)
	one, two := twoHubs(t, "REALTIME_PRESENCE_AUDIENCE=tenant")
	seer := newStreamReader(t, subscribe(t, one.addr, "seer"))
	syscall.Kill(one.pid, syscall.SIGSTOP)
	stopped := time.Now()
	eventually(t, func() bool { return time.Since(stopped) > peers.Silence+3*time.Second })
	syscall.Kill(one.pid, syscall.SIGCONT)
	subscribe(t, two.addr, "news")
	for {
		e, err := seer.Next()
		is.NoErr(err)
		var told struct {
			Payload struct{ Profile event.Profile }
		}
		json.Unmarshal([]byte(e.Data), &told)
		if e.Type == "presence.offline" {
			t.Fatal("told offline: ", told.Payload.Profile.ID)
		}
		if e.Type == "presence.online" && told.Payload.Profile.ID == "news" {
			return
		}
	}
}
