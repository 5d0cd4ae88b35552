// Package receipts answers what came of an event: the event as it is kept, and for each of its
// recipients whether they have acknowledged it, have been reported, or still owe, and why. Its
// [Server] has a handler for each call; a [Hub] finds events and knows the rest.
package receipts
