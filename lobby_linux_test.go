package main

import (
	"strings"
	"testing"

	"github.com/matryer/is"
)

// A stream's socket is taken from net/http also where a proxy began the connection: no
// goroutine stays with it.
func TestStreamsOfAProxyAreTaken(t *testing.T) {
	is := is.New(t)
	url := startHub(t, "REALTIME_TRUSTED_PROXIES=127.0.0.1")
	at := strings.TrimPrefix(url, "http://")
	const streams = 60
	goroutines := func() float64 { return scrapeFrom(t, url)["go_goroutines"] }
	before := goroutines()
	for i := range streams {
		preamble := []string{"", proxyV1("203.0.113.7"), proxyV2("2001:db8::7")}[i%3]
		is.Equal(streamOn(t, dialAs(t, at, preamble), rawRequest("/v1/stream?tenant=acme&profile=me")), "hub.ready")
	}
	eventually(t, func() bool { return goroutines() < before+streams/6 })
}
