package process

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
)

// Every reader of a broadcast is left, however many there are: what all owe is one
// event. The budget is that of a container of 128 MiB, and less than the event's bytes
// times its readers.
func TestABroadcastCutsNobodyWhoReads(t *testing.T) {
	is := is.New(t)
	var files syscall.Rlimit
	is.NoErr(syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files))
	readers := int(min(2400, (files.Cur-200)/3))
	const budget, size = 32 << 20, 20_000
	is.True(readers*size > budget) // or the test would show nothing
	p := startProgram(t, fmt.Sprint("REALTIME_MEMORY_BUDGET=", budget))

	all := make([]*bareStream, readers)
	for i := range all {
		conn, err := net.Dial("tcp", p.Addr)
		is.NoErr(err)
		defer conn.Close()
		fmt.Fprintf(conn, "GET /v1/stream?tenant=acme&profile=user:%d HTTP/1.1\r\nHost: %s\r\n\r\n", i, p.Addr)
		all[i] = &bareStream{Conn: conn}
		all[i].until(t, "event: hub.ready\n", "hub.closing")
	}
	client := hubtest.CheckedClient(t, &http.Transport{DisableKeepAlives: true})
	publish := func(data string) {
		t.Helper()
		res, err := client.Post("http://"+p.Addr+"/v1/tenants/acme/events", "application/json", strings.NewReader(fmt.Sprintf(`{"type":"a.b","payload":%q}`, data)))
		is.NoErr(err)
		res.Body.Close()
		is.Equal(res.StatusCode, http.StatusAccepted)
	}
	publish(strings.Repeat("x", size) + "first")
	for _, l := range all {
		l.until(t, "xfirst", "hub.closing")
	}
	publish("second")
	for _, l := range all {
		l.until(t, "second", "hub.closing") // each is still open
	}
	for _, l := range all {
		l.Close()
	}
	is.Equal(p.Stop().ExitCode(), 0)
	is.True(!strings.Contains(p.Logs.String(), "slow")) // nobody was relieved
}

// What the budget costs those who do not read is told by number, and not a line a
// stream; who reads is none of them.
func TestReliefIsToldByNumber(t *testing.T) {
	is := is.New(t)
	const budget, stalled, size = 8 << 20, 40, 60_000
	p := startProgram(t, fmt.Sprint("REALTIME_MEMORY_BUDGET=", budget), "REALTIME_STREAM_BUFFER=0")
	open := func(profile string) *bareStream {
		conn, err := net.Dial("tcp", p.Addr)
		is.NoErr(err)
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(conn, "GET /v1/stream?tenant=acme&profile=%s HTTP/1.1\r\nHost: %s\r\n\r\n", profile, p.Addr)
		s := &bareStream{Conn: conn}
		s.until(t, "event: hub.ready\n", "hub.closing")
		return s
	}
	reader := open("reader")
	client := hubtest.CheckedClient(t, &http.Transport{DisableKeepAlives: true})
	var lines strings.Builder // an event of its own for each
	for i := range stalled {
		fmt.Fprintf(&lines, `{"tenantId":"acme","type":"a.b","payload":"%s","target":{"kind":"profile","profiles":["stalled:%d"]}}`+"\n", strings.Repeat("x", size), i)
	}
	var all []*bareStream
	tries := 0
	for ; !strings.Contains(p.Logs.String(), "memory budget"); tries++ {
		is.True(tries < 5) // a machine is not so slow each time that they end before, as they take nothing for 12 s
		for i := range stalled {
			all = append(all, open(fmt.Sprint("stalled:", i)))
		}
		for n := range 12 {
			mark := fmt.Sprintf("mark-%d-%d.", tries, n)
			last := fmt.Sprintf(`{"tenantId":"acme","type":"a.b","payload":%q,"target":{"kind":"profile","profiles":["reader"]}}`, mark)
			res, err := client.Post("http://"+p.Addr+"/v1/events", "application/x-ndjson", strings.NewReader(lines.String()+last+"\n"))
			is.NoErr(err)
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			reader.until(t, mark, "hub.closing")
		}
	}
	for _, s := range all {
		s.Close()
	}
	reader.Close()
	is.Equal(p.Stop().ExitCode(), 0)
	logs := p.Logs.String()
	is.True(strings.Contains(logs, "memory budget"))
	is.True(strings.Contains(logs, "budget=8388608"))
	is.True(strings.Contains(logs, `msg="streams cut" reason=slow streams=`))
	is.True(strings.Count(logs, "level=WARN") < tries*stalled/2) // not a line a stream
	is.True(!strings.Contains(logs, "tenant=acme"))
}
