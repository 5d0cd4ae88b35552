package cluster_test

import (
	"errors"
	"fmt"
	"slices"
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
	"realtimehub/internal/room"
)

// sleeper is a hub that holds connections, and may not answer.
type sleeper struct {
	mu     sync.Mutex
	sleeps bool
	held   map[uuid.UUID]*delivery.Connection
}

func (s *sleeper) answer(_ [4]byte, c cluster.Call) (a cluster.Answer, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sleeps {
		return a, errors.New("it sleeps")
	}
	switch c.Op {
	case cluster.CallList:
		for _, conn := range s.held {
			if conn.Tenant == c.Tenant && (c.Profile == nil || conn.Profile == *c.Profile) {
				a.Connections = append(a.Connections, cluster.Described{ID: conn.ID, Tenant: conn.Tenant, Profile: conn.Profile})
			}
		}
		a.Count = new(len(a.Connections))
	case cluster.CallShow:
		if conn := s.held[c.ID]; conn != nil {
			a.Found, a.Connections = true, []cluster.Described{{ID: conn.ID, Tenant: conn.Tenant, Profile: conn.Profile}}
		}
	case cluster.CallKick:
		a.Found = s.held[c.ID] != nil
		delete(s.held, c.ID)
	}
	return a, nil
}

func (s *sleeper) set(sleeps bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sleeps = sleeps
}

// who are the profiles of those that it holds, sorted.
func (s *sleeper) who() (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.held {
		ids = append(ids, c.Tenant+" "+c.Profile.ID)
	}
	slices.Sort(ids)
	return ids
}

// sleeping is a rig and a hub beside it that holds connections of acme's and sleeps.
func sleeping(t *testing.T, ids ...string) (*rig, *clustertest.Peers, *sleeper) {
	s := &sleeper{sleeps: true, held: map[uuid.UUID]*delivery.Connection{}}
	for _, id := range ids {
		c := remote(other, id)
		s.held[c.ID] = c
	}
	elsewhere := remote(other, "me")
	elsewhere.Tenant = "beta"
	s.held[elsewhere.ID] = elsewhere
	peers := &clustertest.Peers{Answer: s.answer}
	peers.Set([][4]byte{other}, nil)
	return newRig(t, peers, room.Own{}), peers, s
}

// What is to be closed at a hub that does not answer is closed once it does, and then nothing
// is remembered of it; so where the hub was given up meanwhile.
func TestKicksAtAHubThatSleeps(t *testing.T) {
	for name, lost := range map[string]bool{"there": false, "lost": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				is := is.New(t)
				r, peers, s := sleeping(t, "me", "one", "other")
				var one uuid.UUID
				for id, c := range s.held {
					if c.Profile.ID == "one" {
						one = id
					}
				}
				if lost {
					peers.Set(nil, [][4]byte{other})
				}
				err := r.KickProfile(t.Context(), "acme", user("me"), delivery.CloseKicked)
				is.Equal(err == nil, lost) // of a hub that is not there nobody is asked
				_, err = r.KickOne(t.Context(), "acme", one.String(), delivery.CloseKicked)
				is.True(errors.Is(err, delivery.ErrSilent))
				is.Equal(r.Owes(), 1)
				time.Sleep(time.Minute)
				is.Equal(len(s.who()), 4)
				peers.Set([][4]byte{other}, nil)
				s.set(false)
				time.Sleep(3 * time.Second)
				is.Equal(s.who(), []string{"acme other", "beta me"})
				is.Equal(r.Owes(), 0)
			})
		})
	}
}

// A hub is given up, or heard again, just while somebody is asked: what is to be closed there is
// closed once it answers.
func TestKicksAtAHubThatComesOrGoes(t *testing.T) {
	type known struct{ others, lost [][4]byte }
	there, lost := known{others: [][4]byte{other}}, known{others: [][4]byte{{3}}, lost: [][4]byte{other}}
	for name, seen := range map[string][2]known{"given up": {there, lost}, "heard again": {lost, there}} {
		for _, one := range []bool{true, false} {
			t.Run(fmt.Sprint(name, ", one ", one), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					is := is.New(t)
					r, peers, s := sleeping(t)
					me := remote(other, "me")
					s.held[me.ID] = me
					var asked atomic.Bool
					peers.Set(seen[0].others, seen[0].lost)
					peers.Answer = func(node [4]byte, c cluster.Call) (cluster.Answer, error) {
						first := !asked.Swap(true)
						if first {
							peers.Set(seen[1].others, seen[1].lost)
						}
						if others, _ := peers.Known(); first || !slices.Contains(others, node) {
							return cluster.Answer{}, cluster.ErrElsewhere
						}
						return s.answer(node, c)
					}
					var err error
					if one {
						_, err = r.KickOne(t.Context(), "acme", me.ID.String(), delivery.CloseKicked)
					} else {
						err = r.KickProfile(t.Context(), "acme", user("me"), delivery.CloseKicked)
					}
					is.True(asked.Load())
					is.NoErr(err) // of a hub that is not there nobody is asked
					s.set(false)
					peers.Set(there.others, there.lost)
					time.Sleep(3 * time.Second)
					is.Equal(s.who(), []string{"beta me"})
					is.Equal(r.Owes(), 0)
				})
			})
		}
	}
}

// Of a hub that is dead nothing is remembered.
func TestKicksAtADeadHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		r, peers, _ := sleeping(t, "me")
		is.True(errors.Is(r.KickProfile(t.Context(), "acme", user("me"), delivery.CloseKicked), delivery.ErrSilent))
		is.Equal(r.Owes(), 1)
		peers.Set(nil, nil)
		time.Sleep(3 * time.Second)
		is.Equal(r.Owes(), 0)
	})
}

// More is to be closed at a hub that sleeps than is remembered one by one: nothing of it is
// forgotten, and another tenant's connections stay.
func TestManyKicksAtAHubThatSleeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		r, _, s := sleeping(t, "me", "other")
		for n := range cluster.Most {
			r.KickProfile(t.Context(), "acme", user(fmt.Sprint(n)), delivery.CloseKicked)
		}
		is.True(errors.Is(r.KickProfile(t.Context(), "acme", user("me"), delivery.CloseKicked), delivery.ErrSilent))
		s.set(false)
		time.Sleep(3 * time.Second)
		is.Equal(s.who(), []string{"beta me"}) // who may come back does
		is.Equal(r.Owes(), 0)
	})
}

// A person's many connections on another hub are closed in few calls, and nothing of them is told.
func TestManyConnectionsAreClosedTogether(t *testing.T) {
	is := is.New(t)
	there := newRig(t, nil, room.Own{})
	for range 600 {
		there.connect(t, "me")
	}
	there.connect(t, "other")
	asked := map[cluster.CallOp]int{}
	peers := &clustertest.Peers{Answer: func(_ [4]byte, c cluster.Call) (cluster.Answer, error) {
		asked[c.Op]++
		return there.Serve(c), nil
	}}
	peers.Set([][4]byte{other}, nil)
	r := newRig(t, peers, room.Own{})
	is.NoErr(r.KickProfile(t.Context(), "acme", user("me"), delivery.CloseKicked))
	is.Equal(asked, map[cluster.CallOp]int{cluster.CallKickAll: 3})
	is.Equal(there.Tenants.Open("acme"), 1)
}
