// Package socket is WebSocket (RFC 6455), for the doors that speak it. [Check] looks at a request
// for an upgrade, and [Head] answers it. What goes out is in frames ([AppendText], [AppendPing],
// [AppendEnd]). A [Session] listens to the client of a stream, without a goroutine or a buffer
// while nothing comes, and gives its door each text; [First] reads what a client says before there
// is a stream.
package socket
