package attack

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"realtimehub/internal/hubtest"
)

var times = flag.Int("attack.times", 1, "how many times as much each attack does")

// What a hub must keep to.
const (
	mostResident = plan * 115 / 100      // bytes, at any time
	mostTimes    = 2                     // how much longer an event may take in 99 of 100 cases
	unnoticed    = 10 * time.Millisecond // than this, if it does not take longer anyway: then the machine is busy, maybe with the attack
	busyTimes    = 4                     // and than how long it takes then
	attackTime   = 10 * time.Second      // at most, once
	rest         = 30 * time.Second      // until the hub is as before, where it is made to collect what is left
	restLook     = 5 * time.Second       // seldom enough that the hub takes it for quiet, and gives memory back
	tries        = 3                     // an attack makes others wait if it does so each time: a machine stumbles now and then
	uncollected  = 16 << 20              // bytes: Go does not collect a smaller heap, as the hub has it set
)

// result is what came of an attack.
type result struct {
	attack             string
	alone, beside      time.Duration // an event took so long, in 99 of 100 cases at most
	begun, peak, after int           // bytes of resident memory
	kept               int           // bytes that the hub says it keeps for longer
	rested             time.Duration // until it was as before
	dead               bool
	tally              map[string]int
}

// waited says that the other tenant did, for the attack as it seems.
func (r *result) waited() bool { return r.beside > r.most() }

// most is how long an event may take beside the attack.
func (r *result) most() time.Duration {
	if r.alone > unnoticed {
		return busyTimes * r.alone
	}
	return mostTimes * unnoticed
}

// stage is the machine: one attack at a time is on it, or hubs that are being warmed up, as
// many as there are. What was attacked may rest beside the next.
var stage sync.RWMutex

func TestAttacks(t *testing.T) {
	binary := hubtest.PlainBinary(t)
	alone := newBystander(t, start(t, binary).near())
	var mu sync.Mutex
	var results []*result
	t.Cleanup(func() { t.Log("\n" + table(results)) })
	for _, name := range slices.Sorted(maps.Keys(attacks)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for try := 1; ; try++ {
				r := &result{attack: name}
				s := perform(t, attacks[name], r, binary, alone)
				mu.Lock()
				results = append(results, r)
				mu.Unlock()
				if s != nil {
					restore(t, s, r)
				}
				switch {
				case t.Failed() || !r.waited() || attacks[name].broker:
					return
				case try == tries:
					t.Errorf("each of %d times the other tenant waited more than %v for an event, at last %v, alone %v", tries, r.most(), r.beside, r.alone)
					return
				}
				t.Logf("the other tenant waited %v for an event, alone %v: was it the attack, or the machine? It is done again", r.beside, r.alone)
			}
		})
	}
}

// perform measures how the other tenant fares beside the attack, and how it fares alone
// meanwhile, on a hub that nobody attacks: so what else the machine does is the same for
// both. The scene is nil when the hub is dead.
func perform(t *testing.T, a attack, r *result, binary string, alone *bystander) *scene {
	s := warmedUp(t, a, r, binary)
	hub := s.hub
	stage.Lock()
	defer stage.Unlock()
	var err error
	after := func() {}
	if a.beside != nil {
		after = a.beside(t, s)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var together sync.WaitGroup
	together.Go(func() {
		defer stop()
		r.tally, err = send(ctx, command{Attack: r.attack, Addr: hub.far(), Times: *times, Most: time.Duration(*times) * attackTime})
	})
	together.Go(func() { r.alone = alone.run(ctx) })
	together.Go(func() { s.well.visit(ctx) })
	together.Go(func() {
		select {
		case <-hub.ended:
			stop()
		case <-ctx.Done():
		}
	})
	r.beside = s.well.run(ctx)
	together.Wait()
	r.peak = hub.peaked()
	dying := time.Duration(0)
	if len(s.well.noticed()) > 0 {
		dying = 3 * time.Second // a crash writes long about itself
	}
	select {
	case <-time.After(dying):
	case <-hub.ended:
		r.dead = true
		t.Errorf("the hub is dead:\n%s", hub.said())
		return nil
	}
	if err != nil {
		t.Error(err)
	}
	a.happened(t, r.tally)
	after()

	for _, fault := range s.well.noticed() {
		t.Errorf("the other tenant noticed: %s", fault)
	}
	if r.peak > mostResident {
		t.Errorf("it took %d MiB, of a plan of %d MiB", r.peak>>20, plan>>20)
	}
	return s
}

// warmedUp is a scene before anything is done.
func warmedUp(t *testing.T, a attack, r *result, binary string) *scene {
	t.Helper()
	stage.RLock()
	defer stage.RUnlock()
	var settings []string
	if a.settings != nil {
		settings = a.settings(t)
	}
	hub := start(t, binary, settings...)
	s := &scene{hub: hub, well: newBystander(t, hub.near())}
	warm, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	s.well.run(warm)
	var err error
	r.begun, _, err = hub.resident()
	if err == nil {
		r.kept, err = hub.kept()
	}
	if faults := s.well.noticed(); err != nil || len(faults) > 0 {
		t.Fatalf("before anything is done: %v %q", err, faults)
	}
	return s
}

// happened holds that the attack was one: it met what it was to, and what was refused was not
// refused for a mistake of its own.
func (a attack) happened(t *testing.T, tally map[string]int) {
	mistakes := []string{"403", "404", "405", "415"}
	if !a.unproven {
		mistakes = append(mistakes, "401")
	}
	if !a.wrong {
		mistakes = append(mistakes, "400")
	}
	for outcome := range tally {
		if status, _, _ := strings.Cut(outcome, " "); slices.Contains(mistakes, status) {
			t.Errorf("this is no attack: %s", outcome)
		}
	}
	if tally[a.meets] == 0 {
		t.Errorf("this is no attack: of %v none was %q", tally, a.meets)
	}
}

// restore waits until the hub takes as much memory as before, and what it says that it
// keeps: it was never so long that somebody had to come and end it.
func restore(t *testing.T, s *scene, r *result) {
	before := r.kept
	for begun := time.Now(); ; time.Sleep(restLook) {
		kept, resident, err := s.hub.collected()
		if err != nil {
			t.Errorf("after the attack: %v", err)
			return
		}
		r.kept, r.after, r.rested = kept-before, resident, time.Since(begun)
		most := r.begun*11/10 + max(0, r.kept)*12/10 + uncollected
		if r.after <= most {
			break
		}
		if r.rested > rest {
			t.Errorf("%v later it takes %d MiB, where it had %d MiB and says that it keeps %d MiB more", rest, r.after>>20, r.begun>>20, r.kept>>20)
			break
		}
	}
	if _, err := s.well.open(t.Context(), "user:late"); err != nil {
		t.Errorf("after the attack nobody can come: %v", err)
	}
}

// table shows the results.
func table(results []*result) string {
	slices.SortFunc(results, func(a, b *result) int { return strings.Compare(a.attack, b.attack) })
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "attack\tp99 alone\tbeside it\tMiB before\tat most\tafter\tkept\trest\twhat came of it\n")
	for _, r := range results {
		after := fmt.Sprintf("%d\t%d\t%.1fs", r.after>>20, r.kept>>20, r.rested.Seconds())
		if r.dead {
			after = "dead\t\t"
		}
		var outcomes []string
		for _, outcome := range slices.Sorted(maps.Keys(r.tally)) {
			outcomes = append(outcomes, fmt.Sprintf("%s ×%d", outcome, r.tally[outcome]))
		}
		fmt.Fprintf(w, "%s\t%v\t%v\t%d\t%d\t%s\t%s\n", r.attack, r.alone.Round(100*time.Microsecond), r.beside.Round(100*time.Microsecond),
			r.begun>>20, r.peak>>20, after, strings.Join(outcomes, ", "))
	}
	fmt.Fprintf(w, "of a plan of %d MiB\n", plan>>20)
	w.Flush()
	return text.String()
}
