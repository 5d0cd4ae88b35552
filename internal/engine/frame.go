package engine

import (
	"strconv"
	"sync/atomic"
	"time"
)

// Frame is one or more whole events as they go over the wire. It is immutable,
// and shared by all streams that owe it, which are of one engine.
type Frame struct {
	data      []byte    // the events
	chunk     []byte    // data as a chunk of an HTTP/1.1 body (RFC 9112 §7.1), in the same buffer
	since     time.Time // when its event was published; zero: not to be timed
	events    int32     // how many it is to be counted as
	owers     atomic.Int32
	ephemeral bool
}

// ChunkRoom is how much more capacity than length lets a frame take data as it is,
// without a copy.
const ChunkRoom = len("fffff\r\n") + len("\r\n")

// NewFrame makes a frame of encoded events, whose buffer is the frame's from then on.
// An ephemeral one is the first to be shed when a stream falls behind, and nobody is told of it.
func NewFrame(data []byte, ephemeral bool) *Frame { return NewEvents(data, 0, ephemeral, time.Time{}) }

// NewEvents is NewFrame of so many events that are counted when they are written, and timed if
// they were published at a time that is not zero. Of those that are shed the client is told.
func NewEvents(data []byte, n int, ephemeral bool, published time.Time) *Frame {
	f := &Frame{since: published, events: int32(n), ephemeral: ephemeral}
	if len(data) == 0 {
		return f // a chunk of nothing would be the last
	}
	var head [len("ffffffffffffffff\r\n")]byte
	size := append(strconv.AppendUint(head[:0], uint64(len(data)), 16), "\r\n"...)
	f.chunk = append(append(data, size...), "\r\n"...)
	at, end := len(size), len(size)+len(data)
	copy(f.chunk[at:], data)
	copy(f.chunk, size)
	f.data = f.chunk[at:end:end]
	return f
}

// owe has n more streams owe f, or fewer, and returns by how many bytes the memory
// that is owed grows: the first ower adds the frame, the last one takes it off.
func (f *Frame) owe(n int32) int64 {
	now := f.owers.Add(n)
	switch before := now - n; {
	case before == 0:
		return f.memory()
	case now == 0:
		return -f.memory()
	}
	return 0
}

// frameBytes is what a frame takes of memory beside its events: most of what small ones take,
// of which a client that sends can cause very many.
const frameBytes = 112

// memory is what the frame takes of memory, in bytes.
func (f *Frame) memory() int64 { return frameBytes + int64(f.Len()) }

// Len is how many bytes the frame is on the wire, at most.
func (f *Frame) Len() int { return len(f.chunk) }

// Events is how many events the frame is counted as.
func (f *Frame) Events() int { return int(f.events) }
