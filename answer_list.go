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

// begin takes the memory for a list before it is made, and its turn.
func (l longList) begin(size int) (end func(), err error) {
	if !l.memory.Use(profileSize * size) {
		return nil, allowance.ErrAnswers
	}
	return l.turn(size)
}

func (l longList) turn(size int) (over func(), err error) {
	return request.ListTurn(l.ctx, l.tenant, size)
}
