package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
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

// A tenant is known here as long as any hub has connections of it, and for a while after.
func TestTenantsOfOthersAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		peers := &clustertest.Peers{Mark: hub(1)}
		r := newRigOf(t, peers, room.Own{}, func(cfg *cluster.Config) { cfg.FollowAll, cfg.Linger = true, time.Minute })
		knows := func() bool {
			synctest.Wait()
			_, known := r.Remotes()["acme"]
			return known
		}
		// say plays what the n-th hub says of the tenant.
		say := func(n byte, gone bool) {
			id := uuid.UUID{15: n}
			r.Changed("*", []cluster.SessionChange{{Session: cluster.Session{ID: id, Profile: event.Profile{Type: "tenant", ID: "acme"}}, Gone: gone}}, false, time.Time{})
		}
		is.True(!knows())
		say(2, false)
		say(3, false)
		say(3, false) // once more
		is.True(knows())
		say(3, true)
		time.Sleep(time.Hour)
		is.True(knows()) // hub 2 has some
		say(2, true)
		say(2, true)
		time.Sleep(30 * time.Second)
		is.True(knows()) // its people may be back
		say(3, false)
		time.Sleep(time.Hour)
		is.True(knows()) // as they are
		say(3, true)
		time.Sleep(61 * time.Second)
		is.True(!knows())

		c := r.connect(t, "me") // this hub's own likewise
		is.Equal(len(r.Sessions("*")), 1)
		r.Streams.Kick(c, delivery.CloseKicked)
		is.Equal(len(r.Sessions("*")), 0)
		time.Sleep(30 * time.Second)
		is.True(knows())
		time.Sleep(31 * time.Second)
		is.True(!knows())
	})
}

// slowPeers are other hubs that do not tell what they have of a tenant until they are let, and then fail
// once for each.
type slowPeers struct {
	clustertest.Peers
	let    chan struct{}
	asked  atomic.Int32
	failed sync.Map
}

func (s *slowPeers) Hold(_ context.Context, tenant string) error {
	if tenant == "*" {
		return nil
	}
	s.asked.Add(1)
	<-s.let
	if _, again := s.failed.LoadOrStore(tenant, true); !again {
		return errors.New("not now")
	}
	return nil
}

// However many tenants other hubs have, few are taken up at a time, the others wait without a goroutine
// each, and what fails is tried again.
func TestManyTenantsAreTakenUpInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		const tenants = 1000
		peers := &slowPeers{let: make(chan struct{})}
		r := newRigOf(t, peers, room.Own{}, func(cfg *cluster.Config) { cfg.FollowAll, cfg.Linger = true, time.Minute })
		synctest.Wait()
		before := runtime.NumGoroutine()
		for i := range tenants {
			word := cluster.Session{ID: uuid.New(), Profile: event.Profile{Type: "tenant", ID: fmt.Sprint("t", i)}}
			r.Changed("*", []cluster.SessionChange{{Session: word}}, false, time.Time{})
		}
		synctest.Wait()
		is.Equal(int(peers.asked.Load()), cluster.FollowAtOnce)
		is.True(runtime.NumGoroutine()-before <= 3*cluster.FollowAtOnce)
		close(peers.let)
		time.Sleep(time.Minute)
		synctest.Wait()
		is.Equal(len(r.Remotes()), tenants)
		is.Equal(int(peers.asked.Load()), 2*tenants)
	})
}

// What others have when their tenant is taken up is news, unless they had it when this hub came.
func TestWhatIsNewsOfATenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		told := &noted{}
		r := newRigOf(t, &clustertest.Peers{Mark: hub(1)}, room.Own{}, func(cfg *cluster.Config) {
			cfg.FollowAll, cfg.Linger, cfg.Presence = true, time.Minute, told
		})
		synctest.Wait()
		for tenant, old := range map[string]bool{"old": true, "new": false} {
			word := cluster.Session{ID: uuid.New(), Profile: event.Profile{Type: "tenant", ID: tenant}}
			r.Changed("*", []cluster.SessionChange{{Session: word}}, old, time.Time{})
			synctest.Wait()
			r.Changed(tenant, []cluster.SessionChange{{Session: cluster.Session{ID: uuid.New(), Profile: user(tenant)}}}, true, time.Time{})
		}
		is.Equal(told.news, []string{"new"})
		is.Equal(told.known, []string{"old"})
	})
}

// noted is a presence that notes whom it is told of.
type noted struct {
	presence
	news, known []string
}

func (n *noted) Came(who event.TenantProfile, usedAt time.Time, news bool) *event.ProfileText {
	if news {
		n.news = append(n.news, who.Profile.ID)
	} else {
		n.known = append(n.known, who.Profile.ID)
	}
	return n.presence.Came(who, usedAt, news)
}
