package engine

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// However clients come and go, with publishing and kicking beside them, nothing
// is left behind, and no byte reaches another's stream: descriptor numbers are
// used again at once.
func TestChurn(t *testing.T) {
	cycles := 100_000
	if testing.Short() {
		cycles = 5_000
	}
	allPaths(t, Config{Heartbeat: 50 * time.Millisecond}, func(t *testing.T, h *house) {
		cycles := cycles
		switch {
		case h.cfg.Plain:
			cycles /= 20 // net/http's own path: its turnover is not ours to prove
		case h.certificate != nil:
			cycles /= 10 // most of it is handshakes
		}
		stop := make(chan struct{})
		var beside sync.WaitGroup
		beside.Go(func() { churnPublish(h, stop) })
		beside.Go(func() { churnKick(h, stop) })
		var next atomic.Int64
		var clients sync.WaitGroup
		for range 32 {
			clients.Go(func() {
				for {
					n := int(next.Add(1))
					if n > cycles || t.Failed() {
						return
					}
					if err := churnCycle(h, n); err != nil {
						t.Errorf("cycle %d: %v", n, err)
					}
				}
			})
		}
		clients.Wait()
		close(stop)
		beside.Wait()
		eventually(t, "every stream to end", func() bool {
			open, _ := h.some()
			return len(open) == 0 && h.Streams() == 0
		})
		h.mu.Lock()
		defer h.mu.Unlock()
		if !h.cfg.Plain && len(h.table) > 1000 {
			t.Errorf("the table has %d places for 32 clients", len(h.table))
		}
		for name, g := range h.streams {
			if len(g.gone) != 1 {
				t.Errorf("stream %s was told %d times that it ended", name, len(g.gone))
			}
		}
	})
}

// some are the streams that have not ended; the others are forgotten.
func (h *house) some() (open []*guest, names []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, g := range h.streams {
		if len(g.gone) == 1 && len(g.served) == 1 {
			delete(h.streams, name)
			continue
		}
		open, names = append(open, g), append(names, name)
	}
	return open, names
}

// churnPublish sends each stream its own name, and all of them one more frame.
func churnPublish(h *house, stop <-chan struct{}) {
	all := eventFrame("all")
	for {
		select {
		case <-stop:
			return
		default:
		}
		open, names := h.some()
		var d Batch
		for i, g := range open {
			d.Send(g.Stream, eventFrame(names[i]))
			d.Send(g.Stream, all)
		}
		d.Flush()
		runtime.Gosched()
	}
}

// churnKick closes streams at random.
func churnKick(h *house, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		open, _ := h.some()
		if len(open) > 0 {
			open[rand.N(len(open))].Stream.Close(testLast)
		}
		runtime.Gosched()
	}
}

// churnCycle connects, and leaves in one of four ways; what was read must have
// been meant for it.
func churnCycle(h *house, n int) error {
	tcp, err := net.Dial("tcp", h.addr)
	if err != nil {
		return err
	}
	conn := h.speak(tcp)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	name := fmt.Sprint(n)
	if _, err := io.WriteString(conn, strings.Replace(get, "NAME", name, 1)); err != nil {
		return err
	}
	var got []byte
	buf := make([]byte, 4096)
	read := func() error {
		k, err := conn.Read(buf)
		got = append(got, buf[:k]...)
		return err
	}
	switch n % 4 {
	case 0: // at once, whatever the server is doing
		tcp.(*net.TCPConn).SetLinger(0)
		return nil
	case 1: // abruptly
		err = read()
		tcp.(*net.TCPConn).SetLinger(0)
	case 2: // politely
		err = read()
	case 3: // when told to
		for err = read(); err == nil; err = read() {
		}
	}
	if err != nil && err != io.EOF {
		return fmt.Errorf("%w after %q", err, got)
	}
	v := visitor{Reader: bufio.NewReader(bytes.NewReader(got))}
	if _, _, err := v.readHead(); err != nil {
		return err
	}
	events, err := io.ReadAll(&v)
	if err != nil && (n%4 == 3 || err != io.ErrUnexpectedEOF) { // who leaves has a part
		return fmt.Errorf("%w in %q", err, got)
	}
	body := string(events)
	body = strings.NewReplacer("data: "+name+"\n\n", "", "data: all\n\n", "", ":\n\n", "", string(testLast.data), "").Replace(body)
	if strings.Contains(body, "\n\n") || len(body) > len(testLast.data) || n%4 == 3 && body != "" {
		return fmt.Errorf("read what was not meant for it, or torn: %q", body)
	}
	return nil
}
