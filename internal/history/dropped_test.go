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
	const many = 3 * mostDropped
	var d dropped
	before := testkit.LiveHeap()
	for i := range many {
		p := event.Profile{Type: "user", ID: fmt.Sprintf("profile-number-%d", i)}
		d.note(&Entry{Event: &event.Event{Target: event.ToProfile(p)}, Cursor: Cursor{Seq: uint64(i)}}, mostDropped)
	}
	real := float64(testkit.LiveHeap()-before) / float64(d.len())
	t.Logf("one takes %.0f bytes", real)
	is.True(d.len() <= 2*mostDropped)
	is.True(real < 1.5*droppedBytes)
	is.True(!d.since(many-1, &Reader{}))
	is.True(d.since(0, &Reader{}))
}
