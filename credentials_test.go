package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/access/accesstest"
)

// A token that does not name its key is tried on one, never on as many as there are.
func TestAKidIsDemandedWhereThereAreSeveralKeys(t *testing.T) {
	alone(t, "hubs that find each other answer 503")
	one, _ := rsa.GenerateKey(rand.Reader, 2048)
	two, _ := rsa.GenerateKey(rand.Reader, 2048)
	alone := accesstest.NewKeyServer(t, accesstest.JWK(&one.PublicKey, "one"), accesstest.JWK(&two.PublicKey, "for-encryption", "use", "enc"), accesstest.JWK(&two.PublicKey, "another-alg", "alg", "RS512"))
	both := accesstest.NewKeyServer(t, accesstest.JWK(&one.PublicKey, "one"), accesstest.JWK(&two.PublicKey, "two"))
	for name, tc := range map[string]struct {
		keys   *accesstest.KeyServer
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
	good, other := tokenCookie+"="+strings.TrimPrefix(bearer(t), "Bearer "), tokenCookie+"="+strings.TrimPrefix(bearer(t, "sub", "user:2"), "Bearer ")
	for name, tc := range map[string]struct {
		cookies []string // headers
		status  int
	}{
		"one":                   {[]string{good}, 200},
		"one of other names":    {[]string{"a=b; x" + other + "; " + good + "; " + tokenCookie + "_2=x"}, 200},
		"two":                   {[]string{good + "; " + other}, 401},
		"two in two headers":    {[]string{good, other}, 401},
		"twice the same":        {[]string{good + ";" + good}, 401},
		"one that nobody reads": {[]string{tokenCookie + `="a\b"; ` + good}, 401},
		"one without a value":   {[]string{good + "; " + tokenCookie}, 401},
		"one of blanks":         {[]string{good + ";   " + tokenCookie + " = x"}, 401},
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
	cookie := tokenCookie + "=" + strings.TrimPrefix(bearer(t, "scope", "subscribe publish admin"), "Bearer ")
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
		"API_KEYS=acme=a":                                 "API_KEYS is not valid: entry 1 has a key of 1 bytes, and 16 are needed",
		"API_KEYS=acme=0123456789abcde":                   "API_KEYS is not valid: entry 1 has a key of 15 bytes",
		"API_KEYS=acme=0123456789abcdef,*=master":         "API_KEYS is not valid: entry 2 has a key of 6 bytes",
		"CORS_ORIGINS=https://*":                          "CORS_ORIGINS is not valid: entry 1",
		"CORS_ORIGINS=https://app.example.com, https://*": "CORS_ORIGINS is not valid: entry 2",
		"CORS_ORIGINS=https://*:8443":                     "CORS_ORIGINS is not valid: entry 1",
		"CORS_ORIGINS=*://*":                              "CORS_ORIGINS is not valid: entry 1",
		"CORS_ORIGINS=https://*.com":                      "CORS_ORIGINS is not valid: entry 1",
		"CORS_ORIGINS=https://*.":                         "CORS_ORIGINS is not valid: entry 1",
		"CORS_ORIGINS=https://*.com.":                     "CORS_ORIGINS is not valid: entry 1",
		"FAILED_TOKEN_RATE=-1":                            "FAILED_TOKEN_RATE ",
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

// What a client is told: 429 with Retry-After, a stream to come back; and what is counted.
func TestATokenThatHasToWait(t *testing.T) {
	alone(t, "its requests end before they begin")
	alone(t, "one hub proves a credential, without the others")
	is := is.New(t)
	auth := newAuth(t, access.Config{Secret: testSecret, APIKeys: []string{"acme=service-key-0001", "*=master-key-00001"}, FailedRate: 0.1})
	h := newTrustedHub(t, auth, access.RatesConfig{})
	failed := time.Now()
	is.Equal(ask(h.Handler, "GET", "/v1/presence", "", "Authorization", "Bearer "+badToken(t)).Code, 401)
	inTime := func(wait time.Duration) bool {
		return wait >= 9*time.Second-time.Since(failed) && wait <= 10*time.Second
	}
	token := bearer(t, "jti", rand.Text())
	moves(t, h.Handler, map[string]float64{
		`auth_failures_total{reason="RateLimited"}`: 3, `streams_refused_total{reason="pending"}`: 1, `events_refused_total{code="RateLimited"}`: 1,
	}, func() {
		w := ask(h.Handler, "GET", "/v1/presence", "", "Authorization", token)
		is.Equal(w.Code, 429)
		is.Equal(codeOf(w), "RateLimited")
		seconds, err := strconv.Atoi(w.Header().Get("Retry-After"))
		is.NoErr(err)
		is.True(inTime(time.Duration(seconds) * time.Second))
		reason, retry := closingOf(t, ask(h.Handler, "GET", "/v1/stream", "", "Authorization", token))
		is.Equal(reason, "pending")
		is.True(retry >= 9*time.Second-time.Since(failed))
		is.Equal(ask(h.Handler, "POST", "/v1/tenants/acme/events", `{"type":"a.b","payload":1}`, "Authorization", token).Code, 429)
	}, "X-API-Key", "master-key-00001")
	// A service's key has nothing to wait for.
	is.Equal(ask(h.Handler, "POST", "/v1/tenants/acme/events", `{"type":"a.b","payload":1}`, "X-API-Key", "service-key-0001").Code, 202)
}
