package history

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/event"
)

// A sweep looks at the shelves of which something has grown old, or that nobody may need, however
// many there are; and none is forgotten by it, whatever has happened.
func TestASweepLooksAtWhatIsOld(t *testing.T) {
	is := is.New(t)
	limits := Limits{TTL: time.Hour, Events: 3}
	m := NewMemory(limits)
	random := rand.New(rand.NewPCG(1, 20))
	attached := map[string]int{}
	now := time.Now()
	queued := func() int { return m.shelves.aging.Len() }
	for range 3000 {
		now = now.Add(time.Duration(random.IntN(int(time.Minute))))
		tenant := fmt.Sprint(random.IntN(50))
		switch random.IntN(4) {
		case 0:
			e := entryTo(tenant, `"1"`, event.ToTenant())
			e.Event.Timestamp, e.Event.Ephemeral = now, random.IntN(3) == 0
			e.Envelope = e.Event.Seal()
			is.NoErr(m.Append(context.Background(), []*Entry{e}))
		case 1:
			_, err := m.Attach(context.Background(), tenant)
			is.NoErr(err)
			attached[tenant]++
		case 2, 3:
			if attached[tenant] > 0 {
				m.Detach(tenant)
				attached[tenant]--
			}
		}
		if random.IntN(10) > 0 {
			continue
		}
		m.Sweep(now)
		for _, h := range m.shelves.tenants {
			is.True(h.entries.len() > 0 || h.attached > 0)
			is.True(h.entries.len() == 0 || now.Sub(h.entries.at(0).Event.Timestamp) < limits.TTL)
		}
	}
	now = now.Add(limits.TTL)
	for tenant, n := range attached {
		for range n {
			m.Detach(tenant)
		}
	}
	m.Sweep(now)
	is.Equal(queued(), 0) // and nothing is left
	is.Equal(len(m.shelves.tenants), 0)

	for i := range 1000 {
		_, err := m.Attach(context.Background(), fmt.Sprint(i))
		is.NoErr(err)
	}
	m.Sweep(now)
	is.Equal(len(m.shelves.aged(now)), 0) // nothing has happened since
	m.Detach("7")
	all := m.shelves.aged(now)
	is.Equal(len(all), 1)
	is.Equal(all[0].tenant, "7")
}

// However many shelves a sweep is to look at, others wait for a piece of them.
func TestASweepLooksInPieces(t *testing.T) {
	is := is.New(t)
	m := NewMemory(Limits{TTL: time.Hour})
	fill := func() {
		for i := range 2*agedPiece + 1 {
			_, err := m.Attach(t.Context(), fmt.Sprint(i))
			is.NoErr(err)
			m.Detach(fmt.Sprint(i))
		}
	}
	fill()
	for _, want := range []int{agedPiece, agedPiece, 1, 0} {
		is.Equal(len(m.shelves.someAged(time.Now())), want)
	}
	fill()
	m.Sweep(time.Now())
	is.Equal(len(m.shelves.tenants), 0)
}
