// Package door is what every door does by which clients get events: [Read] reads what a client
// asks of a stream, and [Opener.Open] opens one. Each door is a package of its own in here, and
// only frames what goes out.
package door
