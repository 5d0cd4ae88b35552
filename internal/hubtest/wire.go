package hubtest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"realtimehub/internal/testkit"
)

// Dial connects, and begins with a preamble, as a proxy does that connects for a client.
func Dial(t testing.TB, addr, preamble string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(conn, preamble); err != nil {
		t.Fatal(err)
	}
	return conn
}

// ProxyV1 begins a connection by version 1 of the PROXY protocol.
func ProxyV1(client string) string {
	from := netip.MustParseAddr(client)
	if from.Is4() {
		return "PROXY TCP4 " + client + " 192.0.2.1 4711 80\r\n"
	}
	return "PROXY TCP6 " + client + " 2001:db8::80 4711 80\r\n"
}

// ProxyV2 is ProxyV1 by version 2, which is binary.
func ProxyV2(client string) string {
	b := []byte("\r\n\r\n\x00\r\nQUIT\n\x21")
	from, to := netip.MustParseAddr(client), netip.MustParseAddr("192.0.2.1")
	family := byte(0x11)
	if from.Is6() {
		family, to = 0x21, netip.MustParseAddr("2001:db8::80")
	}
	b = append(b, family)
	b = binary.BigEndian.AppendUint16(b, uint16(len(from.AsSlice())*2+4))
	b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	return string(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, 4711), 80))
}

// Request is a GET as it goes over the wire; headers are names and values.
func Request(path string, headers ...string) string {
	text := "GET " + path + " HTTP/1.1\r\nHost: localhost\r\n"
	for i := 0; i < len(headers); i += 2 {
		text += headers[i] + ": " + headers[i+1] + "\r\n"
	}
	return text + "\r\n"
}

// BreakOff waits until somebody listens, and begins a POST of which it sends a part and no more.
func BreakOff(t testing.TB, addr string) {
	t.Helper()
	testkit.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_, err = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\na part")
			conn.Close()
		}
		return err == nil
	})
}

// StreamOn opens a stream on a connection by a request as Request has it, and is the
// type of its first event.
func StreamOn(t testing.TB, conn net.Conn, request string) string {
	t.Helper()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(res.Body)
		t.Fatalf("%s %s", res.Status, body)
	}
	event, err := NewReader(t, res.Body).Next()
	if err != nil {
		t.Fatal(err)
	}
	return event.Type
}

// opened is a stream behind its head: what is read is the body.
type opened struct {
	net.Conn
	body io.Reader
}

func (o opened) Read(p []byte) (int, error) { return o.body.Read(p) }

// Subscribe opens a stream of the tenant acme on a bare socket, and reads its head and
// hub.ready, and no event more. It dials in the thread's network, as http.Client's
// goroutines would not. Where the hub has it come back, it does so, for a minute.
func Subscribe(t testing.TB, addr, profile string) net.Conn {
	t.Helper()
	for begun := time.Now(); ; {
		conn, said := subscribe(t, addr, profile)
		switch {
		case conn != nil:
			return conn
		case !strings.Contains(said, `"reason":"unavailable"`) || time.Since(begun) > time.Minute:
			t.Fatalf("the stream ended after %q", said)
		}
	}
}

// subscribe returns no connection where the stream ended before hub.ready, and what it said.
func subscribe(t testing.TB, addr, profile string) (net.Conn, string) {
	t.Helper()
	conn := Dial(t, addr, fmt.Sprintf("GET /v1/stream?tenant=acme&profile=%s HTTP/1.1\r\nHost: %s\r\n\r\n", profile, addr))
	res, err := http.ReadResponse(bufio.NewReaderSize(conn, 512), nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	for b := make([]byte, 1); !bytes.Contains(got, []byte("hub.ready\ndata: ")) || !bytes.HasSuffix(got, []byte("\n\n")); {
		if _, err := res.Body.Read(b); err != nil {
			conn.Close()
			return nil, string(got)
		}
		got = append(got, b...)
	}
	conn.SetDeadline(time.Time{})
	return opened{conn, res.Body}, ""
}

// Wire carries connections to a hub, until it is cut or goes dead.
type Wire struct {
	URL  string
	Beat chan struct{} // a heartbeat passed

	mu sync.Mutex
	// Guarded by mu.
	ends    []net.Conn
	streams map[net.Conn]bool
	dead    map[net.Conn]bool // what they send is lost
	asked   []string
	down    bool
}

// NewWire is a wire to a hub's URL.
func NewWire(t testing.TB, url string) *Wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &Wire{URL: "http://" + listener.Addr().String(), streams: map[net.Conn]bool{}, dead: map[net.Conn]bool{}, Beat: make(chan struct{}, 1)}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
			if err != nil {
				near.Close()
				continue
			}
			w.mu.Lock()
			if w.down {
				near.Close()
				far.Close()
			}
			w.ends = append(w.ends, near, far)
			w.mu.Unlock()
			running.Go(func() { w.carry(near, far) })
			running.Go(func() { w.carry(far, near) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		w.Cut()
		running.Wait()
	})
	return w
}

func (w *Wire) carry(to, from net.Conn) {
	defer to.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		w.mu.Lock()
		dead := w.dead[from]
		if line, _, ok := bytes.Cut(buffer[:n], []byte(" HTTP/1.1\r\n")); ok {
			w.asked = append(w.asked, string(line))
		}
		if bytes.Contains(buffer[:n], []byte("text/event-stream\r\n")) {
			w.streams[from] = true
		}
		w.mu.Unlock()
		if n > 0 && !dead {
			to.Write(buffer[:n])
		}
		if bytes.Contains(buffer[:n], []byte("\n:\n\n")) { // a chunk of its own
			select {
			case w.Beat <- struct{}{}:
			default:
			}
		}
		if err != nil {
			return
		}
	}
}

// Asked are the requests that have passed, as "GET /v1/stream", in order.
func (w *Wire) Asked() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.asked...)
}

// Cut ends all connections.
func (w *Wire) Cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, end := range w.ends {
		end.Close()
	}
	w.ends = nil
}

// Set has it down, cut and for nobody to get through, or up again.
func (w *Wire) Set(down bool) {
	w.mu.Lock()
	w.down = down
	w.mu.Unlock()
	if down {
		w.Cut()
	}
}

// Die has all streams that there are carry nothing any more, and say nothing of it.
func (w *Wire) Die() {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.Copy(w.dead, w.streams)
}
