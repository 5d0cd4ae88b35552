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

// Join connects a hub's side to a broker, which has a minute for it, until the test ends. As a
// hub's supervisor does, it tries again where the broker of a busy machine was late.
func Join[B interface{ Close() }](t testing.TB, connect func(context.Context) (B, error)) B {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	b, err := connect(ctx)
	for ; err != nil && ctx.Err() == nil; b, err = connect(ctx) {
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}
