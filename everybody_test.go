package main

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/allowance"
	"realtimehub/internal/cluster"
	"realtimehub/internal/cluster/clustertest"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/outbox"
	"realtimehub/internal/plan"
	"realtimehub/internal/presence"
	"realtimehub/internal/room"
	"realtimehub/internal/settings"
)

// Whatever people do, on this hub and on others, and when a hub goes: who is online, away and offline, who
// is told of it, which rooms are occupied, how many connections an event has and who shares a room is what
// follows by the plain rules.
func TestEverybodyIsWhatThePlainRulesSay(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newEverybody(t, seed).live(150) })
		})
	}
}

// everybody is a hub of several, and beside it what is so of its people.
type everybody struct {
	presenceWorld
	is     *is.I
	random *rand.Rand
	peers  *clustertest.Peers
	box    outbox.Box
	place  uint64    // up to which services have read it
	next   time.Time // when a tick is due
	seer   *delivery.Connection

	village *village
	conns   map[uuid.UUID]*delivery.Connection
	words   map[string][]string // that were announced, by person

	opened, closed int // connections that services are told of
}

var otherMarks = [][4]byte{{1}, {2}}

func newEverybody(t *testing.T, seed uint64) *everybody {
	e := &everybody{
		is: is.New(t), random: rand.New(rand.NewPCG(seed, 21)), peers: &clustertest.Peers{}, box: outbox.NewMemory(outbox.MemoryConfig{}),
		village: &village{rooms: map[event.Room]map[event.Profile]bool{}, told: map[event.Room]bool{}},
		conns:   map[uuid.UUID]*delivery.Connection{}, words: map[string][]string{},
	}
	e.peers.Set(otherMarks, nil)
	types := []outbox.Type{outbox.TypePresence, outbox.TypeGroupOccupied, outbox.TypeGroupVacated, outbox.TypeConnected, outbox.TypeDisconnected}
	hub := NewHub(
		HubConfig{Retry: villageBack / 2, Log: history.NewMemory(testLimits), Resolver: room.Own{}, Logger: slog.New(slog.DiscardHandler), Quotas: allowance.New(plan.Of(1 << 30))},
		PresenceConfig{IdleTimeout: villageIdle, Tick: time.Second, Grace: villageGrace, TypingTTL: 6 * time.Second, Audience: settings.AudienceTenant},
		e.peers, Reporting{Types: types, Box: e.box})
	e.presenceWorld = presenceWorld{hub, t}
	for i := range 4 {
		e.village.people = append(e.village.people, newVillager(event.Profile{Type: "user", ID: fmt.Sprint(i)}))
	}
	for i := range 3 {
		e.village.rooms[event.Room{Kind: event.KindGroup, ID: fmt.Sprint("room-", i)}] = map[event.Profile]bool{}
	}
	return e
}

// live lets something happen so often, and compares after each time.
func (e *everybody) live(times int) {
	ctx, stop := context.WithCancel(e.t.Context())
	defer stop()
	go e.notices.Run(ctx)
	defer e.streams.Engine().Close(ctx)
	e.next = time.Now().Add(time.Second)
	e.seer = e.connects(e.village.people[0]) // who stays: the tenant is known all the time
	for range times {
		e.happens()
		e.compare()
		e.count()
		e.passes()
	}
	e.is.Equal(e.seen(), e.words)
}

// happens has something happen to somebody.
func (e *everybody) happens() {
	one := e.village.people[e.random.IntN(len(e.village.people))]
	switch e.random.IntN(10) {
	case 0:
		e.connects(one)
	case 1:
		if c := e.oneOf(one.here); c != uuid.Nil && c != e.seer.ID {
			e.streams.Kick(e.conns[c], delivery.CloseKicked)
			one.goes(one.here, c, time.Now())
			e.closed++
		}
	case 2:
		if c := e.oneOf(one.here); c != uuid.Nil {
			e.cluster.Touch(e.t.Context(), e.conns[c])
			one.comes(one.here, c, time.Now())
		}
	case 3:
		id := uuid.Must(uuid.NewV7())
		mark := otherMarks[e.random.IntN(len(otherMarks))]
		copy(id[len(id)-len(mark):], mark[:])
		e.tells(one, id)
	case 4:
		if id := e.oneOf(one.there); id != uuid.Nil {
			e.tells(one, id)
		}
	case 5:
		if id := e.oneOf(one.there); id != uuid.Nil {
			e.changed(time.Time{}, cluster.SessionChange{Session: cluster.Session{ID: id}, Gone: true})
			one.goes(one.there, id, time.Now())
		}
	case 6:
		e.cluster.Typed("acme", cluster.Typing{Profile: one.ref, Conversation: "talk", Started: true})
		one.types()
	case 7, 8:
		e.moves(one)
	case 9:
		if e.random.IntN(4) == 0 {
			e.dies(otherMarks[e.random.IntN(len(otherMarks))])
		}
	}
	synctest.Wait()
}

// oneOf is some connection of somebody, uuid.Nil if there is none.
func (e *everybody) oneOf(conns map[uuid.UUID]time.Time) uuid.UUID {
	ids := make([]uuid.UUID, 0, len(conns))
	for id := range conns {
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return uuid.Nil
	}
	slices.SortFunc(ids, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
	return ids[e.random.IntN(len(ids))]
}

func (e *everybody) connects(one *villager) *delivery.Connection {
	c := e.connect(one.ref)
	e.conns[c.ID] = c
	one.comes(one.here, c.ID, time.Now())
	e.opened++
	return c
}

// tells has another hub tell of a connection: that it is there, was active, or is sent away.
func (e *everybody) tells(one *villager, id uuid.UUID) {
	active := time.Now().Add(-time.Duration(e.random.Int64N(int64(2 * villageIdle))))
	away := e.random.IntN(4) == 0
	e.changed(time.Time{}, cluster.SessionChange{Session: cluster.Session{ID: id, Profile: one.ref, ActiveAt: active, Drained: away}})
	one.comes(one.there, id, active)
	if delete(one.away, id); away {
		one.away[id] = true
	}
}

// changed has another hub's connections change, of which it was heard until a time.
func (e *everybody) changed(until time.Time, changes ...cluster.SessionChange) {
	e.cluster.Changed("acme", changes, false, until)
}

// moves has somebody join a room, or leave it.
func (e *everybody) moves(one *villager) {
	in := event.Room{Kind: event.KindGroup, ID: fmt.Sprint("room-", e.random.IntN(len(e.village.rooms)))}
	change := e.members.AddMember
	if e.village.rooms[in][one.ref] {
		change = e.members.RemoveMember
	}
	e.is.NoErr(change(e.t.Context(), "acme", in, one.ref))
	e.village.rooms[in][one.ref] = !e.village.rooms[in][one.ref]
}

// dies has another hub be given up, of which was heard some time ago, and be there again.
func (e *everybody) dies(mark [4]byte) {
	until := time.Now().Add(-time.Duration(e.random.Int64N(int64(4 * villageGrace))))
	var gone []cluster.SessionChange
	for _, one := range e.village.people {
		for id := range one.there {
			if [4]byte(id[len(id)-4:]) == mark {
				gone = append(gone, cluster.SessionChange{Session: cluster.Session{ID: id}, Gone: true})
				one.goes(one.there, id, until)
				e.closed++
			}
		}
	}
	e.peers.Set(slices.DeleteFunc(slices.Clone(otherMarks), func(other [4]byte) bool { return other == mark }), [][4]byte{mark})
	e.changed(until, gone...)
	e.peers.Set(otherMarks, nil)
}

// compare has the hub say who is what.
func (e *everybody) compare() {
	var refs []event.Profile
	var want []presence.Person
	of := map[presence.Status][]event.Profile{}
	for _, one := range e.village.people {
		person := presence.Person{Profile: one.ref, Status: one.status}
		if !one.active.IsZero() {
			at := event.FormatTime(one.active)
			person.LastActiveAt = &at
		}
		refs, want = append(refs, one.ref), append(want, person)
		of[one.status] = append(of[one.status], one.ref)
		if one.status != presence.Offline {
			of[""] = append(of[""], one.ref)
		}
		e.is.Equal(e.members.Share("acme", one.ref, []event.Profile{e.village.people[0].ref})[0], e.village.share(one.ref, e.village.people[0].ref))
	}
	e.is.Equal(e.presence.Visible("acme", refs[0], refs), want)
	for _, status := range []presence.Status{"", presence.Online, presence.Away} {
		list, err := e.people.All("acme", status, func(int) (func(), error) { return func() {}, nil })
		e.is.NoErr(err)
		e.is.Equal(list, of[status])
	}
	online, away := e.people.Counts()
	e.is.Equal([]int{online, away}, []int{len(of[presence.Online]), len(of[presence.Away])})
}

// count has the hub count whom some event is for.
func (e *everybody) count() {
	to := event.ToTenant()
	switch e.random.IntN(3) {
	case 0:
		to = event.ToGroup(fmt.Sprint("room-", e.random.IntN(len(e.village.rooms))))
	case 1:
		var refs []event.Profile
		for _, i := range e.random.Perm(len(e.village.people))[:1+e.random.IntN(len(e.village.people))] {
			refs = append(refs, e.village.people[i].ref)
		}
		to = event.ToProfiles(refs...)
	}
	for range e.random.IntN(3) {
		one := e.village.people[e.random.IntN(len(e.village.people))]
		if e.random.IntN(2) == 0 {
			to.ExcludeProfiles = append(to.ExcludeProfiles, one.ref)
		} else {
			to.ExcludeConnections = append(to.ExcludeConnections, e.oneOf(one.here), e.oneOf(one.there))
		}
	}
	said := &event.Event{TenantID: "acme", Target: to}
	here, there := e.village.reached(&to)
	e.is.Equal(e.streams.CountHere(said), here)
	e.is.Equal(e.tenants.CountRemote(e.t.Context(), []*event.Event{said})()[0].Connections, there)
}

// passes lets time go by, with a tick a second.
func (e *everybody) passes() {
	most := []time.Duration{time.Second / 5, time.Second, 2 * villageGrace, villageIdle}[e.random.IntN(4)]
	end := time.Now().Add(time.Duration(e.random.Int64N(int64(most))))
	for ; !e.next.After(end); e.next = e.next.Add(time.Second) {
		time.Sleep(time.Until(e.next))
		e.presence.tick(time.Now())
		synctest.Wait()
		e.ticked()
	}
	time.Sleep(time.Until(end))
}

// ticked has services and the seer be told what a tick has to tell.
func (e *everybody) ticked() {
	changes, rooms := e.village.ticks()
	want := map[string]string{}
	for who, change := range changes {
		_, want[who.ID], _ = strings.Cut(change, ">")
		e.words[who.ID] = append(e.words[who.ID], change)
	}
	for in, occupied := range rooms {
		want[in.ID] = string(outbox.TypeGroupVacated)
		if occupied {
			want[in.ID] = string(outbox.TypeGroupOccupied)
		}
	}
	told := map[string]string{}
	for _, item := range toldAfter(e.t, e.box, "acme", e.place) {
		e.place = item.Data.Seq
		switch item.Type {
		case outbox.TypeConnected:
			e.opened--
		case outbox.TypeDisconnected:
			e.closed--
		default:
			e.is.Equal(told[item.about()], "") // once
			told[item.about()] = item.state()
		}
	}
	e.is.Equal(told, want)
	e.is.Equal([]int{e.opened, e.closed}, []int{0, 0})
}

// seen is what the seer was sent of each person.
func (e *everybody) seen() map[string][]string {
	words := map[string][]string{}
	for _, word := range strings.Split(e.presenceWorld.read(e.seer), ", ") {
		if kind, rest, _ := strings.Cut(word, " "); strings.HasPrefix(kind, "presence.") {
			who, change, _ := strings.Cut(rest, " ")
			words[who] = append(words[who], change)
		}
	}
	return words
}
