package lobby

import (
	"io"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
)

// Strangers who bring much, and ask for nothing, are cut where that is much in all. It is nobody's
// fault who asks now and then, or has proven something.
func TestWhoBringsMuchAndAsksNothingIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		r := newRoom(Config{All: 8, Address: 8})
		a, _ := r.come(anna)
		b, _ := r.come(bob)
		for range 100 {
			brings(r, a, strangerBytes)
			r.ask(a)
		}
		is.Equal(r.heavy, int64(0))
		back := Pause(r.ask(a)) // it is counted elsewhere
		brings(r, a, 100*strangerBytes)
		is.Equal(r.heavy, int64(0))
		back()
		sends := r.ask(a)
		sends.Body = io.NopCloser(strings.NewReader("ab"))
		sends, _, err := Greet(nil, sends)
		is.NoErr(err)
		for range 2 { // however long its body is
			brings(r, a, strangerBytes)
			_, err := sends.Body.Read(make([]byte, 1))
			is.NoErr(err)
		}
		is.Equal(r.heavy, int64(0))
		brings(r, a, 3*strangerBytes) // two more than it costs, a quarter of what all may
		is.True(!a.cut())
		brings(r, b, strangerBytes)
		is.True(!b.cut())
		brings(r, b, 1)
		is.True(a.cut() && !b.cut())
		is.Equal(r.Stats().Refused[ByAll], int64(1))
		r.leave(a)
		is.Equal(r.heavy, int64(1))
		Prove(r.ask(b), nil, 0)
		is.Equal(r.heavy, int64(0))
		brings(r, b, 100*strangerBytes)
		r.ask(b)
		brings(r, b, 100*strangerBytes)
		is.True(!b.cut())
		r.leave(b)
		is.Equal(r.heavy, int64(0))
	})
}

// Where strangers have brought too much the address that has most pays, and of its connections the one
// that has most; whoever brings a little past what it costs does not pay for a flood.
func TestTheAddressThatBringsMostPays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		r := newRoom(Config{All: 16, Address: 16})
		light, _ := r.come(anna)
		heavy, _ := r.come(anna)
		well, _ := r.come(bob)
		brings(r, light, strangerBytes+1)
		brings(r, heavy, 5*strangerBytes-1) // four past what it costs, a quarter of what all may
		is.Equal(r.heavy, int64(4*strangerBytes))
		brings(r, well, 2*strangerBytes)
		is.True(heavy.cut() && !light.cut() && !well.cut())
		is.Equal(r.heavy, int64(strangerBytes+1))
		for _, c := range []*conn{light, heavy, well} {
			r.leave(c)
		}
		is.Equal(r.heavy, int64(0))
		is.Equal(r.heaviest.Len(), 0)
	})
}

// What a proven connection brings and nobody reads is paid for. It waits a while for that, and is cut.
func TestTheProvenPayForWhatIsNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		r := newRoom(Config{})
		purse := &purse{all: 2*messageBytes + 30}
		var conns []*conn
		for range 3 {
			c, _ := r.come(anna)
			is.True(purse.Take(10))
			Prove(r.ask(c), purse, 10)
			conns = append(conns, c)
		}
		first, second, third := conns[0], conns[1], conns[2]
		for range 4 {
			brings(r, first, strangerBytes)
			brings(r, second, strangerBytes)
		}
		is.Equal(purse.taken.Load(), int64(2*messageBytes+30)) // once each
		begun := time.Now()
		go func() {
			time.Sleep(patience / 2)
			r.ask(second)
		}()
		brings(r, third, 2*strangerBytes)
		is.True(!third.cut())
		is.True(time.Since(begun) < patience)
		begun = time.Now()
		brings(r, second, 2*strangerBytes)
		is.True(second.cut() && !first.cut() && !third.cut())
		is.Equal(time.Since(begun), patience)
		is.Equal(strings.Count(r.logs.String(), "is not read"), 1)
		is.Equal(r.Stats().Unpaid, int64(1))
		for _, c := range conns {
			r.leave(c)
		}
		is.Equal(purse.taken.Load(), int64(0))
	})
}

// What HTTP/2 tells nobody of is no message: its connection would have been closed.
func TestAcknowledgementsOfHoursAreNoMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		r := newRoom(Config{})
		purse := &purse{all: messageBytes}
		c, _ := r.come(anna)
		two := r.askTwo(c)
		Greet(httptest.NewRecorder(), two)
		Prove(two, purse, 0)
		for range 20 {
			brings(r, c, strangerBytes/4)
			time.Sleep(silentTime / 3)
		}
		is.Equal(purse.taken.Load(), int64(0))
		brings(r, c, 2*strangerBytes)
		is.Equal(purse.taken.Load(), int64(messageBytes))
		time.Sleep(silentTime + 1)
		brings(r, c, 1)
		is.Equal(purse.taken.Load(), int64(0))
	})
}

// What a stranger brings behind its first request counts at once, over HTTP/2 as well.
func TestWhatComesBehindTheFirstRequestCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		r := newRoom(Config{All: 16})
		c, _ := r.come(anna)
		_, _, err := Greet(httptest.NewRecorder(), r.askTwo(c))
		is.NoErr(err)
		brings(r, c, 2*strangerBytes)
		is.Equal(r.heavy, int64(strangerBytes))
	})
}

// brings has a connection bring so many bytes.
func brings(r *room, c *conn, bytes int) {
	(&opened{Conn: endless{}, guest: r.guestOf(c)}).Read(make([]byte, bytes))
}

// purse is a Payer with so much.
type purse struct {
	all   int64
	taken atomic.Int64
}

func (p *purse) Take(bytes int64) bool {
	if p.taken.Add(bytes) > p.all {
		p.taken.Add(-bytes)
		return false
	}
	return true
}

func (p *purse) Give(bytes int64) { p.taken.Add(-bytes) }
