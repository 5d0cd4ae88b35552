package engine

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"realtimehub/internal/tcp"

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
		is.NoErr(g.wait(t))
		eventually(t, "its input to be told of the end", func() bool { return g.ended.Load() > 0 })
		is.Equal(g.ended.Load(), int32(1))
	})
}

// Who sends more than is taken waits; the socket of a stream that ends meanwhile is closed
// once by who reads.
func TestWhoSendsWaits(t *testing.T) {
	allPaths(t, Config{}, func(t *testing.T, h *house) {
		is := is.New(t)
		input := newHeld()
		v, g := h.upgradeTo(t, "a", input)
		is.NoErr(v.tcp.SetWriteBuffer(4 << 10))
		const most = 64 << 20
		var written atomic.Int64
		over := make(chan struct{})
		go func() {
			defer close(over)
			for err := error(nil); err == nil && written.Load() < most; {
				var n int
				n, err = v.peer.Write(make([]byte, tcp.InputSize))
				written.Add(int64(n))
			}
		}()
		waits := func() bool {
			before := written.Load()
			time.Sleep(200 * time.Millisecond)
			return written.Load() == before && before > 2*tcp.InputSize
		}
		eventually(t, "who sends to wait", waits)
		is.True(written.Load() < most)
		g.abort()
		if !h.cfg.Plain { // there it ends when its input does
			is.NoErr(g.wait(t))
		}
		close(input.goOn)
		if h.cfg.Plain {
			is.NoErr(g.wait(t))
		}
		<-over
		is.Equal(len(input.came), 1) // the rest was not read
	})
}

// A client that answers heartbeats stays, however much it is written to; one that does not is
// gone, though its system takes all that comes.
func TestWhoAnswersNoHeartbeat(t *testing.T) {
	allPaths(t, Config{Heartbeat: time.Hour}, func(t *testing.T, h *house) {
		is := is.New(t)
		answers, stays := h.upgrade(t, "answers", "")
		mute, goes := h.upgrade(t, "mute", "")
		busy := eventFrame("busy")
		for n := 1; n <= 2*missed; n++ {
			at := time.Duration(n) * time.Hour
			deliver([]*Stream{stays.Stream, goes.Stream}, busy)
			answers.expect(t, busy.data)
			h.beatAt(t, stays, at)
			answers.expect(t, testWords.Beat.data)
			_, err := io.WriteString(answers.peer, "!")
			is.NoErr(err)
			answers.expect(t, []byte("!"))
			if n > missed+1 {
				continue // it has gone
			}
			mute.expect(t, busy.data)
			h.beatAt(t, goes, at)
			if n <= missed {
				mute.expect(t, testWords.Beat.data)
			} else {
				is.Equal(goes.wait(t), ErrVanished)
			}
		}
		is.Equal(len(stays.gone), 0)
	})
}

// A client that leaves, or resets, is noticed; who is sent last words and does not end is
// ended.
func TestSocketsEnd(t *testing.T) {
	allPaths(t, Config{Linger: 500 * time.Millisecond}, func(t *testing.T, h *house) {
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
		is.NoErr(g.wait(t)) // after the linger
	})
}

// A client that answers the last words, and closes, has not left: its owner ended the stream.
func TestWhoAnswersTheLastWords(t *testing.T) {
	allPaths(t, Config{}, func(t *testing.T, h *house) {
		for i := range 100 { // it closes before our half is shut, or after
			is := is.New(t)
			v, g := h.upgrade(t, fmt.Sprint(i), "")
			g.Close(testLast)
			v.expect(t, testLast.data)
			io.WriteString(v.peer, "bye")
			v.peer.Close()
			is.NoErr(g.wait(t))
		}
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
