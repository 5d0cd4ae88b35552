package history

import (
	"math/rand/v2"
	"testing"

	"github.com/matryer/is"
)

// A queue takes memory by what is in it, not by what was.
func TestQueueGivesMemoryBack(t *testing.T) {
	is := is.New(t)
	var q queue[int]
	random := rand.New(rand.NewPCG(1, 1))
	next, first := 0, 0
	for range 200 {
		for range random.IntN(2000) {
			q.push(next)
			next++
		}
		for range random.IntN(2000) {
			if q.len() == 0 {
				break
			}
			is.Equal(q.at(0), first)
			is.Equal(q.pop(), first)
			first++
			is.True(q.places() <= 3*q.len()+8)
		}
		is.Equal(q.len(), next-first)
	}
	for q.len() > 0 {
		q.pop()
	}
	is.Equal(q.places(), 0)
}
