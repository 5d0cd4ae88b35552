package faults

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/matryer/is"
)

// scene is a small history in which all is well: ten events, of which one person was to
// have all but one; each was acknowledged 10 ms after it began, one each second.
type scene struct {
	r     *record
	t     *trail
	began time.Time
}

func (s *scene) at(second float64) time.Time {
	return s.began.Add(time.Duration(second * float64(time.Second)))
}

func (s *scene) publish(n int, room, profile string) *event {
	e := &event{
		tenant: "acme", id: fmt.Sprint("e", n), room: room, profile: profile, place: uint64(10 * n), cursor: fmt.Sprint("c", n),
		begun: s.at(float64(n)), at: s.at(float64(n) + .005), acked: s.at(float64(n) + .01),
	}
	s.r.events[e.id] = e
	return e
}

func (s *scene) change(member bool, begun, done float64) {
	c := &change{tenant: "acme", room: "r", profile: "user:1", member: member, begun: s.at(begun)}
	if done != 0 {
		c.done = s.at(done)
	}
	s.r.changes = append(s.r.changes, c)
}

// see adds what came of an event's second, soon after it.
func (s *scene) see(second float64, w what, id, said string) {
	s.t.add(sight{at: s.at(second + .05), what: w, id: id, said: said})
}

func newScene() *scene {
	s := &scene{r: newRecord(1000), t: &trail{tenant: "acme", profile: "user:1", kind: "steady"}, began: time.Unix(1_000_000, 0)}
	s.r.trails = []*trail{s.t}
	s.change(true, -2, -1.5)
	s.see(0, connecting, "", "")
	s.see(.1, ready, "c0", "fresh")
	for n := 1; n <= 10; n++ {
		room, profile := "", ""
		switch n {
		case 3, 4, 5:
			room = "r"
		case 6:
			profile = "user:2"
		case 7:
			profile = "user:1"
		}
		s.publish(n, room, profile)
		if n != 6 {
			s.see(float64(n), came, fmt.Sprint("e", n), "")
		}
	}
	s.t.ended = s.at(20)
	return s
}

// comesAndGoes has the person leave the room and come again, after what is said there.
func (s *scene) comesAndGoes(times int) {
	for n := range times {
		at := 5.1 + float64(n)/100
		s.change(false, at, at+.003)
		s.change(true, at+.005, at+.008)
	}
}

// goneUntil has the person be away while only the last four events are kept, and miss some: it is
// told that they are gone up to a place.
func (s *scene) goneUntil(cursor string, missed ...string) {
	s.r.kept = 4
	for _, id := range missed {
		s.cut(id)
	}
	i := max(s.sightOf("e2"), s.sightOf("e5")) + 1
	s.insert(i, sight{at: s.at(6.5), what: connecting, id: "c2"}, sight{at: s.at(6.5), what: ready, said: "partial"}, sight{at: s.at(6.6), what: gap, id: cursor, said: "expired"})
}

// sightOf is where an event came.
func (s *scene) sightOf(id string) int {
	return slices.IndexFunc(s.t.sights, func(x sight) bool { return x.what == came && x.id == id })
}

func (s *scene) insert(i int, all ...sight) { s.t.sights = slices.Insert(s.t.sights, i, all...) }

func (s *scene) cut(id string) { i := s.sightOf(id); s.t.sights = slices.Delete(s.t.sights, i, i+1) }

// What the judge is to find, of what was planted; nothing where all is well.
func TestJudge(t *testing.T) {
	for name, c := range map[string]struct {
		plant func(*scene)
		find  []string
	}{
		"all is well":      {func(s *scene) {}, nil},
		"an event is lost": {func(s *scene) { s.cut("e8") }, []string{"lost"}},
		"the last is lost": {func(s *scene) { s.cut("e10") }, []string{"lost"}},
		"the last is lost to who is not there any more": {func(s *scene) { s.cut("e10"); s.t.ended = time.Time{} }, nil},
		"a room's event is lost":                        {func(s *scene) { s.cut("e4") }, []string{"lost"}},
		"an event comes twice": {func(s *scene) {
			i := s.sightOf("e8")
			s.insert(i+1, s.t.sights[i])
		}, []string{"twice"}},
		"two are swapped": {func(s *scene) {
			i, k := s.sightOf("e8"), s.sightOf("e9")
			s.t.sights[i].id, s.t.sights[k].id = "e9", "e8"
		}, []string{"lost", "out of order"}},
		"another's event comes": {func(s *scene) {
			s.insert(s.sightOf("e7"), sight{at: s.at(6.1), what: came, id: "e6"})
		}, []string{"wrong recipient"}},
		"another tenant's event comes": {func(s *scene) {
			e := s.publish(11, "", "")
			e.tenant = "umbrella"
			s.see(11, came, "e11", "")
		}, []string{"wrong recipient"}},
		"an event comes that nobody published": {func(s *scene) { s.see(11, came, "x", "") }, []string{"not published"}},
		"an event comes to who had left":       {func(s *scene) { s.change(false, 3.5, 3.6) }, []string{"wrong recipient", "wrong recipient"}},
		"an event comes to who was leaving":    {func(s *scene) { s.change(false, 4.004, 6) }, nil},
		"an event does not come to who was leaving": {func(s *scene) {
			s.change(false, 4.004, 6)
			s.cut("e4")
			s.cut("e5")
		}, nil},
		"who left and came again while away is owed it": {func(s *scene) {
			s.change(false, 5.1, 5.2)
			s.change(true, 5.3, 5.4)
			for _, id := range []string{"e3", "e4", "e5"} {
				s.cut(id)
			}
			s.insert(s.sightOf("e7"), sight{at: s.at(5.5), what: connecting, id: "c2"}, sight{at: s.at(5.6), what: ready, said: "complete"})
		}, []string{"lost"}},
		"who left while away is not": {func(s *scene) {
			s.change(false, 5.1, 5.2)
			for _, id := range []string{"e3", "e4", "e5"} {
				s.cut(id)
			}
			s.insert(s.sightOf("e7"), sight{at: s.at(5.5), what: connecting, id: "c2"}, sight{at: s.at(5.6), what: ready, said: "complete"})
		}, nil},
		"and if it comes that is wrong": {func(s *scene) {
			s.change(false, 5.1, 5.2)
			i := s.sightOf("e5")
			s.t.sights[i].at = s.at(5.7)
			s.insert(i, sight{at: s.at(5.5), what: connecting, id: "c4"}, sight{at: s.at(5.6), what: ready, said: "complete"})
		}, []string{"replayed to who had left"}},
		"who was never said to have left, and gets nothing": {func(s *scene) {
			s.change(false, 3.5, 0)
			s.cut("e4")
		}, nil},
		"a gap is told where nothing is gone": {func(s *scene) {
			s.insert(s.sightOf("e8"), sight{at: s.at(7.5), what: gap, id: "c7", said: "expired"})
		}, []string{"false gap"}},
		"what was lost is told, and is not gone": {func(s *scene) {
			s.cut("e8")
			s.insert(s.sightOf("e9"), sight{at: s.at(8.5), what: gap, id: "c8", said: "unknown"})
		}, []string{"false gap", "lost"}},
		"what is gone is told":            {func(s *scene) { s.goneUntil("c5", "e3", "e4", "e5") }, nil},
		"more is told to be gone than is": {func(s *scene) { s.goneUntil("c7", "e3", "e4", "e5", "e7") }, []string{"lost"}},
		"and nobody knows up to where":    {func(s *scene) { s.goneUntil("c?", "e3", "e4", "e5", "e7") }, []string{"lost"}},
		"who left too often is told": {func(s *scene) {
			for n := range mostStays {
				s.change(false, 5.1+.01*float64(n), 5.103+.01*float64(n))
				s.change(true, 5.104+.01*float64(n), 5.108+.01*float64(n))
			}
			for _, id := range []string{"e3", "e4", "e5"} {
				s.cut(id)
			}
			s.insert(s.sightOf("e7"), sight{at: s.at(6.5), what: connecting, id: "c2"}, sight{at: s.at(6.5), what: ready, said: "partial"}, sight{at: s.at(6.6), what: gap, id: "c5", said: "expired"})
		}, nil},
		"what an operator removed is told": {func(s *scene) {
			s.r.purges = []purge{{"acme", 50, s.at(7.1), s.at(7.2)}}
			for _, id := range []string{"e3", "e4", "e5"} {
				s.cut(id)
			}
			s.insert(s.sightOf("e7"), sight{at: s.at(7.5), what: connecting, id: "c2"}, sight{at: s.at(7.5), what: ready, said: "partial"}, sight{at: s.at(7.6), what: gap, id: "c5", said: "expired"})
		}, nil},
		"what an operator removed is not told": {func(s *scene) {
			s.r.purges = []purge{{"acme", 50, s.at(7.1), s.at(7.2)}}
			for _, id := range []string{"e3", "e4", "e5"} {
				s.cut(id)
			}
			s.insert(s.sightOf("e7"), sight{at: s.at(7.5), what: connecting, id: "c2"}, sight{at: s.at(7.5), what: ready, said: "complete"})
		}, []string{"lost"}},
		"who was in a room more often than is kept is told": {func(s *scene) {
			s.comesAndGoes(40)
			for _, id := range []string{"e3", "e4", "e5"} {
				s.cut(id)
			}
			s.insert(s.sightOf("e7"), sight{at: s.at(6.5), what: connecting, id: "c2"}, sight{at: s.at(6.5), what: ready, said: "partial"}, sight{at: s.at(6.6), what: gap, id: "c2", said: "expired"})
		}, nil},
		"what is missing is not told": {func(s *scene) {
			s.goneUntil("c5", "e3", "e4", "e5")
			i := slices.IndexFunc(s.t.sights, func(x sight) bool { return x.what == gap })
			s.t.sights = slices.Delete(s.t.sights, i, i+1)
		}, []string{"lost", "partial, and no gap"}},
		"and what was for others is lost": {func(s *scene) {
			s.comesAndGoes(40)
			s.cut("e7")
			s.cut("e8")
			s.insert(s.sightOf("e9"), sight{at: s.at(8.5), what: connecting, id: "c5"}, sight{at: s.at(8.5), what: ready, said: "partial"}, sight{at: s.at(8.6), what: gap, id: "c5", said: "expired"})
		}, []string{"lost"}},
		"less often, and told": {func(s *scene) {
			s.comesAndGoes(20)
			s.insert(s.sightOf("e7"), sight{at: s.at(6.5), what: connecting, id: "c5"}, sight{at: s.at(6.5), what: ready, said: "partial"}, sight{at: s.at(6.6), what: gap, id: "c5", said: "expired"})
		}, []string{"false gap"}},
		"and more than that is lost": {func(s *scene) {
			s.r.kept = 4
			for _, id := range []string{"e3", "e4", "e5", "e7"} {
				s.cut(id)
			}
			s.insert(s.sightOf("e8"), sight{at: s.at(7.5), what: connecting, id: "c2"}, sight{at: s.at(7.5), what: ready, said: "partial"}, sight{at: s.at(7.6), what: gap, id: "c5", said: "expired"})
		}, []string{"lost"}},
		"a stream goes on from an earlier place": {func(s *scene) {
			s.insert(s.sightOf("e8"), sight{at: s.at(7.5), what: connecting, id: "c5"}, sight{at: s.at(7.5), what: ready, said: "complete"})
		}, []string{"a place that went back"}},
		"a stream begins anew": {func(s *scene) {
			s.insert(s.sightOf("e8"), sight{at: s.at(7.5), what: connecting, id: "c7"}, sight{at: s.at(7.5), what: ready, said: "fresh"})
		}, []string{"fresh though it resumed"}},
		"what was acknowledged is nowhere": {func(s *scene) { s.r.events["e6"].place = 0 }, []string{"acknowledged, not stored"}},
		"what was published later is before": {func(s *scene) {
			s.r.events["e6"].place = 45
		}, []string{"places out of order"}},
		"a batch is torn": {func(s *scene) {
			s.r.events["e8"].with = []string{"e8", "e10"}
			s.r.events["e10"].with = []string{"e8", "e10"}
		}, []string{"torn batch"}},
		"a hub is wrong about itself": {func(s *scene) {
			for i := range 20 {
				s.r.probes = append(s.r.probes, probe{hub: 1, begun: s.at(float64(i)), end: s.at(float64(i)), status: 200},
					probe{hub: 1, publish: true, begun: s.at(float64(i) - 1.5), end: s.at(float64(i) + .1), status: 503})
			}
		}, []string{"readiness"}},
		"and the reverse": {func(s *scene) {
			for i := range 20 {
				s.r.probes = append(s.r.probes, probe{hub: 1, begun: s.at(float64(i)), end: s.at(float64(i)), status: 503},
					probe{hub: 1, publish: true, begun: s.at(float64(i) - 1.5), end: s.at(float64(i) + .1), status: 202})
			}
		}, []string{"readiness"}},
		"a hub is slow to learn it": {func(s *scene) {
			for i := range 20 {
				code := 503
				if i < 3 {
					code = 200
				}
				s.r.probes = append(s.r.probes, probe{hub: 1, begun: s.at(float64(i)), end: s.at(float64(i)), status: code},
					probe{hub: 1, publish: true, begun: s.at(float64(i) - 1.5), end: s.at(float64(i) + .1), status: 503})
			}
		}, nil},
		"a hub takes nothing for long": {func(s *scene) {
			s.r.probes = append(s.r.probes, probe{hub: 1, publish: true, begun: s.at(0), end: s.at(.1), status: 202},
				probe{hub: 1, publish: true, begun: s.at(21), end: s.at(22), status: 202})
		}, []string{"away"}},
		"a hub takes nothing any more": {func(s *scene) {
			for i := range 30 {
				status := 503
				if i == 0 {
					status = 202
				}
				s.r.probes = append(s.r.probes, probe{hub: 1, publish: true, begun: s.at(float64(i)), end: s.at(float64(i) + .1), status: status})
			}
		}, []string{"away"}},
		"a hub can take nothing for long": {func(s *scene) {
			s.r.away = []away{{1, s.at(1), s.at(20)}}
			s.r.probes = append(s.r.probes, probe{hub: 1, publish: true, begun: s.at(0), end: s.at(.1), status: 202},
				probe{hub: 1, publish: true, begun: s.at(21), end: s.at(22), status: 202})
		}, nil},
		"a hub does not answer at all": {func(s *scene) {
			for i := range 20 {
				code := 0
				if i < 2 {
					code = 200
				}
				s.r.probes = append(s.r.probes, probe{hub: 1, begun: s.at(float64(i)), end: s.at(float64(i)), status: code})
			}
			s.r.probes = append(s.r.probes, probe{hub: 1, publish: true, begun: s.at(1), end: s.at(1.5), status: 503})
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			s := newScene()
			c.plant(s)
			var found []string
			for _, f := range judgeAll(s.r) {
				found = append(found, f.what)
				t.Log(f.around(s.r))
			}
			slices.Sort(found)
			is.Equal(found, c.find)
		})
	}
}
