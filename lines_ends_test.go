package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
)

// lineOf is a line of NDJSON that is taken.
const lineOf = `{"tenantId":"acme","type":"a.b","payload":1,"target":{"kind":"tenant"}}` + "\n"

// linesHead is the head of a body of lines. Its own lines end in \r\n.
func linesHead(query, framing string) string {
	return "POST /v1/events" + query + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n" + framing + "\r\n"
}

// A body of lines that ends badly is the last thing on its connection: what comes later is taken
// for no request, and a client that keeps silent does not keep the connection.
func TestABadEndOfLinesEndsTheConnection(t *testing.T) {
	framings := map[string]struct{ head, line, rest string }{
		"a length": {fmt.Sprintf("Content-Length: %d\r\n", 2*len(lineOf)), lineOf, lineOf},
		"chunks":   {"Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n", len(lineOf), lineOf), "0\r\n\r\n"},
	}
	ends := map[string]struct {
		end  func(t *testing.T, h *silentHub)
		code string
	}{
		"late":  {func(*testing.T, *silentHub) { time.Sleep(30 * time.Second) }, "BodyTimeout"},
		"drain": {func(t *testing.T, h *silentHub) { h.streams.Drain(t.Context(), 0) }, "Draining"},
	}
	for framed, framing := range framings {
		for ended, end := range ends {
			for _, more := range []string{"", framing.rest, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"} {
				t.Run(fmt.Sprintf("%s, %s, then %.3q", framed, ended, more), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						is := is.New(t)
						h := newSilentHub(t, false, false)
						defer h.end()
						conn := h.dial(t)
						io.WriteString(conn, linesHead("", framing.head)+framing.line)
						synctest.Wait()
						end.end(t, h)
						begun := time.Now()
						synctest.Wait()
						io.WriteString(conn, more)
						conn.SetReadDeadline(begun.Add(time.Hour))
						answer, err := io.ReadAll(conn)
						is.NoErr(err) // the hub closes it
						is.True(time.Since(begun) <= time.Second)
						is.Equal(strings.Count(string(answer), "HTTP/1.1 "), 1)
						is.True(strings.Contains(string(answer), `"code":"`+end.code+`"`))
						is.True(strings.Contains(string(answer), `{"accepted":1,"refused":1`))
						is.Equal(h.api.complaints.Counts()["panic"], int64(0))
					})
				})
			}
		}
	}
}

// A body of lines that ends well, and is answered then, leaves its connection to the next one.
func TestAGoodEndOfLinesKeepsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		h := newSilentHub(t, false, false)
		defer h.end()
		conn := h.dial(t)
		answers := bufio.NewReader(conn)
		for range 2 {
			io.WriteString(conn, linesHead("", fmt.Sprintf("Content-Length: %d\r\n", len(lineOf)))+lineOf)
			res, err := http.ReadResponse(answers, nil)
			is.NoErr(err)
			answer, err := io.ReadAll(res.Body)
			is.NoErr(err)
			is.True(strings.HasPrefix(string(answer), `{"accepted":1,"refused":0`))
			is.True(!res.Close)
		}
	})
}

// Who reads no answer, and keeps silent at last, is no failure of the hub.
func TestUnreadAnswersAreNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		h := newSilentHub(t, false, false)
		defer h.end()
		conn := h.dial(t)
		io.WriteString(conn, linesHead("?results=all", "Transfer-Encoding: chunked\r\n"))
		for range 2000 { // whose answers are more than a connection holds
			fmt.Fprintf(conn, "%x\r\n%s\r\n", len(lineOf), lineOf)
		}
		time.Sleep(time.Minute) // 30 s are for an answer to be read, and as many for a byte to come
		values := scrape(t, h.api.Handler())
		is.Equal(values[`realtime_events_refused_total{code="BodyTimeout"}`], 1.0)
		failed, counted := values[`realtime_events_refused_total{code="Internal"}`]
		is.True(counted)
		is.Equal(failed, 0.0)
	})
}

// Who leaves while its lines wait for their rate is no failure of the hub.
func TestLeavingWhileLinesWaitIsNoFailure(t *testing.T) {
	eachTransport(t, func(t *testing.T, secure, http2 bool) {
		is := is.New(t)
		h := newSilentHub(t, secure, http2, "REALTIME_PUBLISH_RATE=1")
		defer h.end()
		is.Equal(publishSlowly(t, h, strings.NewReader(strings.Repeat(lineOf, maxTogether))), `{"accepted":64,"refused":0}`) // all that the rate allows at once
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url+"/v1/events", strings.NewReader(strings.Repeat(lineOf, 2)))
		is.NoErr(err)
		r.Header.Set("Content-Type", "application/x-ndjson")
		go func() {
			if res, err := h.client.Do(r); err == nil {
				res.Body.Close()
			}
		}()
		synctest.Wait()
		is.True(h.api.limits.Met()["publish"] > 0)
		leave()
		time.Sleep(time.Second)
		synctest.Wait()
		values := scrape(t, h.api.Handler())
		failed, counted := values[`realtime_events_refused_total{code="Internal"}`]
		is.True(counted)
		is.Equal(failed, 0.0)
		is.True(values[`realtime_events_refused_total{code="BodyUnreadable"}`] > 0)
	})
}
