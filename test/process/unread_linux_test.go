package process

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
)

// A hundred and fifty who ask for a whole history and read nothing of it take what one
// address may have, and the hub is there for the next.
func TestUnreadHistoriesAreBounded(t *testing.T) {
	is := is.New(t)
	const calls, share, answers = 16 << 20, 4 << 20, `realtime_quota_bytes{quota="answers"}`
	p := startProcess(t, fmt.Sprint("REALTIME_CALL_BYTES=", calls), fmt.Sprint("REALTIME_HISTORY_TOTAL_BYTES=", 128<<20), "REALTIME_ADMIN_RATE=0", "GOGC=25")
	event := hubtest.EventJSON("acme", "a.b", `{"kind":"tenant"}`, `"`+strings.Repeat("x", 50_000)+`"`)
	for range 50 {
		res, err := http.Post("http://"+p.Addr+"/v1/events/batch", "application/json", strings.NewReader(`{"events":[`+strings.Join(slices.Repeat([]string{event}, 20), ",")+`]}`))
		is.NoErr(err)
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		is.Equal(res.StatusCode, 202)
	}
	before := p.Peak(t)

	small := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
	}}
	codes := map[string]int{}
	var conns []net.Conn
	for range 150 {
		conn, err := small.Dial("tcp", p.Addr)
		is.NoErr(err)
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Minute))
		fmt.Fprintf(conn, "GET /v1/tenants/acme/events?limit=1000 HTTP/1.1\r\nHost: %s\r\n\r\n", p.Addr)
		head := make([]byte, len("HTTP/1.1 200"))
		_, err = io.ReadFull(conn, head)
		is.NoErr(err)
		codes[string(head[9:])]++
		conns = append(conns, conn)
	}
	t.Log(codes, p.Metric(t, answers), "bytes under way,", p.Peak(t)-before, "resident more")
	is.True(codes["200"] >= 10)
	is.Equal(codes["200"]+codes["503"], 150)
	is.True(p.Metric(t, answers) > 0)
	is.True(p.Metric(t, answers) <= share)
	is.True(p.Peak(t)-before < 96<<20) // where 150 answers are 7 GB

	other := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).DialContext(ctx, network, addr)
	}}}
	defer other.CloseIdleConnections()
	res, err := other.Get("http://" + p.Addr + "/v1/tenants/acme/events?limit=100")
	is.NoErr(err)
	text, err := io.ReadAll(res.Body)
	is.NoErr(err)
	res.Body.Close()
	is.Equal(res.StatusCode, 200)
	is.True(len(text) > 100*50_000)

	for _, conn := range conns {
		conn.Close()
	}
	deadline := time.Now().Add(time.Minute)
	for p.Metric(t, answers) != 0 {
		is.True(time.Now().Before(deadline)) // all is given back
		time.Sleep(10 * time.Millisecond)
	}
}
