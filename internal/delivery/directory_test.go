package delivery

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/matryer/is"
)

// numbered is a connection with an id of a number.
func numbered(n int) *Connection {
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:], uint64(n))
	return &Connection{ID: id}
}

// Whatever comes and goes, a page is what it would be of the whole list, sorted; and what is kept
// is small: chunks are not too large, nor are many of them small.
func TestThePagesOfConnections(t *testing.T) {
	is := is.New(t)
	var o order
	var all []*Connection // sorted
	random := rand.New(rand.NewPCG(1, 20))
	next := 0
	for _, much := range []int{700, 100, 3000, 2500, 5, 800, 0} {
		for len(all) != much {
			if len(all) < much {
				next += 10
				c := numbered(next - random.IntN(100)) // not quite in order
				if i, twice := slices.BinarySearchFunc(all, c, CompareIDs); !twice {
					all = slices.Insert(all, i, c)
					o.add(c)
				}
			} else {
				i := random.IntN(len(all))
				o.remove(all[i])
				all = slices.Delete(all, i, i+1)
			}
			if random.IntN(10) > 0 {
				continue
			}
			after, limit, want := "", 1+random.IntN(1000), all
			if i := random.IntN(len(all) + 1); i > 0 {
				after, want = all[i-1].ID.String(), all[i:]
			}
			list, more := o.page(after, limit)
			is.True(slices.Equal(list, want[:min(limit, len(want))]))
			is.Equal(more, len(want) > limit)
			is.Equal(o.size, len(all))
			for i, chunk := range o.chunks {
				is.True(len(chunk) > 0 && len(chunk) <= chunkSize)
				is.True(i == 0 || len(chunk)+len(o.chunks[i-1]) > chunkSize/2)
			}
		}
	}
	is.Equal(len(o.chunks), 0)
}

// Two chunks are one when both have become small, whichever did so last.
func TestSmallChunksJoin(t *testing.T) {
	is := is.New(t)
	for _, in := range [][]int{{0, 1}, {1, 0}} {
		var o order
		for i := range 2 * chunkSize {
			o.add(numbered(i))
		}
		is.Equal(len(o.chunks), 2)
		for _, chunk := range in {
			for i := range chunkSize - 100 {
				o.remove(numbered(chunk*chunkSize + i))
			}
		}
		is.Equal(len(o.chunks), 1)
	}
}

// A page costs the same, and one that comes or goes moves as many others, whatever the tenant's
// size.
func TestAPageLooksAtFew(t *testing.T) {
	is := is.New(t)
	looks := func(size int) (n int) {
		var o order
		for i := range size {
			o.add(numbered(i))
		}
		is.True(len(o.chunks) <= 1+size/chunkSize) // those that come in order fill theirs
		o.first(func(c *Connection) bool { n++; return CompareIDs(c, numbered(size/2)) > 0 })
		return n
	}
	is.True(looks(100_000) <= 2+17) // a logarithm
	is.True(looks(1_000) <= 2+10)
}
