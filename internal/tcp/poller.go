package tcp

import (
	"bufio"
	"bytes"
	"net/http"
	"sync/atomic"
)

// Poller takes sockets, and tells what becomes of them. It has one goroutine, and none before the
// first.
type Poller struct {
	// Static.
	held  *atomic.Int64
	start func(run func())
	told  func([]Event)

	set epoll
}

// Key is what its owner knows a socket by: a place in a table, and which holder of that place it
// is. Descriptor numbers are used again.
type Key struct{ Place, Generation uint32 }

// Event is what has happened to a socket.
type Event struct {
	Key    Key
	Input  bool // there is input, an end or an error, else room to write
	HungUp bool // an end or an error
}

// AtOnce is how many sockets a [Poller] tells of at once.
const AtOnce = 256

// NewPoller makes a poller that is run by start in a goroutine. It calls told for what happens,
// at most [AtOnce] events together, which are only lent. The bytes that wait for room in sockets,
// in records, are added to held.
func NewPoller(held *atomic.Int64, start func(run func()), told func([]Event)) *Poller {
	return &Poller{held: held, start: start, told: told}
}

// Take takes the socket of a request's connection away from net/http, whose goroutines, buffers
// and poll entry are then free, and watches it; false leaves the request as it was. early is what
// came in behind the request.
func (p *Poller) Take(w http.ResponseWriter, r *http.Request, s *Socket, key Key) (early []byte, taken bool) {
	from := sourceOf(r)
	if from == nil {
		return nil, false
	}
	fd, ok := dup(from.tcp)
	if !ok {
		return nil, false
	}
	*s = Socket{fd: int32(fd), taken: true}
	if p.add(s, key) == nil {
		spreadProbes(uintptr(fd))
		if hijacked, rw, err := http.NewResponseController(w).Hijack(); err == nil {
			early = BufferedIn(rw.Reader)
			if from.session != nil {
				hijacked = s.carry(from, p.held)
			}
			hijacked.Close()
			return early, true
		}
		p.remove(s) // closing alone would not do: net/http has the socket, too
	}
	giveBack(fd)
	*s = Socket{}
	return nil, false
}

// BufferedIn is what net/http has read behind a request whose connection was hijacked.
func BufferedIn(r *bufio.Reader) []byte {
	buffered, _ := r.Peek(r.Buffered())
	return bytes.Clone(buffered)
}
