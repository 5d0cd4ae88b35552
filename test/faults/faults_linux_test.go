package faults

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/natstest"
)

var (
	long   = flag.Bool("faults.long", false, "ten minutes of faults, of each of three seeds")
	lasts  = flag.Duration("faults.for", time.Minute, "how long a history is")
	seeds  = flag.String("faults.seeds", "1", "of histories, with commas")
	only   = flag.String("faults.only", "", "kinds of faults, with commas; empty: all")
	of     = flag.String("faults.of", "", "a commit: the hubs are built from it; empty: from what is here")
	other  = flag.String("faults.other", "", "a commit: one of the hubs is built from it")
	dry    = flag.Bool("faults.plan", false, "only say what would happen")
	logs   = flag.String("faults.logs", "", "a folder for the logs of hubs and servers where something failed")
	clocks = flag.Bool("faults.clocks", true, "one of the hubs has a clock that is an hour ahead")
)

func TestMain(m *testing.M) { hubtest.Main(m) }

func TestHistories(t *testing.T) {
	if *long {
		*lasts, *seeds = 10*time.Minute, "1,2,3"
	}
	var named []string
	if *only != "" {
		named = strings.Split(*only, ",")
	}
	for _, name := range named {
		if _, ok := kinds[name]; !ok && name != "none" {
			t.Fatalf("%q is no kind of faults; there are none and %q", name, slices.Sorted(maps.Keys(kinds)))
		}
	}
	if end, ok := t.Deadline(); ok && !*dry && time.Until(end) < time.Duration(1+strings.Count(*seeds, ","))*(*lasts+2*time.Minute) {
		t.Fatal("this takes longer than the test may take: -timeout 1h")
	}
	var binaries []string
	if !*dry {
		binaries = build(t)
	}
	for text := range strings.SplitSeq(*seeds, ",") {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		all := plan(seed, *lasts, named)
		if *dry {
			t.Logf("seed %d: %v", seed, all)
			continue
		}
		t.Run("seed "+text, func(t *testing.T) { history(t, seed, all, binaries) })
	}
}

// build makes the hubs, and the server that they share, beside each other.
func build(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	hub := func(from, name string, args ...string) (binary string, err error) {
		binary = filepath.Join(dir, name)
		cmd := exec.Command("go", append(append([]string{"build", "-o", binary}, args...), "realtimehub")...)
		cmd.Dir = from
		if out, failed := cmd.CombinedOutput(); failed != nil {
			err = fmt.Errorf("go build: %w\n%s", failed, out)
		}
		return binary, err
	}
	// at is the source at a commit.
	at := func(commit string) string {
		source := filepath.Join(dir, fmt.Sprintf("at-%x", commit))
		script := fmt.Sprintf("mkdir %q && cd \"$(git rev-parse --show-toplevel)\" && git archive %q | tar -x -C %[1]q", source, commit)
		if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return source
	}
	var all [hubs]string
	var errs [hubs]error
	var builds sync.WaitGroup
	source := hubtest.Root()
	if *of != "" {
		source = at(*of)
		builds.Go(func() { all[0], errs[0] = hub(source, "hub") })
	}
	if *clocks {
		overlay := ahead(t, dir)
		builds.Go(func() { all[1], errs[1] = hub(source, "hub-ahead", "-overlay", overlay) })
	}
	if *other != "" {
		from := at(*other)
		builds.Go(func() { all[2], errs[2] = hub(from, "hub-other") })
	}
	natstest.Binary(t)
	if *of == "" {
		all[0] = hubtest.PlainBinary(t)
	}
	builds.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	for i := range all {
		all[i] = cmp.Or(all[i], all[0])
	}
	return all[:]
}

// ahead is an overlay in which what the time is is an hour more.
func ahead(t *testing.T, dir string) string {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(strings.TrimSpace(string(root)), "src/time/time.go")
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	const now = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	if !bytes.Contains(text, []byte(now)) {
		t.Fatal("package time is another than this test knows")
	}
	changed, overlay := filepath.Join(dir, "time.go"), filepath.Join(dir, "overlay.json")
	err = os.WriteFile(changed, bytes.Replace(text, []byte(now), []byte(now+"\tsec += 3600\n"), 1), 0o600)
	if err == nil {
		err = os.WriteFile(overlay, fmt.Appendf(nil, `{"Replace":{%q:%q}}`, source, changed), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return overlay
}

// busy is the load of the last minute, and whether it is more than the history's own, so that
// who waits is waiting for something else. It is asked for in CI alone, which runs other tests
// beside this one: whoever measures sees to a quiet machine.
func busy(t *testing.T) (load float64, busy bool) {
	t.Helper()
	text, err := os.ReadFile("/proc/loadavg")
	if err == nil {
		_, err = fmt.Sscan(string(text), &load)
	}
	if err != nil {
		t.Fatal(err)
	}
	return load, hubtest.CI() && load > 2*float64(runtime.NumCPU())
}

// How long is waited for what has to come after the last fault.
const (
	presenceWithin = 15 * time.Second
	eventsWithin   = 15 * time.Second
)

func history(t *testing.T, seed uint64, all []fault, binaries []string) {
	w := newWorld(t, binaries...)
	r := w.r
	l := newLoad(w, r, seed)
	told := &told{}
	learning, cancel := context.WithCancel(context.Background())
	defer cancel()
	var learned sync.WaitGroup
	learned.Go(func() { l.learn(learning) })
	l.begin()
	told.tell("all is well, seed %d", seed)
	w.happen(seed, all, *lasts, told)
	healed := time.Now()
	var load float64
	load, r.busy = busy(t)
	told.tell("the last fault is over; load %.1f", load)
	close(l.settled)
	var others []finding
	say := func(what string, list []string) {
		for _, text := range list {
			others = append(others, finding{what: what, text: text, sight: -1})
		}
	}
	// Presence is to be right from some time on; events and rooms go on meanwhile.
	var late, wrong []string
	var right time.Time
	for since := time.Duration(0); since < presenceWithin || len(wrong) > 0 && since < 4*presenceWithin; since = time.Since(healed) {
		wrong = l.wrongPresence(context.Background())
		if since < r.within(presenceWithin) {
			late = wrong
		}
		if len(wrong) > 0 {
			right = time.Time{}
		} else if right.IsZero() {
			right = time.Now()
		}
		time.Sleep(200 * time.Millisecond)
	}
	say("presence", late)
	if len(wrong) == 0 {
		told.tell("presence is right since %s, %.1f s after it", clock(right), right.Sub(healed).Seconds())
	}
	// And each hub takes events again: one that does not is seen as away.
	for !r.taken(healed) && time.Since(healed) < r.within(mostAway)+2*probing*3 {
		time.Sleep(probing)
	}
	l.finish(r.within(eventsWithin))
	told.tell("the last event is published")
	behind := l.caughtUp(r.within(eventsWithin))
	if len(behind) > 0 {
		say("behind", []string{fmt.Sprintf("%v after the end have not the last event: %s", r.within(eventsWithin), strings.Join(behind, ", "))})
	}
	l.stored(r.within(10 * time.Second))
	say("history", l.histories(context.Background()))
	for i, h := range w.hubs {
		if n := h.falls(); n > 0 { // also where a fault has begun it again
			say("a hub ended", []string{fmt.Sprintf("hub %d, %d times; it said\n%s", i, n, w.said(h.logs))})
		}
	}
	l.end()
	l.streaming.Wait()
	cancel()
	learned.Wait()

	say("never answered", l.unanswered())

	var answers []string
	l.answers.Range(func(key, n any) bool {
		answers = append(answers, fmt.Sprintf("%s ×%d", key, n.(*atomic.Int64).Load()))
		if slices.Contains(strings.Fields(key.(string)), "500") {
			say("a hub failed", answers[len(answers)-1:])
		}
		return true
	})
	slices.Sort(answers)
	findings := append(judgeAll(r), others...)
	sights := map[string]int{}
	for _, t := range r.trails {
		for _, s := range t.sights {
			name := string(s.what)
			if s.what != connecting && s.what != came {
				name += " " + s.said
			}
			sights[name]++
		}
	}
	t.Logf("seed %d: %d events, %d changes, %v\n%s\nlongest without an acknowledgement: %s", seed, len(r.events), len(r.changes), sights, strings.Join(answers, ", "), r.longest())
	if len(findings) == 0 {
		t.Logf("what happened:\n%s", told)
		return
	}
	t.Errorf("seed %d; what happened:\n%s", seed, told)
	byKind := map[string][]finding{}
	for _, f := range findings {
		byKind[f.what] = append(byKind[f.what], f)
	}
	for _, what := range slices.Sorted(maps.Keys(byKind)) {
		list := byKind[what]
		t.Errorf("%s: %d times", what, len(list))
		for _, f := range list[:min(len(list), 5)] {
			t.Log(f.around(r))
		}
	}
	if *logs == "" {
		return
	}
	for _, path := range w.logs() {
		text, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(filepath.Join(*logs, fmt.Sprintf("seed%d-%s", seed, filepath.Base(path))), text, 0o600)
		}
		if err != nil {
			t.Error(err)
		}
	}
}
