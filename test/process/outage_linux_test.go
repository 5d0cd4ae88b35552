package process

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
)

// An outage of three seconds, in the middle of which probes are due, ends no stream:
// not one that is idle, nor one that is written to meanwhile.
func TestAnOutageEndsNoStream(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	hub, peers, ip := hubtest.Cabled(t, "198.18.1.1/30", "198.18.1.2/30")
	hubtest.Enter(t, hub)
	p := startProcess(t, "REALTIME_ADDR=198.18.1.1:0", "REALTIME_DANGEROUSLY_OPEN=true", "REALTIME_HEARTBEAT=0")
	publisher, err := net.Dial("tcp", p.Addr)
	is.NoErr(err)
	defer publisher.Close()
	answers := bufio.NewReader(publisher)
	publish := func(kind, to, data string) {
		t.Helper()
		event := fmt.Sprintf(`{"tenantId":"acme","type":"a.b","payload":%q,"target":{"kind":%q%s}}`, data, kind, to)
		fmt.Fprintf(publisher, "POST /v1/events HTTP/1.1\r\nHost: hub\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(event), event)
		res, err := http.ReadResponse(answers, nil)
		is.NoErr(err)
		is.Equal(res.StatusCode, http.StatusAccepted)
		io.Copy(io.Discard, res.Body)
	}
	publish("tenant", "", "first.") // a connection that says nothing at first is closed
	hubtest.Enter(t, peers)
	for outage := mostOutage; outage >= mostOutage; { // a busy machine may be late to end it
		outage = cutOff(t, p.Addr, ip, publish)
	}
}

// mostOutage is what every stream outlives, as TestProbesAreManyAndNotAligned says.
const mostOutage = 4 * time.Second

// cutOff has streams have an outage of three seconds, and checks that none has ended, unless
// the outage took longer than a stream has to outlive.
func cutOff(t *testing.T, addr string, ip func(string), publish func(kind, to, data string)) (outage time.Duration) {
	t.Helper()
	var all []*bareStream
	for i := range 40 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET /v1/stream?tenant=acme&profile=user:%d HTTP/1.1\r\nHost: %s\r\n\r\n", i, addr)
		all = append(all, &bareStream{Conn: conn})
		all[i].until(t, "event: hub.ready\n", "hub.closing")
	}
	publish("tenant", "", "aligned.") // all are idle since now
	for _, s := range all {
		s.until(t, "aligned.", "hub.closing")
	}
	time.Sleep(6500 * time.Millisecond)
	begun := time.Now()
	ip("link set cable down") // before the next probe of most, while others wait for their second
	publish("profile", `,"profiles":["user:0"]`, "meanwhile.")
	time.Sleep(3*time.Second - time.Since(begun))
	ip("link set cable up")
	if outage = time.Since(begun); outage >= mostOutage {
		return outage
	}
	time.Sleep(6500 * time.Millisecond) // who was taken for vanished is gone by now
	publish("tenant", "", "still.")
	for _, s := range all {
		s.until(t, "still.", "hub.closing")
	}
	return outage
}
