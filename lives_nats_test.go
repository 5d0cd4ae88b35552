package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/history"
)

// The broker comes back empty: hubs make anew what they keep there, take publishes again,
// tell whoever comes back that there is a gap, and count the loss.
func TestTheBrokerComesBackEmpty(t *testing.T) {
	t.Parallel()
	alone(t, "it makes its own")
	is := is.New(t)
	b := theBroker(t)
	nodes := newCluster(t, 2, b, openDoor(t), access.RatesConfig{}).nodes
	one, two := nodes[0], nodes[1]
	c := one.open(t, meQuery)
	last := ""
	for range 3 {
		last = two.publish(t, "acme", "a.b", `{"kind":"tenant"}`, "1")["cursor"].(string)
		is.Equal(c.next(t).ID != "", true)
	}
	epoch := func(h *testHub) string { return epochOf(h.log, "acme").Text() }
	before := epoch(one)
	dir := b.StoreDir(0)
	b.Stop(0)
	is.NoErr(os.RemoveAll(dir))
	b.Restart(t, 0)
	c.until(t, "hub.closing")
	for deadline := time.Now().Add(time.Minute); epoch(one) == before || epoch(one) != epoch(two) || one.Ready() != nil || two.Ready() != nil; time.Sleep(5 * time.Millisecond) {
		is.True(time.Now().Before(deadline)) // both know, and are ready
	}
	again := two.back(t, last, meQuery)
	is.Equal(again.resume(t), "partial")
	gap := again.next(t)
	is.Equal(gap.Type, "hub.gap")
	is.True(strings.Contains(gap.Data, `"unknown"`))
	cursor := one.publish(t, "acme", "a.b", `{"kind":"tenant"}`, "2")["cursor"].(string)
	is.Equal(again.next(t).ID, cursor)
	again.close()
	is.Equal(one.back(t, cursor, meQuery).resume(t), "complete")
	is.Equal(one.Stats().Log.Gone[history.KeptHistory], int64(1))
	is.Equal(two.Stats().Log.Gone[history.KeptHistory], int64(1))
	for _, h := range nodes { // each knows that nobody belongs anywhere now
		eventually(t, func() bool { return h.Stats().Log.Gone[history.KeptMembers] > 0 })
		is.Equal(h.Stats().Log.Gone[history.KeptMembers], int64(1))
	}
}
