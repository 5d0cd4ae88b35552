package main

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/serve"
)

func TestRunServesAndDrains(t *testing.T) {
	is := is.New(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	addr, done := make(chan net.Addr, 1), make(chan error, 1)
	var logs syncBuffer
	go func() {
		done <- run(ctx, []string{"REALTIME_ADDR=127.0.0.1:0", "REALTIME_LOG_LEVEL=debug"}, &logs, func(a net.Addr) { addr <- a })
	}()
	at := (<-addr).String()
	is.NoErr(serve.CheckHealth(at, false))

	res, err := hubtest.CheckedClient(t, nil).Get("http://" + at + "/v1/stream?tenant=acme&profile=user:1&presence=none")
	is.NoErr(err)
	defer res.Body.Close()
	events := newStreamReader(t, res.Body)
	first, err := events.Next()
	is.NoErr(err)
	is.Equal(first.Type, "hub.ready")

	post, err := hubtest.CheckedClient(t, nil).Post("http://"+at+"/v1/tenants/acme/events", "application/json", strings.NewReader(`{"type":"a","payload":"canary-payload"}`))
	is.NoErr(err)
	post.Body.Close()
	is.Equal(post.StatusCode, http.StatusAccepted)
	second, err := events.Next()
	is.NoErr(err)
	is.Equal(second.Type, "a")

	stop()
	last, err := events.Next()
	is.NoErr(err)
	is.Equal(last.Type, "hub.closing")
	is.True(strings.Contains(last.Data, `"reason":"drain"`))
	is.NoErr(<-done) // so the process exits 0
	is.True(serve.CheckHealth(at, false) != nil)
	is.True(!strings.Contains(logs.String(), "canary-payload"))
}

// startHub runs the whole program on a free port.
func startHub(t *testing.T, settings ...string) (url string) {
	alone(t, "the program has a hub of its own")
	ctx, stop := context.WithCancel(context.Background())
	addr, done := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		done <- run(ctx, append(settings, "REALTIME_ADDR=127.0.0.1:0"), &syncBuffer{}, func(a net.Addr) { addr <- a })
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "http://" + (<-addr).String()
}
