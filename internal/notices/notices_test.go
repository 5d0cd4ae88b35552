package notices

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/outbox"
	"realtimehub/internal/quota"
)

// box is an outbox that can be away.
type box struct {
	*outbox.Memory
	away bool // changed while nobody puts
}

func (b *box) Put(ctx context.Context, tenant, key string, drafts []outbox.Draft) error {
	if b.away {
		return errors.New("away")
	}
	return b.Memory.Put(ctx, tenant, key, drafts)
}

// statuses are what a box was told of a tenant's presence, in order.
func (b *box) statuses(t *testing.T, tenant string) string {
	t.Helper()
	page, err := b.Read(t.Context(), tenant, outbox.Query{Limit: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, item := range page.Items {
		_, text, _ := strings.Cut(string(item.Data), `"id":"`)
		who, text, _ := strings.Cut(text, `"`)
		_, text, _ = strings.Cut(text, `"status":"`)
		status, _, _ := strings.Cut(text, `"`)
		words = append(words, who+" "+status)
	}
	return strings.Join(words, ", ")
}

func inBubble(t *testing.T, state *quota.Pool[string], test func(t *testing.T, n *Notices, b *box)) {
	synctest.Test(t, func(t *testing.T) {
		b := &box{Memory: outbox.NewMemory(outbox.MemoryConfig{})}
		n := New(Config{Types: []outbox.Type{outbox.TypePresence, outbox.TypeDisconnected}, Box: b, State: state, Logger: slog.New(slog.DiscardHandler)})
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go n.Run(ctx)
		test(t, n, b)
	})
}

func user(n int) event.Profile { return event.Profile{Type: "user", ID: fmt.Sprint("u", n)} }

// Nothing is for whom nobody asks, and nil takes all calls that may come then.
func TestNothingIsAskedFor(t *testing.T) {
	is := is.New(t)
	n := New(Config{Types: []outbox.Type{outbox.TypeUndelivered}})
	is.True(n == nil)
	is.True(!n.Tells(outbox.TypePresence))
	n.Run(t.Context())
	n.Flush(t.Context())
	is.Equal(n.Stats(), Stats{})
}

// What another hub tells is told here when that one is gone, and not when it was told long ago.
func TestAStandbyTells(t *testing.T) {
	state := quota.New[string](1<<20, 1)
	inBubble(t, state, func(t *testing.T, n *Notices, b *box) {
		is := is.New(t)
		n.Foremost(time.Now(), false)
		n.Presence("acme", user(1), "online", time.Now())
		time.Sleep(standbyTime)
		n.Presence("acme", user(2), "online", time.Now())
		n.Presence("acme", user(2), "away", time.Now())
		time.Sleep(time.Second)
		n.Foremost(time.Now(), false)
		is.Equal(b.statuses(t, "acme"), "")
		n.Foremost(time.Now(), true)
		synctest.Wait()
		is.Equal(b.statuses(t, "acme"), "u2 away")
		n.Foremost(time.Now(), true)
		synctest.Wait()
		is.Equal(b.statuses(t, "acme"), "u2 away") // once
		is.Equal(state.Total(), int64(0))
	})
}

// Of a hub that is gone one tells all of its connections, however many close at once, and whoever
// tells once that one is gone too.
func TestAStandbyTellsWhoIsGone(t *testing.T) {
	const many = 5 * mostSteps
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		box := outbox.NewMemory(outbox.MemoryConfig{})
		n := New(Config{Types: []outbox.Type{outbox.TypeDisconnected}, Box: box, State: quota.New[string](64<<20, 1), Logger: slog.New(slog.DiscardHandler)})
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go n.Run(ctx)
		told := func() int {
			synctest.Wait()
			page, err := box.Read(t.Context(), "acme", outbox.Query{Limit: 1 << 20})
			is.NoErr(err)
			return len(page.Items)
		}
		gone := func() {
			for i := range many {
				n.Gone("acme", Connection{ID: fmt.Sprint(i), Profile: user(i)})
			}
		}
		n.Foremost(time.Now(), false)
		gone()
		is.Equal(told(), 0) // another tells
		n.Foremost(time.Now(), true)
		is.Equal(told(), many)
		gone()
		n.Foremost(time.Now(), true)
		is.Equal(told(), 2*many)
		is.Equal(n.Stats(), Stats{})
	})
}

// Of somebody of whom this hub has still to tell something it tells the latest, also if that is
// another's to tell: else what is put later would be older.
func TestWhatWaitsIsTheLatest(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, n *Notices, b *box) {
		is := is.New(t)
		b.away = true
		n.Presence("acme", user(1), "online", time.Now())
		synctest.Wait() // it is being put, and comes to nothing
		n.Foremost(time.Now(), false)
		n.Presence("acme", user(1), "away", time.Now())
		n.Presence("acme", user(1), "offline", time.Now())
		n.Presence("acme", user(2), "online", time.Now())
		synctest.Wait()
		is.Equal(n.Stats().Waiting, 2)
		b.away = false
		n.Flush(t.Context())
		is.Equal(b.statuses(t, "acme"), "u1 online, u1 offline")
	})
}

// What waits is bounded, for one tenant and for all; what was taken is given back.
func TestWhatWaitsIsBounded(t *testing.T) {
	state := quota.New[string](1<<20, 1)
	inBubble(t, state, func(t *testing.T, n *Notices, b *box) {
		is := is.New(t)
		b.away = true
		for i := range 5000 {
			n.Presence("acme", user(i), "online", time.Now())
		}
		is.True(state.Total() <= 1<<20)
		stats := n.Stats()
		is.True(stats.Waiting > 500)
		is.Equal(stats.Waiting+int(stats.Dropped), 5000)
		n.Presence("other", user(1), "online", time.Now())
		is.Equal(n.Stats().Waiting, stats.Waiting+1) // another tenant's share is its own
		n.Foremost(time.Now(), false)
		for i := range 5000 {
			n.Presence("more", user(i), "online", time.Now())
		}
		is.True(state.Total() <= 1<<20)
		synctest.Wait() // nothing is being put
		b.away = false
		n.Flush(t.Context())
		time.Sleep(standbyTime + time.Second)
		n.Foremost(time.Now(), false)
		is.Equal(state.Total(), int64(0))
		is.Equal(n.tenants.Len(), 0)
	})
}

// A tenant of which too much happens takes no other tenant's place, while another hub tells of both.
func TestAStandbyOfATenantIsItsOwn(t *testing.T) {
	inBubble(t, quota.New[string](1<<20, 1), func(t *testing.T, n *Notices, b *box) {
		is := is.New(t)
		n.Foremost(time.Now(), false)
		n.Presence("acme", user(1), "online", time.Now())
		for i := range 5000 {
			n.Presence("greedy", user(i), "online", time.Now())
		}
		n.Foremost(time.Now(), true)
		synctest.Wait()
		is.Equal(b.statuses(t, "acme"), "u1 online")
		latest := b.statuses(t, "greedy")
		is.True(strings.HasSuffix(latest, "u4999 online"))
		is.True(strings.Count(latest, "online") > 500)
	})
}

// What another hub has left is taken over by pieces, between which others have the lock; what comes meanwhile
// is told after it.
func TestAStandbyTakesOverByPieces(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, n *Notices, b *box) {
		is := is.New(t)
		n.Foremost(time.Now(), false)
		const people = 2*takeAtOnce + 10
		for i := range people {
			n.Presence("acme", user(i), "online", time.Now())
		}
		n.ours, b.away = true, true // so that all that was taken over waits
		is.True(n.takeOver())
		is.Equal(n.Stats().Waiting, takeAtOnce)
		n.Presence("acme", user(people-1), "offline", time.Now())
		for n.takeOver() {
		}
		n.Presence("acme", user(people), "online", time.Now())
		synctest.Wait()
		b.away = false
		n.Flush(t.Context())
		told := b.statuses(t, "acme")
		is.Equal(strings.Count(told, "online"), people)
		is.True(strings.HasSuffix(told, fmt.Sprintf("u%d offline, u%d online", people-1, people)))
	})
}

// What comes while another hub's is taken over is told after that, and once, also of somebody of whom
// something is put meanwhile.
func TestWhatComesWhileAStandbyTakesOverIsInOrder(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, n *Notices, b *box) {
		is := is.New(t)
		n.Foremost(time.Now(), false)
		for _, status := range []string{"online", "away"} { // of two pieces
			for i := range takeAtOnce {
				n.Presence("acme", user(i), status, time.Now())
			}
		}
		n.ours, b.away = true, true
		is.True(n.takeOver())
		synctest.Wait() // it is being put, and comes to nothing
		n.Presence("acme", user(0), "offline", time.Now())
		for n.takeOver() {
		}
		synctest.Wait()
		b.away = false
		n.Flush(t.Context())
		var told []string
		for status := range strings.SplitSeq(b.statuses(t, "acme"), ", ") {
			if of, is := strings.CutPrefix(status, "u0 "); is {
				told = append(told, of)
			}
		}
		is.Equal(told, []string{"online", "offline"}) // of what waits together the latest is told
	})
}

// What has no room while another hub's is taken over is counted: nobody else tells it.
func TestWhatHasNoRoomWhileAStandbyTakesOverIsCounted(t *testing.T) {
	inBubble(t, quota.New[string](2<<20, 1), func(t *testing.T, n *Notices, b *box) {
		is := is.New(t)
		n.Foremost(time.Now(), false)
		for i := range 5000 {
			n.Presence("acme", user(i), "online", time.Now())
		}
		stand := len(n.standby.Get("acme").list)
		is.True(stand > takeAtOnce)
		n.ours, b.away = true, true
		is.True(n.takeOver())
		const more = 100
		for i := range more {
			n.Presence("acme", user(5000+i), "online", time.Now())
		}
		for n.takeOver() {
		}
		stats := n.Stats()
		is.True(stats.Dropped > 0)
		is.Equal(stats.Waiting+int(stats.Dropped), stand+more)
		synctest.Wait()
		b.away = false
		n.Flush(t.Context())
	})
}

// A connection whose hub is gone, and that has no room behind what is taken over, is counted as well.
func TestWhoIsGoneAndHasNoRoomIsCounted(t *testing.T) {
	inBubble(t, quota.New[string](2<<20, 1), func(t *testing.T, n *Notices, b *box) {
		is := is.New(t)
		n.Foremost(time.Now(), false)
		n.Gone("acme", Connection{ID: "one"})
		n.ours = true
		n.Gone("acme", Connection{ID: "two", Metadata: map[string]string{"large": strings.Repeat("x", 3<<20)}})
		is.Equal(n.Stats().Dropped, int64(2)) // with what had to go for it
	})
}

// A piece of what another hub has left is of as many tenants as have it, however little each has.
func TestAStandbyOfManyTenantsIsTakenOverTogether(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, n *Notices, b *box) {
		is := is.New(t)
		n.Foremost(time.Now(), false)
		const tenants = 2*takeAtOnce + 10
		for i := range tenants {
			n.Presence(fmt.Sprint("t", i), user(1), "online", time.Now())
		}
		n.ours, b.away = true, true // so that all that was taken over waits
		is.True(n.takeOver())
		is.Equal(n.Stats().Waiting, takeAtOnce)
		for n.takeOver() {
		}
		is.Equal(n.Stats().Waiting, tenants)
		synctest.Wait()
		b.away = false
		n.Flush(t.Context())
	})
}

// Flush gives up when nobody waits for it any more.
func TestFlushGivesUp(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, n *Notices, b *box) {
		is := is.New(t)
		b.away = true
		n.Presence("acme", user(1), "online", time.Now())
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		n.Flush(ctx)
		is.Equal(n.Stats().Waiting, 1)
	})
}
