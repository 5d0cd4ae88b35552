package history

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/quota"
	"realtimehub/internal/testkit"
)

func idsOf(most int) *idWindow {
	w := newIDWindow(Limits{Window: time.Minute, IDs: most, Held: quota.New[string](0, 1)})
	return &w
}

// isKnown says whether an id is, and else remembers it.
func isKnown(w *idWindow, tenant, id string) bool {
	_, is := w.claim(tenant, id, 1, time.Now())
	return is
}

// One tenant's million ids push out its own only.
func TestIDsOfOneTenantPushOutItsOwn(t *testing.T) {
	is := is.New(t)
	w := idsOf(10_000)
	is.True(!isKnown(w, "small", "order-17-paid"))
	for i := range 50_000 {
		if isKnown(w, "large", fmt.Sprint(i)) {
			t.Fatal(i)
		}
	}
	is.True(isKnown(w, "small", "order-17-paid")) // it would be delivered twice
	is.True(isKnown(w, "large", "49999"))
	is.True(!isKnown(w, "large", "0"))
	ids, lost := w.count()
	is.Equal(ids, 10_000)
	is.Equal(lost, 50_000+2-10_000)
}

// Whatever tenants bring, all are as a model says: past the total the one with most loses
// its oldest, and nobody who has no more than a fair share.
func TestIDsAreShared(t *testing.T) {
	for seed := range uint64(8) {
		synctest.Test(t, func(t *testing.T) {
			is := is.New(t)
			const most = 200
			random := rand.New(rand.NewPCG(seed, 5))
			w := idsOf(most)
			type first struct {
				id string
				at time.Time
			}
			model, lost := map[string][]first{}, 0
			total := func() (n int) {
				for _, ids := range model {
					n += len(ids)
				}
				return n
			}
			for range 5000 {
				if random.IntN(50) == 0 {
					time.Sleep(time.Duration(random.IntN(20)) * time.Second)
				}
				if random.IntN(500) == 0 {
					w.expire(time.Now())
				}
				tenant := []string{"a", "a", "a", "a", "a", "a", "b", "b", "c", "d"}[random.IntN(10)]
				id := fmt.Sprint(random.IntN(400))
				for name, ids := range model {
					model[name] = slices.DeleteFunc(ids, func(f first) bool { return time.Since(f.at) >= w.window })
				}
				known := slices.ContainsFunc(model[tenant], func(f first) bool { return f.id == id })
				if !known && total() == most {
					victim := tenant
					for name, ids := range model {
						if len(ids) > len(model[victim]) {
							victim = name
						}
					}
					is.True(len(model[victim]) >= most/len(model)) // never one below its share
					largest := 0
					for _, ids := range model {
						if len(ids) == len(model[victim]) {
							largest++
						}
					}
					if largest > 1 && victim != tenant {
						continue // either may pay
					}
					model[victim] = model[victim][1:]
					lost++
				}
				if !known {
					model[tenant] = append(model[tenant], first{id, time.Now()})
				}
				is.Equal(isKnown(w, tenant, id), known)
			}
			w.expire(time.Now())
			ids, gone := w.count()
			is.Equal(ids, total())
			is.Equal(gone, lost)
			is.True(lost > 0)
			time.Sleep(w.window)
			w.expire(time.Now())
			is.Equal(w.tenants.Len()+w.due.Len()+w.sizes.Len(), 0) // nobody is remembered
			is.Equal(w.held.Total(), int64(0))
		})
	}
}

// An id that comes again after its window is new, and is known from then on.
func TestIDsComeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		w := idsOf(0)
		for i := range 100 { // more than a claim forgets
			is.True(!isKnown(w, "acme", fmt.Sprint(i)))
		}
		time.Sleep(w.window)
		is.True(!isKnown(w, "acme", "99"))
		time.Sleep(w.window / 2)
		is.True(isKnown(w, "acme", "99"))
		w.expire(time.Now())
		is.True(isKnown(w, "acme", "99"))
		ids, lost := w.count()
		is.Equal(ids, 1)
		is.Equal(lost, 0)
	})
}

// What ids take is counted, by tenant, and bounded: also of many tenants with few.
func TestIDsWeighWhatTheyAreCountedAs(t *testing.T) {
	if !testkit.ByItself(t) {
		return
	}
	for _, c := range []struct {
		name         string
		tenants, ids int
	}{{"one tenant", 1, 120_000}, {"some", 20, 100_000}, {"as many as ids", 20_000, 20_000}} {
		t.Run(c.name, func(t *testing.T) {
			is := is.New(t)
			pool := quota.New[string](8<<20, 1)
			before := testkit.LiveHeap()
			w := newIDWindow(Limits{Window: time.Minute, IDs: 1_000_000, Held: pool})
			begin := time.Now()
			check := func(when string) {
				t.Helper()
				testkit.Agrees(t, when, testkit.LiveHeap()-before, pool.Total())
				is.True(float64(pool.Total()) <= 1.01*float64(pool.All()))
			}
			for i := range c.ids {
				w.claim(fmt.Sprint("tenant", i%c.tenants), fmt.Sprint("some-id-of-some-order-", i), 1, begin.Add(time.Duration(i)*time.Millisecond/10))
			}
			check("all came")
			ids, lost := w.count()
			is.Equal(ids+lost, c.ids)
			is.True(lost > 0)
			w.expire(begin.Add(time.Minute + time.Duration(c.ids-1000)*time.Millisecond/10))
			check("1,000 are left")
			runtime.KeepAlive(&w)
		})
	}
}

// What one costs does not depend on how many there are.
func BenchmarkIDs(b *testing.B) {
	for _, tenants := range []int{1, 10_000} {
		b.Run(fmt.Sprint(tenants), func(b *testing.B) {
			w := idsOf(100_000)
			names := make([]string, tenants)
			for i := range names {
				names[i] = fmt.Sprint("tenant", i)
			}
			ids := make([]string, 1<<20)
			for i := range ids {
				ids[i] = fmt.Sprint("order-", i)
			}
			now := time.Now()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				w.claim(names[i%tenants], ids[i%len(ids)], 1, now)
			}
		})
	}
}

func TestMostIDs(t *testing.T) {
	is := is.New(t)
	pool := quota.New[string](idBytes*100, 1)
	for _, c := range []struct {
		set  int
		pool *quota.Pool[string]
		want int
	}{{50, pool, 50}, {100, pool, 100}, {1000, pool, 100}, {0, pool, 100}, {50, nil, 50}, {0, nil, 0}} {
		is.Equal(mostIDs(c.set, c.pool), c.want)
	}
}
