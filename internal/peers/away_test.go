package peers

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/natstest"
)

// While the connection comes back, to a server that says nothing, who asks another has an
// answer in its time.
func TestAskWhileAway(t *testing.T) {
	is := is.New(t)
	proxy := natstest.Start(t, 1).Proxies(t)[0]
	away := make(chan struct{}, 1)
	nc, err := nats.Connect(proxy.URL(), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1), nats.Timeout(20*time.Second),
		nats.PingInterval(50*time.Millisecond), nats.MaxPingsOutstanding(1), nats.ReconnectWait(time.Millisecond),
		nats.DisconnectErrHandler(func(*nats.Conn, error) {
			select {
			case away <- struct{}{}:
			default:
			}
		}))
	is.NoErr(err)
	defer nc.Close()
	p, err := Start(nc, Config{
		Prefix: "test", Node: "one", Able: func() bool { return true }, Logger: slog.New(slog.DiscardHandler),
		Items: func(string) []Op { return nil }, Changed: func(Change) {}, Told: func(string, []byte) {},
		Serve: func([]byte) []byte { return nil }, Resynced: func() {},
	})
	is.NoErr(err)
	defer p.Close()
	defer proxy.Mend()
	proxy.Silence()
	<-away
	time.Sleep(100 * time.Millisecond)
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = p.Ask(ctx, "two", []byte("?"))
	is.True(err != nil)
	is.True(time.Since(start) < 10*time.Second)
}
