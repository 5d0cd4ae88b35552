// Package history keeps the last events of each tenant in one order, so that a client that
// comes back reads what it missed. It owns the order, cursors, chosen ids that are recognised
// again, and the limits of what is kept in memory; it knows nothing of streams or of HTTP.
//
// A [Log] is all of that. Its users call Attach for each tenant with a stream, Append to
// publish, and Find and then Read to resume; a [Sink] is handed what was accepted. [Memory]
// is the Log of one hub. A Log that several hubs share keeps events with a broker, and has a
// [Near]: the latest of them, in memory, for the tenants that have streams here.
//
// Lock order, for either: shelf.mu → shelves.mu → shelves.ranking and idWindow.mu. Nobody
// holds two shelves. Memory delivers to its sinks with the tenant's shelf locked, so a sink
// calls no Log. Near calls what is given to Take and Attach with the shelf locked, and its
// Scan with nothing locked.
package history
