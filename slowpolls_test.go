package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/event"
)

// slowAsker asks one thing after the other on a connection, and reads each answer when it likes.
type slowAsker struct {
	net.Conn
	answers *bufio.Reader
}

func (h *silentHub) slowAsker(t *testing.T) slowAsker {
	conn := h.dial(t)
	return slowAsker{conn, bufio.NewReader(conn)}
}

func (a slowAsker) answer(t *testing.T) (status int, body string) {
	t.Helper()
	res, err := http.ReadResponse(a.answers, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

func (a slowAsker) ask(t *testing.T, path string) (status int, body string) {
	t.Helper()
	io.WriteString(a, rawRequest(path))
	return a.answer(t)
}

// publishLarge publishes what takes longer to be read than the 10 s in which a client polls again, if
// it is read slowly.
func (h *silentHub) publishLarge(t *testing.T) {
	t.Helper()
	payload := []byte(`"` + strings.Repeat("x", 300<<10) + `"`)
	me := event.ToProfile(event.Profile{Type: "user", ID: "me"})
	if _, err := h.Publish(t.Context(), []*event.Event{{TenantID: "acme", Type: "a.b", Payload: payload, Target: me}}); err != nil {
		t.Fatal(err)
	}
}

// A SignalR client that polls has 10 s for its next poll once it has read its answer, however long
// that takes.
func TestSignalRPollsThatAreReadSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		h := newSilentHub(t, false, false)
		defer h.end()
		outside := &testHub{Hub: h.Hub, URL: h.url, client: h.client}
		outside.nodes = []*testHub{outside}
		s := outside.negotiate(t, asMe)
		a, path := h.slowAsker(t), "/signalr?"+s.query
		status, _ := a.ask(t, path)
		is.Equal(status, http.StatusOK)
		status, text := a.ask(t, path)
		is.Equal(status, http.StatusOK)
		is.True(strings.Contains(text, "hub.ready"))
		h.publishLarge(t)
		io.WriteString(a, rawRequest(path))
		time.Sleep(25 * time.Second)
		status, text = a.answer(t)
		is.Equal(status, http.StatusOK)
		is.True(strings.Contains(text, `"a.b"`))
		time.Sleep(9 * time.Second)
		status, _ = a.ask(t, path)
		is.Equal(status, http.StatusOK)
		time.Sleep(11 * time.Second)
		status, _ = a.ask(t, path)
		is.Equal(status, http.StatusNotFound)
	})
}

// A client that polls is there until 10 s after it has read its answer, however long that takes.
func TestPollsThatAreReadSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		h := newSilentHub(t, false, false)
		defer h.end()
		a, path := h.slowAsker(t), "/v1/poll?client=one&"+asMe
		_, text := a.ask(t, path)
		_, cursor, _ := strings.Cut(text, `"cursor":"`)
		cursor, _, _ = strings.Cut(cursor, `"`)
		first := h.streams.Connections("acme", nil)
		is.Equal(len(first), 1)
		h.publishLarge(t)
		io.WriteString(a, rawRequest(path+"&cursor="+cursor))
		time.Sleep(25 * time.Second)
		_, text = a.answer(t)
		is.True(strings.Contains(text, `"a.b"`))
		time.Sleep(9 * time.Second)
		is.Equal(h.streams.Connections("acme", nil), first)
		time.Sleep(2 * time.Second)
		is.Equal(len(h.streams.Connections("acme", nil)), 0)
	})
}
