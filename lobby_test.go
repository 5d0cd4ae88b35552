package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/contracttest"
	"realtimehub/internal/hubtest"
	"realtimehub/internal/lobby"
	"realtimehub/internal/serve"
	"realtimehub/internal/settings"
	"realtimehub/web"
)

// inUse is memory for objects and for goroutines' stacks.
func inUse() int64 {
	live := liveHeap()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return live + int64(m.StackInuse)
}

const pipelined = 12

// Who asks for files again and again and reads nothing costs a connection and its
// goroutine, and no copy of the files.
func TestUnreadFilesCostNothing(t *testing.T) {
	is := is.New(t)
	at := strings.TrimPrefix(startHub(t), "http://")
	const clients = 200
	attack := strings.Repeat(rawRequest("/openapi.yaml"), pipelined)
	var one [1]byte
	conns := make([]net.Conn, clients)
	before := inUse()
	for i := range conns {
		conns[i] = dialAs(t, at, attack)
	}
	for _, conn := range conns {
		_, err := conn.Read(one[:]) // so it is being answered
		is.NoErr(err)
	}
	each := (inUse() - before) / clients
	file, err := web.Files.ReadFile("openapi.yaml")
	is.NoErr(err)
	t.Logf("%d bytes each, the file has %d", each, len(file))
	is.True(each < int64(len(file))*3/4) // so that none has it, nor a part
	runtime.KeepAlive(conns)
}

// One address that floods the hub has as many connections as an address may; it alone
// loses any. Health, other addresses and who was there before notice nothing.
func TestAFloodOfOneAddress(t *testing.T) {
	is := is.New(t)
	url := startHub(t, "REALTIME_TRUSTED_PROXIES=127.0.0.1", "REALTIME_MAX_CONNECTIONS_PER_ADDRESS=50")
	at := strings.TrimPrefix(url, "http://")
	const flood, most = 400, 50
	stream := dialAs(t, at, proxyV1("203.0.113.7")) // even of that address
	is.Equal(hubtest.StreamOn(t, stream, rawRequest("/v1/stream?tenant=acme&profile=before")), "hub.ready")
	attack := proxyV1("203.0.113.7") + strings.Repeat(rawRequest("/openapi.yaml"), pipelined)
	for range flood {
		dialAs(t, at, attack)
	}
	is.NoErr(serve.CheckHealth(at, false))
	is.Equal(hubtest.StreamOn(t, dialAs(t, at, proxyV2("203.0.113.8")), rawRequest("/v1/stream?tenant=acme&profile=other")), "hub.ready")
	eventually(t, func() bool {
		now := scrapeFrom(t, url)
		return now[`realtime_unproven_cut_total{bound="address"}`] >= flood-most && now["realtime_unproven_open"] <= most+1
	})
	now := scrapeFrom(t, url)
	is.Equal(now[`realtime_unproven_cut_total{bound="all"}`], 0.0)
	is.Equal(now["realtime_streams_open"], 2.0)
	is.True(now["realtime_unproven_limit"] > 0)
}

// Ten thousand people behind one address are no attack: each leaves the lobby with its
// stream, or with its first good credential.
func TestManyPeopleOfOneAddress(t *testing.T) {
	const most, people = 8, 100
	settings := []string{"REALTIME_TRUSTED_PROXIES=127.0.0.1", fmt.Sprintf("REALTIME_MAX_CONNECTIONS_PER_ADDRESS=%d", most)}
	for name, c := range map[string]struct {
		settings []string
		headers  []string
	}{
		"open":        {},
		"credentials": {[]string{"REALTIME_JWT_SECRET=" + testSecret, "REALTIME_API_KEYS=acme=a-key-of-acme-alone,*=a-key-of-all-tenants"}, []string{"Authorization", bearer(t)}},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			url := startHub(t, append(c.settings, settings...)...)
			at := strings.TrimPrefix(url, "http://")
			for range people {
				is.Equal(hubtest.StreamOn(t, dialAs(t, at, proxyV1("203.0.113.7")), rawRequest("/v1/stream?tenant=acme&profile=me", c.headers...)), "hub.ready")
			}
			if name == "open" {
				eventually(t, func() bool { return scrapeFrom(t, url)["realtime_unproven_open"] <= 1 })
				return
			}
			var services []net.Conn
			ask := func(conn net.Conn) {
				t.Helper()
				_, err := io.WriteString(conn, rawRequest("/v1/tenants/acme/presence", "X-API-Key", "a-key-of-acme-alone"))
				is.NoErr(err)
				res, err := http.ReadResponse(bufio.NewReader(conn), nil)
				is.NoErr(err)
				_, err = io.Copy(io.Discard, res.Body)
				is.NoErr(err)
				is.Equal(res.StatusCode, http.StatusOK)
			}
			for range 3 * most {
				conn := dialAs(t, at, proxyV1("203.0.113.7"))
				ask(conn)
				services = append(services, conn)
			}
			for _, conn := range services { // none was cut for another
				ask(conn)
			}
		})
	}
}

// Many who poll behind one address are no attack either: over HTTP/2, where each request has a place in
// the lobby, a poll that waits leaves it.
func TestManyWhoPollOfOneAddress(t *testing.T) {
	is := is.New(t)
	url := startHub(t, "REALTIME_JWT_SECRET="+testSecret, "REALTIME_TRUSTED_PROXIES=127.0.0.1", "REALTIME_MAX_CONNECTIONS_PER_ADDRESS=1")
	transport := hubtest.TransportTo(false, true, nil, func(context.Context, string, string) (net.Conn, error) {
		return dialAs(t, strings.TrimPrefix(url, "http://"), proxyV1("203.0.113.7")), nil
	})
	defer transport.CloseIdleConnections()
	far, near := &http.Client{Transport: transport}, &hubtest.Hub{URL: url, Client: &http.Client{}}
	call := func(client *http.Client, method, path string) (status int, err error) {
		req, err := http.NewRequestWithContext(t.Context(), method, url+path, nil)
		is.NoErr(err)
		req.Header.Set("Authorization", bearer(t))
		res, err := client.Do(req)
		if err != nil {
			return 0, err
		}
		defer res.Body.Close()
		_, err = io.Copy(io.Discard, res.Body)
		return res.StatusCode, err
	}
	const people = 3
	var sessions []string
	over := make(chan error, people)
	for range people {
		_, answer := near.Do(t, "POST", "/signalr/negotiate?negotiateVersion=1", "", "Authorization", bearer(t))
		session := "/signalr?id=" + answer["connectionToken"].(string)
		sessions = append(sessions, session)
		for range 2 { // the second is told hub.ready
			status, err := call(near.Client, "GET", session)
			is.NoErr(err)
			is.Equal(status, http.StatusOK)
		}
		go func() {
			for status, err := 0, error(nil); status != http.StatusNotFound; { // until the session has ended
				if status, err = call(far, "GET", session); err != nil {
					over <- err
					return
				}
			}
			over <- nil
		}()
		for status := http.StatusOK; status == http.StatusOK && len(over) == 0; { // until a poll of the other takes its place, and waits
			var err error
			status, err = call(near.Client, "GET", session)
			is.NoErr(err)
		}
		is.Equal(len(over), 0)
	}
	for _, session := range sessions {
		_, err := call(near.Client, "DELETE", session)
		is.NoErr(err)
		is.NoErr(<-over)
	}
}

// Over TLS a stream is net/http's until it ends, and leaves the lobby all the same; with
// HTTP/2 its connection does.
func TestTheLobbyOverTLS(t *testing.T) {
	cert, key := hubtest.WriteCertificate(t, t.TempDir(), "localhost")
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP/2 %v", http2), func(t *testing.T) {
			is := is.New(t)
			at := strings.TrimPrefix(startHub(t, "REALTIME_TLS_CERT="+cert, "REALTIME_TLS_KEY="+key, "REALTIME_TRUSTED_PROXIES=127.0.0.1", "REALTIME_MAX_CONNECTIONS_PER_ADDRESS=2"), "http://")
			var first *http.Client
			for range 6 {
				transport := hubtest.TransportTo(true, http2, hubtest.RootsOf(t, cert), func(context.Context, string, string) (net.Conn, error) {
					return dialAs(t, at, proxyV2("203.0.113.7")), nil
				})
				t.Cleanup(transport.CloseIdleConnections)
				client := &http.Client{Transport: transport}
				res, err := client.Get("https://localhost/v1/stream?tenant=acme&profile=me")
				is.NoErr(err)
				t.Cleanup(func() { res.Body.Close() })
				is.Equal(res.ProtoMajor == 2, http2)
				event, err := newStreamReader(t, res.Body).Next()
				is.NoErr(err)
				is.Equal(event.Type, "hub.ready")
				first = cmp.Or(first, client)
			}
			res, err := first.Get("https://localhost/realtime.js")
			is.NoErr(err)
			defer res.Body.Close()
			_, err = io.Copy(io.Discard, res.Body)
			is.NoErr(err)
		})
	}
}

// What strangers may have at a time is a part of what calls may take.
func TestStrangersHaveAPartOfCalls(t *testing.T) {
	is := is.New(t)
	cfg, err := settings.Load([]string{"REALTIME_CALL_BYTES=1048576"})
	is.NoErr(err)
	is.Equal(lobby.Most(cfg.Memory().Calls), 21)
}

// probesOf opens probes for an address until it may have no more.
func probesOf(t testing.TB, at, preamble string, headers ...string) (n int) {
	t.Helper()
	for {
		conn := dialAs(t, at, preamble+rawRequest("/v1/doctor?every=0&for=1m", headers...))
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != http.StatusOK {
			return n
		}
		n++
	}
}

// Behind a trusted proxy each client is an address of its own, by X-Forwarded-For and by
// either version of the PROXY protocol. Of anybody else neither is believed.
func TestClientsOfAProxy(t *testing.T) {
	for name, preamble := range map[string]func(string) string{"v1": proxyV1, "v2": proxyV2} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			at := strings.TrimPrefix(startHub(t, "REALTIME_TRUSTED_PROXIES=127.0.0.0/8"), "http://")
			is.Equal(probesOf(t, at, preamble("203.0.113.7")), maxOwnProbes)
			is.Equal(probesOf(t, at, preamble("203.0.113.7")), 0)
			is.Equal(probesOf(t, at, preamble("2001:db8::7")), maxOwnProbes)
			is.Equal(probesOf(t, at, preamble("2001:db8::8")), 0)                                               // of the same network
			is.Equal(probesOf(t, at, preamble("203.0.113.9"), "X-Forwarded-For", "203.0.113.10"), maxOwnProbes) // it is no proxy's
			is.Equal(probesOf(t, at, preamble("203.0.113.9"), "X-Forwarded-For", "203.0.113.11"), 0)
		})
	}
	t.Run("X-Forwarded-For", func(t *testing.T) {
		is := is.New(t)
		at := strings.TrimPrefix(startHub(t, "REALTIME_TRUSTED_PROXIES=127.0.0.1,10.0.0.0/8"), "http://")
		is.Equal(probesOf(t, at, "", "X-Forwarded-For", "203.0.113.7"), maxOwnProbes)
		is.Equal(probesOf(t, at, "", "X-Forwarded-For", "198.51.100.1, 203.0.113.7"), 0) // which it says itself
		is.Equal(probesOf(t, at, "", "X-Forwarded-For", "203.0.113.7, 10.0.0.1"), 0)     // by way of another proxy
		is.Equal(probesOf(t, at, "", "X-Forwarded-For", "203.0.113.8"), maxOwnProbes)
		is.Equal(probesOf(t, at, ""), maxOwnProbes) // the proxy itself
	})
	t.Run("untrusted", func(t *testing.T) {
		is := is.New(t)
		at := strings.TrimPrefix(startHub(t, "REALTIME_TRUSTED_PROXIES=10.0.0.0/8"), "http://")
		is.Equal(probesOf(t, at, "", "X-Forwarded-For", "203.0.113.7"), maxOwnProbes)
		is.Equal(probesOf(t, at, "", "X-Forwarded-For", "203.0.113.8"), 0)
		for _, preamble := range []string{proxyV1("203.0.113.9"), proxyV2("203.0.113.9")} {
			conn := dialAs(t, at, preamble+rawRequest("/healthz"))
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			is.True(err != nil || res.StatusCode == http.StatusBadRequest) // it is no HTTP
		}
	})
}

// A proxy may connect, and ask for itself, with or without a header that says so.
func TestAProxyItself(t *testing.T) {
	is := is.New(t)
	at := strings.TrimPrefix(startHub(t, "REALTIME_TRUSTED_PROXIES=127.0.0.1", "REALTIME_MAX_CONNECTIONS_PER_ADDRESS=2"), "http://")
	for _, preamble := range []string{"", "PROXY UNKNOWN\r\n", "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"} {
		for range 4 {
			conn := dialAs(t, at, preamble+rawRequest("/healthz"))
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			is.NoErr(err)
			is.Equal(res.StatusCode, http.StatusOK)
		}
	}
	conn := dialAs(t, at, "PROXY TCP4 nonsense\r\n"+rawRequest("/healthz"))
	_, err := http.ReadResponse(bufio.NewReader(conn), nil)
	is.True(err != nil)
}

// Of what a proxy passes on each client may have so many files that it does not read; it
// is told so, and others have theirs.
func TestFilesThroughAProxy(t *testing.T) {
	is := is.New(t)
	at := strings.TrimPrefix(startHub(t, "REALTIME_TRUSTED_PROXIES=127.0.0.1", "REALTIME_MAX_CONNECTIONS_PER_ADDRESS=2"), "http://")
	pass := func(client, path string) *http.Response {
		// Together more than the kernel takes.
		conn := dialAs(t, at, strings.Repeat(rawRequest(path, "X-Forwarded-For", client), pipelined))
		res, err := http.ReadResponse(bufio.NewReaderSize(conn, 16), nil)
		is.NoErr(err)
		return res
	}
	var refused *http.Response
	eventually(t, func() bool { // once two are stuck
		refused = pass("203.0.113.7", "/openapi.yaml")
		return refused.StatusCode != http.StatusOK
	})
	is.Equal(refused.StatusCode, http.StatusTooManyRequests)
	is.Equal(refused.Header.Get("Retry-After"), "1")
	var problem struct{ Code string }
	is.NoErr(json.NewDecoder(refused.Body).Decode(&problem))
	is.Equal(problem.Code, "TooManyConnections")
	for client, path := range map[string]string{"203.0.113.8": "/openapi.yaml", "203.0.113.7": "/v1/stream?tenant=acme&profile=me"} {
		is.Equal(pass(client, path).StatusCode, http.StatusOK)
	}
}

// crowd asks for a file in the name of an address that has as many as it may.
func (s *stage) crowd(o *contracttest.Operation) {
	const client = "203.0.113.7"
	if s.crowded == "" {
		s.crowded = startHub(s.whole, "REALTIME_TRUSTED_PROXIES=127.0.0.1", "REALTIME_MAX_CONNECTIONS_PER_ADDRESS=1")
	}
	fill := func() { // who reads nothing is cut after a while, and takes no place then
		dialAs(s.whole, strings.TrimPrefix(s.crowded, "http://"), strings.Repeat(rawRequest("/openapi.yaml", "X-Forwarded-For", client), pipelined))
	}
	filled := time.Time{}
	method, path, _ := o.Sample("", nil)
	asked := &http.Client{Transport: s.contract.Transport(http.DefaultTransport, func(err error) { s.t.Errorf("not in openapi.yaml: %v", err) })}
	eventually(s.t, func() bool {
		if time.Since(filled) > 5*time.Second {
			fill()
			filled = time.Now()
		}
		req, err := http.NewRequestWithContext(s.t.Context(), method, s.crowded+path, nil)
		if err != nil {
			s.t.Fatal(err)
		}
		req.Header.Set("X-Forwarded-For", client)
		res, err := asked.Do(req)
		if err != nil {
			s.t.Fatal(err)
		}
		defer res.Body.Close()
		io.Copy(io.Discard, res.Body)
		return res.StatusCode == http.StatusTooManyRequests
	})
}

// With HTTP/2 one connection asks for many files and lets none come: past the bound they
// are reset, without an answer that would wait as well. A good token changes nothing.
func TestUnreadFilesOverHTTP2(t *testing.T) {
	const most, asked = 5, 40
	for name, token := range map[string]string{"stranger": "", "person": bearer(t)} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			at := strings.TrimPrefix(startHub(t, "REALTIME_JWT_SECRET="+testSecret, "REALTIME_TRUSTED_PROXIES=127.0.0.1", fmt.Sprintf("REALTIME_MAX_CONNECTIONS_PER_ADDRESS=%d", most)), "http://")
			f := dialFramed(t, at, proxyV2("203.0.113.7"), 0)
			next := func() byte {
				kind, _, _ := f.next()
				return kind
			}
			if token != "" {
				f.ask("/v1/stream", token)
				for next() != headersFrame {
				}
			}
			for range asked {
				f.ask("/openapi.yaml", token)
			}
			answered, resets := 0, 0
			for answered+resets < asked {
				switch next() {
				case headersFrame:
					answered++
				case resetFrame:
					resets++
				}
			}
			is.Equal(answered, most)
			is.Equal(resets, asked-most)
		})
	}
}

// fileTime is how long a file may take to be read.
const fileTime = 30 * time.Second

// Who does not read a file has a time for it; who reads slowly gets all of it.
func TestAFileHasATimeToBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		listener := newPipes()
		server := serve.NewServer(web.Page("openapi.yaml", slog.New(slog.DiscardHandler)), nil, log.New(io.Discard, "", 0))
		go server.Serve(listener)
		defer server.Close()
		ours, theirs := net.Pipe() // which holds nothing: whoever writes waits for its reader
		defer ours.Close()
		listener.conns <- theirs
		answers := bufio.NewReader(ours)
		read := func(after time.Duration) error {
			_, err := io.WriteString(ours, rawRequest("/openapi.yaml"))
			is.NoErr(err)
			time.Sleep(after)
			synctest.Wait()
			res, err := http.ReadResponse(answers, nil)
			if err == nil {
				_, err = io.Copy(io.Discard, res.Body)
			}
			return err
		}
		is.NoErr(read(fileTime - time.Second))
		is.NoErr(read(fileTime - time.Second)) // the time of the one before is not this one's
		is.True(read(fileTime+time.Second) != nil)
	})
}

// With HTTP/2 it is the file's, not the connection's.
func TestAFileHasATimeToBeReadOverHTTP2(t *testing.T) {
	eachTransport(t, func(t *testing.T, secure, http2 bool) {
		if !http2 {
			return
		}
		is := is.New(t)
		h := newSilentHub(t, secure, http2)
		defer h.end()
		h.client.Transport.(*http.Transport).HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 16 << 10}
		read := func(after time.Duration) error {
			res, err := h.client.Get(h.url + "/openapi.yaml")
			is.NoErr(err)
			defer res.Body.Close()
			time.Sleep(after)
			synctest.Wait()
			_, err = io.Copy(io.Discard, res.Body)
			return err
		}
		is.NoErr(read(fileTime - time.Second))
		is.True(read(fileTime+time.Second) != nil)
		is.NoErr(read(0))
	})
}

// A file that is there already is not sent again.
func TestFilesAreNotSentTwice(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	for _, path := range []string{"/", "/realtime.js", "/realtime.d.ts", "/openapi.yaml", "/asyncapi.yaml"} {
		first := ask(h.Handler, "GET", path, "")
		is.Equal(first.Code, http.StatusOK)
		is.Equal(first.Header().Get("Content-Length"), fmt.Sprint(first.Body.Len()))
		tag := first.Header().Get("ETag")
		is.True(len(tag) > 10)
		for _, known := range []string{tag, `"other", W/` + tag} {
			again := ask(h.Handler, "GET", path, "", "If-None-Match", known)
			is.Equal(again.Code, http.StatusNotModified)
			is.Equal(again.Body.Len(), 0)
			is.Equal(again.Header().Get("ETag"), tag)
		}
		is.True(bytes.Equal(ask(h.Handler, "GET", path, "", "If-None-Match", `"other"`).Body.Bytes(), first.Body.Bytes()))
		head := ask(h.Handler, "HEAD", path, "")
		is.Equal(head.Body.Len(), 0)
		is.Equal(head.Header().Get("Content-Length"), first.Header().Get("Content-Length"))
		is.Equal(head.Header().Get("Content-Type"), first.Header().Get("Content-Type"))
	}
}

// paidFor is what people and services pay for connections and calls, but for the
// question's own; url's hub takes a key of all tenants.
func paidFor(t testing.TB, url string) (bytes float64) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), "GET", url+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-Key", "a-key-of-all-tenants")
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		fmt.Sscanf(lines.Text(), `realtime_quota_bytes{quota="person"} %g`, &bytes)
	}
	return bytes - access.SocketBytes
}

// With HTTP/2 a call is paid for as well, while it lasts.
func TestCallsBesideOthersArePaidFor(t *testing.T) {
	is := is.New(t)
	url := startHub(t, "REALTIME_API_KEYS=acme=a-key-of-acme-alone,*=a-key-of-all-tenants")
	at := strings.TrimPrefix(url, "http://")
	transport := hubtest.TransportTo(false, true, nil, func(context.Context, string, string) (net.Conn, error) { return dialAs(t, at, ""), nil })
	defer transport.CloseIdleConnections()
	taken := func() float64 { return paidFor(t, url) }
	var sending []*io.PipeWriter
	for i := range 3 {
		body, send := io.Pipe()
		sending = append(sending, send)
		req, err := http.NewRequest("POST", url+"/v1/tenants/acme/events", body)
		is.NoErr(err)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-API-Key", "a-key-of-acme-alone")
		go func() {
			if res, err := transport.RoundTrip(req); err == nil {
				res.Body.Close()
			}
		}()
		eventually(t, func() bool { return taken() == float64(access.SocketBytes+(i+1)*access.CallBytes) })
	}
	for _, send := range sending {
		send.Close()
	}
	eventually(t, func() bool { return taken() == access.SocketBytes })
	transport.CloseIdleConnections()
	eventually(t, func() bool { return taken() == 0 })
}

// A profile pays for the connections that its tokens let out of the lobby, as long as it
// can; then they stay in it.
func TestConnectionsArePaidFor(t *testing.T) {
	is := is.New(t)
	url := startHub(t, "REALTIME_JWT_SECRET="+testSecret, "REALTIME_API_KEYS=*=a-key-of-all-tenants", "REALTIME_STATE_BYTES=1048576") // an eighth is 8 connections' worth
	at := strings.TrimPrefix(url, "http://")
	taken := func() (bytes, lobby float64) {
		client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
		req, err := http.NewRequestWithContext(context.Background(), "GET", url+"/metrics", nil)
		is.NoErr(err)
		req.Header.Set("X-API-Key", "a-key-of-all-tenants")
		res, err := client.Do(req)
		is.NoErr(err)
		defer res.Body.Close()
		for lines := bufio.NewScanner(res.Body); lines.Scan(); {
			fmt.Sscanf(lines.Text(), `realtime_quota_bytes{quota="person"} %g`, &bytes)
			fmt.Sscanf(lines.Text(), `realtime_unproven_open %g`, &lobby)
		}
		return bytes, lobby
	}
	var conns []net.Conn
	for range 12 {
		conn := dialAs(t, at, rawRequest("/v1/presence?profile=user:1", "Authorization", bearer(t)))
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		is.NoErr(err)
		is.Equal(res.StatusCode, http.StatusOK)
		conns = append(conns, conn)
	}
	bytes, lobby := taken()
	t.Logf("%v bytes, %v in the lobby", bytes, lobby)
	is.True(bytes >= 6*access.SocketBytes && bytes <= 9*access.SocketBytes) // and the scrape's own
	is.True(lobby >= 4)
	for _, conn := range conns {
		conn.Close()
	}
	eventually(t, func() bool { bytes, lobby := taken(); return bytes <= access.SocketBytes && lobby == 0 })
}

// However many people a tenant has, their connections leave the state of others alone.
func TestATenantPaysForItsPeoplesConnections(t *testing.T) {
	is := is.New(t)
	url := startHub(t, "REALTIME_JWT_SECRET="+testSecret, "REALTIME_API_KEYS=*=a-key-of-all-tenants", "REALTIME_STATE_BYTES=1048576")
	at := strings.TrimPrefix(url, "http://")
	for i := range 60 {
		conn := dialAs(t, at, rawRequest("/v1/presence?profile=user:1", "Authorization", bearer(t, "sub", fmt.Sprint("user:", i))))
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		is.NoErr(err)
		is.Equal(res.StatusCode, http.StatusOK)
	}
	const state = 1 << 20 / 4 * 3
	is.True(paidFor(t, url) <= state/2) // as much as it leaves to others
}
