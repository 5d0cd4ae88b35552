package lobby

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// ErrCrowded is why a request is not answered.
var ErrCrowded = errors.New("this address has too many requests in progress; try again when some have finished")

type visitKey struct{}

// visit is a request that has a place of its own, since its connection carries several.
type visit struct {
	lobby *Lobby
	guest *guest // whose request it is, or that of a proxy
	came  time.Time
	left  atomic.Bool // for good: the lobby knows nothing of it

	// Guarded by lobby.mu.
	holder      *holder // nil: it has left
	older, next *visit
	ending      bool // cut, and not over

	mu sync.Mutex
	w  http.ResponseWriter // guarded by mu; nil: it is over
}

func visitOf(r *http.Request) *visit {
	v, _ := r.Context().Value(visitKey{}).(*visit)
	return v
}

func guestOf(r *http.Request) *guest {
	g, _ := r.Context().Value(guestKey{}).(*guest)
	return g
}

// Greet is the first to see a request. Its RemoteAddr is then the client's, also where a
// proxy passed it on. Until [Admit] the answer has to be read in a time. Where a connection
// carries many requests each has a place, until [Prove]: [ErrCrowded] where there is none.
// over is to be called when the request is; it may be nil.
func Greet(w http.ResponseWriter, r *http.Request) (known *http.Request, over func(), err error) {
	g := guestOf(r)
	if g == nil {
		return r, nil, nil
	}
	if len(g.lobby.cfg.Proxies) > 0 {
		g.lobby.cfg.Proxies.name(r)
	}
	if r.ProtoMajor > 1 {
		g.brought.shared.Store(true) // before it is noted when what it brings begins
	}
	g.wasRead()
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = body{ReadCloser: r.Body, guest: g}
	}
	if g.known.Load() && r.ProtoMajor < 2 {
		return r, nil, nil
	}
	now := time.Now()
	g.asked.CompareAndSwap(0, now.UnixNano())                           // nobody keeps a place by asking again
	http.NewResponseController(w).SetWriteDeadline(now.Add(answerTime)) // not supported: nobody to wait for
	if r.ProtoMajor < 2 {
		return r, nil, nil
	}
	v, err := g.lobby.visit(w, g, g.addr)
	if err != nil {
		return r, nil, err
	}
	return r.WithContext(context.WithValue(r.Context(), visitKey{}, v)), v.over, nil
}

// TakenBack notes that a client took a request back. For each its connection is read a
// little later, or one could send any number of them. A proxy's is not: it is for many.
func TakenBack(r *http.Request) {
	if g := guestOf(r); g != nil && !g.lobby.cfg.Proxies.trusts(g.addr) {
		g.taken.Add(1)
	}
}

// name gives a request the address of its client.
func (p Proxies) name(r *http.Request) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return
	}
	proxy := from.Addr().Unmap().WithZone("")
	if client := p.client(proxy, r.Header); client != proxy {
		r.RemoteAddr = net.JoinHostPort(client.String(), "0")
	}
}

// Seat gives a request a place, if it has none, until over is called: [ErrCrowded] where
// there is none. It is for answers that anybody may have wait for long.
func Seat(w http.ResponseWriter, r *http.Request) (over func(), err error) {
	g := guestOf(r)
	from, bad := netip.ParseAddrPort(r.RemoteAddr)
	if g == nil || bad != nil {
		return func() {}, nil
	}
	addr := from.Addr().Unmap().WithZone("")
	if has := visitOf(r); addr == g.addr && (has != nil || !g.known.Load()) {
		return func() {}, nil // or its connection has one
	}
	v, err := g.lobby.visit(w, g, addr)
	if err != nil {
		return nil, err
	}
	return v.over, nil
}

// visit gives a request a place, if need be that of another: who has most loses the oldest.
// Of those a quarter of all may be about to end.
func (l *Lobby) visit(w http.ResponseWriter, g *guest, addr netip.Addr) (*visit, error) {
	v := &visit{lobby: l, guest: g, came: time.Now(), w: w}
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.of[Place(addr)]; h != nil && h.requests >= l.cfg.Address && !l.isFree(addr) {
		l.countLocked(ByAddress, addr)
		return nil, ErrCrowded
	}
	if l.cfg.All > 0 && l.requests+l.ending >= l.cfg.All {
		if l.ending > l.cfg.All/4 || l.requests == 0 {
			l.countLocked(ByAll, addr)
			return nil, ErrCrowded
		}
		oldest := l.busiest.list[0].oldest
		l.countLocked(ByAll, oldest.holder.addr)
		oldest.leaveLocked()
		oldest.ending = true
		l.ending++
		go oldest.cut(l.isFree(oldest.guest.addr))
	}
	h := l.holderLocked(addr)
	v.holder, v.older = h, h.youngest
	if h.youngest = v; v.older == nil {
		h.oldest = v
	} else {
		v.older.next = v
	}
	h.requests++
	l.requests++
	l.tidyLocked(h)
	return v, nil
}

// leave gives the place back. What is to leave again has no need of the lobby's lock, for
// which thousands may wait.
func (v *visit) leave() {
	if v.left.Load() {
		return
	}
	v.lobby.mu.Lock()
	defer v.lobby.mu.Unlock()
	v.leaveLocked()
	v.left.Store(!v.ending)
}

func (v *visit) leaveLocked() {
	h := v.holder
	if h == nil {
		return
	}
	if v.older == nil {
		h.oldest = v.next
	} else {
		v.older.next = v.next
	}
	if v.next == nil {
		h.youngest = v.older
	} else {
		v.next.older = v.older
	}
	v.holder, v.older, v.next = nil, nil, nil
	h.requests--
	v.lobby.requests--
	v.lobby.tidyLocked(h)
}

// over is the end of a request.
func (v *visit) over() {
	v.mu.Lock()
	v.w = nil
	v.mu.Unlock()
	if v.left.Load() {
		return
	}
	l := v.lobby
	l.mu.Lock()
	defer l.mu.Unlock()
	v.leaveLocked()
	if v.ending {
		v.ending = false
		l.ending--
	}
}

// cut ends a request that is not over, with its connection where that is not shared.
func (v *visit) cut(shared bool) {
	if !shared {
		abort(v.guest.conn) // however little its client takes
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.w != nil {
		http.NewResponseController(v.w).SetWriteDeadline(time.Unix(1, 0))
	}
}

// Admit gives the answer to a request longer than a stranger's has. It is not without end,
// or whoever is known could leave answers unread for ever: who needs more takes it.
func Admit(w http.ResponseWriter, r *http.Request) {
	if g := guestOf(r); g != nil && (!g.known.Load() || r.ProtoMajor > 1) {
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(g.lobby.cfg.Answer))
	}
}

// IsStranger says whether a request's connection is in the lobby.
func IsStranger(r *http.Request) bool {
	g := guestOf(r)
	return g != nil && !g.known.Load()
}

// Prove takes a connection out of the lobby, for which payer has paid so many bytes. It is given
// them back when it is closed, or no longer net/http's; nil: nobody pays.
func Prove(r *http.Request, payer Payer, paid int64) {
	g := guestOf(r)
	if g == nil {
		return
	}
	first := false
	if l := g.lobby; !g.known.Load() {
		l.mu.Lock()
		if first = !g.gone && !g.known.Load(); first {
			l.riseLocked(g)
			g.account.open(payer, paid)
			g.known.Store(true)
		}
		l.mu.Unlock()
	}
	if !first && payer != nil { // proven at the same time by another request, or cut
		payer.Give(paid)
	}
}

// Leave takes a request out of the lobby that has a place of its own.
func Leave(r *http.Request) {
	if v := visitOf(r); v != nil {
		v.leave()
	}
}

// Away takes a request out of the lobby, and its connection until back is called: as long
// as it is bounded elsewhere. An HTTP/1.1 connection is over then.
func Away(r *http.Request) (back func()) {
	if r.ProtoMajor < 2 {
		Leave(r)
		Prove(r, nil, 0)
		return func() {}
	}
	return Pause(r)
}

// Pause is Away where an HTTP/1.1 connection may have other requests later.
func Pause(r *http.Request) (back func()) {
	Leave(r)
	g := guestOf(r)
	if g == nil || g.known.Load() {
		return func() {} // it has left for good
	}
	l := g.lobby
	l.mu.Lock()
	defer l.mu.Unlock()
	g.away++
	l.riseLocked(g)
	return func() { l.back(g) }
}
