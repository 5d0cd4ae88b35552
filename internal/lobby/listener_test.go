package lobby

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
)

// door is a listener that connections are put in.
type door struct {
	net.Listener
	conns chan net.Conn
}

func (d *door) Accept() (net.Conn, error) {
	c, ok := <-d.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (d *door) Close() error {
	close(d.conns)
	return nil
}

// openDoor is a lobby, its door, and who was let in; it is shut at the end.
func openDoor(t *testing.T, cfg Config) (l *Lobby, d *door, in chan net.Conn) {
	cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	l, d, in = New(cfg), &door{conns: make(chan net.Conn, 10_000)}, make(chan net.Conn, 10_000)
	x := l.Listener(d)
	t.Cleanup(func() {
		x.Close()
		synctest.Wait()
	})
	go func() {
		for {
			c, err := x.Accept()
			if err != nil {
				return
			}
			in <- plain(c)
		}
	}()
	return l, d, in
}

// address is the n-th of many.
func address(n int) string {
	return netip.AddrFrom4([4]byte{203, 0, byte(n >> 8), byte(n)}).String()
}

// Who has to wait for a place keeps nobody waiting who has not.
func TestWhoWaitsKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		_, d, in := openDoor(t, Config{All: 4})
		for range 5 {
			d.conns <- &conn{from: anna}
		}
		synctest.Wait()
		is.Equal(len(in), 4)
		other := &conn{from: bob}
		d.conns <- other
		synctest.Wait() // and no time goes by
		is.Equal(len(in), 5)
		for range 4 {
			<-in
		}
		is.Equal(<-in, net.Conn(other))
		time.Sleep(patience)
		synctest.Wait()
		is.Equal(len(in), 1)
	})
}

// However many come at once, all are taken: past those who may wait each takes the place of
// the oldest.
func TestMoreThanMayWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		const all = 2
		l, d, in := openDoor(t, Config{All: all})
		come := all + 1 + mostWaiting() + 10
		for i := range come {
			d.conns <- &conn{from: address(i)}
		}
		synctest.Wait()
		is.Equal(len(d.conns), 0)
		is.True(len(in) >= all+10)
		is.Equal(l.Stats().Connections, all)
		time.Sleep(patience) // whoever waits has a place then
		synctest.Wait()
		is.Equal(len(in), come)
	})
}

// A storm of clients who each say in a moment who they are passes, and nobody is cut.
func TestAStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		const all, people, moment = 8, 200, 10 * time.Millisecond
		l, d, in := openDoor(t, Config{All: all})
		start := time.Now()
		for i := range people {
			d.conns <- &conn{from: address(i)}
		}
		var came []net.Conn
		for range people {
			c := <-in
			came = append(came, c)
			l.mu.Lock()
			g := l.conns[c]
			l.mu.Unlock()
			r := httptest.NewRequest("GET", "/", nil)
			time.AfterFunc(moment, func() { Prove(r.WithContext(context.WithValue(r.Context(), guestKey{}, g)), nil, 0) })
		}
		is.True(time.Since(start) < patience)
		for _, c := range came {
			is.True(!c.(*conn).cut())
		}
		is.Equal(l.Stats().Refused[ByAll], int64(0))
	})
}

// Who waits when the door is shut is turned away.
func TestTheDoorIsShut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		l := New(Config{All: 1, Logger: slog.New(slog.DiscardHandler)})
		d := &door{conns: make(chan net.Conn, 3)}
		x := l.Listener(d)
		all := []*conn{{from: anna}, {from: bob}, {from: bob}}
		for _, c := range all {
			d.conns <- c
		}
		synctest.Wait() // nobody has accepted
		x.Close()
		_, err := x.Accept()
		is.Equal(err, net.ErrClosed)
		time.Sleep(patience)
		for _, c := range all {
			is.True(c.cut())
		}
		is.Equal(l.Stats().Connections, 0)
	})
}
