package broker

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/history/historytest"
	"realtimehub/internal/hubtest"
	"realtimehub/internal/natstest"
)

// A thousand tenants on three hubs: each is taken up without a question of its own, an idle hub
// costs next to nothing, and what is published costs the broker little more than
// with nobody there.
func TestManyTenants(t *testing.T) {
	is := is.New(t)
	tenants := 1000
	if testing.Short() {
		tenants = 100
	}
	servers := natstest.StartProcesses(t, 1)
	const prefix = "test"
	var brokers []*Broker
	for range 3 {
		brokers = append(brokers, join(t, servers.URL(0), prefix))
	}
	publish := func(n int) time.Duration { // the broker's CPU time for each
		before := hubtest.CPU(t, servers.PID(0))
		for i := range n {
			e := historytest.To(fmt.Sprint("tenant-", i%tenants), "1", event.ToTenant())
			e.Event.ID = fmt.Sprint(prefix, i, before)
			historytest.Persist(t, brokers[i%3].Log(), e)
		}
		return (hubtest.CPU(t, servers.PID(0)) - before) / time.Duration(n)
	}
	publish(tenants) // warm
	without := publish(5 * tenants)
	sent := func() (messages uint64) {
		for _, b := range brokers {
			messages += b.nc.Stats().OutMsgs
		}
		return messages
	}
	start, before := time.Now(), sent()
	var attached atomic.Int64
	for _, b := range brokers {
		var wg sync.WaitGroup
		for i := range tenants {
			wg.Go(func() {
				name := fmt.Sprint("tenant-", i)
				_, err := historytest.Answered(func() (history.Cursor, error) {
					attached.Add(1)
					return b.Log().Attach(t.Context(), name)
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	each, asked := time.Since(start)/time.Duration(3*tenants), float64(sent()-before)/float64(3*tenants)
	with := publish(5 * tenants)
	// Nothing is to happen from now on, once what was published has been looked through.
	const quiet = 3 * time.Second
	own, broker := quiet, quiet
	for range 5 {
		own0, broker0 := hubtest.CPU(t, os.Getpid()), hubtest.CPU(t, servers.PID(0))
		time.Sleep(quiet)
		own, broker = hubtest.CPU(t, os.Getpid())-own0, hubtest.CPU(t, servers.PID(0))-broker0
		if own < quiet/20 && broker < quiet/20 {
			break
		}
	}
	t.Logf("%d tenants on 3 hubs: attached in %v and with %.2f messages each; broker's CPU a publish %v, without %v; idle for %v: hubs %v, broker %v", tenants, each, asked, with, without, quiet, own, broker)
	again := attached.Load() > int64(3*tenants) // a busy broker was asked again
	is.True(asked < 0.5 || again)               // beside what hubs ask every second
	is.True(with <= 3*without)
	is.True(own < quiet/20)
	is.True(broker < quiet/20)
}
