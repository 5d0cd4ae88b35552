package delivery

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/sse"
)

// modelEvent is an event as the model of TestExpired knows it.
type modelEvent struct {
	place   uint64
	target  event.Target
	members []event.Profile // of its room, when it was published
}

// historyModel is all that was ever published to a tenant, and who belongs where.
type historyModel struct {
	events  []modelEvent
	members map[event.Room][]event.Profile
	cursors map[event.Profile][]history.Cursor // that a client of it may have
}

// misses says whether anything for a profile after a place is among what has gone.
func (h *historyModel) misses(p event.Profile, after, from uint64) bool {
	return slices.ContainsFunc(h.events, func(e modelEvent) bool {
		room, ok := e.target.Room()
		switch {
		case e.place <= after || e.place > from:
			return false
		case e.target.Kind == event.KindTenant:
			return true
		case !ok:
			return slices.Contains(e.target.Profiles, p)
		}
		return slices.Contains(e.members, p) && slices.Contains(h.members[room], p)
	})
}

// A cursor is complete only where nothing for its profile has gone, however and
// whenever it went; and it is complete there, whatever others have lost, unless
// somebody left a room or too much was forgotten.
func TestExpiredIsExact(t *testing.T) {
	for _, c := range []struct {
		name   string
		limits history.Limits
		leaves bool
		sweeps bool // tenants without a stream are forgotten
		exact  bool
	}{
		{"count", history.Limits{Events: 10}, false, false, true},
		{"bytes", history.Limits{Bytes: 20_000}, false, false, true},
		{"ttl", history.Limits{TTL: time.Minute}, false, false, true},
		{"leaves", history.Limits{Events: 10}, true, false, false},
		{"pruned", history.Limits{Events: 4}, true, true, false},
		{"little is remembered", history.Limits{Bytes: 7000}, true, false, false},
		{"total", history.Limits{Total: 30_000}, true, true, false},
		{"forgotten", history.Limits{TTL: time.Minute, Total: 1 << 20}, true, true, false},
		{"all", history.Limits{Events: 10, Bytes: 12_000, TTL: time.Minute, Total: 40_000}, true, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			complete, expired := 0, 0
			for seed := range uint64(40) {
				synctest.Test(t, func(t *testing.T) {
					a, b := tryExpired(t, rand.New(rand.NewPCG(seed, 1)), c.limits, c.leaves, c.sweeps, c.exact)
					complete, expired = complete+a, expired+b
				})
			}
			t.Logf("%d were complete although others had lost something, %d expired", complete, expired)
			is.New(t).True(expired > 0)
			is.New(t).True(complete > 0)
		})
	}
}

func tryExpired(t *testing.T, random *rand.Rand, limits history.Limits, leaves, sweeps, exact bool) (complete, expired int) {
	is := is.New(t)
	h := newRig(t, func(cfg *Config) { cfg.Log = history.NewMemory(limits) })
	ctx := context.Background()
	models := map[string]*historyModel{}
	for _, tenant := range []string{"a", "b", "c", "d"} {
		acme, err := h.Tenants.openLocked(ctx, tenant) // so that all who join and leave are known from the start
		is.NoErr(err)
		acme.mu.Unlock()
		models[tenant] = &historyModel{members: map[event.Room][]event.Profile{}, cursors: map[event.Profile][]history.Cursor{}}
	}
	pick := func(prefix string) string { return fmt.Sprint(prefix, random.IntN(5)) }
	someone := func() event.Profile { return user(pick("")) }
	for range 400 {
		tenant := []string{"a", "a", "a", "b", "b", "c", "d"}[random.IntN(7)]
		m := models[tenant]
		room := event.Room{Kind: event.KindConversation, ID: pick("r")}
		switch n := random.IntN(100); {
		case n < 45:
			target := event.ToProfile(someone())
			switch random.IntN(8) {
			case 0:
				target = event.ToTenant()
			case 1:
				target = event.ToProfiles(someone(), someone())
			case 2, 3:
				target = event.ToConversation(room.ID)
			}
			h.publish(tenant, target, "1", false)
			e := modelEvent{place: h.head(t, tenant).Seq, target: target}
			if room, ok := target.Room(); ok {
				e.members = slices.Clone(m.members[room])
			}
			if n := len(m.events); n > 0 {
				is.True(e.place > m.events[n-1].place) // none is given twice
			}
			m.events = append(m.events, e)
		case n < 60: // somebody comes to know the place
			p := someone()
			m.cursors[p] = append(m.cursors[p], h.head(t, tenant))
		case n < 68:
			p := someone()
			is.NoErr(h.Members.AddMember(ctx, tenant, room, p))
			if !slices.Contains(m.members[room], p) {
				m.members[room] = append(m.members[room], p)
			}
		case n < 74 && leaves:
			p := someone()
			is.NoErr(h.Members.RemoveMember(ctx, tenant, room, p))
			m.members[room] = slices.DeleteFunc(m.members[room], func(q event.Profile) bool { return q == p })
		case n < 78 && limits.TTL > 0:
			time.Sleep(limits.TTL / 3)
		case n < 82 && sweeps:
			h.sweep(time.Now())
		default:
			p := someone()
			if len(m.cursors[p]) == 0 {
				continue
			}
			cursor := m.cursors[p][random.IntN(len(m.cursors[p]))]
			oldest, err := h.log.Find(ctx, tenant, "", nil)
			is.NoErr(err)
			_, missed, err := h.Streams.locate(ctx, Subscription{Encoding: sse.Encoding{}, Tenant: tenant, Profile: p, Cursor: cursor.String()})
			is.NoErr(err)
			misses := m.misses(p, cursor.Seq, oldest.Seq)
			switch {
			case missed == nil:
				is.True(!misses) // it is never complete when it is not
				if cursor.Seq < oldest.Seq {
					complete++
				}
				h.readsAll(t, tenant, p, cursor, m)
			case exact:
				is.True(misses)
				fallthrough
			default:
				is.True(errors.Is(missed, history.ErrExpired))
				expired++
			}
		}
	}
	return complete, expired
}

// readsAll checks that all that is left for a profile after a cursor is read.
func (r *rig) readsAll(t *testing.T, tenant string, p event.Profile, cursor history.Cursor, m *historyModel) {
	t.Helper()
	is := is.New(t)
	acme, err := r.Tenants.openLocked(t.Context(), tenant)
	is.NoErr(err)
	reader := r.Members.readerLocked(acme, p)
	acme.mu.Unlock()
	page, err := r.log.Read(t.Context(), tenant, history.Query{After: cursor.Seq, Reader: reader})
	is.NoErr(err)
	var got, want []uint64
	for _, e := range page.Entries {
		got = append(got, e.Cursor.Seq)
	}
	for i, e := range m.events {
		one := historyModel{m.events[i : i+1], m.members, nil}
		if e.place > cursor.Seq && one.misses(p, cursor.Seq, page.Next.Seq) {
			want = append(want, e.place)
		}
	}
	is.Equal(got, want)
}

// A tenant that never had an event is forgotten after a while without a stream, and
// comes back to the place where it was, however much others were sent meanwhile: it
// missed nothing, and its cursor does not tell of them.
func TestAForgottenTenantHasMissedNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		limits := testLimits
		limits.TTL = time.Minute
		h := newRig(t, func(cfg *Config) { cfg.Log = history.NewMemory(limits) })
		me := Subscription{Encoding: sse.Encoding{}, Tenant: "quiet", Profile: user("me")}
		resume := func(after history.Cursor) (place history.Cursor, missed error) {
			s := me
			s.Cursor = after.String()
			place, missed, err := h.Streams.locate(t.Context(), s)
			is.NoErr(err)
			return place, missed
		}
		publish := func(tenant, to string) {
			h.publish(tenant, event.ToProfile(user(to)), "1", false)
		}
		forget := func() {
			t.Helper()
			time.Sleep(2 * limits.TTL)
			h.sweep(time.Now())
			is.Equal(h.log.Stats().Tenants, 0)
		}
		start := h.head(t, "quiet")
		for i := range 100 {
			publish(fmt.Sprint("busy-", i), "you")
		}
		forget()
		place, missed := resume(start)
		is.Equal(missed, nil)
		is.Equal(place, start)
		is.Equal(h.head(t, "quiet"), start)

		publish("quiet", "you")
		one := h.head(t, "quiet")
		is.Equal(one.Seq, start.Seq+1)
		forget()
		_, missed = resume(one)
		is.Equal(missed, nil)
		_, missed = resume(start)
		is.True(errors.Is(missed, history.ErrExpired)) // what came after it has gone
		is.Equal(h.head(t, "quiet"), one)
		publish("quiet", "you")
		is.Equal(h.head(t, "quiet").Seq, one.Seq+1) // no place is given twice
	})
}

// Who was in a room, left and came back has missed what was said there the first time,
// once it has gone; also when nobody remembers the first time.
func TestPrunedStaysStillCount(t *testing.T) {
	for _, c := range []struct{ name, prune string }{{"known", ""}, {"pruned", "sweep"}, {"forgotten", "forget"}} {
		t.Run(c.name, func(t *testing.T) {
			is := is.New(t)
			h := newRig(t, keeping(2))
			room, me := event.Room{Kind: event.KindConversation, ID: "r"}, user("me")
			is.NoErr(h.Members.AddMember(t.Context(), "acme", room, me))
			start := h.head(t, "acme")
			h.publish("acme", event.ToConversation("r"), "1", false)
			is.NoErr(h.Members.RemoveMember(t.Context(), "acme", room, me))
			for range 3 {
				h.tell("you", false)
			}
			if c.prune != "" {
				h.sweep(time.Now())
			}
			if c.prune == "forget" {
				h.Tenants.forget("acme")
				is.Equal(h.Tenants.find("acme"), nil)
			}
			s := Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: me, Cursor: start.String()}
			if c.prune != "forget" {
				is.Equal(h.missed(t, s), nil) // who has left may not see it
			}
			is.NoErr(h.Members.AddMember(t.Context(), "acme", room, me))
			is.True(errors.Is(h.missed(t, s), history.ErrExpired))
		})
	}
}
