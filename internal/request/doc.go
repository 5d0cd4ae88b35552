// Package request reads what a request brings, within bounds that hold whatever it claims:
// its head, its body as strict JSON, and the turn that large ones take.
//
// [Limit.Read] reads a body and [Limit.Object] its members, counted against the caller's
// allowance. [BodyTurn] and [ListTurn] have large ones wait for each other, one tenant after
// the other. [AbortIfReset] ends the work for a client that has taken its request back.
package request
