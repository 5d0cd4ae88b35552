// Package engine writes streams of bytes to many HTTP clients. Frames are encoded once and
// shared, each stream owes a bounded list of them, and whoever sends never waits for whoever
// reads. It knows nothing of what the bytes say, and leaves sockets to package tcp.
//
// An [Engine] makes a [Stream] for an [Owner]; a handler sets its headers and has
// [Engine.Serve] write it. A [Batch] sends frames to streams and is flushed once.
package engine
