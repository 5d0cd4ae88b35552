package access

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/matryer/is"

	"realtimehub/internal/access/accesstest"
	"realtimehub/internal/hubtest"
	"realtimehub/internal/testkit"
)

// An identity provider's answer has a bound, and where a redirect leads is not asked:
// the last good keys serve on, and the log says why. A key that is not valid spoils no other.
func TestKeysAreReadWithinBounds(t *testing.T) {
	key, _ := rsa.GenerateKey(rand.Reader, 2048)
	set, _ := json.Marshal(map[string]any{"keys": []any{accesstest.JWK(&key.PublicKey, "one")}})
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		elsewhere.Add(1)
		w.Write(set)
	}))
	t.Cleanup(other.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		good   bool
		says   string
	}{
		"the keys": {func(w http.ResponseWriter, r *http.Request) { w.Write(set) }, true, ""},
		"1 MiB": {func(w http.ResponseWriter, r *http.Request) {
			w.Write(append(set, bytes.Repeat([]byte(" "), 1<<20-len(set))...))
		}, true, ""},
		"a byte more": {func(w http.ResponseWriter, r *http.Request) {
			w.Write(append(set, bytes.Repeat([]byte(" "), 1<<20-len(set)+1)...))
		}, false, "more than 1048576 bytes"},
		"without end": {func(w http.ResponseWriter, r *http.Request) {
			for _, err := w.Write(set); err == nil; _, err = w.Write(bytes.Repeat([]byte(" "), 1<<20)) {
			}
		}, false, "more than 1048576 bytes"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusFound) }, false, "302"},
		"a permanent": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL, http.StatusPermanentRedirect)
		}, false, "308"},
		"keys that are not valid, too": {func(w http.ResponseWriter, r *http.Request) {
			w.Write(bytes.Replace(set, []byte("["), []byte(`[7,{"kty":"RSA","kid":7},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"},`), 1))
		}, true, "left out\" keys=3"},
		"no key that is valid": {func(w http.ResponseWriter, r *http.Request) { w.Write([]byte(`{"keys":[{"kty":"RSA","kid":7}]}`)) }, false, "no key is valid"},
		"no JSON":              {func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("<html>")) }, false, "not a JSON key set"},
		"something behind it":  {func(w http.ResponseWriter, r *http.Request) { w.Write(append(set, "{}"...)) }, false, "not a JSON key set"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			server := httptest.NewServer(tc.answer)
			t.Cleanup(server.Close)
			var logs testkit.Buffer
			auth := newAuth(t, Config{JWKSURL: server.URL, Logger: slog.New(slog.NewTextHandler(&logs, nil))})
			is.Equal(auth.tokens.published.fetched(), tc.good)
			is.True(strings.Contains(logs.String(), tc.says))
			is.True(!strings.Contains(logs.String(), server.URL)) // which may hold a secret
		})
	}
	is.New(t).Equal(elsewhere.Load(), int64(0))
}

func TestJWKSKeepsTheLastGoodSet(t *testing.T) {
	is := is.New(t)
	one, _ := rsa.GenerateKey(rand.Reader, 2048)
	two, _ := rsa.GenerateKey(rand.Reader, 2048)
	keys := accesstest.NewKeyServer(t, accesstest.JWK(&one.PublicKey, "one"))
	auth := newAuth(t, Config{JWKSURL: keys.URL})
	admit := func(key *rsa.PrivateKey, kid string) error {
		r := httptest.NewRequest("GET", "/v1/stream", nil)
		r.Header.Set("Authorization", "Bearer "+hubtest.Signed(t, jwt.SigningMethodRS256, key, hubtest.Claims(), "kid", kid))
		_, err := auth.Admit(r, ScopeSubscribe, true)
		return err
	}
	is.NoErr(admit(one, "one"))
	keys.Publish(accesstest.JWK(&two.PublicKey, "two"), accesstest.JWK(&one.PublicKey, "one"))
	is.NoErr(admit(two, "two")) // a kid that is not known: fetched at once
	asked := keys.Asked()
	keys.Fail()
	for range 100 {
		refusal, _ := errors.AsType[*Refusal](admit(two, "three"))
		is.True(refusal != nil && refusal.Code == codeKeys) // it could not be asked for
	}
	is.True(keys.Asked() <= asked+1) // strangers cannot have it fetched again and again
	is.NoErr(admit(one, "one"))      // what was good stays
	is.NoErr(admit(two, "two"))
}

// Several keys may have one kid, where they are for different algorithms (RFC 7517, section 4.5).
// To name the empty one is to name none.
func TestKeysOfOneKid(t *testing.T) {
	is := is.New(t)
	one, _ := rsa.GenerateKey(rand.Reader, 2048)
	two, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	point, err := two.PublicKey.Bytes() // 4, x and y
	is.NoErr(err)
	raw := base64.RawURLEncoding.EncodeToString
	keys := accesstest.NewKeyServer(t,
		accesstest.JWK(&one.PublicKey, "both"), map[string]string{"kty": "EC", "kid": "both", "crv": "P-256", "x": raw(point[1:33]), "y": raw(point[33:])},
		accesstest.JWK(&one.PublicKey, ""), accesstest.JWK(&one.PublicKey, ""),
	)
	auth := newAuth(t, Config{JWKSURL: keys.URL})
	refused := func(method jwt.SigningMethod, key any, kid string) error {
		_, _, err := auth.token(asking(t.Context()), hubtest.Signed(t, method, key, hubtest.Claims(), "kid", kid))
		return err
	}
	is.NoErr(refused(jwt.SigningMethodRS256, one, "both"))
	is.NoErr(refused(jwt.SigningMethodES256, two, "both"))
	is.Equal(refused(jwt.SigningMethodRS256, one, ""), errNoKeyID)
}

// A public key in a file may be changed without a restart.
func TestAPublicKeyIsReadAgain(t *testing.T) {
	is := is.New(t)
	path := filepath.Join(t.TempDir(), "key.pem")
	put := func(key *ecdsa.PrivateKey) {
		der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
		is.NoErr(err)
		is.NoErr(os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600))
	}
	one, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	two, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	put(one)
	auth, err := NewAuth(t.Context(), Config{PublicKey: path, Logger: slog.New(slog.DiscardHandler)})
	is.NoErr(err)
	good := func(key *ecdsa.PrivateKey) bool {
		_, _, err := auth.token(asking(t.Context()), hubtest.Signed(t, jwt.SigningMethodES256, key, hubtest.Claims()))
		return err == nil
	}
	is.True(good(one) && !good(two))
	put(two)
	auth.Reread()
	is.True(good(two) && !good(one))
	is.NoErr(os.Remove(path))
	auth.Reread()
	is.True(good(two)) // the last good one
}
