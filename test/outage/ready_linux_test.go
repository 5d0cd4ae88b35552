package outage

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/natstest"
	"realtimehub/internal/sse"
	"realtimehub/internal/testkit"
)

// staysUnready waits until something is so and the hub has tried five times more in vain
// whether it can store something, without ever being ready.
func staysUnready(t *testing.T, h *hubtest.Program, so func() bool) {
	t.Helper()
	failed := func() float64 { return faults(t, h, "history") + faults(t, h, "membership") }
	before := failed()
	eventually(t, func() bool {
		if h.IsReady(t) {
			t.Fatal("it is ready, and can store nothing")
		}
		return so() && failed() >= before+5
	})
}

// With two of three servers dead nothing can be stored, whatever the third says: at first
// that it leads, and then what it has.
func TestNotReadyWithoutQuorum(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	servers := natstest.StartProcesses(t, 3)
	h := joinOn(t, "test", 3, servers.URL(0))
	lead(t, servers, "test_journal", 0)
	nc, err := nats.Connect(servers.URL(0), nats.Timeout(time.Minute))
	is.NoErr(err)
	defer nc.Close()
	eventually(t, func() bool { return h.IsReady(t) && publishes(t, h) })
	servers.Kill(1)
	servers.Kill(2)
	t.Log("not ready after ", h.Becomes(t, false))
	staysUnready(t, h, func() bool { return !leads(nc, "test_journal", 0) })
	staysUnready(t, h, func() bool { return true }) // nor after it has deposed itself
	is.True(!publishes(t, h))
	servers.Start(t, 1)
	servers.Start(t, 2)
	eventually(t, func() bool { return publishes(t, h) })
	h.Becomes(t, true)
}

// What is asked is answered, and nothing is stored: since a disk hangs, while nobody
// publishes; since one is full; since the table is lost.
func TestNotReadyWhenNothingIsStored(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t, 1)
	of := func(m *natstest.Message, prefix string, kinds ...string) bool {
		for _, kind := range kinds {
			if strings.HasPrefix(m.Subject, prefix+kind) || strings.HasPrefix(m.Subject, "$KV."+prefix+kind) {
				return true
			}
		}
		return false
	}
	for name, fault := range map[string]func(prefix string) func(*natstest.Message) natstest.Verdict{
		"hangs": func(prefix string) func(*natstest.Message) natstest.Verdict {
			return func(m *natstest.Message) (v natstest.Verdict) {
				v.Drop = !m.FromServer && of(m, prefix, ".ev.", ".id.", ".cut.", ".row.", "_epoch.")
				return v
			}
		},
		"full": func(prefix string) func(*natstest.Message) natstest.Verdict {
			var asked sync.Map
			return func(m *natstest.Message) (v natstest.Verdict) {
				if !m.FromServer && m.Reply != "" && of(m, prefix, ".ev.", ".id.", ".cut.", ".row.", "_epoch.") {
					asked.Store(m.Reply, nil)
				}
				if _, is := asked.Load(m.Subject); is && m.FromServer {
					v.Instead = []byte(`{"error":{"code":503,"err_code":10077,"description":"no space left on device"}}`)
				}
				return v
			}
		},
		"table": func(prefix string) func(*natstest.Message) natstest.Verdict {
			return func(m *natstest.Message) (v natstest.Verdict) {
				v.Drop = !m.FromServer && (of(m, prefix, ".row.") || strings.HasSuffix(m.Subject, "."+prefix+"_table"))
				return v
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			is := is.New(t)
			proxy := server.Proxies(t)[0]
			h := joinOn(t, name, 1, proxy.URL())
			proxy.Rule(fault(name))
			t.Log("not ready after ", h.Becomes(t, false))
			_, answer := h.Do(t, "GET", "/readyz", "")
			t.Log(answer["detail"])
			is.Equal(answer["code"], "BrokerUnavailable")
			staysUnready(t, h, func() bool { return true }) // and it is counted
			is.True(name == "table" || !publishes(t, h))
			proxy.Rule(nil)
			t.Log("ready after ", h.Becomes(t, true))
			eventually(t, func() bool { return publishes(t, h) })
		})
	}
}

// One publish that is not confirmed says that none may be, and one that is afterwards that
// they are: there is no wait for a next try.
func TestAPublishSaysWhetherItIsReady(t *testing.T) {
	t.Parallel()
	for try := 1; !saysWhetherItIsReady(t); try++ {
		is.New(t).True(try < 10) // a machine is not slow each time
	}
}

// saysWhetherItIsReady says false where the hub may have tried meanwhile by itself.
func saysWhetherItIsReady(t *testing.T) (inTime bool) {
	t.Helper()
	is := is.New(t)
	proxy := natstest.Start(t, 1).Proxies(t)[0]
	h := joinOn(t, "test", 1, proxy.URL())
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		v.Drop = !m.FromServer && (strings.HasPrefix(m.Subject, "test.ev.") || strings.HasPrefix(m.Subject, "test.cut."))
		return v
	})
	begun := time.Now()
	atFirst := h.IsReady(t)
	asked := time.Now()
	refused := !publishes(t, h)
	answered := time.Now()
	afterOne := h.IsReady(t)
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		v.Drop = !m.FromServer && strings.HasPrefix(m.Subject, "test.cut.")
		return v
	})
	since := h.IsReady(t)
	taken := publishes(t, h)
	afterAnother := h.IsReady(t)
	if time.Since(begun)-answered.Sub(asked) > time.Second {
		return false
	}
	is.True(atFirst) // nobody has published
	is.True(refused)
	is.True(!afterOne)
	is.True(!since) // nobody has published since
	is.True(taken)
	is.True(afterAnother)
	return true
}

// One of three servers hangs, which is not the leader: what is asked of any replica is
// answered all the same.
func TestAHangingFollower(t *testing.T) {
	t.Parallel()
	servers := natstest.StartProcesses(t, 3)
	h := joinOn(t, "test", 3, servers.URL(0))
	lead(t, servers, "test_journal", 0)
	lead(t, servers, "test_table", 0)
	const tenants = 30
	var cursors []string
	for i := range tenants {
		tenant := fmt.Sprint("t", i)
		cursor := h.Publish(t, tenant, "a.b", `{"kind":"tenant"}`, "1")["cursor"].(string)
		h.Publish(t, tenant, "a.b", `{"kind":"tenant"}`, "2")
		cursors = append(cursors, cursor)
		h.Changes(t, "PUT", "/v1/tenants/"+tenant+"/groups/g/members", `{"members":["me"]}`)
	}
	next := joinOn(t, "test", 3, servers.URL(0)) // which has nothing near
	testkit.Pause(t, servers.PID(1))
	defer servers.Signal(1, syscall.SIGCONT)
	refused := map[string]int{}
	for i := range tenants {
		tenant := fmt.Sprint("t", i)
		status, answer := next.Do(t, "GET", "/v1/tenants/"+tenant+"/events", "")
		if events, _ := answer["events"].([]any); status != http.StatusOK || len(events) != 2 {
			refused["history"]++
		}
		status, answer = next.Do(t, "GET", "/v1/tenants/"+tenant+"/groups/g/members", "")
		if members, _ := answer["members"].([]any); status != http.StatusOK || len(members) != 1 {
			refused["membership"]++
		}
		if firstOf(t, next, "/v1/stream?tenant="+tenant+"&profile=me&cursor="+cursors[i]).Type != "hub.ready" {
			refused["resume"]++
		}
	}
	t.Log("refused:", refused)
	for what, times := range refused { // a third of all, if it did harm; a busy machine can refuse one
		if times > tenants/10 {
			t.Errorf("%s: refused %d of %d times", what, times, tenants)
		}
	}
	next.Becomes(t, true)
}

// While the broker answers nothing, who wants a stream is told so, and it is counted and
// logged as what it is.
func TestNoStreamWithoutTheBroker(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	proxy := natstest.Start(t, 1).Proxies(t)[0]
	h := joinOn(t, "test", 1, proxy.URL())
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		v.Drop = !m.FromServer && strings.HasPrefix(m.Subject, "$JS.API.")
		return v
	})
	event := firstOf(t, h, "/v1/stream?tenant=new&profile=me")
	is.Equal(event.Type, "hub.closing")
	is.True(strings.Contains(event.Data, `"reason":"unavailable"`))
	metrics := h.Scrape(t)
	is.Equal(metrics[`realtime_streams_refused_total{reason="unavailable"}`], 1.0)
	is.Equal(metrics[`realtime_streams_refused_total{reason="capacity"}`], 0.0)
}

// firstOf is the first event of a stream, which is not read on.
func firstOf(t testing.TB, h *hubtest.Program, path string) sse.Event {
	t.Helper()
	res, err := h.Client.Get(h.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	event, err := hubtest.NewReader(t, res.Body).Next()
	if err != nil {
		t.Fatal(err)
	}
	return event
}
