package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"realtimehub/internal/sse"
)

// Who is there.
var (
	tenants = []string{"acme", "umbrella", "globex"}
	rooms   = []string{"r0", "r1", "r2"}
)

const (
	people     = 7                      // of each tenant
	publishers = 4                      // of each tenant
	pause      = 100 * time.Millisecond // of a publisher, about
	changing   = 400 * time.Millisecond // of who changes a tenant's rooms, about
	manyStays  = 40                     // of one person in one room, one after the other, now and then
	probing    = 250 * time.Millisecond // of each hub
	patience   = 4 * time.Second        // for any answer: a hub has 2 s for a publish
	prober     = "probe"                // the tenant of probes
)

// client calls hubs; none of its connections outlives a call for long.
var client = &http.Client{Transport: &http.Transport{
	DialContext: (&net.Dialer{Timeout: time.Second}).DialContext, MaxIdleConnsPerHost: 32, IdleConnTimeout: time.Second,
}}

// call is a call and its answer, as far as it is an object.
func call(ctx context.Context, method, addr, path string, body any) (status int, answer map[string]any, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var text []byte
	if body != nil {
		if text, err = json.Marshal(body); err != nil {
			return 0, nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+addr+path, bytes.NewReader(text))
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err == nil && len(got) > 0 {
		err = json.Unmarshal(got, &answer)
	}
	return res.StatusCode, answer, err
}

// load is everybody who uses the hubs.
type load struct {
	w    *world
	r    *record
	seed uint64

	ctx       context.Context // of those who publish and change rooms
	stop      context.CancelFunc
	working   sync.WaitGroup
	calling   context.Context // of calls that are repeated until they are answered well
	giveUp    context.CancelFunc
	settled   chan struct{}   // closed when nobody comes and goes any more
	ended     context.Context // of streams
	end       context.CancelFunc
	streaming sync.WaitGroup
	probed    sync.WaitGroup
	answers   sync.Map // how often each was given: *atomic.Int64

	here sync.Map // *trail: where its stream is now, *open
}

// open is a stream that is open.
type open struct {
	hub int

	mu sync.Mutex
	// Guarded by mu.
	told     map[string]string // by presence events
	snapshot map[string]string // what its hub said when it began; nil: not yet
}

func newLoad(w *world, r *record, seed uint64) *load {
	l := &load{w: w, r: r, seed: seed, settled: make(chan struct{})}
	l.ctx, l.stop = context.WithCancel(context.Background())
	l.calling, l.giveUp = context.WithCancel(context.Background())
	l.ended, l.end = context.WithCancel(context.Background())
	return l
}

func (l *load) random(n int) *rand.Rand { return rand.New(rand.NewPCG(l.seed, uint64(n))) }

// begin makes the rooms, then begins all.
func (l *load) begin() {
	for n, tenant := range tenants {
		random := l.random(1000 + n)
		for _, room := range rooms {
			for p := range people {
				if random.IntN(2) == 0 {
					l.change(random, &change{tenant: tenant, room: room, profile: person(p), member: true})
				}
			}
		}
	}
	for n, tenant := range tenants {
		for p := range publishers {
			l.working.Go(func() { l.publish(l.random(2000+100*n+p), tenant, fmt.Sprint(tenant, ".", p)) })
		}
		l.working.Go(func() { l.changeRooms(l.random(3000+n), tenant) })
		for p := range people {
			kind := []string{"steady", "fast", "long away"}[p%3]
			t := &trail{tenant: tenant, profile: person(p), kind: kind}
			l.r.mu.Lock()
			l.r.trails = append(l.r.trails, t)
			l.r.mu.Unlock()
			l.streaming.Go(func() { l.subscribe(l.random(4000+100*n+p), t) })
		}
	}
	for i := range hubs {
		l.probed.Go(func() { l.probe(i, false) })
		for range 3 {
			l.probed.Go(func() { l.probe(i, true) })
		}
	}
}

func person(n int) string { return fmt.Sprint("user:", n) }

func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func about(random *rand.Rand, d time.Duration) time.Duration {
	return d/2 + time.Duration(random.Int64N(int64(d)))
}

func (l *load) count(answer string) {
	n, _ := l.answers.LoadOrStore(answer, new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
}

// publish publishes until it is over, each event until it is told that it is safe.
func (l *load) publish(random *rand.Rand, tenant, name string) {
	for n := 0; wait(l.ctx, about(random, pause)); n++ {
		size := 1
		if random.IntN(12) == 0 {
			size = 2 + random.IntN(4)
		}
		batch := make([]*event, size)
		for i := range batch {
			e := &event{tenant: tenant, id: fmt.Sprint(name, ".", n, ".", i)}
			switch random.IntN(5) {
			case 0, 1:
				e.room = rooms[random.IntN(len(rooms))]
			case 2:
				e.profile = person(random.IntN(people))
			case 3:
				e.room = rooms[0]
			}
			batch[i] = e
		}
		l.say(random, batch...)
	}
}

func (e *event) body() map[string]any {
	target := map[string]any{"kind": "tenant"}
	if e.room != "" {
		target = map[string]any{"kind": "conversation", "conversationId": e.room}
	} else if e.profile != "" {
		target = map[string]any{"kind": "profile", "profiles": []string{e.profile}}
	}
	return map[string]any{"id": e.id, "tenantId": e.tenant, "type": "a.b", "payload": 1, "target": target}
}

// say publishes one event, or several in a batch.
func (l *load) say(random *rand.Rand, batch ...*event) {
	path, body := "/v1/events", any(batch[0].body())
	if len(batch) > 1 {
		var all []any
		var ids []string
		for _, e := range batch {
			all, ids = append(all, e.body()), append(ids, e.id)
		}
		for _, e := range batch {
			e.with = ids
		}
		path, body = "/v1/events/batch", map[string]any{"events": all}
	}
	now := time.Now()
	l.r.mu.Lock()
	for _, e := range batch {
		e.begun = now
		l.r.events[e.id] = e
	}
	l.r.mu.Unlock()
	for l.calling.Err() == nil {
		hub := random.IntN(hubs)
		status, answer, err := call(l.calling, "POST", l.w.hubs[hub].addr, path, body)
		l.count(answered("publish", status, answer, err))
		l.r.mu.Lock()
		for _, e := range batch {
			if len(e.tries) < 10 {
				e.tries = append(e.tries, fmt.Sprintf("%s hub %d: %s", clock(time.Now()), hub, answered("", status, answer, err)))
			}
		}
		if err == nil && status == http.StatusAccepted {
			receipts := []any{answer}
			if len(batch) > 1 {
				receipts, _ = answer["results"].([]any)
			}
			for i, e := range batch {
				e.acked = time.Now()
				if i < len(receipts) {
					receipt, _ := receipts[i].(map[string]any)
					e.cursor, _ = receipt["cursor"].(string)
				}
			}
		}
		l.r.mu.Unlock()
		if err == nil && status < 500 && status != 429 {
			return
		}
		wait(l.calling, about(random, 100*time.Millisecond))
	}
}

// answered is a call's outcome in a word.
func answered(what string, status int, answer map[string]any, err error) string {
	if err != nil {
		return strings.TrimSpace(what + " without an answer")
	}
	code, _ := answer["code"].(string)
	return strings.TrimSpace(fmt.Sprint(what, " ", status, " ", code))
}

// change repeats a change until it holds.
func (l *load) change(random *rand.Rand, c *change) {
	method := "DELETE"
	if c.member {
		method = "PUT"
	}
	c.begun = time.Now()
	l.r.mu.Lock()
	l.r.changes = append(l.r.changes, c)
	l.r.mu.Unlock()
	for l.calling.Err() == nil {
		hub := random.IntN(hubs)
		status, answer, err := call(l.calling, method, l.w.hubs[hub].addr, fmt.Sprintf("/v1/tenants/%s/conversations/%s/members/%s", c.tenant, c.room, c.profile), nil)
		l.count(answered("change", status, answer, err))
		if err == nil && status == http.StatusNoContent {
			l.r.mu.Lock()
			c.done = time.Now()
			l.r.mu.Unlock()
			return
		}
		wait(l.calling, about(random, 100*time.Millisecond))
	}
}

// changeRooms has people join and leave. The first room has its members: what is said
// there is for the same people all the time.
func (l *load) changeRooms(random *rand.Rand, tenant string) {
	member := map[belonging]bool{}
	l.r.mu.Lock()
	for _, c := range l.r.changes {
		member[belonging{c.tenant, c.room, c.profile}] = true
	}
	l.r.mu.Unlock()
	for n := 0; wait(l.ctx, about(random, changing)); n++ {
		b := belonging{tenant, rooms[1+random.IntN(len(rooms)-1)], person(random.IntN(people))}
		times := 1
		if random.IntN(40) == 0 {
			times = 2 * manyStays // in and out and in
		}
		for i := range times {
			if l.ctx.Err() != nil {
				return
			}
			member[b] = !member[b]
			l.change(random, &change{tenant: b.tenant, room: b.room, profile: b.profile, member: member[b]})
			if times > 1 && member[b] {
				l.say(random, &event{tenant: tenant, id: fmt.Sprint(tenant, ".stay.", n, ".", i), room: b.room})
			}
		}
	}
}

// subscribe has one person come and go, until the last fault is over: then who is fast is
// gone, and the others stay.
func (l *load) subscribe(random *rand.Rand, t *trail) {
	cursor := ""
	for l.ended.Err() == nil {
		stay, away := time.Hour, time.Duration(0)
		switch t.kind {
		case "fast":
			stay = about(random, 3*time.Second)
		case "long away":
			stay, away = about(random, 4*time.Second), about(random, 14*time.Second)
		}
		select {
		case <-l.settled:
			if !stays(t) {
				return
			}
			stay, away = time.Hour, 0
		default:
		}
		begun := time.Now()
		if !l.stream(random, t, &cursor, stay) {
			away = 0
		}
		select {
		case <-l.settled:
			away = 0
		case <-time.After(away):
		}
		if time.Since(begun) < 100*time.Millisecond {
			wait(l.ended, about(random, 200*time.Millisecond))
		}
	}
}

// stays says who is there in the end.
func stays(t *trail) bool { return t.kind != "fast" }

// stream is one stream, on any hub, and says whether it was there.
func (l *load) stream(random *rand.Rand, t *trail, cursor *string, stay time.Duration) bool {
	hub := random.IntN(hubs)
	ctx, cancel := context.WithCancel(l.ended)
	defer cancel()
	see := func(w what, id, said string) {
		t.add(sight{at: time.Now(), hub: hub, what: w, id: id, said: said})
	}
	req, err := http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("http://%s/v1/stream?tenant=%s&profile=%s", l.w.hubs[hub].addr, t.tenant, t.profile), nil)
	if err != nil {
		return false
	}
	if *cursor != "" {
		req.Header.Set("Last-Event-ID", *cursor)
	}
	silent := time.AfterFunc(patience, cancel)
	defer silent.Stop()
	asked := time.Now()
	res, err := client.Do(req)
	if err != nil {
		l.count("stream without an answer")
		return false
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		l.count(fmt.Sprint("stream ", res.StatusCode))
		return false
	}
	events := sse.NewReader(res.Body)
	if *cursor != "" {
		// What comes without an id has the last one's.
		events.Reset(io.MultiReader(strings.NewReader("id: "+*cursor+"\n\n"), res.Body))
	}
	quiet := 3 * heartbeat
	if t.kind == "steady" {
		quiet = time.Hour // as a stock EventSource, which never gives up
	}
	events.OnQuiet = func() { silent.Reset(quiet) }
	t.add(sight{at: asked, hub: hub, what: connecting, id: *cursor})
	o := &open{hub: hub, told: map[string]string{}}
	over := time.AfterFunc(stay, cancel)
	defer over.Stop()
	left := context.AfterFunc(l.ended, cancel)
	defer left()
	go func() {
		select {
		case <-l.settled:
			if !stays(t) {
				cancel()
			}
		case <-ctx.Done():
		}
	}()
	was := false
	defer func() {
		*cursor = events.LastEventID()
		if l.ended.Err() != nil && was {
			t.mu.Lock()
			t.ended = time.Now()
			t.mu.Unlock()
		}
		l.here.CompareAndDelete(t, o)
	}()
	for {
		e, err := events.Next()
		if err != nil {
			why := "the hub or the line"
			if ctx.Err() != nil {
				why = "the client"
			}
			see(closed, events.LastEventID(), why)
			return was
		}
		silent.Reset(quiet)
		var data struct {
			ID, Type, Reason, Resume, Cursor string
			Payload                          json.RawMessage
		}
		json.Unmarshal([]byte(e.Data), &data)
		switch {
		case e.Type == "hub.ready":
			was = true
			see(ready, data.Cursor, data.Resume)
			l.here.Store(t, o)
			go l.look(ctx, t, o)
		case e.Type == "hub.gap":
			see(gap, data.Cursor, data.Reason)
		case e.Type == "hub.closing":
			see(closed, events.LastEventID(), data.Reason)
			return was
		case strings.HasPrefix(e.Type, "presence."):
			var p struct {
				Profile struct{ Type, ID string }
				Status  string
			}
			json.Unmarshal(data.Payload, &p)
			o.mu.Lock()
			o.told[p.Profile.Type+":"+p.Profile.ID] = p.Status
			o.mu.Unlock()
		case e.Type == "a.b":
			see(came, data.ID, "")
		}
	}
}

// look asks a hub who is there, as a page does when its stream begins.
func (l *load) look(ctx context.Context, t *trail, o *open) {
	for wait(ctx, 100*time.Millisecond) {
		if found, err := l.presence(ctx, o.hub, t.tenant); err == nil {
			o.mu.Lock()
			o.snapshot = found
			o.mu.Unlock()
			return
		}
	}
}

// presence is who is there, as a hub says.
func (l *load) presence(ctx context.Context, hub int, tenant string) (map[string]string, error) {
	status, answer, err := call(ctx, "GET", l.w.hubs[hub].addr, "/v1/tenants/"+tenant+"/presence", nil)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%d", status)
	}
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	list, _ := answer["profiles"].([]any)
	for _, item := range list {
		p, _ := item.(map[string]any)
		profile, _ := p["profile"].(map[string]any)
		status, _ := p["status"].(string)
		found[fmt.Sprint(profile["type"], ":", profile["id"])] = status
	}
	return found, nil
}

// wrongPresence is what a hub, or a stream's events, say that is not so.
func (l *load) wrongPresence(ctx context.Context) (wrong []string) {
	is := map[string]map[string]bool{}
	for _, tenant := range tenants {
		is[tenant] = map[string]bool{}
	}
	for _, t := range l.r.trails {
		_, here := l.here.Load(t)
		is[t.tenant][t.profile] = here
	}
	differs := func(tenant string, says map[string]string) (list []string) {
		for p, here := range is[tenant] {
			if status := says[p]; (status == "online" || status == "away") != here {
				list = append(list, fmt.Sprintf("%s is there: %v, and is said to be %q", p, here, status))
			}
		}
		slices.Sort(list)
		return list
	}
	for hub := range hubs {
		for _, tenant := range tenants {
			found, err := l.presence(ctx, hub, tenant)
			if err != nil {
				wrong = append(wrong, fmt.Sprintf("hub %d does not say who is in %s: %v", hub, tenant, err))
			} else if list := differs(tenant, found); len(list) > 0 {
				wrong = append(wrong, fmt.Sprintf("hub %d of %s: %s", hub, tenant, strings.Join(list, "; ")))
			}
		}
	}
	l.here.Range(func(key, value any) bool {
		t, o := key.(*trail), value.(*open)
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.snapshot == nil {
			return true
		}
		view := map[string]string{}
		for p, status := range o.snapshot {
			view[p] = status
		}
		for p, status := range o.told {
			view[p] = status
		}
		if list := differs(t.tenant, view); len(list) > 0 {
			wrong = append(wrong, fmt.Sprintf("the events of %s on hub %d in %s: %s", t.profile, o.hub, t.tenant, strings.Join(list, "; ")))
		}
		return true
	})
	return wrong
}

// probe asks a hub whether it is ready, or has it publish, again and again.
func (l *load) probe(hub int, publish bool) {
	random := l.random(5000 + hub)
	every := probing
	if publish {
		every *= 3 // three at once do it
	}
	for n := 0; wait(l.ctx, about(random, every)); n++ {
		p := probe{hub: hub, publish: publish, begun: time.Now()}
		var answer map[string]any
		var err error
		if publish {
			p.status, answer, err = call(l.ctx, "POST", l.w.hubs[hub].addr, "/v1/tenants/"+prober+"/events", map[string]any{"type": "a.probe", "payload": n})
		} else {
			p.status, answer, err = call(l.ctx, "GET", l.w.hubs[hub].addr, "/readyz", nil)
		}
		if err != nil {
			p.status = 0
		}
		p.end = time.Now()
		p.code, _ = answer["code"].(string)
		p.why, _ = answer["detail"].(string)
		if l.ctx.Err() == nil {
			l.r.mu.Lock()
			l.r.probes = append(l.r.probes, p)
			l.r.mu.Unlock()
		}
	}
}

// finish has the publishers end, and one event follow for everybody in each tenant. What
// is not answered well by then, with all faults over for long, never will be.
func (l *load) finish(within time.Duration) {
	l.stop()
	over := time.AfterFunc(within, l.giveUp)
	defer over.Stop()
	l.working.Wait()
	l.probed.Wait()
	random := l.random(1)
	for _, tenant := range tenants {
		l.say(random, &event{tenant: tenant, id: tenant + ".end"})
	}
}

// unanswered is what was never done.
func (l *load) unanswered() (list []string) {
	for _, e := range l.r.events {
		if e.acked.IsZero() {
			list = append(list, fmt.Sprintf("%s; %s", e, strings.Join(e.tries, ", ")))
		}
	}
	for _, c := range l.r.changes {
		if c.done.IsZero() {
			list = append(list, fmt.Sprintf("%s of %s in %s", c, c.profile, c.tenant))
		}
	}
	return list
}

// caughtUp waits until whoever is there has the last event, and says who has not.
func (l *load) caughtUp(within time.Duration) (behind []string) {
	for deadline := time.Now().Add(within); ; time.Sleep(100 * time.Millisecond) {
		behind = nil
		for _, t := range l.r.trails {
			t.mu.Lock()
			last := slices.ContainsFunc(t.sights, func(s sight) bool { return s.what == came && s.id == t.tenant+".end" })
			t.mu.Unlock()
			if stays(t) && !last {
				behind = append(behind, t.tenant+" "+t.profile)
			}
		}
		if len(behind) == 0 || time.Now().After(deadline) {
			return behind
		}
	}
}

// learn reads the stream as it grows, past all hubs, until ctx ends: what is stored where.
// It asks the leader, for one message after the other, so that nothing is lost on the way;
// and through another server where one knows of no more, as the one may be cut off.
func (l *load) learn(ctx context.Context) {
	after, through := uint64(0), 0
	for ctx.Err() == nil {
		question, _ := json.Marshal(map[string]any{"seq": after + 1, "next_by_subj": prefix + ".ev.*"})
		msg, err := l.w.each[through].Request("$JS.API.STREAM.MSG.GET."+prefix+"_journal", question, 300*time.Millisecond)
		var answer struct {
			Message struct {
				Seq  uint64
				Data []byte
				Time time.Time
			}
		}
		if err != nil || json.Unmarshal(msg.Data, &answer) != nil || answer.Message.Seq <= after {
			through = (through + 1) % servers
			wait(ctx, 20*time.Millisecond)
			continue
		}
		after = answer.Message.Seq
		var stored struct{ ID string }
		if json.Unmarshal(answer.Message.Data, &stored) != nil {
			continue
		}
		l.r.mu.Lock()
		if e := l.r.events[stored.ID]; e != nil {
			if e.place != 0 {
				l.r.twice = append(l.r.twice, e)
			}
			e.place, e.at = after, answer.Message.Time
		}
		l.r.mu.Unlock()
	}
}

// stored waits until all that was acknowledged was read from the stream.
func (l *load) stored(within time.Duration) {
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		l.r.mu.Lock()
		all := true
		for _, e := range l.r.events {
			all = all && (e.place > 0 || e.acked.IsZero())
		}
		l.r.mu.Unlock()
		if all {
			return
		}
	}
}

// histories is what is wrong about the history, as each hub tells it.
func (l *load) histories(ctx context.Context) (wrong []string) {
	l.r.mu.Lock()
	ordered, purged := map[string][]string{}, map[string]uint64{}
	for _, p := range l.r.purges {
		purged[p.tenant] = p.until
	}
	var all []*event
	for _, e := range l.r.events {
		if e.place > 0 {
			all = append(all, e)
		}
	}
	l.r.mu.Unlock()
	slices.SortFunc(all, func(a, b *event) int { return int(a.place) - int(b.place) })
	for _, e := range all {
		if e.place > purged[e.tenant] {
			ordered[e.tenant] = append(ordered[e.tenant], e.id)
		}
	}
	for _, tenant := range tenants {
		want := ordered[tenant]
		want = want[max(0, len(want)-kept):]
		for hub := range hubs {
			var got []string
			for after := ""; ; {
				path := "/v1/tenants/" + tenant + "/events?limit=1000"
				if after != "" {
					path += "&after=" + after
				}
				status, answer, err := call(ctx, "GET", l.w.hubs[hub].addr, path, nil)
				events, _ := answer["events"].([]any)
				if err != nil || status != http.StatusOK {
					wrong = append(wrong, fmt.Sprintf("hub %d does not tell the history of %s: %s", hub, tenant, answered("", status, answer, err)))
					break
				}
				if len(events) == 0 {
					break
				}
				for _, e := range events {
					e, _ := e.(map[string]any)
					id, _ := e["id"].(string)
					got = append(got, id)
				}
				after, _ = answer["cursor"].(string)
			}
			got = got[max(0, len(got)-kept):]
			if !slices.Equal(got, want) {
				i := 0
				for i < len(got) && i < len(want) && got[i] == want[i] {
					i++
				}
				wrong = append(wrong, fmt.Sprintf("hub %d has %d events of %s, of %d; they differ from %d on", hub, len(got), tenant, len(want), i))
			}
		}
	}
	return wrong
}
