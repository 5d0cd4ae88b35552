package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
)

// An event reaches a client when it is sent, and not with the next one: also one that
// reads so many bytes at a time of a body without chunks, as python-requests does. There
// are no heartbeats here, which would bring it sooner or later.
func TestEventsComeAtOnceToFixedReads(t *testing.T) {
	t.Parallel()
	cert, key := writeCertificate(t, t.TempDir(), "first")
	plain := serve(t, "REALTIME_HEARTBEAT=0")
	secure := strings.Replace(serve(t, "REALTIME_HEARTBEAT=0", "REALTIME_TLS_CERT="+cert, "REALTIME_TLS_KEY="+key), "http:", "https:", 1)
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
		lacks(t, "there is no python3-requests")
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
