// Package allowance says how much of the hub's memory each tenant, person and address may have.
// [Pools] has a pool for each kind of memory, made of the process's memory plan: state asks
// with [Pools.Keep] or the pools themselves, calls with [Pools.Body] and [Pools.Answer]. Pools
// lock themselves, and call nobody.
package allowance
