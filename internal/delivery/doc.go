// Package delivery brings events to streams. It holds each tenant with its connections, its
// rooms and its watch lists, finds whom an event reaches, hands all of them the same frame,
// and replays what a stream has missed.
//
// [New] makes its parts. [Streams.Connect] opens a stream and [Streams.Kick] ends it, with a
// [CloseReason]; [Streams.Drain] ends them all. [Members.ResolveRooms] makes sure who belongs
// to an event's room before the log takes it. The log hands events to the [Dispatcher], which
// is its sink; [Dispatcher.Say] and [Dispatcher.Notify] deliver what the hub itself has to
// say. [Tenants] are found, shared and forgotten. A [Connection] shows who it is of; all else
// about it is delivery's own.
//
// Locks are taken in this order: the gate of a tenant whose shared rooms are changed, the gate
// of a tenant that is made or forgotten, the tenant's mu, and then one of the leaves: that of
// Tenants, of the open streams' directory, of expiry (and an alarm's beneath it), or of a stream. No lock is held while
// anything waits for a client or for the network.
package delivery
