package engine

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"
)

const (
	upgrade  = "GET /?name=NAME HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
	upgraded = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
)

// echo sends back what it receives.
type echo struct {
	to    *guest
	ended *atomic.Int32
}

// Ended implements Input.
func (e echo) Ended() { e.ended.Add(1) }

// Received implements Input.
func (e echo) Received(p []byte) {
	deliver([]*Stream{e.to.Stream}, NewFrame(bytes.Clone(p), false))
}

// upgrade opens a stream whose client sends on it, with what it sends at once.
func (h *house) upgrade(t *testing.T, name, early string) (*visitor, *guest) {
	t.Helper()
	v := h.visit(t, name, upgrade+early)
	if status, _ := v.head(t); status != "HTTP/1.1 101 Switching Protocols" {
		t.Fatal(status)
	}
	return v, h.guest(t, name)
}

// expect reads what v is to be sent next.
func (v *visitor) expect(t *testing.T, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(v, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read %.100q of %d bytes, %v; not %.100q of %d", got[:n], n, err, want, len(want))
	}
}

// What a client sends is received in order, whole, also what comes with the request, in
// pieces of any size, and while nobody reads what comes back.
func TestWhatAClientSends(t *testing.T) {
	allPaths(t, Config{}, func(t *testing.T, h *house) {
		is := is.New(t)
		v, g := h.upgrade(t, "a", "early")
		v.expect(t, []byte("early"))
		for _, size := range []int{1, 5, 4 << 10, 100_000, 1} {
			data := make([]byte, size)
			rand.Read(data)
			sent := make(chan error, 1)
			go func() {
				var err error
				for piece := range slices.Chunk(data, 30_001) {
					_, err = v.peer.Write(piece)
				}
				sent <- err
			}()
			v.expect(t, data)
			is.NoErr(<-sent)
		}
		g.Close(testLast)
		is.Equal(v.rest(t), string(testLast.data)) // our half is shut
		is.Equal(len(g.gone), 0)                   // until the client's is, too
		is.NoErr(v.CloseWrite())
		why := g.wait(t)
		is.True(why == nil || why == ErrGone)
		eventually(t, "its input to be told of the end", func() bool { return g.ended.Load() > 0 })
		is.Equal(g.ended.Load(), int32(1))
	})
}

// stuck receives, and does not return until it may.
type stuck struct {
	mu  *sync.Mutex
	got *int
}

// Ended implements Input.
func (stuck) Ended() {}

// Received implements Input.
func (s stuck) Received(p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*s.got += len(p)
}

// Who sends more than is taken waits; the socket of a stream that ends meanwhile is closed
// once by who reads.
func TestWhoSendsWaits(t *testing.T) {
	allPaths(t, Config{}, func(t *testing.T, h *house) {
		is := is.New(t)
		v, g := h.upgrade(t, "a", "")
		var mu sync.Mutex
		var got int
		g.Stream.mu.Lock()
		g.talk.input = stuck{&mu, &got}
		g.Stream.mu.Unlock()
		mu.Lock()
		is.NoErr(v.tcp.SetWriteBuffer(4 << 10))
		written := 0
		for {
			v.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
			n, err := v.peer.Write(make([]byte, 64<<10))
			written += n
			if err != nil {
				break // it waits
			}
			is.True(written < 64<<20)
		}
		g.abort()
		if !h.cfg.Plain { // there it ends when its input does
			is.NoErr(g.wait(t))
		}
		mu.Unlock()
		if h.cfg.Plain {
			is.NoErr(g.wait(t))
		}
		mu.Lock()
		defer mu.Unlock()
		is.True(got < written) // the rest was not read
	})
}

// A client that answers heartbeats stays, however much it is written to; one that does not is
// gone, though its system takes all that comes.
func TestWhoAnswersNoHeartbeat(t *testing.T) {
	allPaths(t, Config{Heartbeat: 100 * time.Millisecond}, func(t *testing.T, h *house) {
		is := is.New(t)
		answers, _ := h.upgrade(t, "answers", "")
		answered := make(chan error, 1)
		go func() {
			var one [1]byte
			var err error
			for n := 0; n < 20 && err == nil; n++ {
				if _, err = io.ReadFull(answers, one[:]); err == nil && one[0] == ':' {
					_, err = io.WriteString(answers.peer, "!")
				}
			}
			answered <- err
		}()
		mute, g := h.upgrade(t, "mute", "")
		gone := make(chan string, 1)
		go func() { all, _ := io.ReadAll(mute); gone <- string(all) }()
		for busy := true; busy; {
			select {
			case why := <-g.gone:
				is.Equal(why, ErrVanished)
				busy = false
			case <-time.After(10 * time.Millisecond):
				deliver([]*Stream{g.Stream}, eventFrame("busy"))
			}
		}
		beats := strings.Count(<-gone, ":\n\n")
		is.True(beats >= missed)
		is.NoErr(<-answered)
	})
}

// A client that leaves, or resets, is noticed; who is sent last words and does not end is
// ended.
func TestSocketsEnd(t *testing.T) {
	allPaths(t, Config{}, func(t *testing.T, h *house) {
		is := is.New(t)
		v, g := h.upgrade(t, "leaves", "")
		v.peer.Close()
		is.Equal(g.wait(t), ErrGone)
		v, g = h.upgrade(t, "resets", "")
		v.tcp.SetLinger(0)
		v.peer.Close()
		is.Equal(g.wait(t), ErrGone)
		v, g = h.upgrade(t, "stays", "")
		g.Close(testLast)
		is.Equal(v.rest(t), string(testLast.data))
		why := g.wait(t) // after the linger
		is.True(why == nil || errors.Is(why, ErrGone))
	})
}

// held has each piece that it receives wait until it may go on.
type held struct {
	came chan string
	goOn chan struct{}
}

func newHeld() held { return held{make(chan string, 100), make(chan struct{})} }

// Ended implements Input.
func (held) Ended() {}

// Received implements Input.
func (h held) Received(p []byte) {
	h.came <- string(p)
	<-h.goOn
}

// upgradeTo is upgrade with an input of one's own.
func (h *house) upgradeTo(t *testing.T, name string, input Input) (*visitor, *guest) {
	t.Helper()
	v, g := h.upgrade(t, name, "")
	g.Stream.mu.Lock()
	g.talk.input = input
	g.Stream.mu.Unlock()
	return v, g
}

// beatAt sends a heartbeat as if so much time had gone by.
func (h *house) beatAt(t *testing.T, g *guest, at time.Duration) {
	t.Helper()
	eventually(t, "nothing to be owed", func() bool {
		g.Stream.mu.Lock()
		defer g.Stream.mu.Unlock()
		return g.state == idle
	})
	h.beat([]*Stream{g.Stream}, at, false)
}

func (h *house) unanswered(g *guest) uint8 {
	g.Stream.mu.Lock()
	defer g.Stream.mu.Unlock()
	return g.talk.unanswered
}

// A hub that stood still does not take that for its clients' silence.
func TestAHubThatStoodStill(t *testing.T) {
	allPaths(t, Config{Heartbeat: time.Hour}, func(t *testing.T, h *house) {
		is := is.New(t)
		v, g := h.upgrade(t, "a", "")
		for _, at := range []time.Duration{1, 10} {
			h.beatAt(t, g, at*time.Hour)
			v.expect(t, testWords.Beat.data)
		}
		_, err := io.WriteString(v.peer, "!")
		is.NoErr(err)
		v.expect(t, []byte("!"))
		eventually(t, "what came to be handled", func() bool {
			g.Stream.mu.Lock()
			defer g.Stream.mu.Unlock()
			return !g.talk.receives
		})
		is.Equal(h.unanswered(g), uint8(0))
		for n := range missed {
			h.beatAt(t, g, time.Duration(20+n)*time.Hour)
			v.expect(t, testWords.Beat.data)
		}
		is.Equal(len(g.gone), 0)
		h.beatAt(t, g, 24*time.Hour)
		is.Equal(g.wait(t), ErrVanished)
	})
}

// A client whose command takes long is not taken as vanished: its answers are not read yet.
func TestWhoWaitsForACommand(t *testing.T) {
	allPaths(t, Config{Heartbeat: time.Hour}, func(t *testing.T, h *house) {
		is := is.New(t)
		input := newHeld()
		v, g := h.upgradeTo(t, "a", input)
		_, err := io.WriteString(v.peer, "command")
		is.NoErr(err)
		is.Equal(<-input.came, "command")
		for n := range 2 * missed {
			h.beatAt(t, g, time.Duration(1+n)*time.Hour)
			v.expect(t, testWords.Beat.data)
		}
		_, err = io.WriteString(v.peer, "answer")
		is.NoErr(err)
		close(input.goOn)
		is.Equal(<-input.came, "answer")
		is.Equal(len(g.gone), 0)
		is.Equal(h.unanswered(g), uint8(0))
	})
}

// What a client sends last, and that it leaves, are noticed together.
func TestLastWordsOfAClient(t *testing.T) {
	allPaths(t, Config{}, func(t *testing.T, h *house) {
		is := is.New(t)
		input := newHeld()
		v, g := h.upgradeTo(t, "a", input)
		_, err := io.WriteString(v.peer, "first")
		is.NoErr(err)
		is.Equal(<-input.came, "first")
		_, err = io.WriteString(v.peer, "last")
		is.NoErr(err)
		v.peer.Close()
		eventually(t, "the end to have come", func() bool {
			g.Stream.mu.Lock()
			defer g.Stream.mu.Unlock()
			return h.cfg.Plain || g.talk.hungUp
		})
		close(input.goOn)
		is.Equal(<-input.came, "last")
		is.Equal(g.wait(t), ErrGone)
	})
}
