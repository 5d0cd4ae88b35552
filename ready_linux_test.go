package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/access"
	"realtimehub/internal/broker"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
)

// wrongFor is how long /readyz may say what is not so: twice what is promised of a machine
// that has nothing else to do.
const wrongFor = 6 * time.Second

func (h *testHub) isReady(t testing.TB) bool {
	t.Helper()
	status, _ := h.do(t, "GET", "/readyz", "")
	return status == http.StatusOK
}

// publishes says whether a publish is taken.
func (h *testHub) publishes(t testing.TB) bool {
	t.Helper()
	status, _ := h.post(t, "/v1/events", `{"tenantId":"acme","type":"a.b","payload":1,"target":{"kind":"tenant"}}`)
	return status == http.StatusAccepted
}

// becomes waits until /readyz says so, and says how long that took.
func (h *testHub) becomes(t *testing.T, ready bool) time.Duration {
	t.Helper()
	start := time.Now()
	eventually(t, func() bool { return h.isReady(t) == ready })
	return time.Since(start)
}

// soloOn is one hub on some servers, with stores of its own, which begin with the prefix.
func soloOn(t *testing.T, replicas int, urls ...string) (h *testHub, prefix string) {
	t.Helper()
	alone(t, "it makes its own")
	prefix = newPrefix()
	return joinOn(t, prefix, replicas, urls...), prefix
}

// joinOn is another hub on the same stores.
func joinOn(t *testing.T, prefix string, replicas int, urls ...string) *testHub {
	t.Helper()
	h := newNode(t, openDoor(t), access.RatesConfig{}, func(limits history.Limits, _ bool) *broker.Broker {
		return joinBrokerAt(t, strings.Join(urls, ","), replicas, prefix, limits)
	})
	h.nodes = []*testHub{h}
	eventually(t, func() bool { return h.isReady(t) && h.publishes(t) })
	return h
}

// lead has a server lead a stream.
func lead(t *testing.T, servers *natstest.Processes, stream string, i int) {
	t.Helper()
	nc, err := nats.Connect(servers.URL(i))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	name := fmt.Sprint("n", i)
	eventually(t, func() bool {
		var info struct{ Cluster struct{ Leader string } }
		msg, err := nc.Request("$JS.API.STREAM.INFO."+stream, nil, time.Second)
		if err == nil && json.Unmarshal(msg.Data, &info) == nil && info.Cluster.Leader == name {
			return true
		}
		nc.Request("$JS.API.STREAM.LEADER.STEPDOWN."+stream, []byte(`{"placement":{"preferred":"`+name+`"}}`), time.Second)
		return false
	})
}

// With two of three servers dead nothing can be stored, whatever the third says: at first
// that it leads, and then what it has.
func TestNotReadyWithoutQuorum(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	servers := natstest.StartProcesses(t, 3)
	h, prefix := soloOn(t, 3, servers.URL(0))
	lead(t, servers, prefix+"_journal", 0)
	eventually(t, func() bool { return h.isReady(t) && h.publishes(t) })
	servers.Kill(1)
	servers.Kill(2)
	killed := time.Now()
	is.True(h.becomes(t, false) < wrongFor)
	var wrong []time.Duration
	for time.Since(killed) < 20*time.Second { // it deposes itself meanwhile
		if h.isReady(t) {
			wrong = append(wrong, time.Since(killed))
		}
		time.Sleep(100 * time.Millisecond)
	}
	is.Equal(wrong, nil) // it was ready after
	is.True(!h.publishes(t))
	servers.Start(t, 1)
	servers.Start(t, 2)
	eventually(t, func() bool { return h.publishes(t) })
	is.True(h.becomes(t, true) < wrongFor)
}

// What is asked is answered, and nothing is stored: since a disk hangs, while nobody
// publishes; since one is full; since the table is lost.
func TestNotReadyWhenNothingIsStored(t *testing.T) {
	t.Parallel()
	alone(t, "it makes its own")
	server := theBroker(t)
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
			is := is.New(t)
			proxy := server.Proxies(t)[0]
			h, prefix := soloOn(t, 1, proxy.URL())
			proxy.Rule(fault(prefix))
			is.True(h.becomes(t, false) < wrongFor)
			_, answer := h.do(t, "GET", "/readyz", "")
			t.Log(answer["detail"])
			is.Equal(answer["code"], "BrokerUnavailable")
			for range 30 {
				is.True(!h.isReady(t)) // until it can
				time.Sleep(100 * time.Millisecond)
			}
			is.True(name == "table" || !h.publishes(t))
			proxy.Rule(nil)
			is.True(h.becomes(t, true) < wrongFor)
			faults := h.Stats().Log.Faults
			is.True(faults[history.FaultHistory]+faults[history.FaultMembership] > 0) // and it is counted
			is.True(h.publishes(t))
		})
	}
}

// One publish that is not confirmed says that none may be, and one that is afterwards that
// they are: there is no wait for a next try.
func TestAPublishSaysWhetherItIsReady(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	alone(t, "it makes its own")
	proxy := theBroker(t).Proxies(t)[0]
	h, prefix := soloOn(t, 1, proxy.URL())
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		v.Drop = !m.FromServer && (strings.HasPrefix(m.Subject, prefix+".ev.") || strings.HasPrefix(m.Subject, prefix+".cut."))
		return v
	})
	is.True(h.isReady(t)) // nobody has published
	is.True(!h.publishes(t))
	is.True(!h.isReady(t))
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		v.Drop = !m.FromServer && strings.HasPrefix(m.Subject, prefix+".cut.")
		return v
	})
	is.True(!h.isReady(t)) // nobody has published since
	is.True(h.publishes(t))
	is.True(h.isReady(t))
}

// One of three servers hangs, which is not the leader: what is asked of any replica is
// answered all the same.
func TestAHangingFollower(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	servers := natstest.StartProcesses(t, 3)
	h, prefix := soloOn(t, 3, servers.URL(0))
	lead(t, servers, prefix+"_journal", 0)
	lead(t, servers, prefix+"_table", 0)
	const tenants = 30
	var cursors []string
	for i := range tenants {
		tenant := fmt.Sprint("t", i)
		cursor := h.publish(t, tenant, "a.b", `{"kind":"tenant"}`, "1")["cursor"].(string)
		h.publish(t, tenant, "a.b", `{"kind":"tenant"}`, "2")
		cursors = append(cursors, cursor)
		status, _ := h.do(t, "PUT", "/v1/tenants/"+tenant+"/groups/g/members", `{"members":["me"]}`)
		is.Equal(status, http.StatusNoContent)
	}
	next := joinOn(t, prefix, 3, servers.URL(0)) // which has nothing near
	servers.Signal(1, syscall.SIGSTOP)
	defer servers.Signal(1, syscall.SIGCONT)
	refused := map[string]int{}
	for i := range tenants {
		tenant := fmt.Sprint("t", i)
		status, answer := next.do(t, "GET", "/v1/tenants/"+tenant+"/events", "")
		if events, _ := answer["events"].([]any); status != http.StatusOK || len(events) != 2 {
			refused["history"]++
		}
		status, answer = next.do(t, "GET", "/v1/tenants/"+tenant+"/groups/g/members", "")
		if members, _ := answer["members"].([]any); status != http.StatusOK || len(members) != 1 {
			refused["membership"]++
		}
		c, err := next.streams.Connect(t.Context(), delivery.Subscription{Tenant: tenant, Profile: event.Profile{Type: "user", ID: "me"}, Cursor: cursors[i]})
		if err != nil {
			refused["resume"]++
			continue
		}
		next.streams.Kick(c, delivery.CloseKicked)
	}
	is.Equal(refused, map[string]int{})
	is.True(next.isReady(t))
}

// While the broker answers nothing, who wants a stream is told so, and it is counted and
// logged as what it is.
func TestNoStreamWithoutTheBroker(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	alone(t, "it makes its own")
	proxy := theBroker(t).Proxies(t)[0]
	h, _ := soloOn(t, 1, proxy.URL())
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		v.Drop = !m.FromServer && strings.HasPrefix(m.Subject, "$JS.API.")
		return v
	})
	res, err := h.client.Get(h.URL + "/v1/stream?tenant=new&profile=me")
	is.NoErr(err)
	defer res.Body.Close()
	event, err := newStreamReader(t, res.Body).Next()
	is.NoErr(err)
	is.Equal(event.Type, "hub.closing")
	is.True(strings.Contains(event.Data, `"reason":"unavailable"`))
	is.Equal(h.Stats().Refused[delivery.CloseUnavailable], int64(1))
	is.Equal(h.Stats().Refused[delivery.CloseCapacity], int64(0))
}
