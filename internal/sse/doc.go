// Package sse encodes and reads Server-Sent Events (WHATWG HTML §9.2): [AppendEvent] writes
// one, a [Reader] reads them as EventSource does. [Encoding] is how a hub's streams use it.
package sse
