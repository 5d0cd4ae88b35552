package cluster_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/cluster"
	"realtimehub/internal/cluster/clustertest"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/room"
)

// counting are other hubs, of which each has a thousand times its mark of each event's connections.
func counting(hubs ...byte) *clustertest.Peers {
	peers := &clustertest.Peers{Mark: hub(9), Answer: func(node [4]byte, c cluster.Call) (cluster.Answer, error) {
		each := make([]int, len(c.Events))
		for i := range each {
			each[i] = 1000 * int(node[3])
		}
		return cluster.Answer{Each: each}, nil
	}}
	var others [][4]byte
	for _, mark := range hubs {
		others = append(others, hub(mark))
	}
	peers.Set(others, nil)
	return peers
}

func toTenant(n int) []*event.Event {
	events := make([]*event.Event, n)
	for i := range events {
		events[i] = &event.Event{TenantID: "acme", Target: event.ToTenant()}
	}
	return events
}

func (r *rig) ask(t testing.TB, events []*event.Event) []int {
	return r.Ask(events)(t.Context())
}

// What all hubs say is added up; who holds a connection is asked alone.
func TestAskingWhatOthersHave(t *testing.T) {
	is := is.New(t)
	r := newRig(t, counting(1, 2, 3), room.Own{})
	is.Equal(r.ask(t, toTenant(2)), []int{6000, 6000})
	id := uuid.Must(uuid.NewV7())
	for mark, n := range map[byte]int{2: 2000, 4: 0, 9: 0} { // one that is gone has none, and this one no remote ones
		of := hub(mark)
		copy(id[len(id)-len(of):], of[:])
		is.Equal(r.ask(t, []*event.Event{{TenantID: "acme", Target: event.ToConnection(id.String())}}), []int{n})
	}
	is.Equal(r.ask(t, []*event.Event{{TenantID: "acme", Target: event.ToConnection("x")}}), []int{0})
}

// However many publish while a hub answers, it is asked once more.
func TestManyPublishesAskTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		peers := counting(1)
		answer, questions := peers.Answer, atomic.Int32{}
		peers.Answer = func(node [4]byte, c cluster.Call) (cluster.Answer, error) {
			questions.Add(1)
			time.Sleep(time.Millisecond)
			return answer(node, c)
		}
		r := newRig(t, peers, room.Own{})
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() { is.Equal(r.ask(t, toTenant(1)), []int{1000}) })
		}
		all.Wait()
		is.True(questions.Load() <= 3)
		time.Sleep(time.Hour)
		is.Equal(r.ask(t, toTenant(1)), []int{1000}) // it is asked again
	})
}

// Of a hub that does not answer nothing is counted, and not every publish waits for it.
func TestAskingAHubThatIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		peers := counting(1, 2)
		answer, silent := peers.Answer, atomic.Bool{}
		silent.Store(true)
		peers.Answer = func(node [4]byte, c cluster.Call) (cluster.Answer, error) {
			if node == hub(1) && silent.Load() {
				time.Sleep(time.Second)
				return cluster.Answer{}, delivery.ErrSilent
			}
			return answer(node, c)
		}
		r := newRig(t, peers, room.Own{})
		start := time.Now()
		is.Equal(r.ask(t, toTenant(1)), []int{2000})
		is.Equal(time.Since(start), 300*time.Millisecond)
		time.Sleep(time.Millisecond)
		for range 10 {
			is.Equal(r.ask(t, toTenant(1)), []int{2000})
		}
		is.Equal(time.Since(start), 301*time.Millisecond)
		silent.Store(false)
		time.Sleep(time.Second)
		is.Equal(r.ask(t, toTenant(1)), []int{3000})
		is.Equal(r.Streams.Stats().Unanswered, int64(1))
	})
}

// A hub of the version before cannot count: it is told from one that is gone, and this hub then
// learns of all its connections, as it did before.
func TestAskingAHubThatCannotCount(t *testing.T) {
	is := is.New(t)
	peers := counting(1, 2)
	answer := peers.Answer
	fault := error(nil)
	peers.Answer = func(node [4]byte, c cluster.Call) (cluster.Answer, error) {
		if node == hub(1) {
			return cluster.Answer{}, fault
		}
		return answer(node, c)
	}
	r := newRig(t, peers, room.Own{})
	is.Equal(r.ask(t, toTenant(1)), []int{delivery.CannotCount})
	is.Equal(r.Tenants.CountRemote(t.Context(), toTenant(1))()[0].Connections, 0)
	_, known := r.Remotes()["acme"]
	is.True(known)
	fault = errors.Join(cluster.ErrElsewhere, context.Canceled)
	is.Equal(r.ask(t, toTenant(1)), []int{2000})
}
