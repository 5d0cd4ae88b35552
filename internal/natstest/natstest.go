// Package natstest starts real NATS servers for tests, in the test's process. Only
// tests import it, so it stays out of the binary.
package natstest

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Broker is one server with JetStream, or a cluster of several.
type Broker struct {
	Servers []*server.Server
	options []*server.Options
}

// Start starts n servers, configured as wanted, which end with the test.
func Start(t testing.TB, n int, configure ...func(*server.Options)) *Broker {
	t.Helper()
	b := &Broker{}
	var routes []*url.URL
	for range n { // all known before any starts
		routes = append(routes, &url.URL{Scheme: "nats", Host: fmt.Sprint("127.0.0.1:", FreePort(t))})
	}
	for i := range n {
		o := &server.Options{
			ServerName: fmt.Sprint("n", i), Host: "127.0.0.1", Port: FreePort(t), NoSigs: true, NoLog: true,
			JetStream: true, StoreDir: t.TempDir(), JetStreamMaxStore: 8 << 30, JetStreamMaxMemory: 1 << 30,
			MaxPayload: 1 << 20,
		}
		if n > 1 {
			_, port, _ := net.SplitHostPort(routes[i].Host)
			fmt.Sscan(port, &o.Cluster.Port)
			o.Cluster.Name, o.Cluster.Host, o.Routes = "test", "127.0.0.1", routes
		}
		for _, c := range configure {
			c(o)
		}
		b.options = append(b.options, o)
		b.Servers = append(b.Servers, nil)
		b.launch(t, i)
	}
	for i := range n {
		b.await(t, i)
	}
	t.Cleanup(func() {
		for _, s := range b.Servers {
			s.Shutdown()
		}
		for _, s := range b.Servers {
			s.WaitForShutdown()
		}
	})
	return b
}

func (b *Broker) launch(t testing.TB, i int) {
	t.Helper()
	s, err := server.NewServer(b.options[i].Clone())
	if err != nil {
		t.Fatal(err)
	}
	b.Servers[i] = s
	s.Start()
}

func (b *Broker) await(t testing.TB, i int) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !b.Servers[i].ReadyForConnections(time.Second) || len(b.Servers) > 1 && !(b.Servers[i].JetStreamIsCurrent() && b.meshed()) {
		if time.Now().After(deadline) {
			t.Fatal("the broker does not start")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// meshed says whether each server that runs has its routes to all others that do. One that dialled another before
// that listened tries again a second later, and what clients of the two tell each other until then is lost.
func (b *Broker) meshed() bool {
	const each = server.DEFAULT_ROUTE_POOL_SIZE + 1 // and one of the system account's own
	running := 0
	for _, s := range b.Servers {
		if s.Running() {
			running++
		}
	}
	return !slices.ContainsFunc(b.Servers, func(s *server.Server) bool {
		return s.Running() && s.NumRoutes() != each*(running-1)
	})
}

// Stop ends server i, as SIGTERM does.
func (b *Broker) Stop(i int) {
	b.Servers[i].Shutdown()
	b.Servers[i].WaitForShutdown()
}

// Restart starts server i again on its address, with what it kept.
func (b *Broker) Restart(t testing.TB, i int) {
	t.Helper()
	b.launch(t, i)
	b.await(t, i)
}

// StoreDir is where server i keeps its files.
func (b *Broker) StoreDir(i int) string { return b.options[i].StoreDir }

// URL is of server i.
func (b *Broker) URL(i int) string {
	return fmt.Sprint("nats://127.0.0.1:", b.options[i].Port)
}

// Connect connects to server i, until the test ends.
func (b *Broker) Connect(t testing.TB, i int, options ...nats.Option) *nats.Conn {
	t.Helper()
	return Connect(t, b.URL(i), options...)
}

// Connect connects to the server of a URL, until the test ends. A busy machine's server may greet late.
func Connect(t testing.TB, url string, options ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, append([]nats.Option{nats.Timeout(time.Minute)}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}
