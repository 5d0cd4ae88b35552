package main

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/matryer/is"
)

// In open mode only pages of this machine may call, whatever is listed: the log says so
// once, and names the variable.
func TestOpenModeTellsOfOriginsItRefuses(t *testing.T) {
	for origins, warned := range map[string]bool{
		"http://localhost:3000,http://[::1]:3000": false, "http://localhost:3000,https://app.example.com": true, "*": true, "": false,
	} {
		t.Run(origins, func(t *testing.T) {
			is := is.New(t)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var logs syncBuffer
			err := run(ctx, []string{"REALTIME_ADDR=127.0.0.1:0", "REALTIME_DRAIN=0", "REALTIME_CORS_ORIGINS=" + origins}, &logs, func(net.Addr) { stop() })
			is.NoErr(err)
			is.Equal(strings.Count(logs.String(), "variable=REALTIME_CORS_ORIGINS"), map[bool]int{true: 1}[warned])
		})
	}
}

func TestAnUnknownCommandIsNamed(t *testing.T) {
	is := is.New(t)
	stdout, stderr, code := program(t, "bogus")
	is.Equal(code, 2)
	is.Equal(stdout, "")
	is.True(strings.HasPrefix(stderr, "realtimehub: unknown command \"bogus\"\n\nUsage:"))
}
