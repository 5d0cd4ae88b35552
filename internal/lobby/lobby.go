// Package lobby bounds what those can hold who have proven nothing: connections on which
// no credential was accepted yet, and the requests on them. Whoever has proven something
// leaves the lobby, and is bounded elsewhere, by tenant and by profile.
//
// One address may have only so many, and loses its own oldest to its newest. When the
// lobby is full the address with most loses its oldest. So who floods the hub floods
// itself, and who comes, says who it is and goes on notices nothing.
package lobby

import (
	"container/list"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Config is how many strangers there may be; 0 lifts a limit.
type Config struct {
	All     int // connections in all; requests as many, and a quarter that are being cut
	Address int // of one address; loopback and the proxies may have any number
	Proxies Proxies
	Answer  time.Duration // how long who was admitted may take to ask and to read an answer
	Logger  *slog.Logger
}

// How long a stranger keeps its place when another wants it.
const (
	patience = 2 * time.Second        // for a handshake and a request
	answered = 250 * time.Millisecond // since the request came that proved nothing
)

// answerTime is how long a stranger may take to read an answer.
const answerTime = 30 * time.Second

// Bound is what somebody was past.
type Bound string

// The bounds there are.
const (
	ByAddress Bound = "address"
	ByAll     Bound = "all"
)

// Lobby is where connections are until they have proven something.
type Lobby struct {
	// Static.
	cfg   Config
	freed chan struct{} // a place is free, perhaps

	waiting          atomic.Int64 // for a place
	byAddress, byAll atomic.Int64 // how many were refused or cut
	unpaid           atomic.Int64 // how many were cut for what they brought, and nobody paid for

	mu sync.Mutex
	// Guarded by mu.
	conns      map[net.Conn]*guest // all that net/http has, by their sockets
	size       int                 // of them in the lobby
	requests   int
	ending     int // requests that lost their place
	of         map[netip.Addr]*holder
	most       holders // of connections
	busiest    holders // of requests
	heaviest   holders // of bytes that connections have brought
	heavy      int64   // such bytes of all, past what each connection costs
	told       time.Time
	untold     int       // since
	toldUnpaid time.Time // when it was last said that nobody paid for what one brought
}

// New makes an empty lobby.
func New(cfg Config) *Lobby {
	return &Lobby{cfg: cfg, freed: make(chan struct{}, 1), conns: map[net.Conn]*guest{}, of: map[netip.Addr]*holder{}, busiest: holders{by: byRequests}, heaviest: holders{by: byBytes}}
}

// Stats is who is in a lobby.
type Stats struct {
	Connections, Requests int
	All                   int             // so many of each there may be; 0: no limit
	Refused               map[Bound]int64 // or cut
	Unpaid                int64           // proven connections that were cut for what they brought
}

// Stats of no lobby are zero.
func (l *Lobby) Stats() Stats {
	if l == nil {
		return Stats{Refused: map[Bound]int64{ByAddress: 0, ByAll: 0}}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return Stats{l.size, l.requests, l.cfg.All, map[Bound]int64{ByAddress: l.byAddress.Load(), ByAll: l.byAll.Load()}, l.unpaid.Load()}
}

// guest is a connection.
type guest struct {
	lobby   *Lobby
	conn    net.Conn // the socket
	came    time.Time
	addr    netip.Addr   // of the client; changed under lobby.mu, before there is a request
	all     int          // so many may be in the lobby that it enters; 0: any number
	asked   atomic.Int64 // when it first did, in Unix nanoseconds; 0: never
	known   atomic.Bool  // that it has proven something
	taken   atomic.Int64 // requests that were taken back, and for which its reader has not waited
	brought brought
	account account

	// Guarded by lobby.mu.
	place  *list.Element // nil: not in the lobby
	holder *holder
	heavy  int64 // of what it has brought, past what it costs
	away   int   // requests for which it is not
	gone   bool  // cut, or closed
}

// stale says whether a guest had its time.
func (g *guest) stale(now time.Time) bool {
	if asked := g.asked.Load(); asked != 0 {
		return now.Sub(time.Unix(0, asked)) >= answered
	}
	return now.Sub(g.came) >= patience
}

// isFree says whether an address may hold any number.
func (l *Lobby) isFree(addr netip.Addr) bool {
	return l.cfg.Address == 0 || !addr.IsValid() || addr.IsLoopback() || l.cfg.Proxies.trusts(addr)
}

// entry is how a guest enters.
type entry int

const (
	comes  entry = iota // behind those who wait
	waited              // before all others
	atOnce              // whoever has to go for it
)

// enter lets a connection in, if need be in another's place. In a full lobby it may have to
// wait until the oldest had its time, or one leaves: of a storm of clients who come back all
// at once each leaves the lobby again in a moment.
func (l *Lobby) enter(g *guest, how entry) (in, wait bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.placeLocked(g.addr) {
		return false, false
	}
	taken := l.size
	if how == comes {
		taken += int(l.waiting.Load())
	}
	if g.all > 0 && taken >= g.all && l.size > 0 {
		now := time.Now()
		most, own := l.most.list[0], 0
		if h := l.of[Place(g.addr)]; h != nil {
			own = h.conns.Len()
		}
		oldest := most.conns.Front().Value.(*guest)
		if how != atOnce && most.conns.Len() <= 2*own+1 && !oldest.stale(now) && now.Sub(g.came) < patience {
			return false, true
		}
		l.cutLocked(oldest, ByAll)
	}
	g.came = time.Now() // its time begins
	l.seatLocked(g)
	return true, false
}

// await has a guest enter once it can.
func (l *Lobby) await(g *guest) (in bool) {
	for {
		in, wait := l.enter(g, waited)
		if !wait {
			return in
		}
		select {
		case <-l.freed:
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// placeLocked makes a place for one more of an address: of those that had their time the
// oldest goes.
func (l *Lobby) placeLocked(addr netip.Addr) bool {
	h := l.of[Place(addr)]
	if h == nil || h.conns.Len() < l.cfg.Address || l.isFree(addr) {
		return true
	}
	now := time.Now()
	for e := h.conns.Front(); e != nil; e = e.Next() {
		if oldest := e.Value.(*guest); oldest.stale(now) {
			l.cutLocked(oldest, ByAddress)
			return true
		}
	}
	l.countLocked(ByAddress, addr)
	return false
}

func (l *Lobby) seatLocked(g *guest) {
	h := l.holderLocked(g.addr)
	g.holder, g.place = h, h.conns.PushBack(g)
	l.size++
	l.tidyLocked(h)
}

// riseLocked takes a guest out of the lobby.
func (l *Lobby) riseLocked(g *guest) {
	if g.place == nil {
		return
	}
	g.brought.again()
	l.weighLocked(g, 0)
	g.holder.conns.Remove(g.place)
	l.tidyLocked(g.holder)
	g.holder, g.place = nil, nil
	l.size--
	select {
	case l.freed <- struct{}{}:
	default:
	}
}

func (l *Lobby) cutLocked(g *guest, why Bound) {
	g.gone = true
	l.riseLocked(g)
	l.countLocked(why, g.addr)
	go abort(g.conn) // it waits until who reads or writes there has noticed
}

// abort closes a connection and has the kernel forget what was not read.
func abort(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}

// countLocked counts, and logs once a second.
func (l *Lobby) countLocked(why Bound, addr netip.Addr) {
	if why == ByAddress {
		l.byAddress.Add(1)
	} else {
		l.byAll.Add(1)
	}
	l.untold++
	if now := time.Now(); now.Sub(l.told) >= time.Second {
		l.cfg.Logger.Warn("unauthenticated connections or requests were refused or cut off", "bound", string(why), "address", addr.String(), "times", l.untold,
			"remedy", "if it is a proxy's address, name it in REALTIME_TRUSTED_PROXIES")
		l.told, l.untold = now, 0
	}
}

// move gives a connection the address that a proxy says it has.
func (l *Lobby) move(g *guest, addr netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if g.gone {
		return false
	}
	l.riseLocked(g)
	if !l.placeLocked(addr) {
		g.gone = true
		return false
	}
	g.addr = addr
	l.seatLocked(g)
	return true
}

// back has a guest come back that proved nothing while it was away, if need be in the place
// of the oldest: it did not have to wait for one when it left.
func (l *Lobby) back(g *guest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if g.away--; g.away > 0 || g.gone || g.known.Load() {
		return
	}
	if h := l.of[Place(g.addr)]; h != nil && h.conns.Len() >= l.cfg.Address && !l.isFree(g.addr) {
		l.cutLocked(h.conns.Front().Value.(*guest), ByAddress)
	} else if l.cfg.All > 0 && l.size >= l.cfg.All {
		l.cutLocked(l.most.list[0].conns.Front().Value.(*guest), ByAll)
	}
	g.brought.again()
	l.seatLocked(g)
}

// leave forgets a connection that is closed, or no longer net/http's.
func (l *Lobby) leave(c net.Conn) {
	l.mu.Lock()
	g := l.conns[c]
	delete(l.conns, c)
	if g != nil {
		g.gone = true
		l.riseLocked(g)
	}
	l.mu.Unlock()
	if g != nil {
		g.account.close()
	}
}

type guestKey struct{}

// Guard has a server tell the lobby of its connections, which come from [Lobby.Listener].
func (l *Lobby) Guard(server *http.Server) {
	inner := server.ConnContext
	server.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		l.mu.Lock()
		g := l.conns[plain(c)]
		l.mu.Unlock()
		if g != nil {
			ctx = context.WithValue(ctx, guestKey{}, g)
		}
		if inner != nil {
			ctx = inner(ctx, c)
		}
		return ctx
	}
	server.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateClosed || state == http.StateHijacked {
			l.leave(plain(c))
		}
	}
}

// plain is the socket that TLS is spoken on, and for which a proxy may speak.
func plain(c net.Conn) net.Conn {
	for {
		around, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return c
		}
		c = around.NetConn()
	}
}
