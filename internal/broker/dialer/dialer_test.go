package dialer

import (
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

// countingDialer counts how often it was asked for a connection.
type countingDialer struct {
	*Dialer
	dials atomic.Int64
}

func (c *countingDialer) Dial(network, address string) (net.Conn, error) {
	c.dials.Add(1)
	return c.Dialer.Dial(network, address)
}

// While the connection comes back, to a server that says nothing, nobody waits for it who
// wants to send or to ask; and it comes back once the server speaks.
func TestNobodyWaitsForAConnection(t *testing.T) {
	is := is.New(t)
	const timeout = time.Hour // so who waits for it ends with the test
	proxy := natstest.Start(t, 1).Proxies(t)[0]
	dialer := &countingDialer{Dialer: &Dialer{Timeout: timeout}}
	nc, err := nats.Connect(proxy.URL(), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1), nats.Timeout(timeout), nats.RetryOnFailedConnect(true),
		nats.PingInterval(50*time.Millisecond), nats.MaxPingsOutstanding(1), nats.ReconnectWait(time.Millisecond),
		nats.SetCustomDialer(dialer), nats.SkipHostLookup())
	is.NoErr(err)
	defer nc.Close()
	testkit.Eventually(t, nc.IsConnected) // a busy server may speak too late for the first try
	proxy.Silence()
	defer proxy.Mend()
	testkit.Eventually(t, func() bool { return !nc.IsConnected() })
	for range 5 {
		nc.Publish("a", nil)
		nc.Subscribe("b", func(*nats.Msg) {})
		nc.Request("c", nil, time.Millisecond)
		dials := dialer.dials.Load()
		testkit.Eventually(t, func() bool { return dialer.dials.Load() > dials+1 }) // it is being connected to
	}
	proxy.Mend()
	testkit.Eventually(t, func() bool { return nc.FlushTimeout(30*time.Second) == nil }) // it may be away once more, where the machine is busy
}

// What is not there is said at once; what nobody takes is closed.
func TestDial(t *testing.T) {
	is := is.New(t)
	d := Dialer{Timeout: time.Minute}
	var err error
	for err = ErrDialing; errors.Is(err, ErrDialing); {
		_, err = d.Dial("tcp", "127.0.0.1:1")
	}
	is.True(err != nil)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	is.NoErr(err)
	defer l.Close()
	_, err = d.Dial("tcp", l.Addr().String())
	is.Equal(err, ErrDialing) // it has said nothing
	_, err = d.Dial("tcp", l.Addr().String())
	is.Equal(err, ErrDialing)
	server, err := l.Accept() // one for both
	is.NoErr(err)
	_, err = server.Write([]byte("INFO"))
	is.NoErr(err)
	var conn net.Conn
	for err = ErrDialing; errors.Is(err, ErrDialing); {
		conn, err = d.Dial("tcp", l.Addr().String())
	}
	is.NoErr(err)
	defer conn.Close()
	b := make([]byte, 4)
	n := 0
	for n < 4 {
		m, err := conn.Read(b[n:])
		is.NoErr(err)
		n += m
	}
	is.Equal(string(b), "INFO")

	_, err = d.Dial("tcp", l.Addr().String())
	is.Equal(err, ErrDialing)
	server, err = l.Accept()
	is.NoErr(err)
	_, err = server.Write([]byte("INFO"))
	is.NoErr(err)
	_, err = server.Read(b)
	is.True(err != nil) // nobody came for it
}
