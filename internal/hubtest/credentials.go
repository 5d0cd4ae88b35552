package hubtest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"realtimehub/internal/testkit"

	"github.com/golang-jwt/jwt/v5"
)

// Secret is that of tokens, for REALTIME_JWT_SECRET.
const Secret = "0123456789abcdef0123456789abcdef"

// Claims are good ones of user:1 of acme, with changes, which are names and values; nil
// removes a claim.
func Claims(changes ...any) jwt.MapClaims {
	claims := jwt.MapClaims{"tenant": "acme", "sub": "user:1", "exp": time.Now().Add(time.Hour).Unix(), "iss": "issuer", "aud": "hub"}
	for i := 0; i < len(changes); i += 2 {
		if changes[i+1] == nil {
			delete(claims, changes[i].(string))
		} else {
			claims[changes[i].(string)] = changes[i+1]
		}
	}
	return claims
}

// Signed is a token; header has names and values.
func Signed(t testing.TB, method jwt.SigningMethod, key any, claims jwt.Claims, header ...any) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	for i := 0; i < len(header); i += 2 {
		token.Header[header[i].(string)] = header[i+1]
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Bearer is an Authorization with an HS256 token of Secret, for Claims.
func Bearer(t testing.TB, changes ...any) string {
	t.Helper()
	return "Bearer " + Signed(t, jwt.SigningMethodHS256, []byte(Secret), Claims(changes...))
}

// WriteCertificate writes a certificate for localhost and its key into a folder.
func WriteCertificate(t testing.TB, folder, name string) (cert, key string) {
	t.Helper()
	cert, key, err := testkit.WriteCertificate(folder, name)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// RootsOf trusts a certificate that is in a file.
func RootsOf(t testing.TB, cert string) *x509.CertPool {
	t.Helper()
	text, err := os.ReadFile(cert)
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(text) {
		t.Fatal(cert, err)
	}
	return roots
}

// Transports are the ways there are to speak to a hub, by name.
var Transports = map[string]struct {
	Secure bool
	HTTP2  bool
}{
	"HTTP/1.1": {}, "TLS": {Secure: true}, "h2": {Secure: true, HTTP2: true}, "h2c": {HTTP2: true},
}

// TransportTo is a client's side of one of Transports; a nil dial is the system's.
func TransportTo(secure, http2 bool, roots *x509.CertPool, dial func(ctx context.Context, network, addr string) (net.Conn, error)) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!http2)
	protocols.SetHTTP2(http2 && secure)
	protocols.SetUnencryptedHTTP2(http2 && !secure)
	return &http.Transport{DialContext: dial, Protocols: protocols, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "localhost"}}
}
