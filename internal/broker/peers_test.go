package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/broker/peers"
	"realtimehub/internal/cluster"
	"realtimehub/internal/event"
	"realtimehub/internal/testkit"
)

// toldSessions keeps the last of other hubs' sessions that it was told of.
type toldSessions struct {
	cluster.Sink
	last cluster.SessionChange
}

func (s *toldSessions) Changed(_ string, changes []cluster.SessionChange, _ bool, _ time.Time) {
	s.last = changes[len(changes)-1]
}

// Hubs' clocks may be apart by more than the idle timeout: how long ago somebody was
// active is what counts.
func TestClocksApart(t *testing.T) {
	for name, apart := range map[string]time.Duration{"behind": -time.Hour, "ahead": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				is := is.New(t)
				o := &otherHubs{ready: make(chan struct{})}
				var told toldSessions
				o.Follow(&told)
				id := uuid.New()
				begun := time.Now()
				at := begun.Add(apart).UnixMilli()
				say := func(idle time.Duration) {
					row := fmt.Sprintf(`{"p":"user:alice","c":%d,"a":%d,"i":%d}`, at, at, idle.Milliseconds())
					o.changed(peers.Change{Topic: "acme", Ops: []peers.Op{{ID: id, Data: []byte(row)}}})
				}
				say(0)
				is.Equal(told.last.ID, id)
				is.Equal(told.last.Profile, alice)
				is.True(told.last.ActiveAt.Equal(begun))
				time.Sleep(4 * time.Minute)
				say(4 * time.Minute) // told again by a snapshot
				is.True(told.last.ActiveAt.Equal(begun))
			})
		})
	}
}

// How long a session has been idle is told with it.
func TestIdleTimeIsTold(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	var row map[string]any
	is.NoErr(json.Unmarshal(opOf(cluster.SessionChange{Session: cluster.Session{Profile: alice, ActiveAt: time.Now().Add(-time.Minute)}}).Data, &row))
	is.True(row["i"].(float64) >= 60_000)
}

// The version before tells only when a session was last active, by its own clock; that is
// not later than now.
func TestActivityAsTheVersionBeforeTellsIt(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	now := time.Now()
	is.Equal(sessionRow{Active: now.Add(-time.Minute).UnixMilli()}.activeAt(now).Unix(), now.Add(-time.Minute).Unix())
	is.Equal(sessionRow{Active: now.Add(time.Hour).UnixMilli()}.activeAt(now), now)
}

// The log tells of a hub that does not answer, unless whoever asked has left before.
func TestSilenceOfOtherHubsIsLogged(t *testing.T) {
	is := is.New(t)
	var log testkit.Buffer
	o := newOtherHubs(slog.New(slog.NewTextHandler(&log, nil)))
	ctx, leave := context.WithCancel(t.Context())
	leave()
	o.silent(ctx, cluster.CallPoll, context.Canceled, "x")
	is.Equal(log.String(), "")
	o.silent(t.Context(), cluster.CallPoll, context.DeadlineExceeded, "x")
	is.True(strings.Contains(log.String(), "another hub does not answer"))
}

var (
	alice = event.Profile{Type: "user", ID: "alice"}
	bob   = event.Profile{Type: "user", ID: "bob"}
)
