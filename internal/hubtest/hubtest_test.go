package hubtest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/matryer/is"
)

func TestMain(m *testing.M) { Main(m) }

// A program is started with its settings, is talked to, and ends well.
func TestProgram(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			is := is.New(t)
			p := Start(t, "REALTIME_LOG_FORMAT="+format, "REALTIME_PRESENCE_AUDIENCE=none")
			s := p.Open(t, "tenant=acme&profile=me")
			p.Publish(t, "acme", "a.b", `{"kind":"tenant"}`, "1")
			is.Equal(p.Payloads(t, "acme", s), []string{"1"})
			is.Equal(p.Metric(t, "realtime_streams_open"), 1.0)
			s.Close()
			is.Equal(p.Stop().ExitCode(), 0)
			is.True(strings.Contains(p.Logs.String(), "listening"))
		})
	}
}

func TestReadMetrics(t *testing.T) {
	is := is.New(t)
	got, err := ReadMetrics(strings.NewReader("# HELP a b\na 1\nb{c=\"d e\"} 2.5\n"))
	is.NoErr(err)
	is.Equal(got, Metrics{"a": 1, `b{c="d e"}`: 2.5})
	_, err = ReadMetrics(strings.NewReader("a b\n"))
	is.True(err != nil)
}

// What was not confirmed is sent again under the ids that the hub gave it.
func TestAccepted(t *testing.T) {
	for sent, tc := range map[string]struct{ answer, again string }{
		`{"payload":9007199254740993}`:             {`{"code":"Unconfirmed","id":"x"}`, `{"id":"x","payload":9007199254740993}`},
		`{"events":[{"payload":1}]}`:               {`{"code":"Unconfirmed","id":"x"}`, `{"events":[{"id":"x","payload":1}]}`},
		`{"events":[{"payload":1},{"payload":2}]}`: {`{"code":"Unconfirmed","ids":["x","y"]}`, `{"events":[{"id":"x","payload":1},{"id":"y","payload":2}]}`},
	} {
		is := is.New(t)
		var bodies []string
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			bodies = append(bodies, string(body))
			w.Header().Set("Content-Type", "application/json")
			if len(bodies) == 1 {
				w.WriteHeader(http.StatusServiceUnavailable)
				io.WriteString(w, tc.answer)
			} else {
				w.WriteHeader(http.StatusAccepted)
			}
		}))
		(&Hub{URL: server.URL, Client: server.Client()}).Accepted(t, "/v1/events", sent)
		server.Close()
		is.Equal(bodies, []string{sent, tc.again})
	}
}

// What a hub could not learn in time is asked again, and nothing that it refuses.
func TestAnswered(t *testing.T) {
	for code, times := range map[string]int{"HubUnavailable": 2, "BrokerUnavailable": 2, "Unconfirmed": 2, "Draining": 1, "NotFound": 1} {
		t.Run(code, func(t *testing.T) {
			asked := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				if asked++; asked == 1 {
					io.WriteString(w, `{"code":"`+code+`"}`)
				}
			}))
			t.Cleanup(server.Close)
			(&Hub{URL: server.URL, Client: server.Client()}).Answered(t, "GET", "/", "")
			is.New(t).Equal(asked, times)
		})
	}
}

// reports is a test that goes on when it has failed.
type reports struct {
	testing.TB
	faults int
}

func (r *reports) Errorf(string, ...any) { r.faults++ }

// A hub that has failed fails the test, whoever ends it afterwards.
func TestAHubThatFailedIsNoticed(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // which has neither the script nor SIGTERM
	}
	for name, tc := range map[string]struct {
		script string
		end    func(*Program)
		faults int
	}{
		"before it is killed":  {"echo $listening; exit 2", func(p *Program) { <-p.ended; p.Kill() }, 1},
		"before it is stopped": {"echo $listening; exit 2", func(p *Program) { <-p.ended; p.Stop() }, 1},
		"before the test ends": {"echo $listening; exit 2", func(p *Program) { <-p.ended }, 1},
		"as it is stopped":     {"sleep 60 2>&- & trap 'kill $!; exit 2' TERM; echo $listening; wait", func(p *Program) { p.Stop() }, 1},
		"as it was to":         {"echo $listening; exit 1", func(p *Program) { p.Wait() }, 0},
		"not: it is killed":    {"echo $listening; exec sleep 600", func(p *Program) { p.Kill() }, 0},
		"not: it is stopped":   {"sleep 60 2>&- & trap 'kill $!; exit 0' TERM; echo $listening; wait", func(p *Program) { p.Stop() }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			script := filepath.Join(t.TempDir(), "hub")
			is.New(t).NoErr(os.WriteFile(script, []byte("#!/bin/sh\nexec >&2\nlistening='msg=listening url=http://127.0.0.1:1'\n"+tc.script+"\n"), 0o755))
			r := &reports{TB: t}
			p := StartBinary(r, script)
			tc.end(p)
			p.cleanup(r)
			is.New(t).Equal(r.faults, tc.faults)
		})
	}
}

// What is not in the contract fails a test, whichever way it is seen.
func TestTrafficIsChecked(t *testing.T) {
	is := is.New(t)
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusTeapot)
	}))
	defer hub.Close()
	get := func(client *http.Client, url string) {
		res, err := client.Get(url + "/healthz")
		is.NoErr(err)
		res.Body.Close()
		is.Equal(res.StatusCode, http.StatusTeapot)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	far, near, events := &reports{TB: t}, &reports{TB: t}, &reports{TB: t}
	get(CheckedClient(far, transport), hub.URL)
	is.Equal(far.faults, 1)
	front := CheckedFront(near, hub.URL)
	get(&http.Client{Transport: transport}, front.URL)
	front.Close() // which waits for the last look
	is.Equal(near.faults, 1)
	_, err := NewReader(events, strings.NewReader("event: hub.ready\ndata: {}\n\n")).Next()
	is.NoErr(err)
	is.Equal(events.faults, 1)
}
