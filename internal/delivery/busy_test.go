package delivery

import (
	"bufio"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/sse"
	"realtimehub/internal/tcp"
	"realtimehub/internal/testkit"
)

// Who waits for a tenant that is busy, to forget it, keeps nobody from another.
func TestABusyTenantKeepsNobodyFromOthers(t *testing.T) {
	is := is.New(t)
	h := newRig(t)
	for _, name := range []string{"acme", "well"} {
		is.NoErr(h.Members.SetMembers(t.Context(), name, event.Room{Kind: event.KindGroup, ID: "g"}, []event.Profile{{Type: "user", ID: "1"}}))
	}
	busy := h.Tenants.find("acme")
	forgotten := make(chan struct{})
	go func() {
		h.Tenants.forget("acme")
		close(forgotten)
	}()
	testkit.Eventually(t, func() bool { return testkit.WaitsIn(".(*Tenants).forget(") })
	free := h.Tenants.mu.TryRLock()
	if free {
		h.Tenants.mu.RUnlock()
	}
	busy.mu.Unlock()
	<-forgotten
	is.True(free)                      // others are found meanwhile
	h.Tenants.find("acme").mu.Unlock() // it is needed still
	h.Tenants.find("well").mu.Unlock()
}

// Whoever writes streams does not wait for a busy tenant whose clients leave.
func TestABusyTenantKeepsNobodyFromBeingWritten(t *testing.T) {
	is := is.New(t)
	h := newRig(t, func(cfg *Config) { cfg.Plain = false })
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := h.Streams.Connect(r.Context(), Subscription{Encoding: sse.Encoding{}, Tenant: r.FormValue("tenant"), Profile: user(r.FormValue("user"))})
		if err != nil {
			t.Error(err)
			return
		}
		sse.Header(w.Header())
		h.Streams.Engine().Serve(w, r, c.Stream)
	}))
	server.Config.ConnContext = tcp.ConnContext
	server.Start()
	defer server.Close()
	open := func(tenant string, user int) (*http.Response, *bufio.Reader) {
		res, err := http.Get(fmt.Sprintf("%s/?tenant=%s&user=%d", server.URL, tenant, user))
		is.NoErr(err)
		t.Cleanup(func() { res.Body.Close() })
		return res, bufio.NewReader(res.Body)
	}
	var well []*bufio.Reader
	for i := range 16 {
		_, lines := open("well", i)
		well = append(well, lines)
	}
	var acme []*http.Response
	for i := range 16 { // of each writer some
		res, _ := open("acme", i)
		acme = append(acme, res)
	}
	busy := h.Tenants.find("acme")
	for _, res := range acme {
		res.Body.Close()
	}
	testkit.Eventually(t, func() bool { return testkit.WaitsIn(".(*Streams).ended(") })
	defer busy.mu.Unlock()
	h.publish("well", event.ToTenant(), "1", false)
	for _, lines := range well {
		for line := ""; line != "event: a.b\n"; {
			var err error
			line, err = lines.ReadString('\n')
			is.NoErr(err)
		}
	}
}
