package delivery

import (
	"testing"
	"time"

	"github.com/matryer/is"
)

// What a client owes that acknowledges nothing for hours takes no more memory with time.
func TestWhatIsOwedIsBounded(t *testing.T) {
	is := is.New(t)
	var a acks
	begun := time.Now()
	for i := range 10_000 {
		at := begun.Add(time.Duration(i) * 2 * time.Second)
		a.owe(uint64(i+1), at.Add(24*time.Hour), at)
	}
	is.True(len(a.owed) <= mostOwed)
	is.Equal(a.owed[0].sent, begun)
	last := a.owed[len(a.owed)-1]
	is.Equal(last.place, uint64(10_000))
	for i := range a.owed[1:] {
		is.True(a.owed[i].place < a.owed[i+1].place)
	}
	a.owe(10_001, begun.Add(100*time.Hour), begun.Add(99*time.Hour)) // those before have been reported
	is.Equal(len(a.owed), 1)
}
