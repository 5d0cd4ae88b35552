package history

import (
	"fmt"
	"testing"
	"time"

	"realtimehub/internal/event"
)

// BenchmarkLockedFor: how long the shelf is locked for an entry to so many profiles that comes,
// while one goes.
func BenchmarkLockedFor(b *testing.B) {
	for _, n := range []int{1_001, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m := NewMemory(Limits{Events: 5})
			var to event.Target
			for i := range n {
				to.Profiles = append(to.Profiles, event.Profile{Type: "user", ID: fmt.Sprint(i)})
			}
			to.Kind = event.KindProfiles
			h := m.shelves.lock("acme", true)
			defer h.mu.Unlock()
			var locked time.Duration
			for b.Loop() {
				e := entryTo("acme", "1", to)
				e.Prepare()
				at := time.Now()
				m.place(h, e)
				m.shelves.evictLocked(h, at)
				locked += time.Since(at)
			}
			b.ReportMetric(float64(locked.Microseconds())/float64(b.N), "locked-µs")
		})
	}
}
