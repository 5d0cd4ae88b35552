package process

import (
	"encoding/json"
	"syscall"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/testkit"
)

// A hub that was stopped for longer than others may be silent has heard nobody meanwhile:
// when it goes on it tells nobody offline for that.
func TestAStoppedHubTellsNobodyOffline(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it takes longer than a hub may be silent")
	}
	is := is.New(t)
	one, two := twoHubs(t, "REALTIME_PRESENCE_AUDIENCE=tenant")
	stream := hubtest.Subscribe(t, one.Addr, "seer")
	seer := hubtest.NewReader(t, stream)
	testkit.Pause(t, one.PID)
	stopped := time.Now()
	const silence = 10 * time.Second // after which others give a hub up
	testkit.Eventually(t, func() bool { return time.Since(stopped) > silence+3*time.Second })
	syscall.Kill(one.PID, syscall.SIGCONT)
	hubtest.Subscribe(t, two.Addr, "news")
	stream.SetReadDeadline(time.Now().Add(time.Minute))
	for {
		e, err := seer.Next()
		is.NoErr(err)
		var told struct {
			Payload struct{ Profile struct{ ID string } }
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
