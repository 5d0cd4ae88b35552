package outage

import (
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats-server/v2/server"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/natstest"
)

// The server refuses a hub's credentials for a while, as when others are being rolled out:
// the hub goes on asking, and is there again once they are good.
func TestRefusedByTheServer(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	set := func(password string) {
		b.Reload(t, 0, func(o *server.Options) { o.Username, o.Password = "hub", password })
	}
	set("good")
	h := joinOn(t, "test", 1, strings.Replace(b.URL(0), "//", "//hub:good@", 1))
	set("other")
	eventually(t, func() bool { return faults(t, h, "refused") > 5 })
	is.True(!h.IsReady(t))
	set("good")
	h.Becomes(t, true)
	eventually(t, func() bool { return publishes(t, h) })
}

// A server says something after which the client library gives up for good, and nothing
// would bring it back: so the process ends, and says why.
func TestClosedForGood(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	is.NoErr(err)
	defer l.Close()
	var angry atomic.Bool
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", strings.TrimPrefix(b.URL(0), "nats://"))
			if err != nil {
				client.Close()
				return
			}
			go func() {
				defer server.Close()
				io.Copy(server, client)
			}()
			go func() {
				defer client.Close()
				for buf := make([]byte, 64<<10); ; {
					n, err := server.Read(buf)
					if err != nil {
						return
					}
					client.Write(buf[:n])
					if string(buf[:n]) == "PONG\r\n" && angry.Load() { // between two messages
						io.WriteString(client, "-ERR 'Invalid Client Protocol'\r\n")
					}
				}
			}()
		}
	}()
	p := hubtest.Start(t, hubtest.Shared(1, "test", "nats://"+l.Addr().String())...)
	p.Publish(t, "acme", "a.b", `{"kind":"tenant"}`, "1")
	angry.Store(true)
	eventually(t, func() bool { return strings.Contains(p.Logs.String(), "the connection has ended for good") })
	is.Equal(p.Wait().ExitCode(), 1)
}

// The server that a hub is connected to is cut off from the others: it answers pings, and
// nothing that takes a leader. Others are in reach.
func TestMovesFromACutOffServer(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 3)
	proxies := b.Proxies(t)
	h := joinOn(t, "test", 3, proxies[0].URL(), proxies[1].URL(), proxies[2].URL())
	before := len(h.Logs.String()) // where the machine is busy it may have moved already
	var cut atomic.Int64           // where the hub is, from 1
	for i, p := range proxies {
		p.Rule(func(m *natstest.Message) (v natstest.Verdict) {
			if m.FromServer || m.Verb != "PUB" && m.Verb != "HPUB" {
				return v
			}
			cut.CompareAndSwap(0, int64(i+1))
			v.Drop = cut.Load() == int64(i+1)
			return v
		})
	}
	start := time.Now()
	h.Becomes(t, false)
	h.Becomes(t, true)
	t.Logf("moved after %v", time.Since(start))
	eventually(t, func() bool { return publishes(t, h) })
	is.True(faults(t, h, "moved") >= 1) // a busy machine may have it move on, but not back
	is.True(!strings.Contains(h.Logs.String()[before:], "to="+b.Servers[cut.Load()-1].Name()))
}

// An election takes its time on all servers: nobody moves for it.
func TestNobodyMovesWithoutQuorum(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 3)
	h := joinOn(t, "test", 3, b.URL(0))
	b.Stop(1)
	b.Stop(2)
	h.Becomes(t, false)
	before, moved := faults(t, h, "history"), faults(t, h, "moved") // a busy machine may have had it move before
	eventually(t, func() bool { return faults(t, h, "history") > before+8 })
	is.Equal(faults(t, h, "moved"), moved)
}
