package journal

import (
	"fmt"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/natstest"
)

// The broker loses its last writes, and others who know nothing of them have as many kept
// again, and more, while one is cut off: it sees that its last place is another's now, and
// does not go on as if nothing had happened.
func TestWhatWasLostIsRegainedUnseen(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	proxy := b.Proxies(t)[0]
	one, two := open(t, b, 0, "one", settings), openAt(t, proxy.URL(), "two", settings)
	two.attach("k")
	one.append(it("k", "a"))
	two.await("k", "a")
	lose := b.Snapshot(t)
	await(t, func() bool { return one.ready() && two.ready() })
	await(t, func() bool { return one.Append(t.Context(), []*Item{it("k", "lost0")}) == nil })
	one.append(it("k", "lost1"))
	one.append(it("k", "lost2"))
	two.await("k", "a lost0 lost1 lost2")
	before := two.Epoch()
	proxy.Cut()
	one.nc.Close()
	lose()
	b.Restart(t, 0)
	three := open(t, b, 0, "three", settings)
	is.Equal(three.Epoch(), before) // it cannot know
	for i := range 9 {
		three.append(it("k", fmt.Sprint("new", i)))
	}
	proxy.Mend()
	await(t, func() bool { return two.Epoch() != before && two.Epoch() == three.Epoch() })
	await(t, func() bool {
		_, told := two.lostAt("k")
		return told
	})
	is.Equal(two.seen("k"), "a lost0 lost1 lost2") // nothing of another history before that
	three.append(it("k", "last"))
	two.await("k", "a lost0 lost1 lost2 last")
}
