package lobby

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/testkit"
)

// conn is as much of a connection as the lobby looks at.
type conn struct {
	net.Conn
	from   string
	closed atomic.Bool
}

func (c *conn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(c.from), 4711))
}

// cut says whether it was closed, now that all is quiet.
func (c *conn) cut() bool {
	synctest.Wait()
	return c.closed.Load()
}

func (c *conn) Close() error {
	c.closed.Store(true)
	return nil
}

// room is a lobby and who comes to it.
type room struct {
	*Lobby
	logs testkit.Buffer
}

func newRoom(cfg Config) *room {
	r := &room{}
	cfg.Logger = slog.New(slog.NewTextHandler(&r.logs, nil))
	r.Lobby = New(cfg)
	return r
}

// come connects from an address; in says whether it was let in.
func (r *room) come(from string) (c *conn, in bool) {
	c = &conn{from: from}
	g := r.guest(c)
	if in = r.await(g); in {
		r.open(g)
	} else {
		abort(c)
	}
	return c, in
}

// guestOf is a connection as the lobby has it.
func (r *room) guestOf(c *conn) *guest {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.conns[c]
}

// ask is a request on a connection.
func (r *room) ask(c *conn) *http.Request {
	req := httptest.NewRequest("GET", "/", nil)
	req.RemoteAddr = c.RemoteAddr().String()
	req = req.WithContext(context.WithValue(req.Context(), guestKey{}, r.guestOf(c)))
	Greet(httptest.NewRecorder(), req)
	return req
}

// askTwo is ask by HTTP/2.
func (r *room) askTwo(c *conn) *http.Request {
	req := r.ask(c)
	req.ProtoMajor = 2
	return req
}

const (
	anna = "203.0.113.1"
	bob  = "203.0.113.2"
)

// An address that has as many as it may loses its own oldest, once that had its time;
// until then its newest is refused. Nobody else is touched.
func TestBoundOfAnAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		r := newRoom(Config{Address: 2})
		other, _ := r.come(bob)
		first, _ := r.come(anna)
		second, in := r.come(anna)
		is.True(in)
		third, in := r.come(anna)
		is.True(!in && third.cut())
		time.Sleep(patience - 1)
		_, in = r.come(anna)
		is.True(!in)
		time.Sleep(time.Nanosecond)
		_, in = r.come(anna)
		is.True(in && first.cut() && !second.cut())
		is.True(!other.cut())
		is.Equal(r.Stats().Refused, map[Bound]int64{ByAddress: 3, ByAll: 0})
		is.Equal(strings.Count(r.logs.String(), "\n"), 2) // once a second
		is.True(strings.Contains(r.logs.String(), "address="+anna))

		for _, from := range []string{"127.0.0.1", "::1"} {
			for range 10 {
				_, in := r.come(from)
				is.True(in)
			}
		}
	})
}

// Of an IPv6 network all addresses are one.
func TestANetworkIsOneAddress(t *testing.T) {
	is := is.New(t)
	r := newRoom(Config{Address: 1})
	_, in := r.come("2001:db8::1")
	is.True(in)
	_, in = r.come("2001:db8::2:3:4:5")
	is.True(!in)
	_, in = r.come("2001:db8:0:1::1")
	is.True(in)
}

// Who asked and proved nothing has had its time sooner than who is still connecting.
func TestWhoAskedHasHadItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		r := newRoom(Config{Address: 1})
		first, _ := r.come(anna)
		r.ask(first)
		_, in := r.come(anna)
		is.True(!in)
		time.Sleep(answered)
		second, in := r.come(anna)
		is.True(in && first.cut())
		time.Sleep(patience)
		r.ask(second) // for the first time
		_, in = r.come(anna)
		is.True(!in)

		r = newRoom(Config{Address: 2})
		busy, _ := r.come(anna)
		idle, _ := r.come(anna)
		time.Sleep(patience)
		r.ask(busy)
		_, in = r.come(anna)
		is.True(in && idle.cut() && !busy.cut())
	})
}

// Nobody keeps a place by asking again and again.
func TestWhoAsksAgainHasHadItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		r := newRoom(Config{Address: 1})
		first, _ := r.come(anna)
		for range 3 {
			r.ask(first)
			time.Sleep(answered / 2)
		}
		r.ask(first)
		_, in := r.come(anna)
		is.True(in && first.cut())
	})
}

// While it is away a connection has no place. It has one again where it proved nothing, and
// the oldest goes for it.
func TestAway(t *testing.T) {
	is := is.New(t)
	r := newRoom(Config{Address: 2})
	c, _ := r.come(anna)
	both := r.askTwo(c)
	back, last := Away(both), Away(both)
	is.Equal(r.Stats().Connections, 0)
	is.True(IsStranger(both))
	back()
	is.Equal(r.Stats().Connections, 0)
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		oldest, _ := r.come(anna)
		newest, _ := r.come(anna)
		last()
		is.Equal(r.Stats().Connections, 2)
		is.True(oldest.cut() && !newest.cut() && !c.cut())
		Away(both)()
		is.True(!newest.cut()) // its own place was free
		back = Away(both)
		Prove(both, nil, 0)
		back()
		is.Equal(r.Stats().Connections, 1)
		c, _ = r.come(anna)
		back = Away(r.askTwo(c))
		r.leave(c)
		back()
		is.Equal(r.Stats().Connections, 1)
	})
}

// In a full lobby who comes waits until the oldest had its time, or until one leaves.
func TestAFullLobby(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		r := newRoom(Config{All: 2})
		first, _ := r.come(anna)
		second, _ := r.come(bob)
		start := time.Now()
		third, in := r.come("203.0.113.3")
		is.True(in && first.cut() && !second.cut())
		is.Equal(time.Since(start).Round(time.Millisecond), patience)
		is.Equal(r.Stats().Connections, 2)

		r.leave(second)
		Prove(r.ask(third), nil, 0) // who leaves the lobby leaves its place, too
		is.Equal(r.Stats().Connections, 0)
		start = time.Now()
		r.come(anna)
		r.come(anna)
		go func() {
			time.Sleep(time.Second)
			r.mu.Lock()
			oldest := r.most.list[0].conns.Front().Value.(*guest).conn
			r.mu.Unlock()
			r.leave(oldest)
		}()
		_, in = r.come(anna)
		is.True(in)
		is.Equal(time.Since(start), time.Second)
		is.True(!third.cut())
		is.Equal(r.Stats().Refused, map[Bound]int64{ByAddress: 0, ByAll: 1})
	})
}

// Of many who have as much the oldest goes.
func TestTheOldestGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		r := newRoom(Config{All: 6})
		var all []*conn
		for i := range 30 {
			c, in := r.come(netip.AddrFrom4([4]byte{203, 0, 113, byte(37 * i)}).String())
			is.True(in)
			all = append(all, c)
			time.Sleep(time.Millisecond)
			for j, c := range all {
				is.Equal(c.cut(), j <= i-6)
			}
		}
	})
}

// Who has most loses its oldest at once to who has little: one who floods keeps nobody
// waiting, not even loopback does, which may have any number.
func TestWhoHasMostPays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		r := newRoom(Config{All: 10, Address: 100})
		var flood []*conn
		for range 10 {
			c, _ := r.come("127.0.0.1")
			flood = append(flood, c)
		}
		start := time.Now()
		for i := range 3 {
			_, in := r.come(anna)
			is.True(in)
			for j, c := range flood {
				is.Equal(c.cut(), j <= i)
			}
		}
		is.True(time.Since(start) == 0)
	})
}

// What a connection was proven with is given back once, when it is over, also where that
// was before.
func TestProof(t *testing.T) {
	is := is.New(t)
	r := newRoom(Config{Address: 1})
	paid := &purse{all: 111}
	c, _ := r.come(anna)
	req := r.ask(c)
	is.True(IsStranger(req))
	is.True(paid.Take(111))
	Prove(req, paid, 1)
	is.True(!IsStranger(req))
	is.Equal(paid.taken.Load(), int64(111))
	Prove(req, paid, 10) // a second request at the same time
	is.Equal(paid.taken.Load(), int64(101))
	_, in := r.come(anna)
	is.True(in) // its place is free
	r.leave(c)
	is.Equal(paid.taken.Load(), int64(100))
	r.leave(c)
	is.Equal(paid.taken.Load(), int64(100))
	Prove(req, paid, 100)
	is.Equal(paid.taken.Load(), int64(0))
	is.Equal(len(r.conns), 1)
}

// Where there are as many requests as there may be who has most loses its oldest, which has
// its place until it is over.
func TestTheOldestRequestGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		r := newRoom(Config{All: 8, Proxies: Proxies{netip.MustParsePrefix("198.51.100.0/24")}})
		ask := func(from string) (v *visit, w *timed, c *conn, err error) {
			c, w = &conn{from: from}, &timed{ResponseWriter: httptest.NewRecorder()}
			addr := netip.MustParseAddr(from)
			v, err = r.visit(w, &guest{lobby: r.Lobby, conn: c, addr: addr}, addr)
			time.Sleep(time.Millisecond)
			return v, w, c, err
		}
		ask(anna)
		first, answer, proxied, _ := ask("198.51.100.1")
		for range 6 {
			ask("198.51.100.1")
		}
		_, _, _, err := ask(bob)
		is.NoErr(err)
		is.True(!proxied.cut() && answer.until.Before(time.Now())) // the connection is others', too
		is.Equal(r.Stats().Requests, 8)
		first.over()
		is.Equal(r.ending, 0)

		r = newRoom(Config{All: 8, Address: 8})
		var cut []*conn
		for range 8 {
			_, _, c, _ := ask(anna)
			cut = append(cut, c)
		}
		for i := range 3 {
			_, _, c, err := ask(bob)
			is.NoErr(err)
			is.True(cut[i].cut() && !cut[i+1].cut() && !c.cut())
		}
		_, _, _, err = ask(bob) // those that were cut are not over
		is.Equal(err, ErrCrowded)
	})
}

// Whatever happens, what is counted is what is there; and nothing stays of who left.
func TestTheCountIsRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		r := newRoom(Config{All: 40, Address: 7})
		open := map[*conn]*http.Request{}
		var visits []*visit
		random := rand.New(rand.NewPCG(1, 2))
		for range 5000 {
			switch random.IntN(6) {
			case 0, 1, 2:
				from := netip.AddrFrom4([4]byte{203, 0, 113, byte(random.IntN(20))})
				if c, in := r.come(from.String()); in {
					open[c] = r.ask(c)
				}
			case 3:
				for c, req := range open {
					if !c.closed.Load() && random.IntN(2) == 0 {
						Prove(req, nil, 0)
					}
					r.leave(c)
					delete(open, c)
					break
				}
			case 4:
				if v, err := r.visit(nil, &guest{conn: &conn{}}, netip.AddrFrom4([4]byte{203, 0, 113, byte(random.IntN(20))})); err == nil {
					visits = append(visits, v)
				}
			case 5:
				if len(visits) > 0 {
					i := random.IntN(len(visits))
					visits[i].leave()
					visits[i].over()
					visits[i].over()
					visits = append(visits[:i], visits[i+1:]...)
				}
			}
			time.Sleep(10 * time.Millisecond)
			conns, requests := 0, 0
			for i, h := range r.most.list {
				is.Equal(h.at[0], i)
				is.True(h.conns.Len() <= 7 && h.requests <= 7 && h.conns.Len() <= r.most.list[0].conns.Len())
				is.True(h.conns.Len()+h.requests > 0)
				conns, requests = conns+h.conns.Len(), requests+h.requests
			}
			is.Equal(r.Stats().Connections, conns)
			is.Equal(r.Stats().Requests, requests)
			is.True(conns <= 40 && requests+r.ending <= 40+40/4+1)
		}
		for c := range open {
			r.leave(c)
		}
		for _, v := range visits {
			v.over()
		}
		is.Equal(r.ending, 0)
		is.Equal(len(r.of)+len(r.most.list)+len(r.busiest.list)+len(r.conns), 0)
	})
}

// Of a request on a connection that has proven something the lobby's lock, for which
// thousands may wait, is taken twice: for its place, and to leave it.
func TestALobbyIsLeftOnce(t *testing.T) {
	is := is.New(t)
	r := newRoom(Config{Address: 2})
	c, _ := r.come(anna)
	first := r.ask(c)
	Prove(first, nil, 0)
	second := httptest.NewRequest("GET", "/", nil).WithContext(first.Context())
	second.ProtoMajor, second.RemoteAddr = 2, c.RemoteAddr().String()
	second, over, err := Greet(httptest.NewRecorder(), second)
	is.NoErr(err)
	Leave(second)
	is.Equal(r.Stats().Requests, 0)
	r.mu.Lock()
	defer r.mu.Unlock()
	is.True(testkit.InTime(func() { // it does not wait for the lobby's lock
		Seat(httptest.NewRecorder(), second)
		Prove(second, &purse{}, 0)
		Away(second)()
		over()
	}))
}

// endless is a connection whose client always has more to say.
type endless struct{ net.Conn }

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// Who never has to wait for its client lets others go on.
func TestWhoBringsMuchLetsOthersGoOn(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for _, size := range []int{9, 16 << 10} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			for range 5 { // whoever lets others go on may once go on before them: the scheduler's choice
				c := &opened{Conn: endless{}, guest: &guest{lobby: New(Config{})}}
				var other atomic.Bool
				go other.Store(true)
				reads := 0
				for ; !other.Load(); reads++ {
					c.Read(make([]byte, size))
				}
				if reads <= mostWork/readWork {
					return
				}
				t.Logf("it was read %d times before", reads)
			}
			t.Error("others had to wait each time")
		})
	}
}

// For each request that a client takes back its connection is read later; a proxy's is not.
func TestWhoTakesRequestsBackIsReadLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		r := newRoom(Config{Proxies: Proxies{netip.MustParsePrefix("198.51.100.0/24")}})
		wait := func(from string, times int) time.Duration {
			socket, _ := r.come(from)
			req := r.ask(socket)
			c := &opened{Conn: endless{}, guest: guestOf(req)}
			for range times {
				TakenBack(req)
			}
			start := time.Now()
			for range 10 {
				c.Read(make([]byte, 9))
			}
			return time.Since(start)
		}
		is.Equal(wait(anna, 0), time.Duration(0))
		is.Equal(wait(anna, 3), 3*takenPause)
		is.Equal(wait(anna, 1000), 10*mostTaken*takenPause)
		is.Equal(wait("198.51.100.1", 1000), time.Duration(0))
	})
}
