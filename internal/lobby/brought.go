package lobby

import (
	"io"
	"math"
	"sync/atomic"
)

// brought is how many bytes a stranger has brought since something of it was last read above TLS. A
// session of TLS keeps a message to itself until that ends, of up to 256 KiB, and nobody above is told.
type brought struct{ bytes atomic.Int64 }

// uncounted is of who is no stranger, or not for now.
const uncounted = math.MinInt64 / 2

// past is by how much so many bytes are more than a stranger costs.
func past(bytes int64) int64 { return max(0, bytes-strangerBytes) }

// add counts bytes, and says how many more are past what a stranger costs.
func (b *brought) add(n int) (more int64) {
	now := b.bytes.Add(int64(n))
	return past(now) - past(now-int64(n))
}

// again counts from nothing, and says how many fewer are past it.
func (b *brought) again() (fewer int64) {
	for now := b.bytes.Load(); now > 0; now = b.bytes.Load() {
		if b.bytes.CompareAndSwap(now, 0) {
			return past(now)
		}
	}
	return 0
}

// end counts no more, and says how many fewer are past it.
func (b *brought) end() (fewer int64) { return past(b.bytes.Swap(uncounted)) }

// begin counts again after an end.
func (b *brought) begin() { b.bytes.Store(0) }

// body is a stranger's, of which what is read is no session's.
type body struct {
	io.ReadCloser
	guest *guest
}

// Read implements io.Reader.
func (b body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.guest.lobby.heavy.Add(-b.guest.brought.again())
	return n, err
}

// brings counts bytes that a guest has brought, and cuts it where strangers have brought too many past
// what they cost: a quarter of what all of them may.
func (l *Lobby) brings(g *guest, n int) {
	more := g.brought.add(n)
	if more == 0 || l.heavy.Add(more) <= int64(l.cfg.All)*strangerBytes/4 || l.cfg.All == 0 || l.cfg.Proxies.trusts(g.addr) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !g.gone {
		l.cutLocked(g, ByAll)
	}
}
