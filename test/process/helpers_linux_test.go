package process

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

func TestMain(m *testing.M) {
	testkit.MostlyWaits(5)
	hubtest.Main(m)
}

// startProcess starts the hub as users build it, without the race detector: what it
// costs is looked at.
func startProcess(t *testing.T, settings ...string) *hubtest.Program {
	t.Helper()
	return hubtest.StartPlain(t, append([]string{"REALTIME_PRESENCE_AUDIENCE=none"}, settings...)...)
}

// startProgram starts the hub, with the race detector if the test has it.
func startProgram(t *testing.T, settings ...string) *hubtest.Program {
	t.Helper()
	return hubtest.Start(t, append([]string{"REALTIME_DRAIN=0", "REALTIME_PRESENCE_AUDIENCE=none"}, settings...)...)
}

// bareStream is a stream on a bare socket, which has read up to somewhere.
type bareStream struct {
	net.Conn
	got []byte
}

// until reads until something has come, and fails the test on the stream's end or on
// something that should not have come before it.
func (l *bareStream) until(t testing.TB, want, never string) {
	t.Helper()
	l.SetReadDeadline(time.Now().Add(time.Minute))
	for buf := make([]byte, 32<<10); ; {
		if bytes.Contains(l.got, []byte(never)) {
			t.Fatalf("%q came", never)
		}
		if i := bytes.Index(l.got, []byte(want)); i >= 0 {
			l.got = append([]byte(nil), l.got[i+len(want):]...)
			return
		}
		n, err := l.Read(buf)
		if err != nil {
			t.Fatalf("%v before %q", err, want)
		}
		l.got = append(l.got, buf[:n]...)
	}
}

func openBare(t *testing.T, addr, tenant, profile string) *bareStream {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "GET /v1/stream?tenant=%s&profile=%s HTTP/1.1\r\nHost: %s\r\n\r\n", tenant, profile, addr)
	s := &bareStream{Conn: conn}
	s.until(t, "event: hub.ready\n", "hub.closing")
	return s
}

// twoHubs are two processes that know of each other.
func twoHubs(t *testing.T, settings ...string) (one, two *hubtest.Program) {
	t.Helper()
	settings = append(settings, "REALTIME_NATS_URL="+natstest.Start(t, 1).URL(0))
	one, two = startProcess(t, settings...), startProcess(t, settings...)
	hubtest.Subscribe(t, two.Addr, "there")
	testkit.Eventually(t, func() bool { // until the one knows of the other
		res, err := hubtest.CheckedClient(t, nil).Get("http://" + one.Addr + "/v1/tenants/acme/connections")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		list, _ := io.ReadAll(res.Body)
		return strings.Contains(string(list), "there")
	})
	return one, two
}
