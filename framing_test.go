package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/settings"
	"realtimehub/internal/sse"
)

// An event reaches a client when it is sent, and not with the next one: also one that
// reads so many bytes at a time of a body without chunks, as python-requests does. There
// are no heartbeats here, which would bring it sooner or later.
func TestEventsComeAtOnceToFixedReads(t *testing.T) {
	t.Parallel()
	cert, key := hubtest.WriteCertificate(t, t.TempDir(), "first")
	plain := startHub(t, "REALTIME_HEARTBEAT=0")
	secure := strings.Replace(startHub(t, "REALTIME_HEARTBEAT=0", "REALTIME_TLS_CERT="+cert, "REALTIME_TLS_KEY="+key), "http:", "https:", 1)
	text, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	roots := &tls.Config{RootCAs: x509.NewCertPool()}
	roots.RootCAs.AppendCertsFromPEM(text)
	client := http.Client{Transport: &http.Transport{TLSClientConfig: roots, DisableKeepAlives: true}}
	for name, hub := range map[string]string{"HTTP/1.1": plain, "TLS": secure} {
		for reader, start := range map[string]func(t *testing.T, hub, path string) func(want string){
			"fixed reads": func(t *testing.T, hub, path string) func(string) { return readFixed(t, hub, path, roots) },
			"requests":    func(t *testing.T, hub, path string) func(string) { return readRequests(t, hub+path, cert) },
		} {
			t.Run(name+" "+reader, func(t *testing.T) {
				t.Parallel()
				is := is.New(t)
				tenant := strings.ReplaceAll(reader, " ", "-")
				hears := start(t, hub, "/v1/stream?presence=none&profile=me&tenant="+tenant)
				hears(`"resume":"fresh"`)
				for i := range 3 {
					payload := fmt.Sprintf(`"word %d"`, i)
					res, err := client.Post(hub+"/v1/tenants/"+tenant+"/events", "application/json", strings.NewReader(`{"type":"a.b","payload":`+payload+`}`))
					is.NoErr(err)
					res.Body.Close()
					is.Equal(res.StatusCode, http.StatusAccepted)
					hears(payload) // before anything follows it
				}
			})
		}
	}
}

// readFixed reads a stream as urllib3 does: of a body in chunks what a chunk has, of any
// other 512 bytes at a time, however long they take.
func readFixed(t *testing.T, hub, path string, roots *tls.Config) (hears func(want string)) {
	t.Helper()
	scheme, addr, _ := strings.Cut(hub, "://")
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	if scheme == "https" {
		host, _, _ := net.SplitHostPort(addr)
		conn = tls.Client(conn, &tls.Config{RootCAs: roots.RootCAs, ServerName: host})
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, addr)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	read := func(p []byte) (int, error) { return io.ReadFull(res.Body, p) }
	if len(res.TransferEncoding) > 0 {
		read = res.Body.Read
	}
	var got strings.Builder
	return func(want string) {
		t.Helper()
		for b := make([]byte, 512); !strings.Contains(got.String(), want); {
			n, err := read(b)
			if got.Write(b[:n]); err != nil {
				t.Fatalf("%q does not come: %v after %q", want, err, &got)
			}
		}
	}
}

// readRequests is python-requests itself.
func readRequests(t *testing.T, url, cert string) (hears func(want string)) {
	t.Helper()
	const python = "/usr/bin/python3" // the system's, which has the system's packages
	if err := exec.Command(python, "-c", "import requests").Run(); err != nil {
		hubtest.Lacks(t, "there is no python3-requests")
	}
	cmd := exec.CommandContext(t.Context(), python, "testdata/python/lines.py", url, cert)
	var printed syncBuffer
	cmd.Stdout, cmd.Stderr = &printed, &printed
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Wait() })
	return func(want string) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !strings.Contains(printed.String(), want); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%q does not come; there is\n%s", want, &printed)
			}
		}
	}
}

// rawStream is all that a client of a stream gets: it asks, and once it has heard a word
// the stream is ended by the hub.
func rawStream(t *testing.T, h *testHub, request, last string) []byte {
	t.Helper()
	conn, err := net.Dial("tcp", h.Server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(conn, request)
	var raw []byte
	for b, ended := make([]byte, 4<<10), false; ; {
		n, err := conn.Read(b)
		if raw = append(raw, b[:n]...); err == io.EOF {
			return raw
		}
		if err != nil {
			t.Fatalf("%v after %q", err, raw)
		}
		if !ended && strings.Contains(string(raw), last) {
			ended = true
			h.do(t, http.MethodDelete, "/v1/tenants/acme/connections?profile=me", "")
		}
	}
}

// Wherever a stream is cut, a client that takes an id as soon as its line is there, as
// many do, has the data of the event whose id that is.
func TestNoIDBeforeItsEvent(t *testing.T) {
	alone(t, "it is about the bytes of one hub")
	h := newTestHub(t)
	var batch []string
	for i := range 12 {
		batch = append(batch, eventJSON("acme", "a.b", `{"kind":"tenant"}`, fmt.Sprintf(`"word %d"`, i)))
	}
	fresh := h.open(t, "tenant=acme&profile=me")
	status, _ := h.post(t, "/v1/events/batch", `{"events":[`+strings.Join(batch, ",")+`]}`)
	if status != http.StatusAccepted {
		t.Fatal(status)
	}
	first := fresh.until(t, "a.b").ID
	for name, query := range map[string]string{"replayed": "cursor=" + first, "unnamed": "named=false&cursor=" + first, "after a gap": "cursor=nowhere"} {
		for _, version := range []string{"1.0", "1.1"} {
			t.Run(name+", HTTP/"+version, func(t *testing.T) {
				is := is.New(t)
				last := "word 11"
				if name == "after a gap" {
					last = "hub.gap"
				}
				raw := rawStream(t, h, "GET /v1/stream?tenant=acme&profile=me&"+query+" HTTP/"+version+"\r\nHost: localhost\r\n\r\n", last)
				events := map[string]string{} // data by id
				reader := sse.NewReader(bodyOf(t, raw))
				for event, err := reader.Next(); err != io.EOF; event, err = reader.Next() {
					is.NoErr(err) // whole, it ends in order
					if _, there := events[event.ID]; !there && event.ID != "" {
						events[event.ID] = event.Data
					}
				}
				is.True(len(events) > 1 || name == "after a gap")
				taken := map[string]bool{}
				for cut := bytes.Index(raw, []byte("\r\n\r\n")) + 4; cut < len(raw); cut++ {
					id, heard := naive(bodyOf(t, raw[:cut]))
					data, there := events[id]
					taken[id] = true
					if there && !heard[data] {
						t.Fatalf("cut after %d bytes, at %q, a client says it has %s", cut, raw[max(0, cut-60):cut], id)
					}
				}
				for id := range events {
					is.True(taken[id]) // the client is one that takes ids
				}
			})
		}
	}
}

// bodyOf is the body of an answer, or of its beginning.
func bodyOf(t *testing.T, raw []byte) io.Reader {
	t.Helper()
	res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(raw)), nil)
	if err != nil {
		t.Fatal(err)
	}
	return res.Body
}

// naive reads lines as they come and takes the last for one, however the stream ended.
func naive(body io.Reader) (id string, heard map[string]bool) {
	heard = map[string]bool{}
	for lines := bufio.NewScanner(body); lines.Scan(); {
		switch field, value, _ := strings.Cut(lines.Text(), ": "); field {
		case "id":
			id = value
		case "data":
			heard[value] = true
		}
	}
	return id, heard
}

// A polyfill that sends no header says the last id in the query, beside whatever its
// address said before.
func TestResumeFromTheQuery(t *testing.T) {
	h := newTestHub(t)
	first := h.open(t, "tenant=acme&profile=me")
	for i := range 3 {
		h.post(t, "/v1/events", eventJSON("acme", "a.b", `{"kind":"tenant"}`, fmt.Sprint(i)))
	}
	var ids []string
	for range 3 {
		ids = append(ids, first.until(t, "a.b").ID)
	}
	for query, next := range map[string]string{
		"cursor=" + ids[0]:                                        ids[1],
		"lastEventId=" + ids[0]:                                   ids[1],
		"lastEventID=" + ids[0]:                                   ids[1],
		"last_event_id=" + ids[0]:                                 ids[1],
		"Last-Event-ID=" + ids[0]:                                 ids[1],
		"cursor=" + ids[0] + "&lastEventId=" + ids[1]:             ids[2], // what came later
		"lastEventId=" + ids[0] + "&lastEventId=" + ids[1]:        ids[2],
		"lastEventId=" + ids[1] + "&lastEventId=":                 ids[2], // empty is none
		"lastEventId=&last_event_id=" + ids[1]:                    ids[2],
		"lastEventId=&cursor=" + ids[0]:                           ids[1],
		"lastEventId=" + url.QueryEscape(ids[0]) + "&cursor=none": ids[1],
	} {
		t.Run(query, func(t *testing.T) {
			is := is.New(t)
			c := h.open(t, "tenant=acme&profile=me&"+query)
			is.True(strings.Contains(c.Ready.Data, `"resume":"complete"`))
			is.Equal(c.until(t, "a.b").ID, next)
		})
	}
	t.Run("the header wins", func(t *testing.T) {
		is := is.New(t)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.URL+"/v1/stream?tenant=acme&profile=me&cursor="+ids[0]+"&lastEventId="+ids[0], nil)
		is.NoErr(err)
		req.Header.Set("Last-Event-ID", ids[1])
		res, err := h.client.Do(req)
		is.NoErr(err)
		defer res.Body.Close()
		reader := newStreamReader(t, res.Body)
		event, err := reader.Next()
		for ; err == nil && event.Type != "a.b"; event, err = reader.Next() {
		}
		is.NoErr(err)
		is.Equal(event.ID, ids[2])
	})
}

// The largest payload that the default settings take fits, with all that is around it,
// a line as Go's bufio.Scanner reads it, live and replayed: a client that cannot read a
// line comes back to it for ever.
func TestTheLargestEventFitsALine(t *testing.T) {
	is := is.New(t)
	cfg, err := settings.Load(nil)
	is.NoErr(err)
	h := newTestHub(t)
	for _, node := range h.nodes {
		node.API.publishing.maxEvent = cfg.MaxEventBytes
	}
	payload := `"` + strings.Repeat("x", cfg.MaxEventBytes-len(`""`)) + `"`
	long := func(n int) string { return strings.Repeat("n", n) }
	quoted := func(n int) string { return strings.Repeat(`\"`, n) } // each takes two bytes of the envelope as well
	for name, tc := range map[string]struct{ tenant, event string }{
		"typical": {"acme", `{"tenantId":"acme","type":"message.received","payload":` + payload + `,"target":{"kind":"tenant"}}`},
		"largest": {long(128), `{"id":"` + long(128) + `","tenantId":"` + long(128) + `","type":"` + long(128) + `","payload":` + payload +
			`,"target":{"kind":"conversation","conversationId":"` + quoted(256) + `"},"correlationId":"` + quoted(128) +
			`","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}`},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			if name == "largest" {
				status, _ := h.do(t, http.MethodPut, "/v1/tenants/"+tc.tenant+"/conversations/"+strings.Repeat("%22", 256)+"/members", `{"members":["me"]}`)
				is.Equal(status, http.StatusNoContent)
			}
			lines, cursor := scan(t, h, tc.tenant, "")
			answer := h.accepted(t, "/v1/events", tc.event)
			is.True(answer["cursor"] != nil)
			hears := func(lines *bufio.Scanner) {
				t.Helper()
				for lines.Scan() {
					if strings.HasPrefix(lines.Text(), `data: {"id":`) && strings.Contains(lines.Text(), payload) {
						t.Logf("a line of %d bytes", len(lines.Text()))
						return
					}
				}
				t.Fatalf("the event cannot be read: %v", lines.Err())
			}
			hears(lines)
			lines, _ = scan(t, h, tc.tenant, cursor)
			hears(lines)
		})
	}
}

// scan reads a stream with a scanner as Go makes it, up to the end of hub.ready.
func scan(t *testing.T, h *testHub, tenant, resume string) (lines *bufio.Scanner, cursor string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.next().URL+"/v1/stream?presence=none&profile=me&tenant="+tenant+"&cursor="+resume, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := h.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	for lines = bufio.NewScanner(res.Body); lines.Scan(); {
		if lines.Text() == "" {
			return lines, cursor
		}
		if id, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
			cursor = id
		}
	}
	t.Fatal(lines.Err())
	return nil, ""
}
