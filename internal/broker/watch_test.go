package broker

import (
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

// lateEar is a connection of which nobody reads the end until it is heard.
type lateEar struct {
	*net.TCPConn
	heard chan struct{}
}

func (l *lateEar) Read(p []byte) (int, error) {
	n, err := l.TCPConn.Read(p)
	if err != nil {
		<-l.heard
	}
	return n, err
}

// Dial is of the first connection; there is no other.
func (l *lateEar) Dial(network, address string) (net.Conn, error) {
	if l.TCPConn != nil {
		return nil, net.ErrClosed
	}
	conn, err := net.Dial(network, address)
	if err != nil {
		return nil, err
	}
	l.TCPConn = conn.(*net.TCPConn)
	return l, nil
}

// Who writes to a connection that has ended may be told so before it is known to have ended.
// That is no fault of another kind: whether it is told is a matter of chance.
func TestAnEndThatAWriteFindsIsNoFault(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	server := natstest.Start(t, 1)
	var logs testkit.Buffer
	w := newWatch(nil, slog.New(slog.NewTextHandler(&logs, nil)))
	line := &lateEar{heard: make(chan struct{})}
	nc, err := nats.Connect(server.URL(0), append(w.options(server.URL(0)), nats.SetCustomDialer(line))...)
	is.NoErr(err)
	defer nc.Close()
	defer w.closing.Store(true)
	defer close(line.heard)
	is.NoErr(line.CloseWrite())
	is.NoErr(nc.Publish("a", nil))
	testkit.Eventually(t, func() bool { return strings.Contains(logs.String(), "err=\"write tcp") })
	is.True(nc.IsConnected())
	is.Equal(w.faults.Now()[history.FaultOther], int64(0))
}
