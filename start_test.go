package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

// In open mode only pages of this machine may call, whatever is listed: the log says so
// once, and names the variable.
func TestOpenModeTellsOfOriginsItRefuses(t *testing.T) {
	for origins, warned := range map[string]bool{
		"http://localhost:3000,http://[::1]:3000": false, "http://localhost:3000,https://app.example.com": true, "*": true, "": false,
	} {
		t.Run(origins, func(t *testing.T) {
			is := is.New(t)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var logs syncBuffer
			err := run(ctx, []string{"REALTIME_ADDR=127.0.0.1:0", "REALTIME_DRAIN=0", "REALTIME_CORS_ORIGINS=" + origins}, &logs, func(net.Addr) { stop() })
			is.NoErr(err)
			is.Equal(strings.Count(logs.String(), "variable=REALTIME_CORS_ORIGINS"), map[bool]int{true: 1}[warned])
		})
	}
}

func TestAnUnknownCommandIsNamed(t *testing.T) {
	is := is.New(t)
	stdout, stderr, code := program(t, "bogus")
	is.Equal(code, 2)
	is.Equal(stdout, "")
	is.True(strings.HasPrefix(stderr, "realtimehub: unknown command \"bogus\"\n\nUsage:"))
}

// Who is told that something is wrong is told of which setting, and what to do.
func TestAStartThatFailsSaysWhatToDo(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	missing := filepath.Join(t.TempDir(), "missing")
	for _, test := range []struct{ settings, says string }{
		{"REALTIME_ADDR=" + taken.Addr().String(), "REALTIME_ADDR: * another program uses this port"},
		{"REALTIME_ADDR=127.0.0.1:0 REALTIME_ADMIN_ADDR=" + taken.Addr().String(), "REALTIME_ADMIN_ADDR: * another program uses this port"},
		{"REALTIME_NATS_URL=nats://127.0.0.1:1 REALTIME_NATS_CREDS=" + missing, "REALTIME_NATS_CREDS: open *: no such file"},
		{"REALTIME_JWT_PUBLIC_KEY=" + missing, "REALTIME_JWT_PUBLIC_KEY is neither a PEM block nor a file that can be read: no such file"},
		{"REALTIME_JWKS_URL=login.example.com", "REALTIME_JWKS_URL is not a URL such as https://"},
		{"REALTIME_MEMBERSHIP_URL=https://example.com/?a=b", "REALTIME_MEMBERSHIP_URL has a query; the hub adds its own"},
		{"REALTIME_MEMORY_BUDGET=1G", "REALTIME_MEMORY_BUDGET is not a valid whole number such as 1048576, without a unit"},
		{"REALTIME_PRESENCE_TICK=0", "REALTIME_PRESENCE_TICK is 0, which is too short: 1s is usual"},
		{"REALTIME_API_KEYS=acme REALTIME_CORS_ORIGINS=ftp,https://*", "REALTIME_API_KEYS is not a list *\nREALTIME_CORS_ORIGINS is not valid: entry 1 is not an origin such as https://app.example.com, which has no path\nREALTIME_CORS_ORIGINS is not valid: entry 2"}, // each line of its own
		{"REALTIME_HEARTBEAT=-1s", "REALTIME_HEARTBEAT is -1s, and must not be negative"},
	} {
		t.Run(test.says, func(t *testing.T) {
			is := is.New(t)
			err := run(t.Context(), strings.Fields(test.settings), io.Discard, nil)
			is.True(err != nil)
			before, after, _ := strings.Cut(test.says, "*")
			is.True(strings.HasPrefix(err.Error(), before))
			is.True(strings.Contains(err.Error(), after))
		})
	}
}

// Whoever starts a hub that waits for others is told so, and for how long. A hub alone does not wait,
// and says where its folder is.
func TestAStartSaysThatItWaits(t *testing.T) {
	is := is.New(t)
	const says = `level=INFO msg="waiting for the store, which takes some seconds where other hubs start as well" atMost=1m0s`
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var logs syncBuffer
	ended := make(chan error, 1)
	own := fmt.Sprint("127.0.0.1:", natstest.FreePort(t))
	go func() {
		ended <- run(ctx, []string{"REALTIME_DATA=" + t.TempDir(), "REALTIME_PEERS_ADDR=" + own, "REALTIME_PEERS=127.0.0.1:1,127.0.0.1:2," + own}, &logs, nil)
	}()
	testkit.Eventually(t, func() bool { return strings.Contains(logs.String(), says) })
	stop()
	err := <-ended
	is.True(err != nil && strings.HasPrefix(err.Error(), "REALTIME_PEERS: ")) // whom it has waited for

	ctx, stop = context.WithCancel(t.Context())
	defer stop()
	var alone syncBuffer
	t.Chdir(t.TempDir())
	is.NoErr(run(ctx, []string{"REALTIME_ADDR=127.0.0.1:0", "REALTIME_DATA=data"}, &alone, func(net.Addr) { stop() }))
	is.True(!strings.Contains(alone.String(), "waiting for the store"))
	folder, err := filepath.Abs("data")
	is.NoErr(err)
	is.True(strings.Contains(alone.String(), `msg="histories, event ids and memberships are kept in a folder" folder=`+folder)) // whichever folder the hub was started in
}

// An address of the broker may hold a password, which is not repeated.
func TestAStartThatFailsRepeatsNoSecret(t *testing.T) {
	is := is.New(t)
	err := run(t.Context(), []string{"REALTIME_NATS_URL=nats://user:secret@%zz"}, io.Discard, nil)
	is.True(err != nil && strings.Contains(err.Error(), "REALTIME_NATS_URL") && !strings.Contains(err.Error(), "secret"))
}

func TestAHubThatIsAwayIsNotHealthy(t *testing.T) {
	is := is.New(t)
	stdout, stderr, code := program(t, "-health", "REALTIME_ADDR=127.0.0.1:1")
	is.Equal(code, 1)
	is.Equal(stdout, "")
	is.True(strings.HasPrefix(stderr, "realtimehub: not healthy: ") && strings.Contains(stderr, "127.0.0.1:1")) // who looks at a container's health reads why
}

// As the program is started: ids have a quarter of the memory for state, and one tenant's
// many do not cost another's.
func TestIDsHaveAPartOfTheState(t *testing.T) {
	is := is.New(t)
	ctx, stop := context.WithCancel(t.Context())
	listening, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"REALTIME_ADDR=127.0.0.1:0", "REALTIME_STATE_BYTES=89600"}, io.Discard, func(a net.Addr) { listening <- "http://" + a.String() })
	}()
	url := <-listening
	client := &http.Client{Transport: &http.Transport{}}
	publish := func(tenant string, ids ...string) (duplicates int) {
		var events []string
		for _, id := range ids {
			events = append(events, `{"id":"`+id+`","tenantId":"`+tenant+`","type":"a.b","payload":1,"target":{"kind":"tenant"}}`)
		}
		res, err := client.Post(url+"/v1/events/batch", "application/json", strings.NewReader(`{"events":[`+strings.Join(events, ",")+`]}`))
		is.NoErr(err)
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		is.NoErr(err)
		is.Equal(res.StatusCode, http.StatusAccepted)
		return strings.Count(string(body), `"duplicate":true`)
	}
	many := make([]string, 500)
	for i := range many {
		many[i] = fmt.Sprint("order-", i)
	}
	is.Equal(publish("small", "order-17-paid"), 0)
	is.Equal(publish("large", many...), 0)
	is.Equal(publish("small", "order-17-paid"), 1)    // it was delivered
	is.Equal(publish("large", many[400:]...), 100)    // what came last is known
	is.Equal(publish("large", many[0], many[100]), 0) // what came first had to go
	res, err := client.Get(url + "/metrics")
	is.NoErr(err)
	metrics, err := io.ReadAll(res.Body)
	is.NoErr(err)
	res.Body.Close()
	for _, line := range []string{"realtime_dedupe_ids 200", "realtime_dedupe_ids_lost_total 303", `realtime_quota_limit_bytes{quota="ids"} 22400`, `realtime_quota_limit_bytes{quota="state"} 67200`} {
		is.True(strings.Contains(string(metrics), line+"\n"))
	}
	client.CloseIdleConnections()
	stop()
	is.NoErr(<-ended)
}
