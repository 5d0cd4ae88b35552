package faults

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"
)

// finding is a promise that was not kept.
type finding struct {
	what string // one of few words
	text string
	// Of whom and where, if of a subscriber.
	trail  *trail
	sight  int
	places []uint64 // of the events that it is about
}

// judge leads everybody through what they saw, and tells what should not have been.
type judge struct {
	record
	ordered  map[string][]*event     // of a tenant, by their place
	index    map[string]int          // an event's in ordered
	cursors  map[string]int          // likewise, by the cursor of an acknowledgement
	of       map[belonging][]*change // in the order of their beginnings
	findings []finding
}

type belonging struct{ tenant, room, profile string }

// belongs is what is known of a membership.
type belongs int

const (
	perhaps belongs = iota // it changed just then
	yes
	no
)

// clockSlack is how far apart the broker's time and ours may be.
const clockSlack = time.Second

// judgeAll is all findings of a record, whose load is over.
func judgeAll(r *record) []finding {
	j := &judge{record: record{kept: r.kept, busy: r.busy, events: r.events, changes: r.changes, probes: r.probes, trails: r.trails, twice: r.twice, away: r.away, purges: r.purges},
		ordered: map[string][]*event{}, index: map[string]int{}, cursors: map[string]int{}, of: map[belonging][]*change{}}
	for _, e := range r.events {
		if e.place > 0 {
			j.ordered[e.tenant] = append(j.ordered[e.tenant], e)
		} else if !e.acked.IsZero() {
			j.find("acknowledged, not stored", "%s", e)
		}
	}
	for _, e := range r.twice {
		j.find("stored twice", "%s", e)
	}
	for _, list := range j.ordered {
		slices.SortFunc(list, func(a, b *event) int { return cmp.Compare(a.place, b.place) })
		for i, e := range list {
			j.index[e.id] = i
			if e.cursor != "" {
				j.cursors[e.cursor] = i
			}
		}
		j.acknowledged(list)
		j.batches(list)
	}
	for _, c := range r.changes {
		b := belonging{c.tenant, c.room, c.profile}
		j.of[b] = append(j.of[b], c)
	}
	for _, list := range j.of {
		slices.SortFunc(list, func(a, b *change) int { return a.begun.Compare(b.begun) })
	}
	for _, t := range r.trails {
		j.follow(t)
	}
	j.readiness()
	j.outages()
	return j.findings
}

func (j *judge) find(what, format string, args ...any) {
	j.findings = append(j.findings, finding{what: what, text: fmt.Sprintf(format, args...), sight: -1})
}

// acknowledged holds that what was published after another was acknowledged follows it.
func (j *judge) acknowledged(list []*event) {
	latest := time.Time{} // a beginning, of those that have a lower place
	var of *event
	for _, e := range list {
		if !e.acked.IsZero() && e.acked.Before(latest) {
			j.findings = append(j.findings, finding{what: "places out of order", sight: -1, places: []uint64{of.place, e.place},
				text: fmt.Sprintf("%s was acknowledged before %s began", e, of)})
		}
		if e.begun.After(latest) {
			latest, of = e.begun, e
		}
	}
}

// batches holds that a batch is whole and together.
func (j *judge) batches(list []*event) {
	for i, e := range list {
		if len(e.with) == 0 || e.with[0] != e.id {
			continue
		}
		for n, id := range e.with {
			if i+n >= len(list) || list[i+n].id != id {
				j.findings = append(j.findings, finding{what: "torn batch", sight: -1, places: []uint64{e.place}, text: fmt.Sprintf("%s: %v", e, e.with)})
				break
			}
		}
	}
}

// follow leads one subscriber through its places.
func (j *judge) follow(t *trail) {
	list := j.ordered[t.tenant]
	seen := map[string]bool{}
	last, excused := -1, -1         // indices in list: of what came, and up to where a gap was told
	var first, asked time.Time      // when it was there first; when it last asked for a stream
	resumed, lacking := "", false   // it has said that it is partial, and has not told of what
	short := map[string]time.Time{} // of rooms: what was said before is excused
	tell := func(i int, what string, about []*event, format string, args ...any) {
		f := finding{what: what, text: fmt.Sprintf(format, args...), trail: t, sight: i}
		for _, e := range about {
			f.places = append(f.places, e.place)
		}
		j.findings = append(j.findings, f)
	}
	// lacks is what was to come before an index, and has not.
	lacks := func(before int, at time.Time) (lost []*event) {
		for k := max(last, excused) + 1; k < before; k++ {
			if list[k].begun.After(first) && !list[k].begun.Before(short[list[k].room]) && j.due(list[k], t, asked, at) {
				lost = append(lost, list[k])
			}
		}
		return lost
	}
	for i, s := range t.sights {
		switch s.what {
		case connecting:
			resumed, asked, lacking = s.id, s.at, false
			if at, ok := j.cursors[s.id]; ok && at < last {
				tell(i, "a place that went back", list[at:last], "it has the place of %s, and had %s", list[at], list[last])
			}
		case ready:
			if s.said == "fresh" && resumed != "" {
				tell(i, "fresh though it resumed", nil, "from %s", resumed)
			}
			lacking = s.said == "partial"
			if first.IsZero() {
				first = s.at
				for last+1 < len(list) && !list[last+1].acked.IsZero() && list[last+1].acked.Before(asked) {
					last++ // was before
				}
			}
		case gap:
			if s.said == "slow" {
				continue // of what is not kept
			}
			lacking = false
			from := last
			if at, ok := j.cursors[resumed]; ok {
				from = max(from, at)
			}
			until, cut := j.gone(list, s.at), j.cutShort(list, from, t, s.at)
			for _, room := range cut {
				short[room] = s.at
			}
			stays := len(cut) > 0
			if s.said != "expired" || until <= from && !stays {
				tell(i, "false gap", nil, "%s, and nothing was gone", s.said)
			}
			at, ok := j.cursors[s.id]
			switch {
			case !ok && stays:
				excused = len(list) // of the place it is not known where it is
			case !ok:
				excused = max(excused, until)
			case stays:
				excused = max(excused, at)
			default: // what was there still was to come, whatever was told
				excused = max(excused, min(at, until))
			}
		case came:
			e := j.events[s.id]
			at, known := j.index[s.id]
			switch {
			case e == nil || !known:
				tell(i, "not published", nil, "%s", s.id)
				continue
			case e.tenant != t.tenant:
				tell(i, "wrong recipient", []*event{e}, "%s is another tenant's", e)
				continue
			case seen[s.id]:
				tell(i, "twice", []*event{e}, "%s", e)
				continue
			}
			seen[s.id] = true
			if lacking {
				tell(i, "partial, and no gap", []*event{e}, "from %s", resumed)
				lacking = false
			}
			if at < last {
				tell(i, "out of order", []*event{e, list[last]}, "%s after %s", e, list[last])
				continue
			}
			if j.whom(e, t) == no {
				tell(i, "wrong recipient", []*event{e}, "%s %s", e, j.story(e, t))
			} else if e.room != "" && j.member(belonging{t.tenant, e.room, t.profile}, asked, s.at) == no {
				tell(i, "replayed to who had left", []*event{e}, "%s %s", e, j.story(e, t))
			}
			if lost := lacks(at, s.at); len(lost) > 0 {
				tell(i, "lost", lost, "%d of the %d places before %s; the first: %s %s", len(lost), at-last-1, e, lost[0], j.story(lost[0], t))
			}
			last = at
			if excused == len(list) {
				excused = at
			}
		}
	}
	if !t.ended.IsZero() { // all that was published before was to come
		if lost := lacks(len(list), t.ended); len(lost) > 0 {
			tell(len(t.sights)-1, "lost", lost, "%d, the last; the first: %s %s", len(lost), lost[0], j.story(lost[0], t))
		}
	}
}

// gone is the last index that may be told to be gone at a time; -1: there is none. Where as
// many are kept as may be, the oldest tells what has gone before it, and is not read itself;
// and one more may have gone while that was asked.
func (j *judge) gone(list []*event, at time.Time) int {
	stored := sort.Search(len(list), func(i int) bool { return list[i].at.After(at.Add(clockSlack)) })
	last := -1
	if stored >= j.kept {
		last = stored - j.kept + 1
	}
	for _, p := range j.purges {
		if p.begun.Before(at) && len(list) > 0 && list[0].tenant == p.tenant {
			last = max(last, sort.Search(len(list), func(i int) bool { return list[i].place > p.until })-1)
		}
	}
	return last
}

// mostStays is how many times of somebody in a room are remembered.
const mostStays = 31

// cutShort is which rooms somebody has left so often, between an index and a time, that not
// all of it may be remembered.
func (j *judge) cutShort(list []*event, after int, t *trail, at time.Time) (rooms []string) {
	since := time.Time{}
	if after >= 0 {
		since = list[after].begun
	}
	for b, changes := range j.of {
		if b.tenant != t.tenant || b.profile != t.profile {
			continue
		}
		left := 0
		for _, c := range changes {
			if !c.member && (c.done.IsZero() || c.done.After(since)) && c.begun.Before(at) {
				left++
			}
		}
		if left >= mostStays {
			rooms = append(rooms, b.room)
		}
	}
	return rooms
}

// whom says whether an event is for a person.
func (j *judge) whom(e *event, t *trail) belongs {
	switch {
	case e.room != "":
		end := e.acked
		if stored := e.at.Add(clockSlack); end.IsZero() || !e.at.IsZero() && stored.Before(end) {
			end = stored
		}
		return j.member(belonging{t.tenant, e.room, t.profile}, e.begun, end)
	case e.profile == "" || e.profile == t.profile:
		return yes
	}
	return no
}

// due says whether an event was to come on a stream that was asked for at one time, up to
// another. Who has left a room meanwhile is not owed what was said before, unless it has
// come again.
func (j *judge) due(e *event, t *trail, asked, until time.Time) bool {
	if j.whom(e, t) != yes {
		return false
	}
	if e.room == "" {
		return true
	}
	b := belonging{t.tenant, e.room, t.profile}
	from := e.begun
	if asked.After(from) {
		from = asked
	}
	return j.member(b, from, until) == yes
}

// member says whether somebody belonged to a room in all of a time. A change holds from
// its 204 on, and may hold from its beginning.
func (j *judge) member(b belonging, from, until time.Time) belongs {
	known := no
	for _, c := range j.of[b] {
		becomes := no
		if c.member {
			becomes = yes
		}
		switch {
		case !c.done.IsZero() && !c.done.After(from):
			known = becomes
		case c.begun.Before(until) && known != becomes:
			return perhaps
		}
	}
	return known
}

// story is what happened to a membership around an event.
func (j *judge) story(e *event, t *trail) string {
	if e.room == "" {
		return ""
	}
	var lines []string
	for _, c := range j.of[belonging{t.tenant, e.room, t.profile}] {
		if c.begun.After(e.begun.Add(-30*time.Second)) && c.begun.Before(e.begun.Add(30*time.Second)) {
			lines = append(lines, c.String())
		}
	}
	return "[" + strings.Join(lines, "; ") + "]"
}

// mostWrong is how long a hub may be wrong about whether it takes publishes.
const mostWrong = 3 * time.Second

// readiness holds that a hub that says it is ready takes events, and the reverse.
func (j *judge) readiness() {
	hubs := map[int][]probe{}
	for _, p := range j.probes {
		hubs[p.hub] = append(hubs[p.hub], p)
	}
	for hub, list := range hubs {
		slices.SortFunc(list, func(a, b probe) int { return a.end.Compare(b.end) })
		for _, says := range []bool{true, false} {
			// Since when all that it says is this, and all that it does the opposite.
			var said, did time.Time
			var worst time.Duration
			var from time.Time
			why := map[string]int{} // it says so, how often
			flush := func() {
				if worst > j.within(mostWrong) {
					word := "is ready, and takes nothing"
					if !says {
						word = "is not ready, and takes what comes"
					}
					j.find("readiness", "hub %d %s, for %.1f s from %s %v", hub, word, worst.Seconds(), clock(from), why)
				}
				worst = 0
				clear(why)
			}
			for _, p := range list {
				good := p.status < 300
				switch {
				case p.status == 0 || p.code == "Draining", strings.HasPrefix(p.why, "membership"):
					// It is gone, or goes; or membership cannot be changed, it says, and publishing
					// does not show whether that is so.
					said, did = time.Time{}, time.Time{}
					flush()
				case !p.publish && good == says && said.IsZero():
					said = p.begun
				case p.publish && good != says && did.IsZero():
					did = p.end
				case !p.publish && good != says:
					said = time.Time{}
					flush()
				case p.publish && good == says:
					did = time.Time{}
					flush()
				}
				if !p.publish && good == says && !good {
					why[p.why]++
				}
				if !said.IsZero() && !did.IsZero() {
					since := said
					if did.After(since) {
						since = did
					}
					if d := p.begun.Sub(since); d > worst {
						worst, from = d, since
					}
				}
			}
			flush()
		}
	}
}

// mostAway is how long a hub may take nothing although a majority of the servers works and
// can be reached: a leader is elected in 10 s, and seen as gone before.
const mostAway = 20 * time.Second

// outages holds that hubs take what is published whenever they can.
func (j *judge) outages() {
	last, ends := map[int]time.Time{}, map[int]time.Time{}
	slices.SortFunc(j.probes, func(a, b probe) int { return a.end.Compare(b.end) })
	for _, p := range j.probes {
		if !p.publish {
			continue
		}
		since, ok := last[p.hub]
		if !ok || p.status == 202 {
			last[p.hub] = p.end
		}
		if ok && p.status == 202 {
			j.outage(p.hub, since, p.end)
		}
		ends[p.hub] = p.end
	}
	for hub, end := range ends { // also where none follows
		j.outage(hub, last[hub], end)
	}
}

// outage holds that a time in which a hub took nothing was not too long.
func (j *judge) outage(hub int, since, end time.Time) {
	for _, a := range j.away { // what cannot be helped begins it anew
		if (a.hub == hub || a.hub < 0) && a.end.After(since) && a.begun.Before(end) {
			since = a.end
		}
	}
	if end.Sub(since) > j.within(mostAway) {
		j.find("away", "hub %d took nothing for %.1f s from %s", hub, end.Sub(since).Seconds(), clock(since))
	}
}

// longest is how long each hub was without an acknowledgement at the most, for whatever
// reason. The probes are in the order of their ends.
func (r *record) longest() string {
	last, most, from := map[int]time.Time{}, map[int]time.Duration{}, map[int]time.Time{}
	for _, p := range r.probes {
		if !p.publish || p.status != 202 {
			continue
		}
		if since, ok := last[p.hub]; ok && p.end.Sub(since) > most[p.hub] {
			most[p.hub], from[p.hub] = p.end.Sub(since), since
		}
		last[p.hub] = p.end
	}
	var lines []string
	for hub, d := range most {
		lines = append(lines, fmt.Sprintf("hub %d %.1f s from %s", hub, d.Seconds(), clock(from[hub])))
	}
	slices.Sort(lines)
	return strings.Join(lines, ", ")
}

func clock(t time.Time) string { return t.Format("15:04:05.000") }

func (e *event) String() string {
	acked := "never"
	if !e.acked.IsZero() {
		acked = clock(e.acked)
	}
	return fmt.Sprintf("%s (place %d, to %s, begun %s, stored %s, acknowledged %s)", e.id, e.place, e.whom(), clock(e.begun), clock(e.at), acked)
}

func (e *event) whom() string {
	switch {
	case e.room != "":
		return "room " + e.room
	case e.profile != "":
		return e.profile
	}
	return "all"
}

func (c *change) String() string {
	verb, done := "leaves", "never"
	if c.member {
		verb = "joins"
	}
	if !c.done.IsZero() {
		done = clock(c.done)
	}
	return fmt.Sprintf("%s %s %s, 204 %s", clock(c.begun), verb, c.room, done)
}

func (s sight) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s hub %d %s %s %s", clock(s.at), s.hub, s.what, s.id, s.said))
}

// around is what a subscriber saw before and after.
func (f finding) around(j *record) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", f.what, f.text)
	if f.trail == nil {
		return b.String()
	}
	fmt.Fprintf(&b, "  of %s in %s (%s), who saw\n", f.trail.profile, f.trail.tenant, f.trail.kind)
	asked := f.sight // its last stream
	for asked > 0 && f.trail.sights[asked].what != connecting {
		asked--
	}
	for i := asked; i < min(len(f.trail.sights), f.sight+4); i++ {
		if asked+2 < i && i < f.sight-8 {
			continue
		}
		mark, place := "  ", ""
		if i == f.sight {
			mark = "=>"
		}
		if e := j.events[f.trail.sights[i].id]; e != nil {
			place = fmt.Sprintf(" at place %d", e.place)
		}
		fmt.Fprintf(&b, "  %s %s%s\n", mark, f.trail.sights[i], place)
	}
	if n := len(f.places); n > 0 {
		b.WriteString("  about")
		for _, e := range j.events {
			if slices.Contains(f.places[:min(n, 20)], e.place) {
				fmt.Fprintf(&b, " %d to %s,", e.place, e.whom())
			}
		}
		if n > 20 {
			fmt.Fprintf(&b, " … %d", f.places[n-1])
		}
		b.WriteString("\n")
	}
	return b.String()
}
