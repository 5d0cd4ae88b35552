package quota

import (
	"testing"

	"github.com/matryer/is"
)

func TestNobodyTakesAll(t *testing.T) {
	for _, c := range []struct{ greedy, part, each int64 }{{1, 1, 500}, {2, 1, 333}, {9, 1, 100}, {1, 4, 200}} {
		is := is.New(t)
		p := New[int64](1000, c.part)
		for range 1000 {
			for who := range c.greedy {
				p.Take(who, 1)
			}
		}
		for who := range c.greedy {
			is.Equal(p.Of(who), c.each)
		}
		is.True(p.Refused() > 0)
		is.True(p.Take(-1, (1000-p.Total())/2/c.part)) // who comes next has as good as a half of the rest
	}
}

func TestWhatIsGivenBackIsFree(t *testing.T) {
	is := is.New(t)
	p := New[string](100, 1)
	is.True(p.Take("a", 50))
	is.True(!p.Take("a", 1))
	is.True(!p.Take("b", 26)) // more than would be left
	is.True(p.Take("b", 25))
	p.Give("a", 50)
	p.Give("b", 25)
	is.Equal(p.Total(), int64(0))
	is.Equal(len(p.held), 0) // nobody is remembered
	is.Equal(p.Refused(), int64(2))

	p.Force("a", 200) // it is there
	is.True(!p.Take("b", 1))
	is.True(p.Take("a", 0))
	is.Equal(p.Of("a"), p.Total())
	is.Equal(p.All(), int64(100))
}

func TestOneMayHaveAll(t *testing.T) {
	is := is.New(t)
	p := New[string](2, 0)
	is.True(p.Take("a", 1))
	is.True(p.Take("a", 1))
	is.True(!p.Take("a", 1))
	is.True(!p.Take("b", 1))
	p.Give("a", 1)
	is.True(p.Take("b", 1))
}

func TestNoLimit(t *testing.T) {
	is := is.New(t)
	for _, p := range []*Pool[string]{nil, New[string](0, 1)} {
		is.True(p.Take("a", 1<<60))
		p.Give("a", 1<<60)
		p.Force("a", 1)
		p.Give("a", 1)
		is.Equal(p.Total()+p.Of("a")+p.All()+p.Refused(), int64(0))
	}
}

// When very many leave, what is kept of the others moves a few at a time: nobody waits for all of it.
func TestACrowdThatLeavesMovesNobodyAtOnce(t *testing.T) {
	is := is.New(t)
	const crowd = 10_000
	p := New[int](0, 1)
	for who := range crowd {
		p.Force(who, int64(who+1))
	}
	made := 0
	for who := range crowd {
		before := len(p.held)
		p.Give(who, int64(who+1))
		is.True(len(p.held)-before <= moveTogether)
		if len(p.held) < before-1 { // it was made anew
			made++
			is.True(len(p.held) <= moveTogether)
		}
		is.Equal(p.Of(who), int64(0))
		if next := who + 1 + who%7; next < crowd {
			is.Equal(p.Of(next), int64(next+1))
		}
	}
	is.True(made >= 3) // half as large each time
	is.Equal(p.Total(), int64(0))
	is.Equal(len(p.held)+len(p.old), 0)
}
