// Package poll is the door for clients to which no stream gets through: each request waits for
// events and is answered with them, and the cursor of the answer is all that connects it with
// the next. A [Door] is made by main, and [Door.Serve] is its one call.
package poll
