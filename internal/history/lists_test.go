package history

import (
	"math/rand/v2"
	"testing"

	"github.com/matryer/is"
)

// A queue takes memory by what is in it, not by what was.
func TestQueueGivesMemoryBack(t *testing.T) {
	is := is.New(t)
	var q Queue[int]
	random := rand.New(rand.NewPCG(1, 1))
	next, first := 0, 0
	for range 200 {
		for range random.IntN(2000) {
			q.Push(next)
			next++
		}
		for range random.IntN(2000) {
			if q.Len() == 0 {
				break
			}
			is.Equal(q.At(0), first)
			is.Equal(q.Pop(), first)
			first++
			is.True(q.Places() <= 3*q.Len()+8)
		}
		is.Equal(q.Len(), next-first)
	}
	for q.Len() > 0 {
		q.Pop()
	}
	is.Equal(q.Places(), 0)
}
