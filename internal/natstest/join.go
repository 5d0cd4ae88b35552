package natstest

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"
)

var prefixes atomic.Int64

// Prefix keeps what is shared apart from other tests'.
func Prefix() string { return fmt.Sprint("test", prefixes.Add(1)) }

// Join connects a hub's side to a broker, which has a minute for it, until the test ends.
func Join[B interface{ Close() }](t testing.TB, connect func(context.Context) (B, error)) B {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	b, err := connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}
