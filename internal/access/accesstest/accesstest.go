// Package accesstest is an identity provider for tests: a [KeyServer] serves the keys that
// tokens are signed with, and [JWK] and [PEM] write them down. It does not know access, so
// access's own tests use it too. Tokens are made by hubtest.
package accesstest

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
)

// KeyServer serves a JWK Set at URL.
type KeyServer struct {
	URL string

	set   atomic.Value // the answer, a string; empty: it fails
	asked atomic.Int32
}

// NewKeyServer starts a server of keys, until the test ends.
func NewKeyServer(t testing.TB, keys ...map[string]string) *KeyServer {
	s := &KeyServer{}
	s.Publish(keys...)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		body := s.set.Load().(string)
		if body == "" {
			w.WriteHeader(http.StatusInternalServerError)
		}
		io.WriteString(w, body)
	}))
	s.URL = server.URL
	t.Cleanup(server.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return s
}

// Publish has it serve these keys from now on.
func (s *KeyServer) Publish(keys ...map[string]string) {
	text, _ := json.Marshal(map[string]any{"keys": keys})
	s.set.Store(string(text))
}

// Fail has it answer 500 from now on.
func (s *KeyServer) Fail() { s.set.Store("") }

// Asked is how often it was asked.
func (s *KeyServer) Asked() int { return int(s.asked.Load()) }

// JWK is an RSA key as a JWK Set has it (RFC 7517, section 4), with more members: a name and
// a value each.
func JWK(key *rsa.PublicKey, kid string, more ...string) map[string]string {
	jwk := map[string]string{"kty": "RSA", "kid": kid, "use": "sig", "e": "AQAB", "n": base64.RawURLEncoding.EncodeToString(key.N.Bytes())}
	for i := 0; i < len(more); i += 2 {
		jwk[more[i]] = more[i+1]
	}
	return jwk
}

// PEM is a public key of any kind as a setting has it.
func PEM(t testing.TB, key crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}
