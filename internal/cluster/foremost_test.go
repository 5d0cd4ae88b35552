package cluster_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/cluster"
	"realtimehub/internal/cluster/clustertest"
	"realtimehub/internal/room"
)

// hub is the mark of the n-th hub.
func hub(n byte) [4]byte { return [4]byte{0, 0, 0, n} }

// One hub of all is the foremost. One that comes is so at once, and the one before stays it until
// that one knows what the others do.
func TestTheForemostHub(t *testing.T) {
	is := is.New(t)
	const settle = time.Minute
	peers := &clustertest.Peers{Mark: hub(2)}
	r := newRigOf(t, peers, room.Own{}, func(cfg *cluster.Config) { cfg.Settle = settle })
	now := time.Now()
	foremost := func(after time.Duration, others ...[4]byte) bool {
		peers.Set(others, nil)
		now = now.Add(after)
		return r.Foremost(now)
	}
	is.True(foremost(0))                           // alone
	is.True(foremost(0, hub(1), hub(3)))           // nobody is known to know
	is.True(!foremost(2*settle, hub(1), hub(3)))   // hub 1 knows
	is.True(foremost(time.Second, hub(3)))         // it has gone
	is.True(foremost(time.Second, hub(1), hub(3))) // and is back, but for how long?
	is.True(!foremost(2*settle, hub(1), hub(3)))
	is.True(foremost(time.Second))

	young := newRigOf(t, &clustertest.Peers{Mark: hub(1)}, room.Own{}, func(cfg *cluster.Config) { cfg.Settle = settle })
	is.True(young.Foremost(now))
	r.Streams.Refuse()
	is.True(!foremost(time.Hour, hub(3))) // it drains
	is.True(foremost(0))                  // and there is no other
}

// Of hubs that have sent clients away only those are remembered that did so lately, however many are
// replaced, also where nobody asks who is the foremost.
func TestHubsThatSentClientsAwayAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		r := newRig(t, &clustertest.Peers{Mark: hub(200)}, room.Own{})
		is.NoErr(r.Share(t.Context(), "acme"))
		for n := range byte(100) {
			there := cluster.SessionChange{Session: cluster.Session{ID: uuid.UUID{15: n}, Profile: user("me"), Drained: true}}
			r.Changed("acme", []cluster.SessionChange{there, {Session: there.Session, Gone: true}}, false, time.Time{})
			time.Sleep(time.Minute)
		}
		is.True(r.SentAway() <= 2)
	})
}
