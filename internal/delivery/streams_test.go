package delivery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/allowance"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/history/historytest"
	"realtimehub/internal/plan"
	"realtimehub/internal/room"
	"realtimehub/internal/sse"
	"realtimehub/internal/testkit"
)

// A flood of streams of a tenant takes turns, so that another's comes in at once; and those
// whose clients leave before their turn are never opened.
func TestStreamsThatAreResetAreNotOpened(t *testing.T) {
	const places, asked = 16, 200
	is := is.New(t)
	h := newRig(t)
	h.Streams.openAtOnce(places)
	is.NoErr(h.Members.AddMember(t.Context(), "acme", inRoom, user("1")))
	busy := h.Tenants.find("acme")
	ctx, reset := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	for range asked {
		flood.Go(func() { h.Streams.Connect(ctx, subscribed("me", "")) })
	}
	testkit.Eventually(t, func() bool { return h.Streams.opening.Waiting("acme") == asked-places/2 })
	h.connect(t, Subscription{Encoding: sse.Encoding{}, Tenant: "well", Profile: user("me")})
	reset()
	testkit.Eventually(t, func() bool { return h.Streams.opening.Waiting("acme") == 0 })
	busy.mu.Unlock()
	flood.Wait()
	is.Equal(h.Streams.opening.Pool().Total(), int64(0))
	opened := int64(0)
	for _, n := range h.Streams.Stats().Connects {
		opened += n
	}
	is.Equal(opened, int64(1+places/2))
}

// Whoever counts streams, or ends them with their tokens, does not have other tenants wait
// for one that is busy.
func TestABusyTenantKeepsNobodyFromNews(t *testing.T) {
	is := is.New(t)
	left := make(chan string, 9)
	h := newRig(t)
	h.Streams.Observe(prolonger(func(c *Connection) { left <- c.Tenant }))
	all := []*Connection{h.connect(t, Subscription{Encoding: sse.Encoding{}, Tenant: "well", Profile: user("me")})}
	var busy []*tenant
	for i := range 8 {
		name := fmt.Sprint("acme-", i)
		all = append(all, h.connect(t, Subscription{Encoding: sse.Encoding{}, Tenant: name, Profile: user("me")}))
		busy = append(busy, h.Tenants.find(name))
	}
	is.True(testkit.InTime(func() { is.Equal(len(h.Tenants.Busiest(10)), 9) }))
	end := time.Now().Add(100 * time.Millisecond)
	slices.Reverse(all) // the busy ones are before it
	for _, c := range all {
		h.Streams.expiry.set(c, end)
	}
	is.Equal(<-left, "well")
	for _, t := range busy {
		t.mu.Unlock()
	}
	for range busy {
		<-left
	}
}

// A drain ends one stream after the other, evenly over its time.
func TestDrainIsSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		h := newRig(t)
		const streams, seconds = 80, 8
		var open []*Connection
		for i := range streams {
			open = append(open, h.connect(t, subscribed(fmt.Sprint(i), "")))
		}
		var drain sync.WaitGroup
		drain.Go(func() { h.Streams.Drain(t.Context(), seconds*time.Second) })
		time.Sleep(time.Millisecond)
		for second := range seconds {
			synctest.Wait()
			ended := 0
			for _, c := range open {
				acme := h.Tenants.find("acme")
				if c.sentAway {
					ended++
				}
				acme.mu.Unlock()
			}
			is.Equal(ended, second*streams/seconds+1)
			time.Sleep(time.Second)
		}
		drain.Wait()
	})
}

// A stream that is the tenant's last, and is closed between an event's delivery and its
// flush, still gets the event and its end.
func TestForgetFlushes(t *testing.T) {
	is := is.New(t)
	h := newRig(t)
	c := h.connect(t, subscribed("me", ""))
	e := historytest.ToAll("1")
	e.Event.Ephemeral = true
	e.Envelope = e.Event.Seal()
	h.Dispatcher.Deliver("acme", []*history.Entry{e})
	h.Streams.Kick(c, CloseKicked)
	is.True(h.Tenants.find("acme") == nil)
	h.Dispatcher.Flush("acme") // too late: the tenant is forgotten
	got := h.read(c)
	is.True(strings.Contains(got, "event: a.b\n"))
	is.True(strings.Index(got, "event: a.b\n") < strings.Index(got, "event: hub.closing\n"))
}

// A filter or watch list past a share is refused, and the stream has what it had.
func TestAdjustPastAShare(t *testing.T) {
	is := is.New(t)
	h := newRig(t, func(cfg *Config) { cfg.Quotas = allowance.New(plan.Memory{State: 64 << 10}) })
	filter, _ := event.ParseFilter([]string{"presence.*"})
	c := h.connect(t, Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: user("me"), Types: filter, Watch: []event.Profile{user("you")}})
	var patterns []string
	var people []event.Profile
	for i := range event.MaxAskedProfiles {
		long := strings.Repeat("x", 100) + fmt.Sprint(i)
		patterns, people = append(patterns, "a."+long), append(people, user(long))
	}
	many, _ := event.ParseFilter(patterns)
	one, _ := event.ParseFilter([]string{"b"})
	has := func() (types *event.Filter, watch []event.Profile) {
		acme := h.Tenants.find("acme")
		defer acme.mu.Unlock()
		return c.filter, c.watchList()
	}
	refused := func(err error) bool {
		return errors.Is(err, allowance.ErrPerson) || errors.Is(err, allowance.ErrTenant)
	}
	for range 2 {
		found, err := h.Streams.Adjust(c, &many, nil)
		is.True(found)
		is.True(refused(err))
		found, err = h.Streams.Adjust(c, &one, &people)
		is.True(found)
		is.True(refused(err))
		types, watch := has()
		is.Equal(types.Patterns(), []string{"presence.*"})
		is.Equal(watch, []event.Profile{user("you")})
	}
	found, err := h.Streams.Adjust(c, &one, &[]event.Profile{user("1"), user("2")})
	is.True(found)
	is.NoErr(err)
	types, watch := has()
	is.Equal(types.Patterns(), []string{"b"})
	is.Equal(watch, []event.Profile{user("1"), user("2")})
}

// stuckSharing does not hear what other hubs know of one tenant.
type stuckSharing struct {
	Sharing
	stuck chan struct{}
}

func (s stuckSharing) Share(ctx context.Context, tenant string) error {
	if tenant == "stuck" {
		<-s.stuck
	}
	return nil
}
func (stuckSharing) Unshare(string) {}

// Nobody waits for what a tenant waits for but who has to do with that tenant, and who
// gives up is let go.
func TestATenantThatWaitsKeepsNobodyElse(t *testing.T) {
	is := is.New(t)
	x := newTenants(history.NewMemory(testLimits), nil, allowance.New(plan.Of(1<<30)))
	sharing := stuckSharing{stuck: make(chan struct{})}
	x.sharing = sharing
	open := func(ctx context.Context, name string) error {
		tenant, err := x.openLocked(ctx, name)
		if err == nil {
			tenant.mu.Unlock()
		}
		return err
	}
	entered := make(chan error)
	go func() { entered <- open(t.Context(), "stuck") }()
	testkit.Eventually(t, func() bool { return x.number() == 1 })
	others := make(chan struct{})
	go func() {
		defer close(others)
		var all sync.WaitGroup
		for n := range 2000 {
			all.Go(func() {
				if err := open(t.Context(), fmt.Sprint("tenant-", n)); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}()
	select {
	case <-others:
	case <-time.After(time.Minute):
		t.Error("tenants wait for another")
		close(sharing.stuck)
		<-others
		<-entered
		return
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	is.True(open(ctx, "stuck") != nil) // who left does not wait
	close(sharing.stuck)
	is.NoErr(<-entered)
	is.NoErr(open(t.Context(), "stuck"))
}

// awayResolver is a membership service that is away.
type awayResolver struct{}

func (awayResolver) Resolve(context.Context, string, event.Room) (*room.Roster, error) {
	return nil, context.DeadlineExceeded
}

// A service that is away fails every call, and the log says so once a second. It is not away for a call that
// was given up.
func TestAServiceThatIsAwayIsLoggedOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		var logs testkit.Buffer
		h := newRig(t, func(cfg *Config) {
			cfg.Resolver, cfg.Logger = awayResolver{}, slog.New(slog.NewTextHandler(&logs, nil))
		})
		left, leave := context.WithCancel(t.Context())
		leave()
		_, err := h.Members.resolve(left, "acme", event.Room{Kind: event.KindConversation, ID: "r"})
		is.True(err != nil)
		is.Equal(logs.String(), "")
		for second := range 3 {
			for i := range 100 {
				_, err := h.Members.resolve(t.Context(), "acme", event.Room{Kind: event.KindConversation, ID: fmt.Sprint("r", i)})
				is.True(err != nil)
			}
			is.Equal(strings.Count(logs.String(), "WARN"), second+1)
			time.Sleep(time.Second)
		}
	})
}
