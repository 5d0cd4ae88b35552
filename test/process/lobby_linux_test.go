package process

import (
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/testkit"
)

// A stream's socket is taken from net/http also where a proxy began the connection: no
// goroutine stays with it.
func TestStreamsOfAProxyAreTaken(t *testing.T) {
	is := is.New(t)
	p := hubtest.Start(t, "REALTIME_TRUSTED_PROXIES=127.0.0.1")
	const streams = 60
	goroutines := func() float64 { return p.Metric(t, "go_goroutines") }
	before := goroutines()
	for i := range streams {
		preamble := []string{"", hubtest.ProxyV1("203.0.113.7"), hubtest.ProxyV2("2001:db8::7")}[i%3]
		is.Equal(hubtest.StreamOn(t, hubtest.Dial(t, p.Addr, preamble), hubtest.Request("/v1/stream?tenant=acme&profile=me")), "hub.ready")
	}
	testkit.Eventually(t, func() bool { return goroutines() < before+streams/6 })
}
