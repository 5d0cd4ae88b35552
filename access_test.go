package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/access/accesstest"
)

// codeOf is the code of a problem, empty where the answer is none.
func codeOf(w *httptest.ResponseRecorder) string {
	var problem struct{ Code string }
	json.Unmarshal(w.Body.Bytes(), &problem)
	return problem.Code
}

// closingOf is what the hub.closing says that a stream consists of.
func closingOf(t *testing.T, w *httptest.ResponseRecorder) (reason string, retry time.Duration) {
	t.Helper()
	event, err := newStreamReader(t, w.Body).Next()
	if err != nil || w.Code != http.StatusOK || event.Type != "hub.closing" {
		t.Fatalf("no stream that is turned away: %d, %+v, %v", w.Code, event, err)
	}
	var word struct {
		Reason  string
		RetryMS int64
	}
	if err := json.Unmarshal([]byte(event.Data), &word); err != nil {
		t.Fatal(err)
	}
	return word.Reason, time.Duration(word.RetryMS) * time.Millisecond
}

// What cannot be known while the identity provider is away is 503, for streams a
// hub.closing, and for the proxy before the hub a reason to go elsewhere; it is asked
// again within seconds.
func TestKeysThatAreNotThereYet(t *testing.T) {
	t.Parallel()
	alone(t, "its requests end before they begin")
	is := is.New(t)
	key, _ := rsa.GenerateKey(rand.Reader, 2048)
	keys := accesstest.NewKeyServer(t)
	keys.Fail()
	h := newTrustedHub(t, newAuth(t, access.Config{JWKSURL: keys.URL, APIKeys: []string{"acme=service-key-0001"}}), access.RatesConfig{})
	for _, header := range [][]any{nil, {"kid", "one"}} {
		token := "Bearer " + signed(t, jwt.SigningMethodRS256, key, claimsOf(), header...)
		w := ask(h.Handler, "GET", "/v1/presence", "", "Authorization", token)
		is.Equal(w.Code, http.StatusServiceUnavailable)
		is.Equal(codeOf(w), "KeysUnavailable")
		is.True(w.Header().Get("Retry-After") != "")
		reason, retry := closingOf(t, ask(h.Handler, "GET", "/v1/stream", "", "Authorization", token))
		is.Equal(reason, "pending")
		is.True(retry >= 2*time.Second && retry <= time.Minute+4*time.Second)
		is.Equal(ask(h.Handler, "HEAD", "/v1/stream", "", "Authorization", token).Code, http.StatusOK)
	}
	w := ask(h.Handler, "GET", "/readyz", "")
	is.Equal(w.Code, http.StatusServiceUnavailable)
	is.Equal(codeOf(w), "KeysUnavailable")
	is.Equal(ask(h.Handler, "GET", "/v1/tenants/acme/connections", "", "X-API-Key", "service-key-0001").Code, 200)
	is.Equal(ask(h.Handler, "GET", "/v1/presence", "", "Authorization", bearer(t)).Code, 401) // no JWKS proves HS256
	is.Equal(ask(h.Handler, "GET", "/v1/presence", "", "Authorization", "Bearer a.b.c").Code, 401)

	keys.Publish(accesstest.JWK(&key.PublicKey, "one"))
	token := "Bearer " + signed(t, jwt.SigningMethodRS256, key, claimsOf())
	eventually(t, func() bool { return ask(h.Handler, "GET", "/v1/presence", "", "Authorization", token).Code == 200 })
	is.Equal(ask(h.Handler, "GET", "/readyz", "").Code, 200)
}

// Clocks differ: half a minute is forgiven at a token's beginning, nothing at its end;
// and what time alone makes good is no final no.
func TestClocksDiffer(t *testing.T) {
	alone(t, "one hub proves a credential, without the others")
	alone(t, "its requests end before they begin")
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret}), access.RatesConfig{})
	now := time.Now().Unix()
	for name, tc := range map[string]struct {
		claims []any
		status int
		code   string
	}{
		"nbf 20 s ahead":        {[]any{"nbf", now + 20}, 200, ""},
		"iat 20 s ahead":        {[]any{"iat", now + 20}, 200, ""},
		"nbf an hour ago":       {[]any{"nbf", now - 3600}, 200, ""},
		"nbf 50 s ahead":        {[]any{"nbf", now + 50}, 503, "CredentialNotYetValid"},
		"nbf a year ahead":      {[]any{"nbf", now + 365*86400, "exp", now + 366*86400}, 503, "CredentialNotYetValid"},
		"nbf at exp":            {[]any{"nbf", now + 100, "exp", now + 100}, 401, "InvalidCredential"},
		"exp a second ago":      {[]any{"exp", now - 1}, 401, "CredentialExpired"},
		"exp 20 s ago":          {[]any{"exp", now - 20}, 401, "CredentialExpired"},
		"exp a minute ago":      {[]any{"exp", now - 60}, 401, "CredentialExpired"},
		"nbf ahead, no subject": {[]any{"nbf", now + 50, "sub", nil}, 401, "InvalidCredential"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			token := bearer(t, tc.claims...)
			w := ask(h.Handler, "GET", "/v1/presence", "", "Authorization", token)
			is.Equal(w.Code, tc.status)
			is.Equal(codeOf(w), tc.code)
			w = ask(h.Handler, "GET", "/v1/stream", "", "Authorization", token)
			if tc.status != 503 {
				is.Equal(w.Code, tc.status)
				return
			}
			reason, retry := closingOf(t, w)
			is.Equal(reason, "pending")
			is.True(retry >= 15*time.Second && retry <= time.Minute+4*time.Second) // not before it may be good, and not never
		})
	}
}

// While a secret is changed both are taken.
func TestSecretsRotate(t *testing.T) {
	alone(t, "one hub proves a credential, without the others")
	is := is.New(t)
	const next = "fedcba9876543210fedcba9876543210"
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret + "," + next}), access.RatesConfig{})
	for secret, status := range map[string]int{testSecret: 200, next: 200, testSecret + "," + next: 401, testSecret + "x": 401, "": 401} {
		token := "Bearer " + signed(t, jwt.SigningMethodHS256, []byte(secret), claimsOf())
		is.Equal(ask(h.Handler, "GET", "/v1/presence", "", "Authorization", token).Code, status) // signed with secret
	}
	for wrong, says := range map[string]string{
		"short-secret":                      "JWT_SECRET has 12 bytes",
		testSecret + ",short-secret":        "JWT_SECRET is not valid: entry 2 has 12 bytes",
		testSecret + ",":                    "JWT_SECRET is not valid: entry 2 has 0 bytes",
		testSecret + ", " + next:            "JWT_SECRET is not valid: entry 2 begins or ends with a space",
		"short,secret," + next + testSecret: "JWT_SECRET is not valid: entry 1 has 5 bytes",
	} {
		_, err := access.NewAuth(t.Context(), access.Config{Secret: wrong})
		is.True(err != nil && strings.Contains(err.Error(), says)) // of a wrong secret
		is.True(err != nil && !strings.Contains(err.Error(), "short"))
	}
	err := run(t.Context(), []string{"REALTIME_JWT_SECRET=short-secret"}, &bytes.Buffer{}, nil)
	is.True(err != nil && strings.Contains(err.Error(), "REALTIME_JWT_SECRET ") && !strings.Contains(err.Error(), "short-secret"))
}

// What a site's own login in front of the hub sends is none of our credentials, and
// hides none.
func TestAnotherSchemeIsNotOurs(t *testing.T) {
	alone(t, "one hub proves a credential, without the others")
	alone(t, "its requests end before they begin")
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret, APIKeys: []string{"acme=service-key-0001"}}), access.RatesConfig{})
	token := strings.TrimPrefix(bearer(t), "Bearer ")
	for _, scheme := range []string{"Basic dXNlcjpwYXNz", `Digest username="x", uri="/"`, "Negotiate abc", "basic", "", token} {
		t.Run(fmt.Sprintf("%.10s", scheme), func(t *testing.T) {
			is := is.New(t)
			is.Equal(ask(h.Handler, "GET", "/v1/presence", "", "Authorization", scheme, "Cookie", tokenCookie+"="+token).Code, 200)
			is.Equal(ask(h.Handler, "GET", "/v1/stream?access_token="+token, "", "Authorization", scheme).Code, 200)
			is.Equal(ask(h.Handler, "GET", "/v1/tenants/acme/connections", "", "Authorization", scheme, "X-API-Key", "service-key-0001").Code, 200)
			is.Equal(ask(h.Handler, "GET", "/v1/presence", "", "Authorization", scheme, "Authorization", "Bearer "+token).Code, 200)
			w := ask(h.Handler, "GET", "/v1/presence", "", "Authorization", scheme)
			is.Equal(w.Code, 401)
			is.Equal(codeOf(w), "CredentialRequired")
			is.Equal(w.Header().Get("WWW-Authenticate"), `Bearer realm="realtime"`)
			// A bad one of ours still hides what follows.
			is.Equal(ask(h.Handler, "GET", "/v1/presence", "", "Authorization", "Bearer x", "Cookie", tokenCookie+"="+token).Code, 401)
		})
	}
}

// newPagesHub has origins whose pages may call.
func newPagesHub(t *testing.T, logger *slog.Logger, origins ...string) http.Handler {
	t.Helper()
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret, APIKeys: []string{"*=master-key-00001"}, Origins: origins, Logger: logger}), access.RatesConfig{})
	h.API.cfg.Logger = logger
	return checked(t, h.API.Handler())
}

// An origin is one thing to CORS and to cookies.
func TestOriginsHaveOneRule(t *testing.T) {
	alone(t, "one hub proves a credential, without the others")
	alone(t, "its requests end before they begin")
	cookie := tokenCookie + "=" + strings.TrimPrefix(bearer(t), "Bearer ")
	for _, tc := range []struct {
		listed, origin string
		may            bool
	}{
		{"https://app.example.com", "https://app.example.com", true},
		{"HTTPS://App.Example.com", "https://app.example.com", true},
		{"https://app.example.com:443", "https://app.example.com", true},
		{"https://app.example.com/", "https://app.example.com", true},
		{"http://app.example.com:80", "http://app.example.com", true},
		{"http://app.example.com:443", "http://app.example.com:443", true},
		{"http://[0:0::1]:3000", "http://[::1]:3000", true},
		{"https://xn--bcher-kva.example", "https://xn--bcher-kva.example", true},
		{"capacitor://localhost", "capacitor://localhost", true},
		{"https://*.example.com", "https://app.example.com", true},
		{"https://*.Example.com:443", "https://app.example.com", true},
		{"https://*.example.com", "https://a.b.example.com", true},
		{"http://*.localhost:3000", "http://app.localhost:3000", true},
		{"https://app.example.com", "http://app.example.com", false},
		{"https://app.example.com", "https://app.example.com:8443", false},
		{"https://app.example.com", "https://app.example.com.evil.example", false},
		{"https://*.example.com", "https://example.com", false},
		{"https://*.example.com", "https://evilexample.com", false},
		{"https://*.example.com", "https://.example.com", false},
		{"https://*.example.com", "http://app.example.com", false},
		{"https://*.example.com", "https://app.example.com:8443", false},
		{"https://*.example.com", "https://evil.example/.example.com", false},
		{"https://*.example.com", "null", false},
	} {
		t.Run(tc.listed+" "+tc.origin, func(t *testing.T) {
			is := is.New(t)
			handler := newPagesHub(t, slog.New(slog.DiscardHandler), tc.listed)
			allowed, status := "", http.StatusForbidden
			if tc.may {
				allowed, status = tc.origin, http.StatusOK
			}
			w := ask(handler, "GET", "/v1/presence", "", "Cookie", cookie, "Origin", tc.origin, "Sec-Fetch-Site", "cross-site")
			is.Equal(w.Code, status)
			is.Equal(w.Header().Get("Access-Control-Allow-Origin"), allowed)
			w = ask(handler, "OPTIONS", "/v1/presence", "", "Origin", tc.origin, "Access-Control-Request-Method", "GET")
			is.Equal(w.Header().Get("Access-Control-Allow-Origin"), allowed)
		})
	}
	for _, wrong := range []string{
		"https://*", "*://app.example.com", "https://*.com", "https://app.*", "https://app.*.example.com", "https://*example.com", "https://*.*.example.com",
		"https://app.example.com/path", "https://app.example.com?x", "https://user@app.example.com", "https://app.example.com:port", "app.example.com", "null", "",
		"https://bücher.example", "https://", "**", "https://a b.example",
	} {
		t.Run("wrong "+wrong, func(t *testing.T) {
			is := is.New(t)
			_, err := access.NewAuth(t.Context(), access.Config{Origins: []string{"https://good.example", wrong}})
			is.True(err != nil && strings.Contains(err.Error(), "CORS_ORIGINS is not valid: entry 2"))
		})
	}
}

// Where all pages may call, none may with a cookie, whatever is listed beside.
func TestAllOriginsAndNoCookie(t *testing.T) {
	alone(t, "one hub proves a credential, without the others")
	is := is.New(t)
	handler := newPagesHub(t, slog.New(slog.DiscardHandler), "*", "https://app.example.com")
	cookie := tokenCookie + "=" + strings.TrimPrefix(bearer(t), "Bearer ")
	w := ask(handler, "GET", "/v1/presence", "", "Cookie", cookie, "Origin", "https://app.example.com", "Sec-Fetch-Site", "cross-site")
	is.Equal(w.Code, 403)
	is.Equal(w.Header().Get("Access-Control-Allow-Origin"), "*")
	is.Equal(w.Header().Get("Access-Control-Allow-Credentials"), "")
	is.Equal(ask(handler, "GET", "/v1/presence", "", "Authorization", bearer(t), "Origin", "https://any.example", "Sec-Fetch-Site", "cross-site").Code, 200)
}

// A page that may call may send what its tools add: the hub reads only what it knows.
func TestPreflightsTakeAnyHeader(t *testing.T) {
	is := is.New(t)
	const headers = "authorization,b3,baggage,content-type,elastic-apm-traceparent,newrelic,sentry-trace,traceparent,tracestate,x-b3-traceid,x-cloud-trace-context,x-datadog-trace-id,x-requested-with"
	for _, listed := range []string{"https://app.example.com", "*"} {
		handler := newPagesHub(t, slog.New(slog.DiscardHandler), listed)
		w := ask(handler, "OPTIONS", "/v1/connections/x", "", "Origin", "https://app.example.com", "Access-Control-Request-Method", "PATCH", "Access-Control-Request-Headers", headers)
		is.Equal(w.Code, 204)
		is.Equal(w.Header().Get("Access-Control-Allow-Headers"), headers)
		w = ask(handler, "OPTIONS", "/v1/connections/x", "", "Origin", "https://app.example.com", "Access-Control-Request-Method", "TRACE", "Access-Control-Request-Headers", headers)
		is.Equal(w.Header().Get("Access-Control-Allow-Headers"), "") // a method that no route has
	}
	w := ask(newPagesHub(t, slog.New(slog.DiscardHandler), "https://app.example.com"), "OPTIONS", "/v1/presence", "", "Origin", "https://evil.example", "Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", headers)
	is.Equal(w.Header().Get("Access-Control-Allow-Headers"), "")
}

// The client is anybody's to import, as from a CDN; nothing else is.
func TestAnyPageImportsTheClient(t *testing.T) {
	alone(t, "its requests end before they begin")
	elsewhere := []string{"Origin", "https://app.example.com", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "cors"}
	doors := map[string]http.Handler{
		"open":   newTestHub(t).Handler,
		"none":   newPagesHub(t, slog.New(slog.DiscardHandler)),
		"listed": newPagesHub(t, slog.New(slog.DiscardHandler), "https://app.example.com"),
		"other":  newPagesHub(t, slog.New(slog.DiscardHandler), "https://other.example.com"),
		"all":    newPagesHub(t, slog.New(slog.DiscardHandler), "*"),
	}
	for door, handler := range doors {
		t.Run(door, func(t *testing.T) {
			is := is.New(t)
			for _, path := range []string{"/realtime.js", "/realtime.d.ts"} {
				w := ask(handler, "GET", path, "", elsewhere...)
				is.Equal(w.Code, 200)
				is.Equal(w.Header().Values("Access-Control-Allow-Origin"), []string{"*"})
				is.Equal(w.Header().Get("Access-Control-Allow-Credentials"), "")
				is.Equal(w.Header().Get("Cross-Origin-Resource-Policy"), "cross-origin")
			}
			for _, path := range []string{"/console.js", "/", "/healthz"} {
				w := ask(handler, "GET", path, "", elsewhere...)
				is.True(w.Header().Get("Access-Control-Allow-Origin") != "*" || door == "all")
				is.Equal(w.Header().Get("Cross-Origin-Resource-Policy"), "")
			}
		})
	}
	is := is.New(t)
	r := httptest.NewRequest("GET", "/realtime.js", nil)
	r.Host = "evil.example"
	w := httptest.NewRecorder()
	doors["open"].ServeHTTP(w, r)
	is.Equal(w.Code, 403) // rebinding opens no door
	is.Equal(ask(doors["open"], "GET", "/v1/stream?tenant=a&profile=b", "", elsewhere...).Code, 403)
}

// A page that is refused for its origin sees nothing of why; who runs the hub does.
func TestARefusedOriginIsToldOnce(t *testing.T) {
	alone(t, "its requests end before they begin")
	preflight := func(handler http.Handler, origin string) func() {
		return func() {
			ask(handler, "OPTIONS", "/v1/presence", "", "Origin", origin, "Sec-Fetch-Site", "cross-site", "Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "authorization")
		}
	}
	for name, origins := range map[string][]string{"others are listed": {"https://app.example.com"}, "none are": nil} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			var logs syncBuffer
			handler := newPagesHub(t, slog.New(slog.NewTextHandler(&logs, nil)), origins...)
			refused := preflight(handler, "https://sister.example.com")
			moves(t, handler, map[string]float64{`auth_failures_total{reason="UnlistedOrigin"}`: 2}, func() { refused(); refused() }, "X-API-Key", "master-key-00001")
			// A call that needs no preflight is answered, and the page does not see it.
			moves(t, handler, map[string]float64{`auth_failures_total{reason="UnlistedOrigin"}`: 1}, func() {
				ask(handler, "GET", "/healthz", "", "Origin", "https://sister.example.com", "Sec-Fetch-Site", "same-site")
			}, "X-API-Key", "master-key-00001")
			is.Equal(strings.Count(logs.String(), "https://sister.example.com"), 1)
			is.True(strings.Contains(logs.String(), "REALTIME_CORS_ORIGINS"))

			// Neither the console, nor a page that is listed, nor a program is one.
			logs = syncBuffer{}
			moves(t, handler, map[string]float64{}, func() {
				ask(handler, "GET", "/healthz", "", "Origin", "http://localhost")
				ask(handler, "GET", "/healthz", "", "Origin", "https://behind.a.proxy", "Sec-Fetch-Site", "same-origin")
				ask(handler, "GET", "/realtime.js", "", "Origin", "https://anybody.example", "Sec-Fetch-Site", "cross-site")
				ask(handler, "GET", "/healthz", "")
				if len(origins) > 0 {
					preflight(handler, origins[0])()
				}
			}, "X-API-Key", "master-key-00001")
			is.Equal(logs.String(), "")

			// Strangers cannot fill the log, nor write into it.
			for i := range 1000 {
				preflight(handler, fmt.Sprintf("https://%d.evil.example", i))()
			}
			is.True(strings.Count(logs.String(), "\n") <= 100)
			logs = syncBuffer{}
			handler = newPagesHub(t, slog.New(slog.NewTextHandler(&logs, nil)), origins...)
			preflight(handler, "https://x\r\ntime=now "+strings.Repeat("y", 4000))()
			is.Equal(strings.Count(logs.String(), "\n"), 1)
			is.True(len(logs.String()) < 1000)
		})
	}
}

// Identity providers write scopes as they like, and words of their own beside ours.
func TestScopesOfIdentityProviders(t *testing.T) {
	alone(t, "one hub proves a credential, without the others")
	alone(t, "its requests end before they begin")
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret}), access.RatesConfig{})
	for _, tc := range []struct {
		scope            any
		subscribe, admin int
	}{
		{nil, 200, 403},
		{"openid profile", 200, 403},
		{"openid subscribe", 200, 403},
		{"openid admin", 403, 200},
		{[]string{"openid", "admin"}, 403, 200},
		{[]string{"subscribe", "admin"}, 200, 200},
		{[]string{"subscribe admin"}, 200, 200},
		{[]string{"openid"}, 200, 403},
		{json.RawMessage("null"), 200, 403},
		{"", 403, 403}, // nothing was granted
		{" ", 403, 403},
		{[]string{}, 403, 403},
		{7, 401, 401},
		{[]any{"admin", 7}, 401, 401},
		{map[string]bool{"admin": true}, 401, 401},
	} {
		t.Run(fmt.Sprint(tc.scope), func(t *testing.T) {
			is := is.New(t)
			claims := claimsOf()
			if tc.scope != nil {
				claims["scope"] = tc.scope
			}
			token := "Bearer " + signed(t, jwt.SigningMethodHS256, []byte(testSecret), claims)
			is.Equal(ask(h.Handler, "GET", "/v1/presence", "", "Authorization", token).Code, tc.subscribe)
			is.Equal(ask(h.Handler, "GET", "/v1/tenants/acme/connections", "", "Authorization", token).Code, tc.admin)
		})
	}
}
