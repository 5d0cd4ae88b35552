package ledger

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/matryer/is"
)

// The ledger is as a plain list of all messages tells, to a part of a key's bytes, and has
// few parts of each.
func TestLedger(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		is := is.New(t)
		random := rand.New(rand.NewPCG(seed, 6))
		type kept struct{ place, bytes int64 }
		l, plain := New(0), map[string][]kept{}
		sum := func(key string) (bytes int64) {
			for _, m := range plain[key] {
				bytes += m.bytes
			}
			return bytes
		}
		for place := range int64(5000) {
			key, bytes := fmt.Sprint(random.IntN(5)), 100+random.Int64N(1000)
			l.Add(key, uint64(place+1), bytes)
			plain[key] = append(plain[key], kept{place + 1, bytes})
			is.Equal(l.sizes.Of(key), sum(key))
			is.True(len(l.keys[key].parts) <= 2*MostParts)
			if random.IntN(500) > 0 {
				continue
			}
			goal := sum(key) * 3 / 4
			cut := l.Cut(key, goal)
			all := plain[key]
			plain[key] = slices.DeleteFunc(slices.Clone(all), func(m kept) bool { return m.place <= int64(cut) })
			is.Equal(l.sizes.Of(key), sum(key))
			is.True(sum(key) <= goal || len(all) < 4)
			is.True(len(all) < MostParts || sum(key) > goal*7/8) // and hardly more than asked for
		}
		l.Begin(2500)
		for key, all := range plain {
			plain[key] = slices.DeleteFunc(all, func(m kept) bool { return m.place < 2500 })
			is.True(l.sizes.Of(key) >= sum(key) && l.sizes.Of(key) < sum(key)*5/4) // a part goes when all of it has
		}
		l.Begin(6000)
		is.Equal(len(l.keys)+l.sizes.Len(), 0)
	}
}

// What a key's limit of messages removed is not counted.
func TestLedgerOfAKeysLimit(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	l := New(0)
	l.Keep(100)
	for i := range uint64(5000) {
		l.Add("k", i+1, 10)
	}
	is.Equal(l.keys["k"].messages, int64(100))
	is.Equal(l.sizes.Total(), int64(1000))
}

// Of a key that has much more than it may, it is known as well what to leave to it.
func TestLedgerOfAKeyFarPastItsBound(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	l := New(3200)
	for i := range uint64(10_000) {
		l.Add("k", i+1, 10)
	}
	l.Cut("k", 3100)
	is.True(l.sizes.Total() > 3100*15/16 && l.sizes.Total() <= 3100)
}
