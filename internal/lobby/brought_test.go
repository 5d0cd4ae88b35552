package lobby

import (
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/matryer/is"
)

// Strangers who bring much, and ask for nothing, are cut where that is much in all. It is nobody's
// fault who asks now and then, or has proven something.
func TestWhoBringsMuchAndAsksNothingIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		r := newRoom(Config{All: 8, Address: 8})
		brings := func(c *conn, bytes int) {
			(&opened{Conn: endless{}, guest: r.guestOf(c)}).Read(make([]byte, bytes))
		}
		a, _ := r.come(anna)
		b, _ := r.come(bob)
		for range 100 {
			brings(a, strangerBytes)
			r.ask(a)
		}
		is.Equal(r.heavy.Load(), int64(0))
		back := Pause(r.ask(a)) // it is counted elsewhere
		brings(a, 100*strangerBytes)
		is.Equal(r.heavy.Load(), int64(0))
		back()
		sends := r.ask(a)
		sends.Body = io.NopCloser(strings.NewReader("ab"))
		sends, _, err := Greet(nil, sends)
		is.NoErr(err)
		for range 2 { // however long its body is
			brings(a, strangerBytes)
			_, err := sends.Body.Read(make([]byte, 1))
			is.NoErr(err)
		}
		is.Equal(r.heavy.Load(), int64(0))
		brings(a, 3*strangerBytes) // two more than it costs, a quarter of what all may
		is.True(!a.cut())
		brings(b, strangerBytes)
		is.True(!b.cut())
		brings(b, 1)
		is.True(b.cut())
		is.Equal(r.Stats().Refused[ByAll], int64(1))
		r.leave(b)
		is.Equal(r.heavy.Load(), int64(2*strangerBytes))
		Prove(r.ask(a), nil)
		is.Equal(r.heavy.Load(), int64(0))
		brings(a, 100*strangerBytes)
		r.ask(a)
		brings(a, 100*strangerBytes)
		is.True(!a.cut())
		r.leave(a)
		is.Equal(r.heavy.Load(), int64(0))
	})
}
