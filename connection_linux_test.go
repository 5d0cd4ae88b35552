package main

import (
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats-server/v2/server"

	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
)

// The server refuses a hub's credentials for a while, as when others are being rolled out:
// the hub goes on asking, and is there again once they are good.
func TestRefusedByTheServer(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := theBroker(t)
	set := func(password string) {
		b.Reload(t, 0, func(o *server.Options) { o.Username, o.Password = "hub", password })
	}
	set("good")
	h, _ := soloOn(t, 1, strings.Replace(b.URL(0), "//", "//hub:good@", 1))
	set("other")
	eventually(t, func() bool { return h.Stats().Log.Faults[history.FaultRefused] > 5 })
	is.True(!h.isReady(t))
	set("good")
	h.becomes(t, true)
	is.True(h.publishes(t))
}

// A server says something after which the client library gives up for good, and nothing
// would bring it back: so the process ends, and says why.
func TestClosedForGood(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := theBroker(t)
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
	p := startProcess(t, "REALTIME_NATS_URL=nats://"+l.Addr().String())
	is.Equal(ask202(t, p.addr, 1), http.StatusAccepted)
	angry.Store(true)
	eventually(t, func() bool { return strings.Contains(p.logs.String(), "the connection has ended for good") })
	is.Equal(p.wait().ExitCode(), 1)
}

// The server that a hub is connected to is cut off from the others: it answers pings, and
// nothing that takes a leader. Others are in reach.
func TestMovesFromACutOffServer(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	proxies := natstest.Start(t, 3).Proxies(t)
	h, _ := soloOn(t, 3, proxies[0].URL(), proxies[1].URL(), proxies[2].URL())
	var cut atomic.Int64 // where the hub is, from 1
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
	h.becomes(t, false)
	h.becomes(t, true)
	t.Logf("moved after %v", time.Since(start))
	is.True(time.Since(start) < 30*time.Second)
	is.True(h.publishes(t))
	is.Equal(h.Stats().Log.Faults[history.FaultMoved], int64(1))
}

// An election takes its time on all servers: nobody moves for it.
func TestNobodyMovesWithoutQuorum(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 3)
	h, _ := soloOn(t, 3, b.URL(0))
	b.Stop(1)
	b.Stop(2)
	h.becomes(t, false)
	faults := h.Stats().Log.Faults
	eventually(t, func() bool { return h.Stats().Log.Faults[history.FaultHistory] > faults[history.FaultHistory]+8 })
	is.Equal(h.Stats().Log.Faults[history.FaultMoved], int64(0))
}
