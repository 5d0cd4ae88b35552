package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/presence"
	"realtimehub/internal/room"
	"realtimehub/internal/settings"
	"realtimehub/internal/sse"
	"realtimehub/internal/typing"
)

var (
	alice = event.Profile{Type: "user", ID: "alice"}
	bob   = event.Profile{Type: "user", ID: "bob"}
	carol = event.Profile{Type: "user", ID: "carol"}
	talk  = event.Room{Kind: event.KindConversation, ID: "talk"}
)

// presenceWorld is a hub in a bubble, where time is the test's own.
type presenceWorld struct {
	*Hub
	t *testing.T
}

// inBubble runs test with tick 1 s, grace 5 s, idle 5 m, typing 6 s, burst 3.
func inBubble(t *testing.T, audience settings.Audience, test func(w presenceWorld, is *is.I)) {
	synctest.Test(t, func(t *testing.T) {
		hub := NewHub(HubConfig{Retry: time.Second, Log: history.NewMemory(testLimits), Resolver: room.Own{}, Logger: slog.New(slog.DiscardHandler)}, PresenceConfig{
			IdleTimeout: 5 * time.Minute, Tick: time.Second, Grace: 5 * time.Second,
			TypingTTL: 6 * time.Second, Audience: audience, Burst: 3,
		}, nil, Reporting{})
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go hub.presence.Run(ctx)
		defer hub.streams.Engine().Close(ctx)
		test(presenceWorld{hub, t}, is.New(t))
	})
}

func (w presenceWorld) connect(ref event.Profile, watch ...event.Profile) *delivery.Connection {
	w.t.Helper()
	c, err := w.streams.Connect(context.Background(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: ref, Watch: watch})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w presenceWorld) Touch(c *delivery.Connection) { w.people.Touch(c, time.Now()) }

func (w presenceWorld) wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (w presenceWorld) status(ref event.Profile) presence.Status {
	return w.people.Of("acme", []event.Profile{ref})[0].Status
}

// read ends c and returns what it was sent, as "type who previous>status".
func (w presenceWorld) read(c *delivery.Connection) string {
	w.t.Helper()
	c.Stream.Close(w.streams.Encoder(sse.Encoding{}).Closing(delivery.CloseKicked, 0))
	rec := httptest.NewRecorder()
	w.streams.Engine().Serve(rec, httptest.NewRequest("GET", "/", nil), c.Stream)
	var words []string
	for reader := newStreamReader(w.t, rec.Body); ; {
		ev, err := reader.Next()
		if err != nil {
			return strings.Join(words, ", ")
		}
		if strings.HasPrefix(ev.Type, "hub.") {
			continue
		}
		var e struct {
			Payload struct {
				Profile          event.Profile
				Status, Previous string
				Changed, Online  *int
			}
		}
		if err := json.Unmarshal([]byte(ev.Data), &e); err != nil {
			w.t.Fatal(err)
		}
		word := ev.Type + " " + e.Payload.Profile.ID
		if e.Payload.Status != "" {
			word += " " + e.Payload.Previous + ">" + e.Payload.Status
		}
		if e.Payload.Changed != nil {
			word = fmt.Sprintf("%s %d %t", ev.Type, *e.Payload.Changed, e.Payload.Online != nil)
		}
		words = append(words, word)
	}
}

func TestPresenceOnlineThenOfflineAfterGrace(t *testing.T) {
	inBubble(t, settings.AudienceTenant, func(w presenceWorld, is *is.I) {
		seer := w.connect(bob, alice)
		is.Equal(w.status(alice), presence.Offline)
		c := w.connect(alice)
		is.Equal(w.status(alice), presence.Online) // the first connection
		w.wait(1500 * time.Millisecond)
		w.streams.Kick(c, delivery.CloseKicked)
		w.wait(4 * time.Second)
		is.Equal(w.status(alice), presence.Online) // within the grace
		w.wait(2 * time.Second)
		is.Equal(w.status(alice), presence.Offline) // past it
		is.Equal(w.read(seer), "presence.online alice offline>online, presence.offline alice online>offline")
	})
}

func TestPageReloadIsNoEvent(t *testing.T) {
	inBubble(t, settings.AudienceTenant, func(w presenceWorld, is *is.I) {
		c := w.connect(alice)
		w.wait(1500 * time.Millisecond)
		seer := w.connect(bob, alice)
		w.streams.Kick(c, delivery.CloseKicked)
		w.wait(3 * time.Second)
		w.connect(alice)
		w.wait(20 * time.Second)
		is.Equal(w.status(alice), presence.Online)
		is.Equal(w.read(seer), "")
	})
}

func TestIdleAwayAndTouchOnline(t *testing.T) {
	inBubble(t, settings.AudienceTenant, func(w presenceWorld, is *is.I) {
		one, two := w.connect(alice), w.connect(alice)
		w.wait(1500 * time.Millisecond)
		seer := w.connect(bob, alice)
		w.wait(4 * time.Minute)
		w.Touch(two)
		w.wait(2 * time.Minute)
		is.Equal(w.status(alice), presence.Online) // one of several is active
		w.wait(4 * time.Minute)
		is.Equal(w.status(alice), presence.Away) // all are idle
		w.Touch(one)
		is.Equal(w.status(alice), presence.Online)
		w.wait(2 * time.Second)
		is.Equal(w.read(seer), "presence.away alice online>away, presence.online alice away>online")
	})
}

func TestFlapSendsNothing(t *testing.T) {
	inBubble(t, settings.AudienceTenant, func(w presenceWorld, is *is.I) {
		w.wait(500 * time.Millisecond)
		c, extra := w.connect(alice), w.connect(alice)
		w.wait(1500 * time.Millisecond)
		seer := w.connect(bob, alice)
		w.wait(5*time.Minute - 1400*time.Millisecond) // alice is idle, since the last tick
		w.streams.Kick(extra, delivery.CloseKicked)   // and looked at
		is.Equal(w.status(alice), presence.Away)
		w.Touch(c)
		w.wait(3 * time.Second)
		is.Equal(w.read(seer), "") // away and back within one tick
	})
}

func TestDigestPastBurst(t *testing.T) {
	for audience, digest := range map[settings.Audience]string{
		settings.AudienceTenant: "presence.digest 4 true", settings.AudienceShared: "presence.digest 4 false",
	} {
		t.Run(string(audience), func(t *testing.T) {
			inBubble(t, audience, func(w presenceWorld, is *is.I) {
				is.NoErr(untilConfirmed(func() error {
					return w.members.SetMembers(context.Background(), "acme", talk, []event.Profile{bob, carol, alice})
				}))
				seer, watcher := w.connect(bob), w.connect(carol, alice)
				w.connect(alice)
				w.connect(event.Profile{Type: "user", ID: "dave"})
				w.wait(1500 * time.Millisecond)
				is.Equal(w.read(seer), digest)
				is.Equal(w.read(watcher), "presence.online alice offline>online") // one by one even then
			})
		})
	}
}

// What changes while a tenant is busy is told as that of one tick, however many ticks pass: the
// latest of each person, and nothing of who is again what they were.
func TestWhatChangesWhileATenantIsBusy(t *testing.T) {
	inBubble(t, settings.AudienceTenant, func(w presenceWorld, is *is.I) {
		var told []string
		busy := make(chan struct{})
		w.presence.announcer.notify = func(_ string, notices []delivery.Notice, digest *event.Event, _ bool) {
			var words []string
			for _, n := range notices {
				words = append(words, n.About.ID+" "+n.Event.Type)
			}
			if digest != nil {
				words = append(words, digest.Type)
			}
			told = append(told, strings.Join(words, ", "))
			<-busy
		}
		w.connect(alice)
		w.wait(time.Second)
		for range 10 { // back, and gone again after its grace
			c := w.connect(bob)
			w.wait(2 * time.Second)
			w.streams.Kick(c, delivery.CloseKicked)
			w.wait(8 * time.Second)
		}
		w.connect(carol)
		w.wait(time.Second)
		is.Equal(told, []string{"alice presence.online"})
		close(busy)
		w.wait(time.Second)
		is.Equal(told[1:], []string{"carol presence.online"})
	})
}

func TestPresenceAudience(t *testing.T) {
	for audience, want := range map[settings.Audience][2]string{
		settings.AudienceTenant: {"presence.online alice offline>online", "presence.online alice offline>online"},
		settings.AudienceShared: {"presence.online alice offline>online", ""},
		settings.AudienceNone:   {"", ""},
	} {
		t.Run(string(audience), func(t *testing.T) {
			inBubble(t, audience, func(w presenceWorld, is *is.I) {
				is.NoErr(untilConfirmed(func() error {
					return w.members.SetMembers(context.Background(), "acme", talk, []event.Profile{bob, alice})
				}))
				friend, stranger := w.connect(bob), w.connect(carol)
				blind, err := w.streams.Connect(context.Background(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: bob, Watch: []event.Profile{}})
				is.NoErr(err)
				w.wait(1500 * time.Millisecond)
				before := []*delivery.Connection{w.connect(bob), w.connect(carol)}
				w.connect(alice)
				w.wait(2 * time.Second)
				is.Equal(w.read(before[0]), want[0])
				is.Equal(w.read(before[1]), want[1])
				is.Equal(w.read(blind), "") // an empty watch list: nobody
				seen := func(viewer event.Profile) bool {
					return w.presence.Visible("acme", viewer, []event.Profile{alice})[0].Status == presence.Online
				}
				is.Equal(seen(bob), want[0] != "")
				is.Equal(seen(carol), want[1] != "")
				is.True(friend != stranger)
			})
		})
	}
}

func TestTyping(t *testing.T) {
	start := func(w presenceWorld, ref event.Profile, started bool) error {
		return w.typists.Typing(context.Background(), "acme", ref, "talk", started)
	}
	inBubble(t, settings.AudienceNone, func(w presenceWorld, is *is.I) {
		is.NoErr(untilConfirmed(func() error {
			return w.members.SetMembers(context.Background(), "acme", talk, []event.Profile{alice, bob})
		}))
		own, other, stranger := w.connect(alice), w.connect(bob), w.connect(carol)
		is.True(errors.Is(start(w, carol, true), typing.ErrNotMember))
		w.wait(6 * time.Minute)
		is.Equal(w.status(alice), presence.Away)
		is.NoErr(start(w, alice, true))
		is.Equal(w.status(alice), presence.Online) // typing is activity
		w.wait(5 * time.Second)
		is.NoErr(start(w, alice, true)) // refreshes, and is not told again
		w.wait(5 * time.Second)
		w.wait(3 * time.Second) // the TTL is over
		is.Equal(w.read(other), "typing.started alice, typing.stopped alice")
		is.Equal(w.read(own), "") // no echo
		is.Equal(w.read(stranger), "")
	})
	t.Run("stops when offline", func(t *testing.T) {
		inBubble(t, settings.AudienceNone, func(w presenceWorld, is *is.I) {
			is.NoErr(untilConfirmed(func() error {
				return w.members.SetMembers(context.Background(), "acme", talk, []event.Profile{alice, bob})
			}))
			c, other := w.connect(alice), w.connect(bob)
			w.streams.Kick(c, delivery.CloseKicked)
			w.wait(4 * time.Second)
			is.NoErr(start(w, alice, true)) // its TTL ends at 10 s, the grace at 5 s
			w.wait(3 * time.Second)
			is.Equal(w.read(other), "typing.started alice, typing.stopped alice")
		})
	})
}

func TestPresenceOfManyInTheOrderAsked(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t, func(_ *HubConfig, p *PresenceConfig) { p.Audience = settings.AudienceTenant })
	h.open(t, "tenant=acme&profile=user:1")
	h.open(t, "tenant=acme&profile=bot:2")
	for _, path := range []string{"/v1/presence?tenant=acme&", "/v1/tenants/acme/presence?"} {
		status, body := h.do(t, "GET", path+"profile=bot:2&profile=user:9&profile=1", "")
		is.Equal(status, 200)
		var got []string
		for _, each := range body["profiles"].([]any) {
			one := each.(map[string]any)
			got = append(got, one["profile"].(map[string]any)["id"].(string)+" "+one["status"].(string))
			is.Equal(one["lastActiveAt"] == nil, one["status"] == "offline") // never seen
		}
		is.Equal(got, []string{"2 online", "9 offline", "1 online"})
		_, all := h.do(t, "GET", path, "")
		for query, want := range map[string]int{"profile=": len(all["profiles"].([]any)), "profile=&profile=9&profile=": 1} { // an empty one counts as absent
			status, body := h.do(t, "GET", path+query, "")
			is.Equal(status, 200)
			is.Equal(len(body["profiles"].([]any)), want)
		}
	}
}

// Of those whose streams were closed since the history has a gap, who comes back stays online, and
// who does not goes offline: this hub stays, though it knows no other.
func TestWhoIsSentAwayByAHubThatStaysGoesOffline(t *testing.T) {
	inBubble(t, settings.AudienceNone, func(w presenceWorld, is *is.I) {
		sent := []*delivery.Connection{w.connect(alice), w.connect(bob)}
		w.dispatcher.Lost("acme", history.Cursor{Seq: 9})
		for _, c := range sent {
			w.streams.Engine().Serve(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil), c.Stream)
		}
		is.Equal(w.tenants.Open("acme"), 0)
		w.connect(bob)
		is.Equal(w.status(alice), presence.Online) // it may be back
		w.wait(2*time.Second + 5*time.Second + time.Second)
		is.Equal(w.status(alice), presence.Offline)
		is.Equal(w.status(bob), presence.Online)
	})
}
