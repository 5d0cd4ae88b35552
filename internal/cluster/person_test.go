package cluster

import (
	"testing"

	"github.com/matryer/is"
)

// The first of somebody's sessions is always one that was used last, whatever comes, is used and
// goes; and none is lost.
func TestTheLatestSessionOfAPerson(t *testing.T) {
	is := is.New(t)
	who := &person{firstAt: none}
	is.True(who.add(6) == nil) // the first
	all := map[*session]bool{}
	check := func() {
		t.Helper()
		is.Equal(who.open, len(all)+1)
		is.Equal(who.latest == nil, len(all) == 0)
		n, latest := 0, who.firstAt
		for s := who.latest; s != nil; s = s.next {
			n++
			latest = max(latest, s.activeAt)
			is.True(all[s])                               // it is there
			is.True(s.activeAt <= who.latest.activeAt)    // the first is the latest
			is.True(s.next == nil || s.next.prev == s)    // there and back
			is.True((s.prev == nil) == (s == who.latest)) // nothing is before the first
		}
		is.Equal(n, len(all))
		is.Equal(who.usedAt(), latest)
	}
	for i, at := range []int64{5, 3, 9, 1, 9, 7, 2, 8} {
		s := who.add(at)
		all[s] = true
		check()
		if i%3 == 2 { // one that is not the latest is used: earlier than it was, and then later
			for other := range all {
				who.used(other, at-2)
				check()
				who.used(other, at+int64(i))
				check()
			}
		}
	}
	for len(all) > 0 {
		s := who.latest
		if s.next != nil && len(all)%2 == 0 {
			s = s.next
		}
		who.remove(s)
		delete(all, s)
		check()
	}
}
