package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/serve"
	"realtimehub/internal/settings"
	"realtimehub/internal/testkit"
)

// overHTTP2 serves a hub as the program does.
func (h *testHub) overHTTP2(t *testing.T) (at string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := serve.NewServer(h.API.Handler(), nil, log.New(io.Discard, "", 0))
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	return listener.Addr().String()
}

// A flood of streams of a tenant takes turns, so that it has another's come in at once; and
// those that are reset before their turn are never opened.
func TestStreamsThatAreResetAreNotOpened(t *testing.T) {
	alone(t, "its requests end before they begin")
	const places, asked = 16, 200
	is := is.New(t)
	h := newTestHub(t)
	h.streams.OpenAtOnce(places)
	is.NoErr(untilConfirmed(func() error {
		return h.members.SetMembers(t.Context(), "acme", event.Room{Kind: event.KindGroup, ID: "g"}, []event.Profile{{Type: "user", ID: "1"}})
	}))
	busy := h.tenants.Find("acme")
	f := dialFramed(t, h.overHTTP2(t), "", 1<<20)
	for range asked {
		f.ask("/v1/stream?tenant=acme&profile=me", "")
	}
	eventually(t, func() bool { return h.streams.Opening.Waiting("acme") == asked-places/2 })
	h.open(t, "tenant=well&profile=me")
	for stream := uint32(1); stream < f.stream; stream += 2 {
		f.write(resetFrame, 0, stream, binary.BigEndian.AppendUint32(nil, 8))
	}
	eventually(t, func() bool { return h.streams.Opening.Waiting("acme") == 0 })
	busy.Mu.Unlock()
	eventually(t, func() bool { return h.streams.Opening.Pool().Total() == 0 })
	opened := int64(0)
	for _, n := range h.Stats().Connects {
		opened += n
	}
	is.Equal(opened, int64(1+places/2))
}

// A request that was reset before its handler began does nothing.
func TestRequestsThatAreResetDoNothing(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	gone, leave := context.WithCancel(t.Context())
	leave()
	r := httptest.NewRequestWithContext(gone, "POST", "http://localhost/v1/events", strings.NewReader(eventJSON("acme", "a.b", `{"kind":"tenant"}`, "1")))
	r.Header.Set("Content-Type", "application/json")
	r.ProtoMajor = 2
	func() {
		defer func() { is.Equal(recover(), http.ErrAbortHandler) }()
		h.API.Handler().ServeHTTP(httptest.NewRecorder(), r)
	}()
	page, _, err := h.History(t.Context(), "acme", "", 10)
	is.NoErr(err)
	is.Equal(len(page.Entries), 0)
}

// The head of a request has so many lines, which take far more memory than they have bytes:
// one that has more is refused, and with HTTP/2 nothing of it stays.
func TestLinesOfAHead(t *testing.T) {
	is := is.New(t)
	const most = 100 // lines
	at := strings.TrimPrefix(startHub(t), "http://")
	for lines, status := range map[int]string{most: "200", most + 1: "431"} {
		var headers []string
		for i := range lines {
			headers = append(headers, fmt.Sprint("a", i%50), "1")
		}
		answer, err := io.ReadAll(dialAs(t, at, rawRequest("/healthz", headers...)+rawRequest("/healthz", "Connection", "close")))
		is.NoErr(err)
		is.Equal(string(answer[len("HTTP/1.1 "):len("HTTP/1.1 200")]), status)
		is.Equal(strings.Count(string(answer), "HTTP/1.1 "), map[string]int{"200": 2, "431": 1}[status])
	}
	f := dialFramed(t, at, "", 1<<20)
	head := append([]byte{0x82, 0x86, 0x04, 8}, "/healthz\x01\x09localhost"...)
	for i := range most + 1 {
		name := fmt.Sprint("a", i)
		head = append(append(append(head, 0, byte(len(name))), name...), 1, '1')
	}
	f.write(headersFrame, 0x4|endStream, 1, head)
	for {
		kind, _, stream := f.next()
		is.True(kind != headersFrame)
		if kind == resetFrame {
			is.Equal(stream, uint32(1))
			break
		}
	}
}

// Whoever counts streams, tells of presence, or ends streams with their tokens does not have
// other tenants wait for one that is busy.
func TestABusyTenantKeepsNobodyFromNews(t *testing.T) {
	alone(t, "its tenants are of one hub")
	is := is.New(t)
	h := newTestHub(t, func(_ *HubConfig, cfg *PresenceConfig) { cfg.Audience = settings.AudienceTenant })
	well := h.open(t, "tenant=well&profile=me")
	var all []*delivery.Connection
	for i := range 8 {
		tenant := fmt.Sprint("acme-", i)
		h.open(t, "profile=me&tenant="+tenant)
		all = append(all, h.streams.Connections(tenant, nil)[0])
		busy := h.tenants.Find(tenant)
		defer busy.Mu.Unlock()
	}
	all = append(all, h.streams.Connections("well", nil)[0])
	for _, c := range all {
		h.Presence.Connected(&delivery.Connection{Tenant: c.Tenant, Profile: event.Profile{Type: "user", ID: "new"}})
	}
	well.until(t, "presence.online")
	is.True(testkit.InTime(func() { is.Equal(len(h.tenants.Busiest(10)), 9) }))
	end := time.Now().Add(100 * time.Millisecond)
	for _, c := range all {
		h.streams.Expiry.Set(c, end)
	}
	well.until(t, "hub.closing")
}
