package request

import (
	"context"
	"runtime"

	"realtimehub/internal/fair"
	"realtimehub/internal/quota"
)

// largeBody is how many bytes a body has that takes many times as long as others: they
// take turns, of one tenant after the other, and leave half of the processors to calls
// that do not take long.
const largeBody = 64 << 10

var largeTurns = fair.NewSemaphore(quota.New[string](int64(max(runtime.GOMAXPROCS(0)/2, 1)), 0))

// largeTurn waits for a tenant's turn, as long as ctx does; over is to be called.
func largeTurn(ctx context.Context, tenant string) (over func(), err error) {
	if err := largeTurns.Acquire(ctx, tenant); err != nil {
		return nil, err
	}
	return func() { largeTurns.Release(tenant) }, nil
}

// BodyTurn is largeTurn for a body of so many bytes, if they are many.
func BodyTurn(ctx context.Context, tenant string, size int) (over func(), err error) {
	return turnPast(ctx, largeBody, tenant, size)
}

// largeRoom has so many members that what is done with all of them takes as long as
// reading a large body.
const largeRoom = 1000

// ListTurn is largeTurn for a list of so many, if they are many.
func ListTurn(ctx context.Context, tenant string, size int) (over func(), err error) {
	return turnPast(ctx, largeRoom, tenant, size)
}

func turnPast(ctx context.Context, few int, tenant string, size int) (over func(), err error) {
	if size <= few {
		return func() {}, nil
	}
	if over, err = largeTurn(ctx, tenant); err != nil {
		return nil, errBrokeOff // nobody is there to be told
	}
	return over, nil
}
