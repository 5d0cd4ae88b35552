package outage

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/testkit"
)

// authority signs certificates of hubs.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	a := &authority{key: key, file: filepath.Join(t.TempDir(), "ca.pem")}
	a.cert = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der := a.sign(t, a.cert, &key.PublicKey)
	write(t, a.file, "CERTIFICATE", der)
	return a
}

func (a *authority) sign(t *testing.T, template *x509.Certificate, key *ecdsa.PublicKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// issue writes the certificate of a hub, and its key, into a folder.
func (a *authority) issue(t *testing.T, dir string, serial int64) {
	t.Helper()
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	der := a.sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "hub"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, &key.PublicKey)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "key.pem"), "PRIVATE KEY", keyDER)
	write(t, filepath.Join(dir, "cert.pem"), "CERTIFICATE", der)
}

func write(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// certified are the settings of a hub with the certificate in a folder.
func certified(a *authority, dir string) []string {
	return []string{"REALTIME_PEERS_CERT=" + filepath.Join(dir, "cert.pem"), "REALTIME_PEERS_KEY=" + filepath.Join(dir, "key.pem"), "REALTIME_PEERS_CA=" + a.file}
}

// serialAt is the number of the certificate that a hub shows to others.
func serialAt(t *testing.T, addr, dir string, a *authority) int64 {
	t.Helper()
	own, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	secure := tls.Client(conn, &tls.Config{ServerName: "127.0.0.1", RootCAs: hubtest.RootsOf(t, a.file), Certificates: []tls.Certificate{own}})
	if err := secure.Handshake(); err != nil {
		t.Fatal(err)
	}
	return secure.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

// stranger is a hub that may never serve.
func stranger(t *testing.T, settings ...string) (logs *testkit.Buffer, cmd *exec.Cmd) {
	t.Helper()
	cmd = exec.Command(hubtest.Binary(t))
	logs = new(testkit.Buffer)
	cmd.Env, cmd.Stderr = append(settings, "REALTIME_ADDR=127.0.0.1:0"), logs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return logs, cmd
}

// Hubs show each other certificates, and know a secret. Who has another one or none does not
// get in, and the log says why. A certificate that was renewed is used at once.
func TestPeersProveThemselves(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	a, dir := newAuthority(t), t.TempDir()
	a.issue(t, dir, 10)
	p := startPeers(t, append(certified(a, dir), "REALTIME_PEERS_SECRET=the secret of these hubs")...)
	is.Equal(serialAt(t, p.peers[0], dir, a), int64(10))

	other, otherDir := newAuthority(t), t.TempDir()
	other.issue(t, otherDir, 20)
	p.hubs[2].Kill()
	for name, tc := range map[string]struct {
		settings     []string
		there, knows string // what the stranger's log says, and that of the hubs
	}{
		"another authority": {append(certified(other, otherDir), "REALTIME_PEERS_SECRET=the secret of these hubs"), "no TLS with another hub: check REALTIME_PEERS_CERT", "no TLS with another hub: check REALTIME_PEERS_CERT"},
		"no certificate":    {[]string{"REALTIME_PEERS_SECRET=the secret of these hubs"}, "has REALTIME_PEERS_CERT and this one has none", "no TLS with another hub: either all have"},
		"another secret":    {append(certified(a, dir), "REALTIME_PEERS_SECRET=another"), "REALTIME_PEERS_SECRET must be the same on all hubs", "it has another REALTIME_PEERS_SECRET"},
		"no secret":         {certified(a, dir), "REALTIME_PEERS_SECRET must be the same on all hubs", "it has another REALTIME_PEERS_SECRET"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			before := len(p.hubs[0].Logs.String())
			logs, cmd := stranger(t, append(tc.settings, "REALTIME_DATA="+t.TempDir(), "REALTIME_PEERS="+strings.Join(p.peers, ","), "REALTIME_PEERS_ADDR="+p.peers[2])...)
			defer func() {
				cmd.Process.Kill()
				cmd.Wait()
				if t.Failed() {
					t.Logf("stranger:\n%s\nhub:\n%s", logs, p.hubs[0].Logs.String()[before:])
				}
			}()
			eventually(t, func() bool { return strings.Contains(logs.String(), tc.there) })
			eventually(t, func() bool { return strings.Contains(p.hubs[0].Logs.String(), tc.knows) })
			is.True(!strings.Contains(p.hubs[0].Logs.String()[before:], "another hub is here"))
			is.True(!strings.Contains(logs.String(), "another hub is here"))
			is.True(!strings.Contains(logs.String(), "secret of these hubs"))
		})
	}

	a.issue(t, dir, 11)
	eventually(t, func() bool { return serialAt(t, p.peers[0], dir, a) == 11 })
	p.start(t, 2)
	p.whole(t)
}

// A hub that others could speak to does not start without a secret.
func TestPeersNeedASecret(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	logs, cmd := stranger(t, "REALTIME_DATA="+t.TempDir(), "REALTIME_PEERS=a:6222,b:6222,c:6222")
	exit, failed := errors.AsType[*exec.ExitError](cmd.Wait())
	is.True(failed)
	is.Equal(exit.ExitCode(), 1)
	is.True(strings.Contains(logs.String(), "REALTIME_PEERS_SECRET"))
}
