package delivery

import (
	"context"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/engine"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/sse"
)

// late is a log whose sinks are never flushed: what they broadcast is not heard for that.
type late struct{ history.Log }

func (l late) Follow(s history.Sink) { l.Log.Follow(neverFlushed{s}) }

type neverFlushed struct{ history.Sink }

func (neverFlushed) Flush(string) {}

// Whatever happens to a tenant while its streams hear of something, a piece after the other, each
// stream is sent the same as where all hear of it at once.
func TestBroadcastsAreHeardInOrder(t *testing.T) {
	defer walkPiece.Store(walkPiece.Swap(2))
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			is := is.New(t)
			buffer := func(cfg *Config) { cfg.StreamBuffer = 0 }
			atOnce := &side{rig: newRig(t, buffer)}
			later := &side{rig: newRig(t, buffer, func(cfg *Config) { cfg.Log = late{history.NewMemory(testLimits)} })}
			for _, s := range []*side{atOnce, later} {
				s.joinMany(t, "1", "2")
			}
			w := &world{t: t, random: rand.New(rand.NewPCG(seed, 20))}
			for range 150 {
				happens := w.next()
				happens(atOnce)
				happens(later)
				atOnce.rig.Dispatcher.Flush("acme")
				later.walk(w.random.IntN(3), 1+w.random.IntN(8))
				synctest.Wait()
			}
			later.rig.Dispatcher.Flush("acme")
			is.Equal(len(later.rig.Tenants.byName["acme"].broadcasts.list), 0) // all was heard
			for i := range w.come {
				atOnce.serve(t, i)
				later.serve(t, i)
			}
			synctest.Wait()
			is.Equal(later.rig.Streams.Engine().Stats().Dropped, atOnce.rig.Streams.Engine().Stats().Dropped)
			for i, e := range later.said {
				is.Equal(e.Reached, atOnce.said[i].Reached)
				if to := &e.Event.Target; to.Kind != event.KindProfile && to.Kind != event.KindConnection {
					is.Equal(e.Reached, later.reach[i])
				}
			}
			inOrder, inTurn := atOnce.words(t), later.words(t)
			for i := range w.come {
				want := byChance.ReplaceAllString(inOrder.Replace(atOnce.conns[i].out.String()), "")
				got := byChance.ReplaceAllString(inTurn.Replace(later.conns[i].out.String()), "")
				if got != want {
					t.Fatalf("seed %d: stream %d was sent\n%s\nand not\n%s", seed, i, got, want)
				}
			}
		})
	}
}

// side is one of the rigs to which the same happens.
type side struct {
	rig    *rig
	conns  []*servedHere
	served map[int]bool

	said  []*history.Entry
	reach []int32 // of each how many connections it is for
}

// joinMany has people be in so many rooms that one more is very many (room.Memberships).
func (s *side) joinMany(t *testing.T, people ...string) {
	acme, err := s.rig.Tenants.openLocked(t.Context(), "acme")
	is.New(t).NoErr(err)
	for _, who := range people {
		for i := range 999 {
			acme.rooms.Add(event.Room{Kind: event.KindConversation, ID: fmt.Sprint(i)}, user(who), 0)
		}
	}
	acme.mu.Unlock()
}

// counts how many connections a target has.
func (s *side) counts(to *event.Target) (n int32) {
	excluded := event.ExcludedBy(to)
	acme := s.rig.Tenants.find("acme")
	defer acme.mu.Unlock()
	room, isRoom := to.Room()
	for _, c := range acme.conns {
		if !excluded.Has(c.Profile, c.ID) && (to.Kind == event.KindTenant || isRoom && acme.rooms.Has(room, c.Profile) || slices.Contains(to.Profiles, c.Profile)) {
			n++
		}
	}
	return n
}

// walk goes on with a walk so many times, and lets go what was gathered.
func (s *side) walk(times, streams int) {
	acme := s.rig.Tenants.find("acme")
	for range times {
		acme.walkLocked(streams)
	}
	d := acme.gathered
	acme.gathered = engine.Batch{}
	acme.mu.Unlock()
	d.Flush()
}

// serve begins to write what a stream owes.
func (s *side) serve(t *testing.T, i int) {
	if s.served == nil {
		s.served = map[int]bool{}
	}
	if !s.served[i] {
		s.served[i] = true
		s.rig.serveTo(t, s.conns[i].conn, &s.conns[i].out)
	}
}

// cursor is that of a place.
func (s *side) cursor(t *testing.T, place uint64) string {
	return history.Cursor{Epoch: s.rig.head(t, "acme").Epoch, Seq: place}.String()
}

// byChance is what two sides say differently: how long to wait, and when a place is told alone.
var byChance = regexp.MustCompile(`"retryMs":\d+|retry: ?\d+|(?m)^id: [0-9]+\n\n`)

// words has a stream's bytes told in words that are the same on each side.
func (s *side) words(t *testing.T) *strings.Replacer {
	names := []string{long, "long"}
	for place := range s.rig.head(t, "acme").Seq + 1 {
		names = append(names, s.cursor(t, place), fmt.Sprint(place))
	}
	return strings.NewReplacer(names...)
}

// world makes up what happens to a tenant.
type world struct {
	t      *testing.T
	random *rand.Rand
	come   int    // connections
	stored uint64 // events
	ids    uint64
}

func (w *world) id() (id uuid.UUID) {
	w.ids++
	copy(id[:], fmt.Sprintf("%016d", w.ids))
	return id
}

// typ is one of two types of events.
func (w *world) typ() string { return []string{"a.b", "a.c"}[w.random.IntN(2)] }

// room is one of three.
func (w *world) room() event.Room {
	return event.Room{Kind: event.KindGroup, ID: fmt.Sprint(w.random.IntN(3))}
}

// next is what happens next.
func (w *world) next() func(*side) {
	if w.come < 3 {
		return w.comes()
	}
	i := w.random.IntN(w.come)
	switch w.random.IntN(26) {
	case 0, 1, 2:
		return w.comes()
	case 11, 12:
		room, who := w.room(), user(fmt.Sprint(w.random.IntN(9)))
		return func(s *side) { s.rig.Members.AddMember(w.t.Context(), "acme", room, who) }
	case 13:
		room, who := w.room(), user(fmt.Sprint(w.random.IntN(9)))
		return func(s *side) { s.rig.Members.RemoveMember(w.t.Context(), "acme", room, who) }
	case 3, 4:
		last, n := w.come-1-w.random.IntN(w.come-1), 1+w.random.IntN(5) // the first stays
		return func(s *side) {
			for i := last; i > 0 && i > last-n; i-- {
				s.rig.Streams.Kick(s.conns[i].conn, CloseKicked)
			}
		}
	case 10:
		return func(s *side) {
			acme := s.rig.Tenants.find("acme")
			if c := s.conns[i].conn; i > 0 && !c.removed { // as it is drained
				s.rig.Streams.closeLocked(acme, c, CloseDrain)
			}
			acme.mu.Unlock()
		}
	case 5:
		filter, _ := event.ParseFilter([]string{w.typ()})
		return func(s *side) { s.rig.Streams.Adjust(s.conns[i].conn, &filter, nil) }
	case 6:
		return func(s *side) { s.rig.Streams.Adjust(s.conns[i].conn, nil, &[]event.Profile{}) }
	case 7:
		return func(s *side) {
			acme := s.rig.Tenants.find("acme")
			acme.beatLocked(&acme.gathered, s.conns[i].conn, nil)
			acme.mu.Unlock()
		}
	case 8:
		return func(s *side) { s.serve(w.t, i) }
	case 9:
		e := &event.Event{ID: w.id().String(), TenantID: "acme", Type: w.typ(), Payload: []byte(`"a notice"`), Ephemeral: true}
		return func(s *side) {
			acme := s.rig.Tenants.find("acme")
			acme.notifyLocked(wordOf([]Notice{{s.conns[i].conn.Profile, e}}, nil), false)
			acme.mu.Unlock()
		}
	}
	return w.says(i)
}

// comes is somebody who connects, fresh or from a place.
func (w *world) comes() func(*side) {
	sub := Subscription{ID: w.id(), Encoding: sse.Encoding{}, Tenant: "acme", Profile: user(fmt.Sprint(w.random.IntN(9)))}
	from := uint64(0)
	if w.stored > 0 && w.random.IntN(2) == 0 {
		from = 1 + w.random.Uint64N(w.stored)
	}
	w.come++
	return func(s *side) {
		if from > 0 {
			sub.Cursor = s.cursor(w.t, from)
		}
		s.conns = append(s.conns, &servedHere{conn: s.rig.connect(w.t, sub)})
	}
}

// long is a payload of which few are read of a history at once.
var long = strings.Repeat("x", chunkBytes/4)

// says is an event: to the tenant, but for some of it; to a room; to some people; to the person of a
// connection; or to that alone. What is stored is long, so that it takes several steps to catch up with it.
func (w *world) says(i int) func(*side) {
	e := event.Event{ID: w.id().String(), TenantID: "acme", Type: w.typ(), Timestamp: time.Now(), Payload: []byte(`"short"`)}
	kind, room := w.random.IntN(12), w.room()
	named := make([]event.Profile, 2+w.random.IntN(6))
	for i, who := range w.random.Perm(10)[:len(named)] {
		named[i] = user(fmt.Sprint(who))
	}
	if e.Ephemeral = kind == 0 || w.random.IntN(2) == 0; !e.Ephemeral {
		w.stored++
		e.Payload = []byte(`"` + long + `"`)
	}
	return func(s *side) {
		e, c := e, s.conns[i].conn
		switch e.Target = event.ToTenant(); kind {
		case 0:
			e.Target = event.ToConnection(c.ID.String())
		case 1, 2:
			e.Target = event.ToProfile(c.Profile)
		case 10, 11:
			e.Target = event.ToProfiles(named...)
		case 5, 6, 7:
			e.Target = event.ToGroup(room.ID)
			if kind == 7 {
				e.Target.ExcludeProfiles = []event.Profile{user("1")}
				e.Target.ExcludeConnections = []uuid.UUID{c.ID, s.conns[0].conn.ID}
			}
		case 3:
			e.Target.ExcludeProfiles = []event.Profile{c.Profile, user("nobody")}
		case 4:
			e.Target.ExcludeProfiles = []event.Profile{user("1"), user("2")}
			e.Target.ExcludeConnections = []uuid.UUID{c.ID, s.conns[0].conn.ID, uuid.Max, {}}
		}
		entry := &history.Entry{Event: &e, Envelope: e.Seal()}
		s.said = append(s.said, entry)
		reach := s.counts(&e.Target)
		if kind := e.Target.Kind; kind == event.KindTenant || kind == event.KindGroup {
			is.New(w.t).Equal(int32(s.rig.Streams.CountHere(&e)), reach) // as another hub asks
		}
		s.reach = append(s.reach, reach)
		s.rig.log.Append(context.Background(), []*history.Entry{entry})
	}
}
