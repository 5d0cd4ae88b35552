package history

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/testkit"
)

// heldTo looks at a memory log whenever it hands something over: what it has stored is
// there then, and nothing was cut since.
type heldTo struct {
	*Memory
	most atomic.Int64 // bytes
}

func (h *heldTo) Deliver(string, []*Entry) {
	for bytes := h.shelves.total.Load(); ; {
		most := h.most.Load()
		if bytes <= most || h.most.CompareAndSwap(most, bytes) {
			return
		}
	}
}

func (h *heldTo) Flush(string)             {}
func (h *heldTo) Prepare(string, []*Entry) {}
func (h *heldTo) Quiet(string, Cursor)     {}
func (h *heldTo) Lost(string, Cursor)      {}

func newHeldLog(limits Limits) *heldTo {
	h := &heldTo{Memory: NewMemory(limits)}
	h.Follow(h)
	return h
}

func (h *heldTo) add(entries ...*Entry) (bytes int64) {
	for _, e := range entries {
		e.Event.Timestamp = time.Now()
		e.Envelope = e.Event.Seal()
		bytes += e.size() + inLists(e)
	}
	h.Append(context.Background(), entries)
	return bytes
}

// inLists is the most that an entry adds to its shelf's lists here, where they are short.
func inLists(e *Entry) int64 {
	recipients := int64(len(e.Event.Target.Profiles))
	return 1024 + recipients*512
}

// wholeOf says whether a tenant has all that it ever had.
func (h *heldTo) wholeOf(tenant string) bool {
	s := h.shelves.lock(tenant, false)
	if s == nil {
		return false
	}
	defer s.mu.Unlock()
	return s.from == 0
}

// counted is what shelves are counted as, added up from what they have.
func (h *heldTo) counted(t *testing.T) (bytes int64) {
	for _, s := range h.shelves.tenants {
		s.mu.Lock()
		own := int64(shelfBytes) + int64(s.dropped.len())*droppedBytes + s.lists.weight()
		for _, e := range s.entries.items {
			own += e.size()
		}
		if s.bytes != own || s.coming != 0 {
			t.Errorf("%s has %d bytes and is counted as %d, of which %d are to come", s.tenant, own, s.bytes, s.coming)
		}
		bytes += own
		s.mu.Unlock()
	}
	return bytes + graveBytes*int64(len(h.shelves.young)+len(h.shelves.old))
}

// entryTo is an entry whose payload is its name.
func entryTo(tenant, name string, target event.Target) *Entry {
	return &Entry{Event: &event.Event{ID: name, TenantID: tenant, Type: "a.b", Payload: []byte(name), Target: target}}
}

func large(tenant string, i int) *Entry {
	return entryTo(tenant, fmt.Sprintf(`"%d %s"`, i, strings.Repeat("x", 4000)), event.ToTenant())
}

// However many small tenants there are, the large one is found among them: it pays alone,
// and the total is not overrun.
func TestTheLargestPaysAlone(t *testing.T) {
	is := is.New(t)
	const small = 5000
	h := newHeldLog(Limits{Total: 12 << 20})
	for i := range small {
		h.add(entryTo(fmt.Sprint("small-", i), "1", event.ToTenant()))
	}
	begun := h.shelves.total.Load()
	is.True(begun < h.shelves.limits.Total*3/4) // there is room for a large one
	one := int64(0)
	for i := range 3 * int(h.shelves.limits.Total) / 4000 {
		one = h.add(large("large", i))
	}
	lost := 0
	for i := range small {
		if !h.wholeOf(fmt.Sprint("small-", i)) {
			lost++
		}
	}
	is.Equal(lost, 0)
	is.True(!h.wholeOf("large"))
	is.True(h.most.Load() <= h.shelves.limits.Total)
	is.True(h.shelves.total.Load() > h.shelves.limits.Total-one) // and no more goes than has to
	stats := h.Stats()
	is.Equal(stats.CutTenant, int64(0))
	is.True(stats.CutAll > 0)
	is.Equal(stats.Bytes, h.counted(t))
}

// Whatever is published, nobody loses anything who has had less than a share of all, and
// what is counted is what is there.
func TestNobodyPaysBelowItsShare(t *testing.T) {
	for seed := range uint64(30) {
		is := is.New(t)
		random := rand.New(rand.NewPCG(seed, 6))
		const tenants = 40
		h := newHeldLog(Limits{Total: 400_000, Window: time.Minute, IDs: 100})
		had, lists := map[string]int64{}, map[string]int64{}
		for n := range 1500 {
			tenant := fmt.Sprint("t", min(random.IntN(tenants), random.IntN(tenants), random.IntN(tenants)))
			var entries []*Entry
			for i := range 1 + random.IntN(4) {
				target := event.ToTenant()
				switch random.IntN(3) {
				case 0:
					var many []event.Profile
					for range random.IntN(60) {
						many = append(many, event.Profile{Type: "user", ID: fmt.Sprint(random.IntN(1000))})
					}
					target = event.ToProfiles(append(many, event.Profile{Type: "user", ID: "a"})...)
				case 1:
					target = event.ToConversation(fmt.Sprint(random.IntN(5)))
				}
				e := entryTo(tenant, fmt.Sprintf(`"%s"`, strings.Repeat("x", random.IntN(3000))), target)
				e.Event.ID = fmt.Sprint(n, " ", i)
				if e.Chosen = random.IntN(3) == 0; e.Chosen && random.IntN(3) == 0 {
					e.Event.ID = "again"
				}
				e.Event.Ephemeral = random.IntN(8) == 0
				entries = append(entries, e)
			}
			had[tenant] += h.add(entries...)
			if s := h.shelves.lock(tenant, false); s != nil {
				lists[tenant] = max(lists[tenant], s.lists.weight())
				s.mu.Unlock()
			}
			is.True(h.shelves.total.Load() <= h.shelves.limits.Total)
		}
		is.Equal(h.Stats().Bytes, h.counted(t))
		// The graves of whom all was lost are nobody's share.
		share := (h.shelves.limits.Total-tenants*graveBytes)/tenants - shelfBytes
		paid := 0
		for tenant, bytes := range had {
			whole := h.wholeOf(tenant)
			if bytes+lists[tenant] <= share && !whole {
				t.Fatalf("seed %d: %s has had %d bytes, less than its share of %d, and lost some", seed, tenant, bytes, share)
			}
			if !whole {
				paid++
			}
		}
		is.True(paid > 0)
	}
}

// Of many who publish at once each overruns the total by no more than it has in hand, and
// in the end nothing is counted that is not there.
func TestTotalAtOnce(t *testing.T) {
	is := is.New(t)
	const publishers, batch = 8, 10
	h := newHeldLog(Limits{Total: 600_000})
	var bytes int64
	for _, e := range []*Entry{large("t", 1)} {
		e.Envelope = e.Event.Seal()
		bytes = e.size() + 64
	}
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			for i := range 200 {
				var entries []*Entry
				for n := range 1 + i%batch {
					entries = append(entries, large(fmt.Sprint("t", p%5), n))
				}
				h.add(entries...)
			}
		})
	}
	wg.Wait()
	is.True(h.most.Load() <= h.shelves.limits.Total+publishers*batch*bytes)
	is.True(h.Stats().Bytes <= h.shelves.limits.Total)
	is.Equal(h.Stats().Bytes, h.counted(t))
	is.True(h.Stats().Entries > 0)
}

// What is announced and not there yet cannot be taken: its tenant pays when it has come,
// the others keep to their share meanwhile, and pay for nobody else.
func TestWhatIsToComeKeepsNobodyFromPaying(t *testing.T) {
	is := is.New(t)
	const total = 1 << 20
	h := newHeldLog(Limits{Total: total})
	quiet := h.add(large("quiet", 0))
	slow := h.shelves.lock("slow", true)
	slow.attached++
	h.shelves.expectLocked(slow, total*3/4) // a broker was asked for them, and takes its time
	slow.mu.Unlock()
	for i := range 3 * total / 4000 {
		h.add(large("acme", i))
		h.add(large("globex", i))
	}
	is.True(h.shelves.total.Load() <= total+total*3/4)
	has := func(tenant string) int64 {
		s := h.shelves.lock(tenant, false)
		defer s.mu.Unlock()
		return s.bytes
	}
	share := (total - quiet) / 3
	shared := func(tenants ...string) {
		t.Helper()
		for _, tenant := range tenants {
			is.True(has(tenant) > share-16_000 && has(tenant) < share+16_000) // tenant
		}
	}
	shared("acme", "globex")

	slow.mu.Lock()
	for i := 0; slow.coming > 0; i++ {
		e := large("slow", i)
		e.Event.Timestamp = time.Now()
		e.Envelope = e.Event.Seal()
		e.Cursor = Cursor{Epoch: slow.epoch, Seq: uint64(i + 1)}
		h.shelves.pushLocked(slow, e)
	}
	slow.mu.Unlock()
	h.shelves.shrink()
	is.True(h.shelves.total.Load() <= total)
	shared("acme", "globex", "slow")
	is.True(h.wholeOf("quiet"))
	h.counted(t)
}

// Who waits for a tenant's history that is busy, to forget it, keeps nobody from another's;
// and who counts waits for none.
func TestABusyHistoryKeepsNobodyFromOthers(t *testing.T) {
	is := is.New(t)
	s := &NewMemory(Limits{}).shelves
	busy := s.lock("acme", true)
	var forgotten sync.WaitGroup
	forgotten.Go(func() { s.forget("acme") })
	testkit.Eventually(t, func() bool { return testkit.WaitsIn(".(*shelves).forget(") })
	free := s.mu.TryRLock()
	if free {
		s.mu.RUnlock()
		is.True(testkit.InTime(func() { s.lock("well", true).mu.Unlock() }))
		is.True(testkit.InTime(func() { is.Equal(s.stats().Tenants, 2) }))
	}
	busy.mu.Unlock()
	forgotten.Wait()
	is.True(free)
	is.Equal(s.lock("acme", false), nil)
}

// A tenant that comes back while somebody looks for it has missed nothing.
func TestATenantThatComesBackAsItIsLookedFor(t *testing.T) {
	is := is.New(t)
	m := NewMemory(Limits{TTL: time.Minute})
	e := &Entry{Event: &event.Event{ID: "e", TenantID: "acme", Type: "a.b", Target: event.ToTenant(), Timestamp: time.Now()}}
	is.NoErr(m.Append(t.Context(), []*Entry{e}))
	m.Sweep(time.Now().Add(time.Hour))
	m.shelves.mu.Lock()
	is.Equal(len(m.shelves.tenants), 0) // it is forgotten
	var at Cursor
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		at, err = m.Find(context.Background(), "acme", e.Cursor.String(), nil)
	}()
	testkit.Eventually(t, func() bool { return testkit.WaitsIn("(*Memory).look") })
	m.shelves.mu.Unlock() // who looks is told that there is none, and goes on once there is one
	m.shelves.mu.Lock()
	m.shelves.makeLocked("acme")
	m.shelves.mu.Unlock()
	<-done
	is.NoErr(err)
	is.Equal(at, e.Cursor)
}
