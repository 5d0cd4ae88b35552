package delivery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/room"
	"realtimehub/internal/room/roomtest"
	"realtimehub/internal/sse"
	"realtimehub/internal/testkit"
)

// A sweep looks at tenants at which something has changed, however many there are.
func TestASweepLooksAtWhatHasChanged(t *testing.T) {
	is := is.New(t)
	h := newRig(t, keeping(1))
	connect := func(tenant int) *Connection {
		return h.connect(t, Subscription{Encoding: sse.Encoding{}, Tenant: fmt.Sprint(tenant), Profile: user("me")})
	}
	conns := make([]*Connection, 50)
	for i := range conns {
		conns[i] = connect(i)
	}
	h.sweep(time.Now())
	is.Equal(h.Tenants.ledger.marked(), nil) // there is nothing to forget
	h.sweep(time.Now())
	is.NoErr(h.Members.AddMember(t.Context(), "7", inRoom, user("me")))
	h.publish("7", event.ToTenant(), "1", false)
	is.NoErr(h.Members.RemoveMember(t.Context(), "7", inRoom, user("me")))
	h.sweep(time.Now())
	is.Equal(h.Tenants.ledger.marked(), []string{"7"}) // a stay that the history reaches
	h.publish("7", event.ToTenant(), "2", false)
	h.publish("7", event.ToTenant(), "3", false)
	h.sweep(time.Now())
	h.sweep(time.Now())
	is.Equal(h.Tenants.ledger.marked(), nil)
	for i, c := range conns {
		is.True(h.Streams.Kick(c, CloseKicked))
		is.Equal(h.Tenants.number(), len(conns)-1-i)
	}
	is.Equal(h.Tenants.ledger.marked(), nil) // of those that are forgotten nothing is kept
}

// Whatever happens, a tenant is known as one to be looked at that nobody needs, or that
// remembers something; and the busiest are those with most streams.
func TestTheLedgerIsRight(t *testing.T) {
	is := is.New(t)
	h := newRig(t, keeping(2))
	random := rand.New(rand.NewPCG(1, 20))
	var conns []*Connection
	for range 3000 {
		tenant, p := fmt.Sprint(random.IntN(12)), user(fmt.Sprint(random.IntN(3)))
		switch random.IntN(7) {
		case 0, 1:
			conns = append(conns, h.connect(t, Subscription{Encoding: sse.Encoding{}, Tenant: tenant, Profile: p}))
		case 2, 3:
			if n := len(conns); n > 0 {
				i := random.IntN(n)
				h.Streams.Kick(conns[i], CloseKicked)
				conns = slices.Delete(conns, i, i+1)
			}
		case 4:
			is.NoErr(h.Members.AddMember(t.Context(), tenant, inRoom, p))
		case 5:
			is.NoErr(h.Members.RemoveMember(t.Context(), tenant, inRoom, p))
		case 6:
			h.publish(tenant, event.ToTenant(), "1", false)
		}
		if random.IntN(20) == 0 {
			h.sweep(time.Now())
		}
		marked := h.Tenants.ledger.marked()
		all := []TenantStats{}
		for name, x := range h.Tenants.byName {
			looked := slices.Contains(marked, name)
			is.True(looked || h.Tenants.needsLocked(x) && !x.remembersLocked())
			is.Equal(looked, x.marked)
			if len(x.conns) > 0 {
				all = append(all, TenantStats{name, len(x.conns), x.accepted.Load()})
			}
		}
		is.Equal(len(slices.DeleteFunc(marked, func(name string) bool { return h.Tenants.byName[name] != nil })), 0)
		slices.SortFunc(all, func(a, b TenantStats) int {
			return cmp.Or(cmp.Compare(b.Streams, a.Streams), cmp.Compare(a.Name, b.Name))
		})
		is.Equal(h.Tenants.Busiest(3), all[:min(3, len(all))])
	}
}

// overtaken is a Log whose sink is told of an event that comes after a head before Attach returns
// that head.
type overtaken struct {
	*history.Memory
	event *event.Event
}

func (o overtaken) Attach(ctx context.Context, tenant string) (history.Cursor, error) {
	head, err := o.Memory.Attach(ctx, tenant)
	if err == nil {
		err = o.Append(ctx, []*history.Entry{{Event: o.event, Envelope: o.event.Seal()}})
	}
	return head, err
}

// An event may overtake the head that a tenant is attached at. Of memberships nothing is known up to
// that event either, so who resumes from before it has it.
func TestAnEventOvertakesTheHead(t *testing.T) {
	is := is.New(t)
	log := history.NewMemory(testLimits)
	before, err := log.Attach(t.Context(), "acme")
	is.NoErr(err)
	r := newRig(t, func(cfg *Config) {
		cfg.Log = overtaken{log, &event.Event{ID: "early", TenantID: "acme", Type: "a.b", Timestamp: time.Now(), Payload: []byte(`"early"`), Target: event.ToConversation(inRoom.ID)}}
		cfg.Resolver = room.NewService(room.ServiceConfig{URL: "http://members.example", Transport: &roomtest.Service{Members: `"user:me"`}})
	})
	acme, err := r.Tenants.openLocked(t.Context(), "acme")
	is.NoErr(err)
	is.Equal(acme.head.Seq, before.Seq+1)
	is.True(acme.rooms.IsOf(before.Epoch))
	is.Equal(acme.rooms.Left(user("me")), before.Seq+1)
	acme.mu.Unlock()
	var out testkit.Buffer
	r.serveTo(t, r.connect(t, subscribed("me", before.String())), &out)
	testkit.Eventually(t, func() bool { return strings.Contains(out.String(), `"early"`) })
}

// silent is a Log that does not answer.
type silent struct{ *history.Memory }

func (s silent) Attach(ctx context.Context, _ string) (history.Cursor, error) {
	<-ctx.Done()
	return history.Cursor{}, ctx.Err()
}

// Who asks of a tenant whose log does not answer waits as long as it wants to, also where its hub
// is alone.
func TestASilentLogIsWaitedForAsLongAsOneWants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		r := newRig(t, func(cfg *Config) { cfg.Log = silent{history.NewMemory(testLimits)} })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := r.Tenants.openLocked(ctx, "acme")
		is.True(errors.Is(err, context.DeadlineExceeded))
		is.Equal(time.Since(start), time.Second)
		time.Sleep(beginTime)
	})
}
