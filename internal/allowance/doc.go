// Package allowance counts who holds how much of the hub's memory, and refuses who would
// have more than its share.
//
// [New] makes the [Pools]. [Pools.Keep] and [Pools.Drop] are for what outlives a call, by
// tenant and by person. [Pools.Body] and [Pools.Answer] give a [Call] that grows with what is
// read or written and is closed at its end.
package allowance
