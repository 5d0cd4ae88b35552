//go:build unix

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
)

// authority issues certificates to clients.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (a *authority) issue(t *testing.T) tls.Certificate {
	t.Helper()
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "service"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// runHub runs a hub with settings until the test ends.
func runHub(t *testing.T, logs *syncBuffer, settings ...string) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	listening, done := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		done <- run(ctx, append(settings, "REALTIME_ADDR=127.0.0.1:0", "REALTIME_DRAIN=0", "REALTIME_API_KEYS=acme=a-key-of-acme-000,*=a-key-of-all-00000", "REALTIME_JWT_SECRET="+testSecret), logs, func(a net.Addr) { listening <- a })
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-listening:
	case err := <-done:
		t.Fatal(err)
	}
}

// urls are those that a log says a hub listens at.
func urls(logs *syncBuffer) (all []string) {
	for line := range strings.Lines(logs.String()) {
		if _, url, ok := strings.Cut(strings.TrimSpace(line), " url="); ok && strings.Contains(line, "msg=listening") || strings.Contains(line, `msg="listening for`) {
			all = append(all, url)
		}
	}
	return all
}

// With an address of its own, what shows or changes a tenant and what shows the process
// is not to be found where browsers call; all else is at both.
func TestAdministrationHasADoorOfItsOwn(t *testing.T) {
	is := is.New(t)
	var logs syncBuffer
	runHub(t, &logs, "REALTIME_ADMIN_ADDR=127.0.0.1:0")
	at := urls(&logs)
	is.Equal(len(at), 2)
	client := hubtest.CheckedClient(t, &http.Transport{})
	defer client.CloseIdleConnections()
	ask := func(url, method, path, key, body string) int {
		t.Helper()
		req, err := http.NewRequest(method, url+path, strings.NewReader(body))
		is.NoErr(err)
		req.Header.Set("X-API-Key", key)
		req.Header.Set("Content-Type", "application/json")
		res, err := client.Do(req)
		is.NoErr(err)
		res.Body.Close()
		return res.StatusCode
	}
	const acme, all = "a-key-of-acme-000", "a-key-of-all-00000"
	event := `{"type":"a.b","payload":1}`
	for _, call := range []struct{ method, path, key, body string }{
		{"GET", "/metrics", all, ""}, {"GET", "/debug/pprof/cmdline", all, ""}, {"GET", "/v1/tenants/acme/connections", acme, ""},
		{"GET", "/v1/tenants/acme/presence", acme, ""}, {"GET", "/v1/tenants/acme/groups/g/members", acme, ""},
	} {
		is.Equal(ask(at[0], call.method, call.path, call.key, call.body), 404) // call.path
		is.Equal(ask(at[1], call.method, call.path, call.key, call.body), 200) // call.path
		is.Equal(ask(at[1], call.method, call.path, "nonsense", call.body), 401)
	}
	for _, url := range at {
		is.Equal(ask(url, "POST", "/v1/tenants/acme/events", acme, event), 202)
		is.Equal(ask(url, "GET", "/readyz", "", ""), 200)
	}
}

// An API key is good only with a certificate of the authority; which one that is, is
// read again at SIGHUP, which ends nothing.
func TestServicesShowACertificate(t *testing.T) {
	for _, own := range []bool{false, true} {
		t.Run(map[bool]string{false: "one address", true: "its own address"}[own], func(t *testing.T) {
			is := is.New(t)
			folder := t.TempDir()
			cert, key := hubtest.WriteCertificate(t, folder, "hub")
			first, second := newAuthority(t, "first"), newAuthority(t, "second")
			path := filepath.Join(folder, "authorities.pem")
			is.NoErr(os.WriteFile(path, first.pem, 0o600))
			settings := []string{"REALTIME_TLS_CERT=" + cert, "REALTIME_TLS_KEY=" + key, "REALTIME_TLS_CLIENT_CA=" + path}
			if own {
				settings = append(settings, "REALTIME_ADMIN_ADDR=127.0.0.1:0")
			}
			var logs syncBuffer
			runHub(t, &logs, settings...)
			at := urls(&logs)
			roots := hubtest.RootsOf(t, cert)
			ask := func(url, header, credential string, certs ...tls.Certificate) int { // 0: the handshake fails
				t.Helper()
				transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "localhost"}, ForceAttemptHTTP2: true}
				if len(certs) > 0 { // whatever the server says that it takes
					transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certs[0], nil }
				}
				defer transport.CloseIdleConnections()
				req, err := http.NewRequest("POST", url+"/v1/tenants/acme/events", strings.NewReader(`{"type":"a.b","payload":1}`))
				is.NoErr(err)
				req.Header.Set(header, credential)
				req.Header.Set("Content-Type", "application/json")
				res, err := transport.RoundTrip(req)
				if err != nil {
					return 0
				}
				res.Body.Close()
				return res.StatusCode
			}
			const apiKey = "a-key-of-acme-000"
			token := bearer(t, "scope", "publish", "tenant", "acme")
			services := at[len(at)-1]
			is.Equal(ask(services, "X-API-Key", apiKey, first.issue(t)), 202)
			is.Equal(ask(services, "Authorization", "Bearer "+apiKey, first.issue(t)), 202)
			is.Equal(ask(services, "X-API-Key", apiKey, second.issue(t)), 0)      // a stranger's
			is.Equal(ask(services, "X-API-Key", "nonsense", first.issue(t)), 401) // a certificate alone is no credential
			is.Equal(ask(at[0], "X-API-Key", apiKey), 403)
			is.Equal(ask(at[0], "Authorization", "Bearer "+apiKey), 403)
			is.Equal(ask(at[0], "Authorization", token), 202) // a token needs none
			if own {
				is.Equal(ask(services, "Authorization", token), 0)
				is.Equal(ask(at[0], "X-API-Key", apiKey, first.issue(t)), 403) // it is not asked for there
			}

			is.NoErr(os.WriteFile(path, []byte("nonsense"), 0o600))
			is.NoErr(syscall.Kill(os.Getpid(), syscall.SIGHUP))
			eventually(t, func() bool { return strings.Contains(logs.String(), "could not be read again") })
			is.Equal(ask(services, "X-API-Key", apiKey, first.issue(t)), 202) // the last good one
			is.NoErr(os.WriteFile(path, second.pem, 0o600))
			is.NoErr(syscall.Kill(os.Getpid(), syscall.SIGHUP))
			eventually(t, func() bool { return ask(services, "X-API-Key", apiKey, second.issue(t)) == 202 })
			is.Equal(ask(services, "X-API-Key", apiKey, first.issue(t)), 0)
		})
	}
}
