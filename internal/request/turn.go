package request

import (
	"context"
	"runtime"

	"realtimehub/internal/fair"
	"realtimehub/internal/quota"
)

// LargeBody is how many bytes a body has that takes many times as long as others: they
// take turns, of one tenant after the other, and leave half of the processors to calls
// that do not take long.
const LargeBody = 64 << 10

var largeTurns = fair.NewSemaphore(quota.New[string](int64(max(runtime.GOMAXPROCS(0)/2, 1)), 0))

// LargeTurn waits for a tenant's turn, as long as ctx does; over is to be called.
func LargeTurn(ctx context.Context, tenant string) (over func(), err error) {
	if err := largeTurns.Acquire(ctx, tenant); err != nil {
		return nil, err
	}
	return func() { largeTurns.Release(tenant) }, nil
}

// BodyTurn is LargeTurn for a body of so many bytes, if they are many.
func BodyTurn(ctx context.Context, tenant string, size int) (over func(), err error) {
	return turnPast(LargeBody, ctx, tenant, size)
}

// LargeRoom has so many members that what is done with all of them takes as long as
// reading a large body.
const LargeRoom = 1000

// ListTurn is LargeTurn for a list of so many, if they are many.
func ListTurn(ctx context.Context, tenant string, size int) (over func(), err error) {
	return turnPast(LargeRoom, ctx, tenant, size)
}

func turnPast(few int, ctx context.Context, tenant string, size int) (over func(), err error) {
	if size <= few {
		return func() {}, nil
	}
	if over, err = LargeTurn(ctx, tenant); err != nil {
		return nil, errBrokeOff // nobody is there to be told
	}
	return over, nil
}
