package cluster_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/cluster"
	"realtimehub/internal/event"
	"realtimehub/internal/room"
)

// Another hub tells of a thousand clients that have asked there, while their tenant is busy here: they do
// not have a goroutine each wait for it.
func TestManyWhoAskElsewhereOfABusyTenant(t *testing.T) {
	is := is.New(t)
	r := newRig(t, counting(1), room.Own{})
	busy, release := make(chan struct{}), make(chan struct{})
	r.Tenants.Moves(func(string, event.Room, event.Profile) { // the tenant is locked
		close(busy)
		<-release
	})
	joined := make(chan error, 1)
	go func() {
		joined <- r.Members.AddMember(t.Context(), "acme", event.Room{Kind: event.KindGroup, ID: "g"}, user("me"))
	}()
	<-busy
	changes := make([]cluster.SessionChange, 1000)
	for i := range changes {
		changes[i].Session = cluster.Session{ID: uuid.New(), Profile: user(fmt.Sprint(i)), Client: "c", AskedAt: time.Now()}
	}
	before := runtime.NumGoroutine()
	r.Changed("acme", changes, false, time.Time{})
	is.True(runtime.NumGoroutine()-before < 100)
	close(release)
	is.NoErr(<-joined)
}
