package sized

import (
	"math/rand/v2"
	"testing"

	"github.com/matryer/is"
)

type named struct{ name string }

func (n *named) Key() string { return n.name }

// Whatever is put and deleted, a set has what a map has, also where many keys have one hash.
func TestASetHasWhatAMapHas(t *testing.T) {
	for name, hash := range map[string]func(string) uint64{
		"its own hash":           nil,
		"one hash for all":       func(string) uint64 { return 7 },
		"one of eight by length": func(k string) uint64 { return uint64(len(k) % 8) },
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			set, want := Set[string, *named]{hash: hash}, map[string]*named{}
			random := rand.New(rand.NewPCG(1, 20))
			for range 2000 {
				k := string(make([]byte, random.IntN(50)))
				is.Equal(set.Get(k), want[k])
				if v := want[k]; v != nil {
					set.Delete(v)
					delete(want, k)
				} else {
					want[k] = &named{k}
					set.Put(want[k])
				}
				is.Equal(set.Get(k), want[k])
				is.Equal(set.Len(), len(want))
			}
			is.True(set.Len() > 10)
			all := map[string]*named{}
			for v := range set.All() {
				is.True(all[v.name] == nil) // each comes once
				all[v.name] = v
			}
			is.Equal(all, want)
			for range set.All() {
				break
			}
			for v := range set.All() {
				set.Delete(v)
			}
			is.Equal(set.Len(), 0)
		})
	}
}
