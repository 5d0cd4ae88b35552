// Package reader counts the events that a stream brings, over HTTP/1.1 or a WebSocket, and keeps
// none of them: so one core reads as many streams as a hub writes.
//
// A [Reader] is fed with what comes from the answer's head on, or is made by [OfBody];
// its Events are those that have come whole.
package reader
