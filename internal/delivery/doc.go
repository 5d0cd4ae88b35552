// Package delivery brings events to streams. It holds each tenant with its connections, its
// rooms and its watch lists, finds whom an event reaches, hands all of them the same frame,
// and replays what a stream has missed.
//
// [New] makes its four parts. [Streams.Connect] opens a stream and [Streams.Kick] ends it,
// with a [CloseReason]. [Members.ResolveRooms] settles who belongs to an event's room before
// the log takes it. The log hands events to the [Dispatcher], which is its sink. [Tenants]
// are found, shared and forgotten. No lock is held while anything waits for a client or for
// the network.
package delivery
