package answer

import (
	"context"

	"realtimehub/internal/allowance"
	"realtimehub/internal/request"
)

// List is a list of profiles that a call is answered with. It may be very long.
type List struct {
	ctx    context.Context
	tenant string
	memory *allowance.Call
}

// NewList begins a list of a tenant's profiles within a call's memory.
func NewList(ctx context.Context, tenant string, memory *allowance.Call) List {
	return List{ctx, tenant, memory}
}

// Call is the memory of the call that is answered.
func (l List) Call() *allowance.Call { return l.memory }

// Close gives the memory back.
func (l List) Close() { l.memory.Close() }

// Begin takes the memory for a list and its turn, before the list is made.
func (l List) Begin(size int) (end func(), err error) {
	if !l.memory.Use(profileSize * size) {
		return nil, allowance.ErrAnswers
	}
	return l.Turn(size)
}

// Turn takes a turn for so many profiles, until over is called.
func (l List) Turn(size int) (over func(), err error) {
	return request.ListTurn(l.ctx, l.tenant, size)
}
