package faults

import (
	"context"
	"encoding/base32"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/natstest"
)

// fault is something that happens to a process or a line, and is over some time later.
type fault struct {
	kind string
	// which hub or server it happens to; of the leader it is known when it happens.
	which int
	at    time.Duration // since the one before began
	lasts time.Duration
}

func (f fault) String() string {
	return fmt.Sprintf("%s %d for %.1f s", f.kind, f.which, f.lasts.Seconds())
}

// kind is one of faults, and how it is done: do returns what ends it.
type kind struct {
	often             int
	shortest, longest time.Duration
	server            bool // else it happens to a hub
	do                func(w *world, which int, random *rand.Rand) (undo func())
}

// kinds are all, by name.
var kinds = map[string]kind{
	"hub-kill": {3, 200 * time.Millisecond, 4 * time.Second, false, func(w *world, i int, _ *rand.Rand) func() {
		w.hubs[i].kill()
		return func() { w.startHub(i) }
	}},
	"hub-drain": {2, 2 * time.Second, 5 * time.Second, false, func(w *world, i int, _ *rand.Rand) func() {
		ended := w.hubs[i].signal(syscall.SIGTERM)
		return func() {
			select {
			case <-ended:
			case <-time.After(20 * time.Second):
				w.t.Errorf("hub %d does not end", i)
				w.hubs[i].kill()
			}
			w.startHub(i)
		}
	}},
	"hub-pause": {4, 2 * time.Second, 15 * time.Second, false, func(w *world, i int, _ *rand.Rand) func() {
		w.hubs[i].signal(syscall.SIGSTOP)
		return func() { w.hubs[i].signal(syscall.SIGCONT) }
	}},
	"server-kill":  {2, 200 * time.Millisecond, 6 * time.Second, true, killServer},
	"leader-kill":  {2, 200 * time.Millisecond, 6 * time.Second, true, killServer},
	"server-pause": {2, 2 * time.Second, 12 * time.Second, true, pauseServer},
	"leader-pause": {2, 2 * time.Second, 12 * time.Second, true, pauseServer},
	"quorum-lost": {1, 3 * time.Second, 10 * time.Second, true, func(w *world, i int, _ *rand.Rand) func() {
		k := (i + 1) % servers
		w.servers[i].kill()
		w.servers[k].kill()
		return func() { w.startServer(i); w.startServer(k) }
	}},
	"store-wiped": {1, time.Second, 4 * time.Second, true, func(w *world, i int, _ *rand.Rand) func() {
		w.servers[i].kill()
		if err := os.RemoveAll(w.servers[i].dir); err != nil {
			w.t.Error(err)
		}
		return func() { w.startServer(i) }
	}},
	"hub-resized": {1, 200 * time.Millisecond, 2 * time.Second, false, func(w *world, i int, random *rand.Rand) func() {
		w.hubs[i].kill()
		for n, line := range w.hubs[i].env {
			if strings.HasPrefix(line, events) {
				w.hubs[i].env[n] = fmt.Sprint(events, kept*(1+random.IntN(3)))
			}
		}
		return func() { w.startHub(i) }
	}},
	// What an operator may do with the broker's own tools.
	"purged": {1, 200 * time.Millisecond, time.Second, true, func(w *world, i int, _ *rand.Rand) func() {
		if err := w.purge(tenants[i]); err != nil {
			w.t.Log(err)
		}
		return func() {}
	}},
	// A line that is silent closes nothing, and what was said arrives when it is over.
	"hub-silent": {3, 2 * time.Second, 15 * time.Second, false, func(w *world, i int, _ *rand.Rand) func() {
		return lines(w.lines[i][:], (*natstest.Proxy).Silence)
	}},
	"hub-cut": {2, time.Second, 15 * time.Second, false, func(w *world, i int, _ *rand.Rand) func() {
		return lines(w.lines[i][:], (*natstest.Proxy).Cut)
	}},
	"server-isolated": {2, 3 * time.Second, 25 * time.Second, true, isolateServer},
	"leader-isolated": {2, 3 * time.Second, 15 * time.Second, true, isolateServer},
	"server-silent": {2, 3 * time.Second, 25 * time.Second, true, func(w *world, i int, _ *rand.Rand) func() {
		all := w.peers(i)
		for h := range hubs {
			all = append(all, w.lines[h][i])
		}
		return lines(all, (*natstest.Proxy).Silence)
	}},
	// Messages between a hub and its servers. Of an answer of several the rest is lost with
	// one, as it comes in order from one server.
	"drop-live":      {3, 2 * time.Second, 8 * time.Second, false, messages(.1, natstest.Verdict{Drop: true}, true, isLive)},
	"drop-answers":   {3, 2 * time.Second, 8 * time.Second, false, messages(.2, natstest.Verdict{Drop: true}, true, isAnswer)},
	"drop-both":      {3, 2 * time.Second, 8 * time.Second, false, messages(.2, natstest.Verdict{Drop: true}, true, isLive, isAnswer)},
	"drop-any":       {2, 2 * time.Second, 8 * time.Second, false, messages(.05, natstest.Verdict{Drop: true}, true, isLive, isAnswer, isOther)},
	"late-questions": {2, 2 * time.Second, 8 * time.Second, false, messages(.3, natstest.Verdict{Late: 700 * time.Millisecond}, true, isQuestion)},
	// And one in the middle of an answer alone, for which a route between servers has to
	// break and come back within it: it happens only if it is asked for.
	"drop-middles": {0, 2 * time.Second, 8 * time.Second, false, messages(.2, natstest.Verdict{Drop: true}, false, isMiddle)},
}

func killServer(w *world, i int, _ *rand.Rand) func() {
	w.servers[i].kill()
	return func() { w.startServer(i) }
}

func pauseServer(w *world, i int, _ *rand.Rand) func() {
	w.servers[i].signal(syscall.SIGSTOP)
	return func() { w.servers[i].signal(syscall.SIGCONT) }
}

func isolateServer(w *world, i int, _ *rand.Rand) func() {
	return lines(w.peers(i), (*natstest.Proxy).Silence)
}

// events is the setting of how many are kept of a tenant.
const events = "REALTIME_HISTORY_EVENTS="

// purge removes all of a tenant's history but the last few events.
func (w *world) purge(tenant string) error {
	ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
	defer cancel()
	js, err := jetstream.New(w.nc)
	if err != nil {
		return err
	}
	s, err := js.Stream(ctx, prefix+"_journal")
	if err != nil {
		return err
	}
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	p := purge{tenant: tenant, begun: time.Now()}
	var places []uint64
	for _, e := range w.r.events {
		if e.tenant == tenant && e.place > 0 {
			places = append(places, e.place)
		}
	}
	slices.Sort(places)
	p.until = places[max(0, len(places)-10)]
	subject := prefix + ".ev." + base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString([]byte(tenant))
	w.r.purges = append(w.r.purges, p)
	return s.Purge(ctx, jetstream.WithPurgeSubject(subject), jetstream.WithPurgeSequence(p.until+1))
}

// peers are the lines between a server and the others.
func (w *world) peers(i int) (all []*natstest.Proxy) {
	for k := range servers {
		if k != i {
			all = append(all, w.routes[i][k], w.routes[k][i])
		}
	}
	return all
}

func lines(all []*natstest.Proxy, do func(*natstest.Proxy)) (undo func()) {
	for _, p := range all {
		do(p)
	}
	return func() {
		for _, p := range all {
			p.Mend()
		}
	}
}

func isLive(m *natstest.Message) bool {
	return m.FromServer && strings.HasPrefix(m.Subject, prefix+".live.")
}

func isAnswer(m *natstest.Message) bool {
	return m.FromServer && strings.HasPrefix(m.Subject, "_INBOX.")
}

func isMiddle(m *natstest.Message) bool {
	return isAnswer(m) && m.Header.Get("Nats-Num-Pending") != ""
}

func isQuestion(m *natstest.Message) bool {
	return !m.FromServer && strings.HasPrefix(m.Subject, "$JS.API.")
}

func isOther(m *natstest.Message) bool {
	return strings.HasSuffix(m.Verb, "MSG") || strings.HasSuffix(m.Verb, "PUB")
}

// messages has something happen to some of a hub's messages, which are of any of some
// sorts; to the rest of an answer too, if that is said.
func messages(share float64, verdict natstest.Verdict, rest bool, of ...func(*natstest.Message) bool) func(*world, int, *rand.Rand) func() {
	return func(w *world, i int, random *rand.Rand) func() {
		var mu sync.Mutex
		broken := map[string]bool{} // answers
		rule := func(m *natstest.Message) natstest.Verdict {
			if !isOther(m) || !slices.ContainsFunc(of, func(is func(*natstest.Message) bool) bool { return is(m) }) {
				return natstest.Verdict{}
			}
			mu.Lock()
			defer mu.Unlock()
			if !broken[m.Subject] && random.Float64() >= share {
				return natstest.Verdict{}
			}
			broken[m.Subject] = rest && isAnswer(m)
			return verdict
		}
		for _, p := range w.lines[i] {
			p.Rule(rule)
		}
		return func() {
			for _, p := range w.lines[i] {
				p.Rule(nil)
			}
		}
	}
}

// plan is a history: which faults happen, of the kinds that are given, all of them where
// none are. One that follows before the one before is over happens to another sort.
func plan(seed uint64, lasts time.Duration, only []string) (all []fault) {
	random := rand.New(rand.NewPCG(seed, 0))
	var names []string
	for name, k := range kinds {
		often := k.often
		if len(only) > 0 {
			often = 0
			if slices.Contains(only, name) {
				often = max(1, k.often)
			}
		}
		for range often {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	after := time.Second
	for at := after; ; at += after {
		f := fault{kind: names[random.IntN(len(names))], which: random.IntN(servers), at: after}
		k := kinds[f.kind]
		// Most are short: more happens then.
		part := random.Float64() / 3
		if random.IntN(3) == 0 {
			part = 3 * part
		}
		f.lasts = (k.shortest + time.Duration(part*float64(k.longest-k.shortest))).Round(100 * time.Millisecond)
		if n := len(all); n > 0 && k.server == kinds[all[n-1].kind].server {
			f.at = max(after, all[n-1].lasts)
			at += f.at - after
		}
		if at+f.lasts > lasts {
			return all
		}
		all = append(all, f)
		after = f.lasts + time.Duration(random.Float64()*3*float64(time.Second)).Round(100*time.Millisecond)
		if random.IntN(3) == 0 {
			after = f.lasts / 2
		}
	}
}

// told is a history as it happened.
type told struct {
	mu    sync.Mutex
	lines []string
}

func (t *told) tell(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, clock(time.Now())+" "+fmt.Sprintf(format, args...))
}

func (t *told) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "\n")
}

// happen has a history happen, and returns when all of it is over. What does not begin in
// its time, since the servers took long to be whole again, is left out.
func (w *world) happen(seed uint64, all []fault, lasts time.Duration, told *told) {
	end := time.Now().Add(lasts)
	var under sync.WaitGroup
	var sort [2]sync.Mutex // one of a sort at a time: that which is slow to end is waited for
	for i, f := range all {
		time.Sleep(f.at)
		k := kinds[f.kind]
		one := &sort[0]
		if k.server {
			one = &sort[1]
		}
		one.Lock()
		if k.server && !w.whole() {
			told.tell("left out, as the servers are not whole: %s", f)
			one.Unlock()
			continue
		}
		if time.Now().After(end) {
			told.tell("left out, from %s on", f)
			one.Unlock()
			break
		}
		if strings.HasPrefix(f.kind, "leader-") {
			f.which = max(0, w.leader())
		}
		random := rand.New(rand.NewPCG(seed, uint64(i)+1))
		begun := time.Now()
		undo := k.do(w, f.which, random)
		told.tell("%s", f)
		under.Go(func() {
			defer one.Unlock()
			time.Sleep(f.lasts)
			undo()
			switch {
			case !k.server:
				w.r.excuse(f.which, begun)
			case f.kind == "quorum-lost":
				w.r.excuse(-1, begun)
			}
			told.tell("  over: %s", f)
		})
	}
	under.Wait()
}

// excuse notes that a hub could not take what was published until now.
func (r *record) excuse(hub int, begun time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away = append(r.away, away{hub, begun, time.Now()})
}
