package main

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/cluster"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/presence"
	"realtimehub/internal/settings"
	"realtimehub/internal/sse"
)

// defaultPresence is what a hub announces with no setting changed.
func defaultPresence(_ *HubConfig, cfg *PresenceConfig) {
	*cfg = PresenceConfig{
		IdleTimeout: 5 * time.Minute, Tick: time.Second, Grace: 5 * time.Second,
		TypingTTL: 6 * time.Second, Audience: settings.AudienceTenant, Burst: 100,
	}
}

// told counts what an Observer is told.
type told struct {
	delivery.Observer
	mu         sync.Mutex
	came, went map[event.Profile]int
}

func newTold(o delivery.Observer) *told {
	return &told{Observer: o, came: map[event.Profile]int{}, went: map[event.Profile]int{}}
}

func (x *told) Connected(c *delivery.Connection) {
	x.mu.Lock()
	x.came[c.Profile]++
	x.mu.Unlock()
	x.Observer.Connected(c)
}

func (x *told) Disconnected(c *delivery.Connection) {
	x.mu.Lock()
	x.went[c.Profile]++
	x.mu.Unlock()
	x.Observer.Disconnected(c)
}

// Whoever is turned away was never there: nobody is told, on this hub or another,
// however often they try; and who has another connection stays online.
func TestARefusedStreamIsNotOnline(t *testing.T) {
	t.Parallel()
	alone(t, "it makes its own")
	me, you, they := event.Profile{Type: "user", ID: "me"}, event.Profile{Type: "user", ID: "you"}, event.Profile{Type: "user", ID: "they"}
	for _, c := range []struct {
		name   string
		most   delivery.Limits
		refuse func(*testHub) // from now on
		err    error
	}{
		{"tenant", delivery.Limits{Tenant: 1}, func(*testHub) {}, delivery.ErrFull},
		{"all", delivery.Limits{All: 1}, func(*testHub) {}, delivery.ErrFull},
		{"draining", delivery.Limits{}, func(h *testHub) { h.streams.Refuse() }, delivery.ErrDraining},
	} {
		t.Run(c.name, func(t *testing.T) {
			is := is.New(t)
			h := newCluster(t, 2, theBroker(t), openDoor(t), access.RatesConfig{}, defaultPresence, func(hub *HubConfig, _ *PresenceConfig) { hub.Most = c.most })
			here, there := h.nodes[0], h.nodes[1]
			observer := newTold(here.observer())
			here.streams.Observe(observer)
			watcher := there.open(t, "tenant=acme&profile=they")
			here.open(t, "tenant=acme&profile=me")
			watcher.until(t, "presence.online") // of themselves
			watcher.until(t, "presence.online") // of me
			c.refuse(here)
			for range 3 {
				for _, profile := range []event.Profile{me, you} {
					_, err := here.streams.Connect(t.Context(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: profile})
					is.True(errors.Is(err, c.err)) // refused
				}
			}
			here.peers.Tell("acme", cluster.SessionChange{Session: here.Cluster.Sessions("acme")[0]}) // told after all that was told before
			online := func(h *testHub) (list []presence.Status) {
				for _, p := range h.people.Of("acme", []event.Profile{me, you, they}) {
					list = append(list, p.Status)
				}
				return list
			}
			is.Equal(online(here), []presence.Status{presence.Online, presence.Offline, presence.Online})
			here.settle(t)
			is.Equal(online(there), []presence.Status{presence.Online, presence.Offline, presence.Online})
			observer.mu.Lock()
			defer observer.mu.Unlock()
			is.Equal(observer.came, map[event.Profile]int{me: 1})
			is.Equal(len(observer.went), 0)
		})
	}
}

// So while the log cannot be asked.
func TestAStreamWithoutItsLogIsNotOnline(t *testing.T) {
	alone(t, "it breaks one hub's log")
	is := is.New(t)
	log := newBrokenLog()
	h := newTestHub(t, defaultPresence, func(hub *HubConfig, _ *PresenceConfig) { hub.Log = log })
	observer := newTold(h.observer())
	h.streams.Observe(observer)
	you := event.Profile{Type: "user", ID: "you"}
	for range 3 {
		_, err := h.streams.Connect(t.Context(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: you})
		is.True(errors.Is(err, history.ErrNotStored))
	}
	is.Equal(h.people.Of("acme", []event.Profile{you})[0].Status, presence.Offline)
	is.Equal(len(observer.came), 0)
	is.Equal(h.Stats().Tenants, 0) // nor is there a tenant
}

// Of many that come at once no more are taken than may be, each is told of once, and
// who is replaced went after it came.
func TestManyComeAtOnce(t *testing.T) {
	alone(t, "it counts one hub's")
	for _, c := range []struct {
		name  string
		most  delivery.Limits
		taken int // of 64
	}{{"tenant", delivery.Limits{Tenant: 5}, 5}, {"all", delivery.Limits{All: 7}, 7}, {"profile", delivery.Limits{Tenant: 64, Profile: 1}, 64}} {
		t.Run(c.name, func(t *testing.T) {
			is := is.New(t)
			h := newTestHub(t, defaultPresence, func(hub *HubConfig, _ *PresenceConfig) { hub.Most = c.most })
			observer := newTold(h.observer())
			h.streams.Observe(observer)
			me := event.Profile{Type: "user", ID: "me"}
			var wg sync.WaitGroup
			results := make(chan error, 64)
			for range 64 {
				wg.Go(func() {
					_, err := h.streams.Connect(t.Context(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: me})
					results <- err
				})
			}
			wg.Wait()
			close(results)
			taken := 0
			for err := range results {
				if err == nil {
					taken++
				} else {
					is.True(errors.Is(err, delivery.ErrFull))
				}
			}
			is.Equal(taken, c.taken)
			is.Equal(observer.came[me], taken)
			open := h.streams.Connections("acme", nil)
			is.Equal(observer.went[me], taken-len(open))
			is.True(c.most.Profile == 0 || len(open) == 1)
			is.Equal(h.people.Of("acme", []event.Profile{me})[0].Status, presence.Online)
			for _, conn := range open { // nobody serves them
				h.streams.Kick(conn, delivery.CloseKicked)
			}
			is.Equal(observer.went[me], taken)
			is.Equal(h.Stats().Tenants, 0)
		})
	}
}

// meddler tries to end a connection as soon as an observer is told of it.
type meddler struct {
	delivery.Observer
	kick func(*delivery.Connection) bool
	was  chan bool // a value for each that came
}

func (x *meddler) Connected(c *delivery.Connection) {
	x.Observer.Connected(c)
	x.was <- x.kick(c)
}

// A connection that is admitted but not in its tenant yet cannot be taken out of it:
// it is live afterwards, and is ended like any other.
func TestNobodyEndsWhoIsNotThereYet(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t, defaultPresence)
	for _, node := range h.nodes {
		x := &meddler{node.observer(), func(c *delivery.Connection) bool { return node.streams.Kick(c, delivery.CloseKicked) }, make(chan bool, 2)}
		node.streams.Observe(x)
		c := node.open(t, "tenant=acme&profile=me")
		is.Equal(<-x.was, false) // nothing was there to end
		is.Equal(len(x.was), 0)
		node.settle(t) // or one that polls is not told
		there := node.streams.Connection(c.ConnectionID)
		is.True(there != nil)
		is.Equal(node.streams.Kick(there, delivery.CloseKicked), true)
		is.Equal(node.streams.Kick(there, delivery.CloseKicked), false)
		is.True(node.streams.Connection(c.ConnectionID) == nil)
		c.until(t, "hub.closing")
	}
}
