package journal

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/natstest"
)

// slowly is a Prepare that waits until it may go on, and counts.
type slowly struct {
	goOn chan struct{}
	mu   sync.Mutex
	had  []int // items, by call; guarded by mu
}

func (s *slowly) prepare(_ string, items []*Item) {
	s.mu.Lock()
	s.had = append(s.had, len(items))
	s.mu.Unlock()
	<-s.goOn
}

func (s *slowly) calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.had)
}

func waiting(u *user, key string) int {
	f := u.feed(key)
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.ready)
}

func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: ", what)
		}
	}
}

// What comes while something is prepared is prepared together, and handed over in order.
func TestPreparedTogether(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	one := open(t, b, 0, "one", settings)
	s := &slowly{goOn: make(chan struct{})}
	cfg := settings
	cfg.Prepare = s.prepare
	two := open(t, b, 0, "two", cfg)
	two.attach("k")
	const n = 300
	var want []string
	for i := range n {
		one.append(it("k", fmt.Sprint(i)))
		want = append(want, fmt.Sprint(i))
	}
	until(t, "all have come", func() bool { return s.calls() == 1 && waiting(two, "k")+s.had[0] == n })
	close(s.goOn)
	two.await("k", strings.Join(want, " "))
	is.True(s.calls() <= 2+n/prepareTogether)
	is.Equal(len(two.lost), 0)
}

// Past a bound what waits is given up, which is told: it goes on after that, in order.
func TestWhatCannotBePreparedInTimeIsLost(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	one := open(t, b, 0, "one", settings)
	s := &slowly{goOn: make(chan struct{})}
	cfg := settings
	cfg.Prepare = s.prepare
	two := open(t, b, 0, "two", cfg)
	two.attach("k")
	one.append(it("k", "first"))
	until(t, "it is being prepared", func() bool { return s.calls() == 1 })
	large := strings.Repeat("x", 64<<10)
	var last uint64
	for i := range mostReadyBytes/len(large) + 1 {
		item := it("k", fmt.Sprint(i))
		item.Data = []byte(large)
		one.append(item)
		last = item.Seq
	}
	until(t, "it was too much", func() bool {
		f := two.feed("k")
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.overrun
	})
	one.append(it("k", "next"))
	until(t, "the next one has come", func() bool { return waiting(two, "k") == 1 })
	close(s.goOn)
	two.await("k", "next")
	two.mu.Lock()
	defer two.mu.Unlock()
	is.Equal(two.lost, map[string]uint64{"k": last})
}
