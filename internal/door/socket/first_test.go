package socket

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
)

// hijacked is what net/http gives a handler whose client is at the other end of a pipe.
type hijacked struct {
	http.ResponseWriter
	conn net.Conn
}

func (h hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), bufio.NewWriter(h.conn)), nil
}

// Before there is a stream a client has so much time for its first text, may leave, and is told
// what it does wrong.
func TestFirst(t *testing.T) {
	const within = 15 * time.Second
	for name, tc := range map[string]struct {
		sent  []byte
		leave bool
		text  string
		err   error
		took  time.Duration
	}{
		"a text":              {sent: from(text, "hello"), text: "hello"},
		"fragments and pings": {sent: bytes.Join([][]byte{from(ping, ""), from(begins, "he"), from(ping, "p"), from(ends, "llo")}, nil), text: "hello"},
		"10,000 pings before": {sent: append(bytes.Repeat(from(ping, "there?"), 10_000), from(text, "hello")...), text: "hello"},
		"nothing":             {err: ErrSilent, took: within},
		"half a frame":        {sent: from(text, "hello")[:7], err: ErrSilent, took: within},
		"half a message":      {sent: from(begins, "hello"), err: ErrSilent, took: within},
		"half, and gone":      {sent: from(text, "hello")[:7], leave: true, err: ErrLeft},
		"a leave":             {sent: from(closing, "\x03\xe8"), err: ErrLeft},
		"a leave in between":  {sent: append(from(begins, "he"), from(closing, "")...), err: ErrLeft},
		"binary":              {sent: from(binaryData, "x"), err: errors.New(errBinary.reason)},
		"a length that lies":  {sent: []byte("\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xffabcd"), err: errors.New(errTooLong.reason)},
		"no UTF-8":            {sent: append(from(begins, "\xe2\x82"), from(ends, "")...), err: errors.New(errUTF8.reason)},
		"a frame of 5,000":    {sent: from(text, string(make([]byte, 5000))), err: errors.New(errFirst.reason)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				is := is.New(t)
				client, server := net.Pipe()
				go io.Copy(io.Discard, client)
				go func() {
					client.Write(tc.sent)
					if tc.leave {
						client.Close()
					}
				}()
				begun := time.Now()
				o := Open(hijacked{httptest.NewRecorder(), server}, asking(), "", within)
				first, err := o.First()
				is.Equal(string(first), tc.text)
				is.Equal(err, tc.err)
				is.Equal(time.Since(begun), tc.took)
				o.Close()
				client.Close()
			})
		})
	}
}

// played is a connection of whose client all has come that ever will.
type played struct {
	net.Conn
	io.Reader
}

func (p played) Read(b []byte) (int, error)  { return p.Reader.Read(b) }
func (p played) Write(b []byte) (int, error) { return len(b), nil }
func (p played) SetDeadline(time.Time) error { return nil }
func (p played) Close() error                { return nil }

// The first text is the one that a reader hears first, whatever is sent, and what follows it is left.
func FuzzFirst(f *testing.F) {
	f.Add(from(text, "hello"))
	f.Add(bytes.Join([][]byte{from(ping, "p"), from(begins, "a"), from(ping, ""), from(ends, "é"), from(text, "b")}, nil))
	f.Add(from(closing, "\x03\xe8bye"))
	f.Add([]byte("\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xffabcd"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		conn := played{Reader: bytes.NewReader(bytes.Clone(sent))}
		o := Open(hijacked{httptest.NewRecorder(), conn}, asking(), "", time.Minute)
		got, err := o.First()
		if err != nil {
			return
		}
		rest, _ := io.ReadAll(o.rw)
		var r reader
		l := &first{to: &Opened{conn: conn}}
		if bad := r.read(bytes.Clone(sent[:len(sent)-len(rest)]), l); bad != nil || string(l.text) != string(got) || r.kept() > 0 {
			t.Fatalf("%q was heard, then %v %q", got, bad, l.text)
		}
	})
}
