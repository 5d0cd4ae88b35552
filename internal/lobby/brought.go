package lobby

import (
	"container/heap"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// messageBytes is what a session of TLS takes for a message of a client's that does not end: of up to
// 256 KiB, in buffers that have grown.
const messageBytes = 448 << 10

// How often a connection that is proven tries to have more bytes paid for, and how long it waits
// before each try but the first.
const (
	payTries = 9
	payPause = patience / (payTries - 1)
)

// silentTime is after how long an HTTP/2 connection is closed whose session keeps a message: no frame
// comes through it, so it is asked, and does not answer. It is twice pingTimeout of package serve.
const silentTime = 30 * time.Second

// brought is how many bytes a connection has brought since something of it was last read above TLS. A
// session of TLS keeps a message to itself until that ends, and nobody above is told.
type brought struct {
	bytes  atomic.Int64
	shared atomic.Bool  // it speaks HTTP/2: of what is read above TLS not all is told
	since  atomic.Int64 // when they began, where it is shared, in Unix nanoseconds
}

// add counts bytes, and says whether they are now more than a connection costs.
func (b *brought) add(n int) (heavy bool) { return past(b.bytes.Add(int64(n))) > 0 }

// old says that what was brought is no message that does not end.
func (b *brought) old() bool {
	return b.shared.Load() && time.Since(time.Unix(0, b.since.Load())) > silentTime
}

// again counts from nothing, and says whether there was more than a connection costs.
func (b *brought) again() (heavy bool) {
	if b.shared.Load() {
		b.since.Store(time.Now().UnixNano())
	}
	return past(b.bytes.Swap(0)) > 0
}

// past is by how much so many bytes are more than a connection costs.
func past(bytes int64) int64 { return max(0, bytes-strangerBytes) }

// body is a request's, of which what is read is no session's.
type body struct {
	io.ReadCloser
	guest *guest
}

// Read implements io.Reader.
func (b body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.guest.wasRead()
	return n, err
}

// wasRead says that something of a guest was read above TLS.
func (g *guest) wasRead() {
	if !g.brought.again() {
		return
	}
	g.account.giveMore()
	l := g.lobby
	l.mu.Lock()
	defer l.mu.Unlock()
	l.weighLocked(g, past(g.brought.bytes.Load()))
}

// brings counts bytes that a guest has brought. Where strangers have brought too many past what they
// cost, a quarter of what all of them may, the address with most loses the connection with most. Who
// has proven something has its own pay.
func (l *Lobby) brings(g *guest, n int) {
	if !g.brought.add(n) || l.cfg.Proxies.trusts(g.addr) {
		return
	}
	switch {
	case g.brought.old():
		g.wasRead()
		return
	case g.known.Load():
		l.bringsProven(g)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.weighLocked(g, past(g.brought.bytes.Load()))
	for l.cfg.All > 0 && l.heavy > int64(l.cfg.All)*strangerBytes/4 {
		l.cutLocked(l.heaviest.list[0].heaviestLocked(), ByAll)
	}
}

// bringsProven has more bytes paid for, or read, before more come, or else cuts who brings them.
func (l *Lobby) bringsProven(g *guest) {
	for try := range payTries {
		if try > 0 {
			time.Sleep(payPause)
		}
		if g.account.takeMore(&g.brought) {
			return
		}
	}
	l.unpaid.Add(1)
	abort(g.conn)
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.Sub(l.toldUnpaid) >= time.Second {
		l.cfg.Logger.Warn("a connection was closed: it brings what is not read, and its caller's share of the state has no room for that", "address", g.addr.String())
		l.toldUnpaid = now
	}
}

// weighLocked has so many bytes count of a guest, past what it costs, if it is in the lobby.
func (l *Lobby) weighLocked(g *guest, heavy int64) {
	h := g.holder
	if h == nil {
		return
	}
	more, had := heavy-g.heavy, h.heavy
	g.heavy = heavy
	h.heavy += more
	l.heavy += more
	switch {
	case had > 0 && h.heavy > 0:
		heap.Fix(&l.heaviest, h.at[byBytes])
	case had > 0:
		heap.Remove(&l.heaviest, h.at[byBytes])
	case h.heavy > 0:
		heap.Push(&l.heaviest, h)
	}
}

// heaviestLocked is the guest of an address that has brought most.
func (h *holder) heaviestLocked() (most *guest) {
	for e := h.conns.Front(); e != nil; e = e.Next() {
		if g := e.Value.(*guest); most == nil || g.heavy > most.heavy {
			most = g
		}
	}
	return most
}

// Payer pays for a connection that has proven something.
type Payer interface {
	Take(bytes int64) bool
	Give(bytes int64)
}

// account is what is paid for a connection.
type account struct {
	mu sync.Mutex
	// Guarded by mu.
	payer Payer // nil: nobody has to pay, or it is over
	paid  int64 // bytes
	more  bool  // of them messageBytes are for what it brings
}

// open is of a connection for which somebody has paid.
func (a *account) open(payer Payer, paid int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.payer, a.paid = payer, paid
}

// takeMore says whether what a connection has brought is paid for now, or was read meanwhile.
func (a *account) takeMore(b *brought) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.payer == nil || a.more || past(b.bytes.Load()) == 0 {
		return true
	}
	if !a.payer.Take(messageBytes) {
		return false
	}
	a.paid += messageBytes
	a.more = true
	return true
}

// giveMore gives back what takeMore took.
func (a *account) giveMore() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.more {
		a.payer.Give(messageBytes)
		a.paid -= messageBytes
		a.more = false
	}
}

// close gives back all.
func (a *account) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.payer != nil {
		a.payer.Give(a.paid)
	}
	a.payer, a.paid, a.more = nil, 0, false
}
