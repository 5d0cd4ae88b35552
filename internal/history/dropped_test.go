package history

import (
	"fmt"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/testkit"
)

// What is counted is what it takes to remember what was dropped, and that is bounded.
func TestDroppedSize(t *testing.T) {
	if !testkit.ByItself(t) {
		return
	}
	is := is.New(t)
	const many = 3 * MostDropped
	var d Dropped
	before := testkit.LiveHeap()
	for i := range many {
		p := event.Profile{Type: "user", ID: fmt.Sprintf("profile-number-%d", i)}
		d.Note(&event.Event{Target: event.ToProfile(p)}, uint64(i), MostDropped)
	}
	real := float64(testkit.LiveHeap()-before) / float64(d.Len())
	t.Logf("one takes %.0f bytes", real)
	is.True(d.Len() <= 2*MostDropped)
	is.True(real < 1.5*DroppedBytes)
	is.True(!d.Since(many-1, &Reader{}))
	is.True(d.Since(0, &Reader{}))
}
