package cluster_test

import (
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
