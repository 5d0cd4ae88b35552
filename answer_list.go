package main

import (
	"context"

	"realtimehub/internal/allowance"
	"realtimehub/internal/request"
)

// longList is a list of profiles that is answered: there may be very many.
type longList struct {
	ctx    context.Context
	tenant string
	memory *allowance.Call
}

// newList begins a list of a tenant's profiles within a call's memory.
func newList(ctx context.Context, tenant string, memory *allowance.Call) longList {
	return longList{ctx, tenant, memory}
}

// call is the memory of the call that it answers.
func (l longList) call() *allowance.Call { return l.memory }

// close gives the memory back.
func (l longList) close() { l.memory.Close() }

// begin takes the memory for a list before it is made, and its turn.
func (l longList) begin(size int) (end func(), err error) {
	if !l.memory.Use(profileSize * size) {
		return nil, allowance.ErrAnswers
	}
	return l.turn(size)
}

// turn takes a turn for so many profiles, until over is called.
func (l longList) turn(size int) (over func(), err error) {
	return request.ListTurn(l.ctx, l.tenant, size)
}
