// Package remote keeps the connections that other hubs hold, of the tenants of which they are
// known here: whose each is, and when it was last active. All else its own hub is asked.
//
// [New] makes [Connections]. Between [Connections.Hold] and [Connections.Release] of a tenant
// [Connections.Change] takes in what becomes of a connection and says what that is for its
// person, and [Connections.Count] says how many of them an event is for.
//
// Lock order: a tenant's mu → its counting, which is a leaf, as is that of all tenants.
package remote
