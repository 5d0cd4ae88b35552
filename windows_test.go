package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"realtimehub/internal/access"
	"realtimehub/internal/hubtest"

	"github.com/matryer/is"
)

// Frames of HTTP/2 (RFC 9113, section 6).
const (
	dataFrame     = 0
	headersFrame  = 1
	resetFrame    = 3
	settingsFrame = 4

	endStream = 1
)

// framed is a client that speaks HTTP/2 frame by frame.
type framed struct {
	t      testing.TB
	conn   net.Conn
	stream uint32 // the next one's
}

// dialFramed connects; each of its streams takes window bytes of an answer.
func dialFramed(t testing.TB, at, preamble string, window uint32) *framed {
	f := &framed{t, dialAs(t, at, preamble+"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 1}
	f.write(settingsFrame, 0, 0, windowOf(window))
	return f
}

// windowOf sets how many bytes of an answer each stream takes.
func windowOf(bytes uint32) []byte { return binary.BigEndian.AppendUint32([]byte{0, 4}, bytes) }

func (f *framed) write(kind, flags byte, stream uint32, payload []byte) {
	b := []byte{0, byte(len(payload) >> 8), byte(len(payload)), kind, flags}
	f.conn.Write(append(binary.BigEndian.AppendUint32(b, stream), payload...))
}

// ask sends a whole GET without a body (RFC 7541: indexed GET and http, literal values);
// credential is the value of authorization, or empty.
func (f *framed) ask(path, credential string) {
	block := append([]byte{0x82, 0x86, 0x04, byte(len(path))}, path...)
	block = append(append(block, 0x01, 9), "localhost"...)
	if credential != "" {
		block = append(block, 0x0f, 0x08, 0x7f) // authorization, of 127 bytes and more
		block = append(binary.AppendUvarint(block, uint64(len(credential)-127)), credential...)
	}
	f.write(headersFrame, 0x4|endStream, f.stream, block)
	f.stream += 2
}

// next is the next frame that there is.
func (f *framed) next() (kind, flags byte, stream uint32) {
	f.t.Helper()
	var head [9]byte
	if _, err := io.ReadFull(f.conn, head[:]); err != nil {
		f.t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, f.conn, int64(head[1])<<8|int64(head[2])); err != nil {
		f.t.Fatal(err)
	}
	return head[3], head[4], binary.BigEndian.Uint32(head[5:])
}

// An answer that has not left has its place as long as it waits, however small it is.
func TestUnreadAnswersOverHTTP2(t *testing.T) {
	const most, asked = 5, 40
	for path, credential := range map[string]string{"/healthz": "", "/nothing": "", "/v1/presence": "", "/v1/stream": "", "/v1/stream?named=1": bearer(t)} {
		t.Run(path, func(t *testing.T) {
			is := is.New(t)
			at := strings.TrimPrefix(startHub(t, "REALTIME_JWT_SECRET="+testSecret, "REALTIME_TRUSTED_PROXIES=127.0.0.1", fmt.Sprintf("REALTIME_MAX_CONNECTIONS_PER_ADDRESS=%d", most)), "http://")
			f := dialFramed(t, at, proxyV2("203.0.113.7"), 0)
			for range asked {
				f.ask(path, credential)
			}
			answered, resets := 0, 0
			for answered+resets < asked {
				switch kind, _, _ := f.next(); kind {
				case headersFrame:
					answered++
				case resetFrame:
					resets++
				}
			}
			is.Equal(answered, most)
		})
	}
}

// A person pays for calls until their answers have left, which they do whole.
func TestUnreadAnswersArePaidFor(t *testing.T) {
	is := is.New(t)
	url := startHub(t, "REALTIME_JWT_SECRET="+testSecret, "REALTIME_API_KEYS=*=a-key-of-all-tenants")
	f := dialFramed(t, strings.TrimPrefix(url, "http://"), "", 0)
	const calls = 3
	for range calls {
		f.ask("/v1/presence?profile=user:1", bearer(t))
	}
	for range calls {
		for kind := byte(settingsFrame); kind != headersFrame; {
			kind, _, _ = f.next()
		}
	}
	is.Equal(paidFor(t, url), float64(access.SocketBytes+calls*access.CallBytes))
	f.write(settingsFrame, 0, 0, windowOf(1<<16))
	frames, ended := 0, 0
	for ended < calls {
		kind, flags, _ := f.next()
		is.True(kind != resetFrame)
		if kind == dataFrame {
			frames++
			ended += int(flags & endStream)
		}
	}
	is.Equal(frames, 2*calls) // the second of each is empty
	eventually(t, func() bool { return paidFor(t, url) == access.SocketBytes })
}

// A person pays for what their connection brings that is nobody's, until it asks for something.
func TestWhatIsNoRequestIsPaidFor(t *testing.T) {
	url := startHub(t, "REALTIME_JWT_SECRET="+testSecret, "REALTIME_API_KEYS=*=a-key-of-all-tenants")
	f := dialFramed(t, strings.TrimPrefix(url, "http://"), "", 1<<16)
	ask := func() {
		f.ask("/v1/presence?profile=user:1", bearer(t))
		for kind, flags := byte(settingsFrame), byte(0); kind != dataFrame || flags&endStream == 0; {
			kind, flags, _ = f.next()
		}
	}
	ask()
	eventually(t, func() bool { return paidFor(t, url) == access.SocketBytes })
	const unknown = 0x20 // frames of kinds that a server does not know are passed over (RFC 9113, section 5.5)
	for range 4 {
		f.write(unknown, 0, 0, make([]byte, 16<<10))
	}
	eventually(t, func() bool { return paidFor(t, url) == access.SocketBytes+448<<10 })
	ask()
	eventually(t, func() bool { return paidFor(t, url) == access.SocketBytes })
}

// In open mode a stream takes its connection out of the lobby as long as it lasts.
func TestAStreamProvesNothing(t *testing.T) {
	is := is.New(t)
	url := startHub(t, "REALTIME_TRUSTED_PROXIES=127.0.0.1")
	f := dialFramed(t, strings.TrimPrefix(url, "http://"), proxyV2("203.0.113.7"), 1<<16)
	asking := &http.Client{Timeout: time.Minute, Transport: &http.Transport{}} // by one connection
	defer asking.CloseIdleConnections()
	strangers := func() float64 { return hubtest.ScrapeBy(t, asking, url)["realtime_unproven_open"] - 1 }
	const streams = 2
	for range streams {
		f.ask("/v1/stream?tenant=acme&profile=me", "")
		for kind := byte(settingsFrame); kind != headersFrame; {
			kind, _, _ = f.next()
		}
	}
	eventually(t, func() bool { return strangers() == 0 })
	for i := range uint32(streams) {
		is.Equal(strangers(), 0.0)
		f.write(resetFrame, 0, 1+2*i, []byte{0, 0, 0, 8})
	}
	eventually(t, func() bool { return strangers() == 1 })
}

// Requests that strangers leave unanswered keep nobody else from asking.
func TestUnreadAnswersKeepNobodyFromAsking(t *testing.T) {
	is := is.New(t)
	at := strings.TrimPrefix(startHub(t, "REALTIME_TRUSTED_PROXIES=127.0.0.1", fmt.Sprintf("REALTIME_CALL_BYTES=%d", 32*48<<10)), "http://")
	f := dialFramed(t, at, proxyV2("203.0.113.7"), 0)
	for range 32 {
		f.ask("/healthz", "")
	}
	for answered := 0; answered < 32; {
		if kind, _, _ := f.next(); kind == headersFrame {
			answered++
		}
	}
	other := dialFramed(t, at, proxyV2("203.0.113.8"), 1<<16)
	other.ask("/healthz", "")
	for kind, flags := byte(settingsFrame), byte(0); kind != dataFrame || flags&endStream == 0; {
		kind, flags, _ = other.next()
		is.True(kind != resetFrame)
	}
	_, err := io.Copy(io.Discard, f.conn) // it is cut
	is.True(!errors.Is(err, os.ErrDeadlineExceeded))
}
