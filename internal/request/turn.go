package request

import (
	"context"
	"runtime"

	"realtimehub/internal/fair"
	"realtimehub/internal/quota"
)

// largeBody is the size in bytes from which a body takes much longer than others. Such bodies
// take turns, one tenant after the other, so that half of the processors are left to calls
// that take little time.
const largeBody = 64 << 10

var largeTurns = fair.NewSemaphore(quota.New[string](int64(max(runtime.GOMAXPROCS(0)/2, 1)), 0))

// largeTurn waits for a tenant's turn until ctx ends. over ends the turn.
func largeTurn(ctx context.Context, tenant string) (over func(), err error) {
	if err := largeTurns.Acquire(ctx, tenant); err != nil {
		return nil, err
	}
	return func() { largeTurns.Release(tenant) }, nil
}

// BodyTurn waits for a turn to read a body of so many bytes, if it is a large one. over ends
// the turn.
func BodyTurn(ctx context.Context, tenant string, size int) (over func(), err error) {
	return turnPast(ctx, largeBody, tenant, size)
}

// largeRoom is how many members a room has with which anything that is done with all of them
// takes as long as reading a large body.
const largeRoom = 1000

// ListTurn waits for a turn to make a list of so many items, if they are many. over ends the
// turn.
func ListTurn(ctx context.Context, tenant string, size int) (over func(), err error) {
	return turnPast(ctx, largeRoom, tenant, size)
}

func turnPast(ctx context.Context, few int, tenant string, size int) (over func(), err error) {
	if size <= few {
		return func() {}, nil
	}
	if over, err = largeTurn(ctx, tenant); err != nil {
		return nil, ErrBrokeOff // nobody is there to be told
	}
	return over, nil
}
