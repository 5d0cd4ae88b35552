package main

import "context"

// longList is a list of profiles that is answered: there may be very many.
type longList struct {
	ctx    context.Context
	tenant string
	memory *allowance
}

// begin takes the memory for a list before it is made, and its turn.
func (l longList) begin(size int) (end func(), err error) {
	if !l.memory.use(profileSize * size) {
		return nil, ErrAnswers
	}
	return l.turn(size)
}

func (l longList) turn(size int) (over func(), err error) { return listTurn(l.ctx, l.tenant, size) }
