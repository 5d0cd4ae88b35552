package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/matryer/is"

	"realtimehub/internal/access"
)

// An identity provider's answer has a bound, and where a redirect leads is not asked:
// the last good keys serve on, and the log says why.
func TestKeysAreReadWithinBounds(t *testing.T) {
	key, _ := rsa.GenerateKey(rand.Reader, 2048)
	set, _ := json.Marshal(map[string]any{"keys": []any{jwkOf(&key.PublicKey, "one")}})
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
		"no JSON":             {func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("<html>")) }, false, "no JSON"},
		"something behind it": {func(w http.ResponseWriter, r *http.Request) { w.Write(append(set, "{}"...)) }, false, "no JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			server := httptest.NewServer(tc.answer)
			t.Cleanup(server.Close)
			var logs syncBuffer
			auth := newAuth(t, access.Config{JWKSURL: server.URL, Logger: slog.New(slog.NewTextHandler(&logs, nil))})
			is.Equal(auth.Tokens.Published.Fetched(), tc.good)
			is.True(strings.Contains(logs.String(), tc.says))
			is.True(!strings.Contains(logs.String(), server.URL)) // which may hold a secret
		})
	}
	is.New(t).Equal(elsewhere.Load(), int64(0))
}

// A token that does not name its key is tried on one, never on as many as there are.
func TestAKidIsDemandedWhereThereAreSeveralKeys(t *testing.T) {
	alone(t, "hubs that find each other answer 503")
	one, _ := rsa.GenerateKey(rand.Reader, 2048)
	two, _ := rsa.GenerateKey(rand.Reader, 2048)
	alone := newKeyServer(t, jwkOf(&one.PublicKey, "one"), jwkOf(&two.PublicKey, "for-encryption", "use", "enc"), jwkOf(&two.PublicKey, "another-alg", "alg", "RS512"))
	both := newKeyServer(t, jwkOf(&one.PublicKey, "one"), jwkOf(&two.PublicKey, "two"))
	for name, tc := range map[string]struct {
		keys   *keyServer
		header []any
		status int
		says   string
	}{
		"one fits, named":         {alone, []any{"kid", "one"}, 200, ""},
		"one fits, not named":     {alone, nil, 200, ""},
		"several, named":          {both, []any{"kid", "one"}, 200, ""},
		"several, not named":      {both, nil, 401, "kid"},
		"several, named null":     {both, []any{"kid", nil}, 401, "kid"},
		"several, the wrong name": {both, []any{"kid", "two"}, 401, ""},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			h := newTrustedHub(t, newAuth(t, access.Config{JWKSURL: tc.keys.URL}), access.RatesConfig{})
			token := signed(t, jwt.SigningMethodRS256, one, claimsOf(), tc.header...)
			w := ask(h.Handler, "GET", "/v1/presence", "", "Authorization", "Bearer "+token)
			is.Equal(w.Code, tc.status)
			is.True(strings.Contains(w.Body.String(), tc.says))
		})
	}
}

// A sister host can set a cookie beside the hub's own: which is meant is not said.
func TestTwoCookiesAreNoCredential(t *testing.T) {
	alone(t, "its requests end before they begin")
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret}), access.RatesConfig{})
	good, other := access.TokenCookie+"="+strings.TrimPrefix(bearer(t), "Bearer "), access.TokenCookie+"="+strings.TrimPrefix(bearer(t, "sub", "user:2"), "Bearer ")
	for name, tc := range map[string]struct {
		cookies []string // headers
		status  int
	}{
		"one":                   {[]string{good}, 200},
		"one of other names":    {[]string{"a=b; x" + other + "; " + good + "; " + access.TokenCookie + "_2=x"}, 200},
		"two":                   {[]string{good + "; " + other}, 401},
		"two in two headers":    {[]string{good, other}, 401},
		"twice the same":        {[]string{good + ";" + good}, 401},
		"one that nobody reads": {[]string{access.TokenCookie + `="a\b"; ` + good}, 401},
		"one without a value":   {[]string{good + "; " + access.TokenCookie}, 401},
		"one of blanks":         {[]string{good + ";   " + access.TokenCookie + " = x"}, 401},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			headers := []string{}
			for _, cookie := range tc.cookies {
				headers = append(headers, "Cookie", cookie)
			}
			for _, path := range []string{"/v1/presence", "/v1/stream"} {
				is.Equal(ask(h.Handler, "GET", path, "", headers...).Code, tc.status)
			}
		})
	}
}

// A page of an unlisted sister host, which anybody may have, opens no stream by cookie,
// nor does anything else with one; one that is listed does.
func TestASisterHostIsNotTheHub(t *testing.T) {
	alone(t, "its requests end before they begin")
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret, Origins: []string{"https://app.example.com"}}), access.RatesConfig{})
	cookie := access.TokenCookie + "=" + strings.TrimPrefix(bearer(t, "scope", "subscribe publish admin"), "Bearer ")
	for _, call := range []string{"GET /v1/stream", "GET /v1/presence", "GET /v1/doctor", "GET /v1/tenants/acme/connections", "POST /v1/conversations/c/typing", "DELETE /v1/tenants/acme/connections?profile=user:1"} {
		t.Run(call, func(t *testing.T) {
			is := is.New(t)
			method, path, _ := strings.Cut(call, " ")
			for _, headers := range [][]string{
				{"Sec-Fetch-Site", "same-site", "Origin", "https://evil.example.com"},
				{"Sec-Fetch-Site", "same-site"}, // mode no-cors, as of an image
				{"Origin", "https://evil.example.com"},
			} {
				w := ask(h.Handler, method, path, "", append(headers, "Cookie", cookie)...)
				is.Equal(w.Code, 403)
				is.Equal(codeOf(w), "CrossSite")
			}
			listed := ask(h.Handler, method, path, "", "Cookie", cookie, "Sec-Fetch-Site", "same-site", "Origin", "https://app.example.com")
			is.True(listed.Code != 401 && codeOf(listed) != "CrossSite")
		})
	}
}

// What is no Unicode becomes U+FFFD when it is read, so that two persons would be one.
func TestASubjectIsUnicode(t *testing.T) {
	alone(t, "its requests end before they begin")
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret}), access.RatesConfig{})
	b64 := base64.RawURLEncoding.EncodeToString
	for sub, status := range map[string]int{
		`user:1`: 200, `user:é`: 200, `user:\ud83d\ude00`: 200, "user:😀": 200,
		`user:\ud800`: 401, `user:\udc00`: 401, `user:\ude00\ud83d`: 401, "user:\xff": 401, "user:\xed\xa0\x80": 401, "user:a\xc3": 401, `user:\ufffd`: 401, "\xff:1": 401,
	} {
		t.Run(fmt.Sprintf("%q", sub), func(t *testing.T) {
			is := is.New(t)
			text := b64([]byte(`{"alg":"HS256"}`)) + "." + b64([]byte(`{"tenant":"acme","exp":9999999999,"sub":"`+sub+`"}`))
			signature, err := jwt.SigningMethodHS256.Sign(text, []byte(testSecret))
			is.NoErr(err)
			w := ask(h.Handler, "GET", "/v1/presence", "", "Authorization", "Bearer "+text+"."+b64(signature))
			is.Equal(w.Code, status)
			is.Equal(strings.Contains(w.Body.String(), `\"sub\"`), status == 401)
		})
	}
}

// Settings that would let nearly anybody in stop the start, by name and without the value.
func TestSettingsThatOpenTheDoorStopTheStart(t *testing.T) {
	for setting, says := range map[string]string{
		"API_KEYS=acme=a":                                 "API_KEYS: entry 1 has a key of 1 bytes, and 16 are needed",
		"API_KEYS=acme=0123456789abcde":                   "API_KEYS: entry 1 has a key of 15 bytes",
		"API_KEYS=acme=0123456789abcdef,*=master":         "API_KEYS: entry 2 has a key of 6 bytes",
		"CORS_ORIGINS=https://*":                          "CORS_ORIGINS: entry 1",
		"CORS_ORIGINS=https://app.example.com, https://*": "CORS_ORIGINS: entry 2",
		"CORS_ORIGINS=https://*:8443":                     "CORS_ORIGINS: entry 1",
		"CORS_ORIGINS=*://*":                              "CORS_ORIGINS: entry 1",
		"CORS_ORIGINS=https://*.com":                      "CORS_ORIGINS: entry 1",
		"CORS_ORIGINS=https://*.":                         "CORS_ORIGINS: entry 1",
		"CORS_ORIGINS=https://*.com.":                     "CORS_ORIGINS: entry 1",
		"FAILED_TOKEN_RATE=-1":                            "FAILED_TOKEN_RATE: ",
	} {
		t.Run(setting, func(t *testing.T) {
			is := is.New(t)
			ctx, stop := context.WithCancel(t.Context())
			stop() // one that starts ends at once
			err := run(ctx, []string{"REALTIME_ADDR=127.0.0.1:0", "REALTIME_JWT_SECRET=" + testSecret, "REALTIME_" + setting}, &bytes.Buffer{}, nil)
			is.True(err != nil && strings.Contains(err.Error(), "REALTIME_"+says))
			_, value, _ := strings.Cut(setting, "=")
			is.True(err != nil && (!strings.Contains(setting, "master") || !strings.Contains(err.Error(), value)))
		})
	}
	is := is.New(t)
	_, err := access.NewAuth(t.Context(), access.Config{APIKeys: []string{" acme=0123456789abcdef", "*=0123456789abcdeF "}, Origins: []string{"https://*.example.com"}})
	is.NoErr(err)
}
