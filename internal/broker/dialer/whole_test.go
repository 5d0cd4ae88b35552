package dialer

import (
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

// full has connections on which a write fails once, when it is told to, as where the network's
// buffers are full: nothing of it leaves.
type full struct {
	inside nats.InProcessConnProvider
	now    atomic.Bool
}

// Dial implements nats.CustomDialer.
func (f *full) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	return &fullConn{conn, f}, err
}

// InProcessConn implements nats.InProcessConnProvider.
func (f *full) InProcessConn() (net.Conn, error) {
	conn, err := f.inside.InProcessConn()
	return &fullConn{conn, f}, err
}

type fullConn struct {
	net.Conn
	full *full
}

// Write implements net.Conn.
func (c *fullConn) Write(b []byte) (int, error) {
	if c.full.now.CompareAndSwap(true, false) {
		return 0, os.ErrDeadlineExceeded
	}
	return c.Conn.Write(b)
}

// A subscription cannot be sent, and the server goes on: it is there all the same, by way of
// another connection.
func TestNoSubscriptionIsLost(t *testing.T) {
	t.Parallel()
	b := natstest.Start(t, 1)
	for name, option := range map[string]func(*full) nats.Option{
		"over the network": func(f *full) nats.Option { return nats.SetCustomDialer(f) },
		"inside":           func(f *full) nats.Option { return nats.InProcessServer(f) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			is := is.New(t)
			line := &full{inside: b.Servers[0]}
			nc := b.Connect(t, 0, option(line), Whole, nats.MaxReconnects(-1), nats.ReconnectWait(time.Millisecond))
			line.now.Store(true)
			heard, err := nc.SubscribeSync("a." + name[:4])
			is.NoErr(err)
			other := b.Connect(t, 0)
			testkit.Eventually(t, func() bool {
				other.Publish(heard.Subject, nil)
				_, err := heard.NextMsg(10 * time.Millisecond)
				return err == nil
			})
		})
	}
}
