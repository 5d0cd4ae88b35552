package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/access/accesstest"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/hubtest"
	"realtimehub/internal/room"
	"realtimehub/internal/settings"
	"realtimehub/internal/sse"
)

// tokenCookie is where a page may have its token, by the contract.
const tokenCookie = "realtime_token"

// newAuth proves credentials until the test ends.
func newAuth(t testing.TB, cfg access.Config) *access.Auth {
	t.Helper()
	auth, err := access.NewAuth(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return auth
}

// badToken is one whose signature is another secret's; no two are alike.
func badToken(t testing.TB) string {
	return signed(t, jwt.SigningMethodHS256, []byte(testSecret+"x"), claimsOf("jti", rand.Text()))
}

// ask has a handler answer; headers are names and values. A stream ends after what
// is there at once.
func ask(handler http.Handler, method, target, body string, headers ...string) *httptest.ResponseRecorder {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r := httptest.NewRequest(method, target, strings.NewReader(body)).WithContext(ctx)
	r.Host = "localhost"
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	if body != "" && r.Header.Get("Content-Type") == "" {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w
}

func TestBadCredentials(t *testing.T) {
	t.Parallel()
	alone(t, "its requests end before they begin")
	is := is.New(t)
	rsaKey, _ := rsa.GenerateKey(rand.Reader, 2048)
	otherRSA, _ := rsa.GenerateKey(rand.Reader, 2048)
	ecKey, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ecPoint, err := ecKey.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	edPublic, edKey, _ := ed25519.GenerateKey(rand.Reader)
	rsaPEM := accesstest.PEM(t, &rsaKey.PublicKey)
	published := []map[string]string{
		accesstest.JWK(&rsaKey.PublicKey, "one"), accesstest.JWK(&rsaKey.PublicKey, "for-encryption", "use", "enc"), accesstest.JWK(&rsaKey.PublicKey, "rs512", "alg", "RS512"),
		{"kty": "oct", "kid": "symmetric", "k": base64.RawURLEncoding.EncodeToString([]byte(testSecret))},
	}
	keys := accesstest.NewKeyServer(t, published...)

	doors := map[string]*access.Auth{
		"HS":   newAuth(t, access.Config{Secret: testSecret, Issuer: "issuer", Audience: "hub", APIKeys: []string{"acme=service-key-0001"}}),
		"RS":   newAuth(t, access.Config{PublicKey: rsaPEM}),
		"ES":   newAuth(t, access.Config{PublicKey: accesstest.PEM(t, &ecKey.PublicKey)}),
		"Ed":   newAuth(t, access.Config{PublicKey: accesstest.PEM(t, edPublic)}),
		"JWKS": newAuth(t, access.Config{JWKSURL: keys.URL}),
	}
	hs := func(changes ...any) string {
		return signed(t, jwt.SigningMethodHS256, []byte(testSecret), claimsOf(changes...))
	}
	hsHeader := func(header ...any) string {
		return signed(t, jwt.SigningMethodHS256, []byte(testSecret), claimsOf(), header...)
	}
	rs := func(key *rsa.PrivateKey, header ...any) string {
		return signed(t, jwt.SigningMethodRS256, key, claimsOf(), header...)
	}
	raw := func(header, claims, signature string) string {
		b64 := base64.RawURLEncoding.EncodeToString
		return b64([]byte(header)) + "." + b64([]byte(claims)) + "." + signature
	}
	good := hs()
	parts := strings.Split(good, ".")
	now := time.Now().Unix()
	none := signed(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, claimsOf())

	// What is good shows that the bad are refused for what is wrong with them.
	for door, token := range map[string]string{
		"HS": good, "RS": rs(rsaKey), "ES": signed(t, jwt.SigningMethodES256, ecKey, claimsOf()),
		"Ed": signed(t, jwt.SigningMethodEdDSA, edKey, claimsOf()), "JWKS": rs(rsaKey, "kid", "one"),
	} {
		h := newTrustedHub(t, doors[door], access.RatesConfig{})
		if w := ask(h.Handler, "GET", "/v1/presence", "", "Authorization", "Bearer "+token); w.Code != 200 {
			t.Fatalf("%s: a good token is refused: %s", door, w.Body)
		}
	}
	good512 := signed(t, jwt.SigningMethodRS512, rsaKey, claimsOf(), "kid", "rs512")
	if w := ask(newTrustedHub(t, doors["JWKS"], access.RatesConfig{}).Handler, "GET", "/v1/presence", "", "Authorization", "Bearer "+good512); w.Code != 200 {
		t.Fatalf("a JWKS key's own alg is refused: %s", w.Body)
	}

	type credential struct{ name, door, header, value string }
	cases := []credential{
		{"nothing", "HS", "X-Nothing", ""}, {"empty Authorization", "HS", "Authorization", ""}, {"scheme alone", "HS", "Authorization", "Bearer"},
		{"empty token", "HS", "Authorization", "Bearer "}, {"another scheme", "HS", "Authorization", "Basic " + good}, {"no scheme", "HS", "Authorization", good},
		{"in quotes", "HS", "Authorization", `Bearer "` + good + `"`}, {"two in one", "HS", "Authorization", "Bearer " + good + ", Bearer " + good},
		{"something behind it", "HS", "Authorization", "Bearer " + good + " x"},
		{"wrong API key", "HS", "X-API-Key", "service-key-000z"}, {"beginning of an API key", "HS", "X-API-Key", "service-key-000"}, {"API key and more", "HS", "X-API-Key", "service-key-0001y"},
		{"empty API key", "HS", "X-API-Key", ""}, {"API key with its tenant", "HS", "X-API-Key", "acme=service-key-0001"}, {"token as API key", "HS", "X-API-Key", good},
		{"wrong API key as bearer", "HS", "Authorization", "Bearer service-key-000z"}, {"token of a cookie's other name", "HS", "Cookie", "token=" + good},
		{"API key as cookie", "HS", "Cookie", tokenCookie + "=service-key-0001"}, {"broken cookie", "HS", "Cookie", tokenCookie + "=" + good[:len(good)-2]},
	}
	token := func(name, door, text string) {
		cases = append(cases, credential{name, door, "Authorization", "Bearer " + text})
	}
	for _, door := range []string{"HS", "RS", "JWKS"} {
		token("alg none", door, none)
		token("alg none, with a signature", door, none+"AAAA")
		token("alg NONE", door, raw(`{"alg":"NONE"}`, `{"tenant":"acme","sub":"user:1","exp":9999999999}`, ""))
		token("alg nOnE", door, raw(`{"alg":"nOnE"}`, `{"tenant":"acme","sub":"user:1","exp":9999999999}`, "AA"))
		token("no alg", door, raw(`{"typ":"JWT"}`, `{"tenant":"acme","sub":"user:1","exp":9999999999}`, "AA"))
		token("alg a number", door, raw(`{"alg":256}`, `{"tenant":"acme","sub":"user:1","exp":9999999999}`, "AA"))
		token("1 MiB of dots", door, strings.Repeat(".", 1<<20))
		token("1 MiB of one segment", door, strings.Repeat("a", 1<<20)+".b.c")
		token("four segments", door, good+".x")
		token("two segments", door, strings.Join(parts[:2], "."))
		token("signed with the PEM as secret", door, signed(t, jwt.SigningMethodHS256, []byte(rsaPEM), claimsOf(), "kid", "one"))
		token("signed by another RSA key", door, rs(otherRSA, "kid", "one"))
		token("another's key in its header", door, rs(otherRSA, "kid", "one", "jwk", accesstest.JWK(&otherRSA.PublicKey, "one")))
		token("a key's address in its header", door, rs(otherRSA, "kid", "one", "jku", "http://127.0.0.1:1/keys", "x5u", "http://127.0.0.1:1/keys"))
	}
	for _, kid := range []any{"../../../../dev/null", "/etc/passwd", "http://127.0.0.1:1/jwks.json", "' OR 1=1 --", "one' UNION SELECT 'key", "ONE", "", "one\x00", strings.Repeat("k", 5000), 7, []string{"one"}, map[string]string{"kid": "one"}} {
		token(fmt.Sprintf("kid %.20v", kid), "JWKS", rs(otherRSA, "kid", kid))
	}
	token("kid of a symmetric key", "JWKS", hsHeader("kid", "symmetric"))
	token("key for encryption", "JWKS", rs(rsaKey, "kid", "for-encryption"))
	token("another algorithm than the JWK's own", "JWKS", rs(rsaKey, "kid", "rs512"))
	token("PS256 with a key of RS256", "RS", signed(t, jwt.SigningMethodPS256, rsaKey, claimsOf()))
	token("RS512 with a key of RS256", "RS", signed(t, jwt.SigningMethodRS512, rsaKey, claimsOf()))
	token("Ed25519 at an ECDSA door", "ES", signed(t, jwt.SigningMethodEdDSA, edKey, claimsOf()))
	token("HS256 with the EC point", "ES", signed(t, jwt.SigningMethodHS256, ecPoint, claimsOf()))
	token("HS256 with the Ed25519 key", "Ed", signed(t, jwt.SigningMethodHS256, []byte(edPublic), claimsOf()))
	token("zero ECDSA signature", "ES", raw(`{"alg":"ES256"}`, `{"tenant":"acme","sub":"user:1","exp":9999999999}`, strings.Repeat("A", 86)))
	token("HS512 with the secret", "HS", signed(t, jwt.SigningMethodHS512, []byte(testSecret), claimsOf()))
	token("HS384 with the secret", "HS", signed(t, jwt.SigningMethodHS384, []byte(testSecret), claimsOf()))
	token("another secret", "HS", signed(t, jwt.SigningMethodHS256, []byte(testSecret+"x"), claimsOf()))
	token("empty secret", "HS", signed(t, jwt.SigningMethodHS256, []byte{}, claimsOf()))
	token("no signature", "HS", parts[0]+"."+parts[1]+".")
	token("another's claims", "HS", parts[0]+"."+strings.Split(hs("tenant", "globex"), ".")[1]+"."+parts[2])
	token("padding", "HS", good+"=")
	token("crit", "HS", hsHeader("crit", []string{"exp"}))
	token("wrong issuer", "HS", hs("iss", "issuer2"))
	token("no issuer", "HS", hs("iss", nil))
	token("wrong audience", "HS", hs("aud", "hub2"))
	token("no audience", "HS", hs("aud", nil))
	token("empty audience", "HS", hs("aud", []string{}))
	token("no exp", "HS", hs("exp", nil))
	token("exp as text", "HS", hs("exp", fmt.Sprint(now+3600)))
	token("exp now", "HS", hs("exp", now))
	token("exp a second ago: no leeway", "HS", hs("exp", now-1))
	token("exp 0", "HS", hs("exp", 0))
	token("exp negative", "HS", hs("exp", -5))
	token("exp beyond time", "HS", hs("exp", 1e300))
	token("exp in the year 10000", "HS", hs("exp", 253_402_300_800))
	token("nbf as text", "HS", hs("nbf", "tomorrow"))
	token("no tenant", "HS", hs("tenant", nil))
	token("empty tenant", "HS", hs("tenant", ""))
	token("tenant of all", "HS", hs("tenant", "*"))
	token("tenant ..", "HS", hs("tenant", ".."))
	token("tenant a list", "HS", hs("tenant", []string{"acme"}))
	token("tenant with a line's end", "HS", hs("tenant", "acme\n"))
	token("no sub", "HS", hs("sub", nil))
	token("sub a number", "HS", hs("sub", 42))
	token("sub of a bad type", "HS", hs("sub", "US ER:1"))
	token("sub with NUL", "HS", hs("sub", "user:\x00"))
	token("scope a list of numbers", "HS", hs("scope", []int{7}))
	token("scope a number", "HS", hs("scope", 7))
	token("claims a list", "HS", raw(`{"alg":"HS256"}`, `[]`, "AA"))

	handlers := map[string]*testHub{}
	for door, auth := range doors {
		handlers[door] = newTrustedHub(t, auth, access.RatesConfig{})
	}
	// A kid that is not known is once a fetch has not brought it, and the next one is soon
	// where one has failed.
	keys.Fail()
	unjudged := func(cases []credential) (left []credential) {
		for _, tc := range cases {
			if tc.door == "JWKS" && ask(handlers[tc.door].Handler, "GET", "/v1/presence", "", tc.header, tc.value).Code == http.StatusServiceUnavailable {
				left = append(left, tc)
			}
		}
		return left
	}
	unknown := unjudged(cases)
	is.True(len(unknown) > 0)
	failing := keys.Asked()
	eventually(t, func() bool { return keys.Asked() >= failing+2 }) // a fetch that was under way for them proves nothing
	keys.Publish(published...)
	eventually(t, func() bool { return len(unjudged(unknown)) == 0 })
	for _, tc := range cases {
		t.Run(tc.door+" "+tc.name, func(t *testing.T) {
			is := is.New(t)
			for _, target := range []string{"GET /v1/stream", "GET /v1/presence", "POST /v1/tenants/acme/events"} {
				method, path, _ := strings.Cut(target, " ")
				body := ""
				if method == "POST" {
					body = `{"type":"a.b","payload":1}`
				}
				w := ask(handlers[tc.door].Handler, method, path, body, tc.header, tc.value)
				is.Equal(w.Code, http.StatusUnauthorized)
				is.True(strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Bearer "))
				is.Equal(w.Header().Get("Content-Type"), "application/problem+json")
				var problem struct{ Code, Detail string }
				is.NoErr(json.Unmarshal(w.Body.Bytes(), &problem))
				is.True(slices.Contains([]string{"CredentialRequired", "InvalidCredential", "CredentialExpired"}, problem.Code))
				is.True(len(tc.value) < 12 || !strings.Contains(w.Body.String(), tc.value))
			}
		})
	}
	two := ask(handlers["HS"].Handler, "GET", "/v1/presence", "", "Authorization", "Bearer "+good, "Authorization", "Bearer "+good)
	is.Equal(two.Code, http.StatusUnauthorized) // a proxy and the hub could take another one each
	is.True(len(cases) >= 60)
	t.Logf("%d cases", len(cases))
	for _, h := range handlers {
		is.Equal(h.Stats().Tenants, 0) // and nothing came of any
	}
}

// Who mints tokens is told which claim is at fault; of a token with another's signature nothing.
func TestRefusalNamesTheClaim(t *testing.T) {
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret, Issuer: "issuer", Audience: "hub", TenantClaim: "org"}), access.RatesConfig{})
	for _, tc := range []struct {
		claim string
		value any
		want  string
	}{
		{"org", nil, `"org"`}, {"org", "a b", `"org"`}, {"sub", nil, `"sub"`}, {"sub", "X:1", `"sub"`}, {"exp", nil, `"exp"`}, {"exp", "soon", `"exp"`},
		{"nbf", "soon", `"nbf"`}, {"scope", 7, `"scope"`}, {"iss", nil, `"iss"`}, {"iss", "else", `"iss"`}, {"iss", 7, `"iss"`}, {"aud", nil, `"aud"`}, {"aud", "else", `"aud"`}, {"aud", 7, `"aud"`},
	} {
		t.Run(fmt.Sprint(tc.claim, " ", tc.value), func(t *testing.T) {
			is := is.New(t)
			claims := claimsOf("org", "acme", tc.claim, tc.value)
			later := claimsOf("org", "acme", "nbf", time.Now().Add(30*time.Minute).Unix(), tc.claim, tc.value) // time mends none of these
			for token, named := range map[string]bool{
				signed(t, jwt.SigningMethodHS256, []byte(testSecret), claims):     true,
				signed(t, jwt.SigningMethodHS256, []byte(testSecret), later):      true,
				signed(t, jwt.SigningMethodHS256, []byte(testSecret+"x"), claims): false,
			} {
				w := ask(h.Handler, "GET", "/v1/presence", "", "Authorization", "Bearer "+token)
				is.Equal(w.Code, http.StatusUnauthorized)
				var problem struct{ Code, Detail string }
				is.NoErr(json.Unmarshal(w.Body.Bytes(), &problem))
				is.Equal(problem.Code, "InvalidCredential")
				is.Equal(strings.Contains(problem.Detail, tc.want), named)
			}
		})
	}
}

// Only for stock EventSource: a token in a query is no credential elsewhere.
func TestTokenInAQueryIsForStreamsOnly(t *testing.T) {
	alone(t, "its requests end before they begin")
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret, APIKeys: []string{"acme=service-key-0001"}}), access.RatesConfig{})
	text := strings.TrimPrefix(bearer(t, "scope", "subscribe publish admin"), "Bearer ")
	for pattern := range h.API.routes() {
		t.Run(pattern, func(t *testing.T) {
			is := is.New(t)
			method, path, _ := strings.Cut(pathOf(pattern), " ")
			want := http.StatusUnauthorized
			switch pattern {
			case streamRoute:
				want = http.StatusOK
			case socketRoute:
				want = http.StatusUpgradeRequired // the token was good
			case signalrRoute:
				want = http.StatusNotFound // likewise
			}
			is.Equal(ask(h.Handler, method, path+"?access_token="+text, "").Code, want)
			is.Equal(ask(h.Handler, method, path+"?access_token=service-key-0001", "").Code, http.StatusUnauthorized)
			is.Equal(ask(h.Handler, method, path+"?access_token="+text+"&access_token="+text, "").Code, http.StatusUnauthorized)
		})
	}
}

// pathOf fills a pattern's places in.
func pathOf(pattern string) string {
	return strings.NewReplacer("{t}", "acme", "{id}", "user:1", "{p}", "user:1", "{profile}", "user:1", "{rooms}", "groups").Replace(pattern)
}

// routeScopes is the contract's, written down again so that a slip in the route
// table shows.
func routeScopes(pattern string) []string {
	switch {
	case pattern == "GET /v1/tenants/{t}/events", pattern == "GET /v1/tenants/{t}/outbox":
		return []string{"admin", "publish"}
	case pattern == "GET /v1/doctor":
		return []string{"admin", "publish", "subscribe"}
	case strings.HasPrefix(pattern, "POST ") && (strings.Contains(pattern, "/events")):
		return []string{"publish"}
	case strings.Contains(pattern, "/events/{id}"):
		return []string{"admin", "publish"}
	case strings.Contains(pattern, "/v1/tenants/"):
		return []string{"admin"}
	case pattern == "GET /metrics", pattern == "GET /debug/pprof/":
		return nil // no token's: an API key for all tenants opens it
	}
	return []string{"subscribe"}
}

func TestScopesOfEveryRoute(t *testing.T) {
	alone(t, "its requests end before they begin")
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret, APIKeys: []string{"acme=service-key-0001", "globex=other-key-000001", "*=master-key-00001"}}), access.RatesConfig{})
	handler := h.Handler
	for pattern := range h.API.routes() {
		method, path, _ := strings.Cut(pathOf(pattern), " ")
		code := func(header, value string) (int, string) {
			w := ask(handler, method, path, "{", header, value)
			var body struct{ Code string }
			json.Unmarshal(w.Body.Bytes(), &body)
			if lacks := body.Code == "ScopeRequired" || body.Code == "TenantForbidden"; lacks != (w.Header().Get("WWW-Authenticate") == `Bearer realm="realtime", error="insufficient_scope"`) {
				t.Errorf("%s: %d %s, WWW-Authenticate: %s", pattern, w.Code, body.Code, w.Header().Get("WWW-Authenticate")) // RFC 6750, section 3
			}
			return w.Code, body.Code
		}
		for name, scope := range map[string]any{"none": "", "absent": nil, "unknown": "superuser", "subscribe": "subscribe", "publish": "publish", "admin": "admin", "all": "subscribe  publish admin x"} {
			t.Run(pattern+" "+name, func(t *testing.T) {
				is := is.New(t)
				status, code := code("Authorization", bearer(t, "scope", scope))
				may := name == "all" && routeScopes(pattern) != nil || slices.Contains(routeScopes(pattern), name) || (name == "absent" || name == "unknown") && slices.Contains(routeScopes(pattern), "subscribe")
				if may {
					is.True(status != 401 && code != "ScopeRequired" && code != "TenantForbidden")
				} else {
					is.Equal(status, 403)
					is.Equal(code, "ScopeRequired")
				}
			})
		}
		t.Run(pattern+" API keys", func(t *testing.T) {
			is := is.New(t)
			service := slices.Contains(routeScopes(pattern), "publish") || slices.Contains(routeScopes(pattern), "admin") || routeScopes(pattern) == nil
			for _, key := range []string{"service-key-0001", "master-key-00001"} {
				status, code := code("X-API-Key", key)
				is.Equal(status == 403 && code == "ScopeRequired", !service || routeScopes(pattern) == nil && key == "service-key-0001")
			}
			status, code := code("X-API-Key", "other-key-000001")
			switch {
			case !service, routeScopes(pattern) == nil:
				is.Equal(code, "ScopeRequired")
			case strings.Contains(pattern, "{t}"):
				is.Equal(status, 403)
				is.Equal(code, "TenantForbidden")
			}
		})
	}
}

// No handler can reach the hub for a tenant that was not proven: only access makes a
// Caller and reads who a request says it is, and events have one way in.
func TestOnlyAccessProvesATenant(t *testing.T) {
	var published []string // where
	reads := 0
	for _, name := range sources(t) {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		own := filepath.Dir(name) == filepath.Join("internal", "access")
		ast.Inspect(file, func(node ast.Node) bool {
			wrong := ""
			switch node := node.(type) {
			case *ast.CompositeLit:
				if nameOf(node.Type) == "Caller" {
					wrong = "makes a Caller"
				}
			case *ast.CallExpr:
				called, ok := node.Fun.(*ast.SelectorExpr)
				if !ok {
					break
				}
				argument := ""
				if len(node.Args) == 1 {
					if literal, ok := node.Args[0].(*ast.BasicLit); ok {
						argument = literal.Value
					}
				}
				on, _ := called.X.(*ast.SelectorExpr)
				switch {
				case slices.Contains([]string{`"t"`, `"tenant"`, `"X-Tenant-Id"`, `"X-Profile-Id"`}, argument) && slices.Contains([]string{"PathValue", "Get"}, called.Sel.Name):
					wrong = "reads " + argument + " of a request"
				case called.Sel.Name == "Publish" && on != nil && on.Sel.Name == "hub":
					published = append(published, name)
				}
			}
			switch {
			case wrong != "" && !own:
				t.Errorf("%s %s", fset.Position(node.Pos()), wrong)
			case wrong != "":
				reads++
			}
			return true
		})
	}
	is := is.New(t)
	is.True(reads > 5) // those of access were seen
	is.Equal(published, []string{"publishing.go"})
}

// A tenant that is not the credential's is 403, whether it exists or not, and the
// answers are the same to the byte.
func TestAnotherTenantIsForbidden(t *testing.T) {
	alone(t, "its requests end before they begin")
	is := is.New(t)
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret, APIKeys: []string{"globex=globex-key-00001"}}), access.RatesConfig{})
	handler := h.Handler
	w := ask(handler, "PUT", "/v1/tenants/globex/groups/g/members/user:1", "", "X-API-Key", "globex-key-00001")
	is.Equal(w.Code, 204) // globex exists
	token := bearer(t, "scope", "subscribe publish admin")
	answers := map[string]bool{}
	for _, tenant := range []string{"globex", "nobody"} {
		for _, tc := range [][2]string{
			{"POST /v1/tenants/%s/events", `{"type":"a.b","payload":1}`}, {"GET /v1/tenants/%s/connections", ""},
			{"GET /v1/tenants/%s/events", ""}, {"GET /v1/tenants/%s/groups/g/members", ""}, {"PUT /v1/tenants/%s/groups/g/members", `{"members":[]}`},
			{"GET /v1/tenants/%s/presence", ""},
		} {
			method, path, _ := strings.Cut(fmt.Sprintf(tc[0], tenant), " ")
			w := ask(handler, method, path, tc[1], "Authorization", token)
			is.Equal(w.Code, 403)
			answers[fmt.Sprint(w.Header(), w.Body)] = true
		}
		event := `{"tenantId":"` + tenant + `","type":"a.b","payload":1,"target":{"kind":"tenant"}}`
		own := `{"tenantId":"acme","type":"a.b","payload":1,"target":{"kind":"tenant"}}`
		for path, body := range map[string]string{"/v1/events": event, "/v1/events/batch": `{"events":[` + own + `,` + event + `]}`} {
			w := ask(handler, "POST", path, body, "Authorization", token)
			is.Equal(w.Code, 403)
			answers[fmt.Sprint(w.Header(), w.Body)] = true
		}
	}
	is.Equal(len(answers), 1)
	page, _, err := h.History(t.Context(), "acme", "", 10)
	is.NoErr(err)
	is.Equal(len(page.Entries), 0) // the batch's own event neither
}

func TestCookies(t *testing.T) {
	alone(t, "its requests end before they begin")
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret, Origins: []string{"https://app.example.com"}}), access.RatesConfig{})
	handler := checked(t, h.API.Handler())
	cookie := tokenCookie + "=" + strings.TrimPrefix(bearer(t), "Bearer ")
	for _, tc := range []struct {
		site, origin string
		status       int
	}{
		{"", "", 200}, {"same-origin", "", 200}, {"same-site", "https://other.localhost", 403}, {"same-site", "", 403}, {"same-site", "https://app.example.com", 200}, {"none", "", 200},
		{"cross-site", "https://evil.example", 403}, {"cross-site", "", 403}, {"", "https://evil.example", 403}, {"", "null", 403},
		{"cross-site", "https://app.example.com", 200}, {"", "https://app.example.com", 200}, {"cross-site", "https://app.example.com.evil.example", 403},
		{"cross-site", "http://app.example.com", 403},
	} {
		for _, path := range []string{"/v1/presence", "/v1/stream"} {
			t.Run(path+tc.site+tc.origin, func(t *testing.T) {
				is := is.New(t)
				headers := []string{"Cookie", cookie}
				if tc.site != "" {
					headers = append(headers, "Sec-Fetch-Site", tc.site)
				}
				if tc.origin != "" {
					headers = append(headers, "Origin", tc.origin)
				}
				w := ask(handler, "GET", path, "", headers...)
				is.Equal(w.Code, tc.status)
				allowed := w.Header().Get("Access-Control-Allow-Origin")
				if tc.origin == "https://app.example.com" {
					is.Equal(allowed, tc.origin)
					is.Equal(w.Header().Get("Access-Control-Allow-Credentials"), "true")
				} else {
					is.Equal(allowed, "")
				}
				// With a header of its own a page proves that it has the token.
				headers = append(headers, "Authorization", bearer(t))
				is.Equal(ask(handler, "GET", path, "", headers...).Code, 200)
			})
		}
	}
	t.Run("preflight", func(t *testing.T) {
		is := is.New(t)
		for origin, want := range map[string]string{"https://app.example.com": "https://app.example.com", "https://evil.example": ""} {
			w := ask(handler, "OPTIONS", "/v1/connections/x/token", "", "Origin", origin, "Access-Control-Request-Method", "PUT", "Access-Control-Request-Headers", "authorization")
			is.Equal(w.Header().Get("Access-Control-Allow-Origin"), want)
		}
		all := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret, Origins: []string{"*"}}), access.RatesConfig{})
		w := ask(all.Handler, "GET", "/healthz", "", "Origin", "https://anywhere.example")
		is.Equal(w.Header().Get("Access-Control-Allow-Origin"), "*")
		is.Equal(w.Header().Get("Access-Control-Allow-Credentials"), "") // never both
	})
}

// A stream is told 30 s before its token ends and ended within a second of it; a
// fresh token prolongs it.
func TestAStreamLivesAsLongAsItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		hub := NewHub(HubConfig{Retry: time.Second, Log: history.NewMemory(testLimits), Resolver: room.Own{}, Plain: true, Logger: slog.New(slog.DiscardHandler)}, PresenceConfig{Audience: settings.AudienceNone, Grace: time.Second}, nil, Reporting{})
		api := NewAPI(hub, newAuth(t, access.Config{Secret: testSecret}), access.NewRates(access.RatesConfig{}), APIConfig{Logger: slog.New(slog.DiscardHandler)})
		start := time.Now()
		bearerFor := func(d time.Duration, changes ...any) string {
			return bearer(t, append([]any{"exp", start.Add(d).Unix()}, changes...)...)
		}
		pr, pw := io.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			r := httptest.NewRequest("GET", "/v1/stream", nil)
			r.Header.Set("Authorization", bearerFor(time.Minute))
			checked(t, api.Handler()).ServeHTTP(&pipeWriter{header: http.Header{}, w: pw}, r)
			pw.Close()
		}()
		reader := newStreamReader(t, pr)
		next := func() (event sse.Event, at time.Duration) {
			event, err := reader.Next()
			is.NoErr(err)
			return event, time.Since(start)
		}
		ready, _ := next()
		is.Equal(ready.Type, "hub.ready")
		var data struct{ ConnectionID string }
		is.NoErr(json.Unmarshal([]byte(ready.Data), &data))
		warning, at := next()
		is.Equal(warning.Type, "hub.expiring")
		is.Equal(at, 30*time.Second)
		is.Equal(warning.Data, `{"expiresAt":"`+event.FormatTime(start.Add(time.Minute))+`"}`)

		put := func(token string) int {
			return ask(checked(t, api.Handler()), "PUT", "/v1/connections/"+data.ConnectionID+"/token", "", "Authorization", token).Code
		}
		is.Equal(put(bearerFor(time.Hour, "sub", "user:2")), 404) // another profile's
		is.Equal(put(bearerFor(time.Hour, "tenant", "globex")), 404)
		is.Equal(put(bearerFor(2*time.Minute)), 204)
		warning, at = next()
		is.Equal(warning.Type, "hub.expiring")
		is.Equal(at, 90*time.Second) // not a second before the old one's end
		closing, at := next()
		is.Equal(closing.Type, "hub.closing")
		is.True(strings.Contains(closing.Data, `"reason":"expired"`))
		is.True(at >= 2*time.Minute && at <= 2*time.Minute+time.Second)
		_, err := reader.Next()
		is.True(err != nil)
		<-done
		is.Equal(put(bearerFor(time.Hour)), 404)

		// An NDJSON body ends with its credential, and says so.
		body, feed := io.Pipe()
		answer := httptest.NewRecorder()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			r := httptest.NewRequest("POST", "/v1/events", body)
			r.Header.Set("Content-Type", "application/x-ndjson")
			r.Header.Set("Authorization", bearerFor(3*time.Minute, "scope", "publish"))
			checked(t, api.Handler()).ServeHTTP(answer, r)
		}()
		line := eventJSON("acme", "a.b", `{"kind":"tenant"}`, "1") + "\n"
		io.WriteString(feed, line)
		time.Sleep(time.Until(start.Add(3 * time.Minute)))
		io.WriteString(feed, line)
		feed.Close()
		<-ended
		is.True(strings.Contains(answer.Body.String(), `"accepted":1,"refused":1`))
		is.True(strings.Contains(answer.Body.String(), "CredentialExpired"))
		last, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		is.NoErr(hub.streams.Engine().Close(last))
	})
}

// pipeWriter is a ResponseWriter whose answer is read while it is written.
type pipeWriter struct {
	header http.Header
	w      io.Writer
}

func (p *pipeWriter) Header() http.Header         { return p.header }
func (p *pipeWriter) WriteHeader(int)             {}
func (p *pipeWriter) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p *pipeWriter) Flush()                      {}

// 100,000 random operations of three tenants that try to reach each other: nothing
// arrives across, and what is another's looks like what is not there.
func TestIsolation(t *testing.T) {
	t.Parallel()
	alone(t, "its requests end before they begin")
	is := is.New(t)
	const perTenant = 6
	operations := 100_000
	if testing.Short() {
		operations = 10_000
	}
	tenants := []string{"acme", "globex", "initech"}
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret}), access.RatesConfig{ClientRate: -1})
	handler := h.Handler
	seed := uint64(time.Now().UnixNano())
	random := mathrand.New(mathrand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)

	token := map[string]string{}
	var ids []string // of all connections; the i-th is of tenants[i%3]
	inbox := map[string]*httptest.ResponseRecorder{}
	conns := map[string]*delivery.Connection{}
	for _, tenant := range tenants {
		token[tenant] = bearer(t, "tenant", tenant, "scope", "subscribe publish admin")
	}
	for i := range len(tenants) * perTenant {
		tenant := tenants[i%len(tenants)]
		c, err := h.streams.Connect(t.Context(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: tenant, Profile: event.Profile{Type: "user", ID: fmt.Sprint(i % 4)}})
		is.NoErr(err)
		ids = append(ids, c.ID.String())
		conns[c.ID.String()] = c
	}
	hostile := []string{"user:1", "acme", "globex/user:1", "..%2Fglobex", "%2e%2e", "user:1%00", "*", "a:b:c", "%F0%9F%98%80", "user%3A1%2Fevents", "' OR 1=1", "globex%0Aid:9", "-", "00000000-0000-0000-0000-000000000000"}
	pick := func(list []string) string { return list[random.IntN(len(list))] }
	quote := func(s string) string { b, _ := json.Marshal(s); return string(b) }
	absent := "01990000-0000-7000-8000-000000000000"

	across := 0
	for n := range operations {
		from := pick(tenants)
		foreign := pick(ids)
		for conns[foreign].Tenant == from {
			foreign = pick(ids)
		}
		id, room := url.PathEscape(pick(hostile)), url.PathEscape(pick(hostile))
		payload := quote(from)
		switch random.IntN(12) {
		case 0: // publish to anything, at one's own tenant
			target := pick([]string{`{"kind":"tenant"}`, `{"kind":"profile","profiles":["user:1"]}`, `{"kind":"connection","connectionId":` + quote(foreign) + `}`,
				`{"kind":"group","groupId":"g"}`, `{"kind":"tenant","exclude":{"connectionIds":[` + quote(foreign) + `]}}`})
			w := ask(handler, "POST", "/v1/events", `{"tenantId":`+quote(from)+`,"type":"a.b","ephemeral":true,"payload":`+payload+`,"target":`+target+`}`, "Authorization", token[from])
			if w.Code != 202 && w.Code != 400 {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
		case 1: // publish in another's name
			w := ask(handler, "POST", "/v1/events", `{"tenantId":`+quote(conns[foreign].Tenant)+`,"type":"a.b","payload":`+payload+`,"target":{"kind":"tenant"}}`, "Authorization", token[from])
			if w.Code != 403 {
				across++
			}
		case 2:
			w := ask(handler, "PUT", "/v1/tenants/"+from+"/groups/g/members/"+id, "", "Authorization", token[from])
			if w.Code >= 500 {
				t.Fatal(w.Body)
			}
		case 3:
			w := ask(handler, "POST", "/v1/tenants/"+conns[foreign].Tenant+"/profiles/"+id+"/events", `{"type":"a.b","payload":`+payload+`}`, "Authorization", token[from])
			if w.Code != 403 && w.Code != 404 && w.Code != 405 {
				across++
			}
		case 4:
			w := ask(handler, "POST", "/v1/tenants/"+from+"/conversations/"+room+"/events", `{"type":"a.b","ephemeral":true,"payload":`+payload+`}`, "Authorization", token[from])
			if w.Code >= 500 {
				t.Fatal(w.Body)
			}
		default: // what is another's, beside what is not there
			call := pick([]string{"POST /v1/connections/%s/touch", "PATCH /v1/connections/%s", "PUT /v1/connections/%s/token", "GET /v1/tenants/" + from + "/connections/%s",
				"DELETE /v1/tenants/" + from + "/connections/%s", "POST /v1/tenants/" + from + "/connections/%s/events"})
			method, path, _ := strings.Cut(call, " ")
			body := ""
			switch {
			case method == "PATCH":
				body = `{"types":["x.*"]}`
			case strings.HasSuffix(path, "/events"):
				body = `{"type":"a.b","id":"fixed-` + fmt.Sprint(n) + `","payload":` + payload + `}`
			}
			theirs := ask(handler, method, fmt.Sprintf(path, foreign), body, "Authorization", token[from])
			nobodys := ask(handler, method, fmt.Sprintf(path, absent), strings.Replace(body, "fixed-", "fixed2-", 1), "Authorization", token[from])
			same := theirs.Code == nobodys.Code && maps.EqualFunc(theirs.Header(), nobodys.Header(), slices.Equal)
			if strings.HasSuffix(path, "/events") {
				same = same && strings.Contains(theirs.Body.String(), `"connections":0`) && strings.Contains(nobodys.Body.String(), `"connections":0`)
			} else {
				same = same && theirs.Body.String() == nobodys.Body.String() && theirs.Code == 404
			}
			if !same {
				t.Fatalf("%s tells another's connection from none: %d %v %s, %d %v %s", call, theirs.Code, theirs.Header(), theirs.Body, nobodys.Code, nobodys.Header(), nobodys.Body)
			}
		}
	}
	is.Equal(h.Stats().Streams, len(conns)) // nobody closed another's
	delivered := 0
	for id, c := range conns {
		c.Stream.Close(h.streams.Encoder(sse.Encoding{}).Closing(delivery.CloseKicked, 0))
		inbox[id] = httptest.NewRecorder()
		h.streams.Engine().Serve(inbox[id], httptest.NewRequest("GET", "/", nil), c.Stream)
		for reader := newStreamReader(t, inbox[id].Body); ; {
			event, err := reader.Next()
			if err != nil {
				break
			}
			var envelope struct{ TenantID, Payload string }
			if event.Type != "a.b" {
				continue
			}
			is.NoErr(json.Unmarshal([]byte(event.Data), &envelope))
			delivered++
			if envelope.TenantID != c.Tenant || envelope.Payload != c.Tenant {
				across++
			}
		}
	}
	is.Equal(across, 0)
	is.True(delivered > 1000) // it is not silence that keeps them apart
	t.Logf("%d operations, %d deliveries, %d across", operations, delivered, across)
}

// A canary token goes through every route and every failure, and appears in nothing
// that the process writes or serves.
func TestACanaryTokenAppearsNowhere(t *testing.T) {
	const canary = "canary7d1f"
	folder := t.TempDir()
	for name, settings := range map[string][]string{
		"trusted": {"REALTIME_JWT_SECRET=" + canary + "-secret-0123456789abcdef", "REALTIME_API_KEYS=acme=" + canary + "-key-of-acme,*=" + canary + "-master", "REALTIME_CORS_ORIGINS=https://app.example.com", "REALTIME_MAX_CONNECTIONS_PER_TENANT=1", "REALTIME_PUBLISH_RATE=1", "REALTIME_CLIENT_RATE=1", "REALTIME_FAILED_TOKEN_RATE=0"},
		"open":    {},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			var logs syncBuffer
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			addr, done := make(chan string, 1), make(chan error, 1)
			go func() {
				done <- run(ctx, append(settings, "REALTIME_ADDR=127.0.0.1:0", "REALTIME_LOG_LEVEL=debug", "REALTIME_DRAIN=0", "REALTIME_MEMBERSHIP_URL=http://127.0.0.1:1/x", "REALTIME_MEMBERSHIP_TOKEN="+canary+"-membership"), &logs, func(a net.Addr) { addr <- a.String() })
			}()
			url := "http://" + <-addr
			client := hubtest.CheckedClient(t, &http.Transport{})
			client.CheckRedirect, client.Timeout = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, time.Minute
			defer client.CloseIdleConnections()
			secret := []byte(canary + "-secret-0123456789abcdef")
			tokens := []string{
				canary, canary + ".b.c", canary + "-key-of-acme", canary + "-master",
				signed(t, jwt.SigningMethodHS256, secret, claimsOf("scope", "subscribe publish admin"), "x", canary),
				signed(t, jwt.SigningMethodHS256, secret, claimsOf("exp", 1), "x", canary),
				signed(t, jwt.SigningMethodHS256, []byte("wrong"), claimsOf("tenant", canary), "kid", canary),
			}
			var patterns []string
			probe := &api{subscribing: &subscriber{}}
			for pattern := range probe.routes() {
				patterns = append(patterns, pathOf(pattern))
			}
			patterns = append(patterns, "GET /", "GET /healthz", "GET /readyz", "GET /nothing", "DELETE /v1/events", "GET //v1/stream", "GET /v1/../v1/stream", "GET /console.js", "OPTIONS /v1/events", "GET /v1/stream/")
			served := 0
			for _, token := range tokens {
				needles := []string{canary, token}
				for _, pattern := range patterns {
					for where := range 4 {
						method, path, _ := strings.Cut(pattern, " ")
						target := url + path
						if where == 3 {
							target += "?access_token=" + token
						}
						body := `{"type":"` + strings.Repeat("x", 200) + `"}`
						if method == "GET" || method == "DELETE" {
							body = ""
						}
						reqCtx, cancel := context.WithTimeout(ctx, time.Minute)
						r, err := http.NewRequestWithContext(reqCtx, method, target, strings.NewReader(body))
						is.NoErr(err)
						r.Header.Set("Content-Type", "application/json")
						if where == 0 {
							r.Header.Set("Origin", "https://app.example.com")
						}
						switch where {
						case 0:
							r.Header.Set("Authorization", "Bearer "+token)
						case 1:
							r.Header.Set("X-API-Key", token)
						case 2:
							r.Header.Set("Cookie", tokenCookie+"="+token)
						}
						res, err := client.Do(r)
						is.NoErr(err)
						answer := fmt.Sprint(res.Status, res.Header)
						if strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
							b := make([]byte, 4096)
							n, _ := res.Body.Read(b)
							answer += string(b[:n])
						} else {
							b, _ := io.ReadAll(res.Body)
							answer += string(b)
						}
						res.Body.Close()
						cancel()
						served++
						for _, needle := range needles {
							if strings.Contains(answer, needle) {
								t.Errorf("%s, way %d: served: %.300s", pattern, where, answer)
							}
						}
					}
				}
			}
			client.CloseIdleConnections()
			stop()
			is.NoErr(<-done)
			for _, token := range append(tokens, canary) {
				if i := strings.Index(logs.String(), token); i >= 0 {
					t.Errorf("logged: %.300s", logs.String()[max(0, i-100):])
				}
			}
			t.Logf("%d answers, %d bytes of log", served, len(logs.String()))
		})
	}
	// Nor in what a start that fails says.
	for _, settings := range [][]string{
		{"REALTIME_JWT_PUBLIC_KEY=" + canary}, {"REALTIME_JWT_PUBLIC_KEY=-----BEGIN PUBLIC KEY-----" + canary}, {"REALTIME_API_KEYS=" + canary},
		{"REALTIME_API_KEYS=a=" + canary + ",b=" + canary}, {"REALTIME_JWKS_URL=http://u:" + canary + "@%zz/" + canary}, {"REALTIME_JWT_SECRET=" + canary, "REALTIME_ADDR=nonsense"},
		{"REALTIME_TLS_CERT=" + filepath.Join(folder, "x"), "REALTIME_JWT_SECRET=" + canary}, {"REALTIME_CORS_ORIGINS=" + canary}, {"REALTIME_MEMBERSHIP_URL=http://u:" + canary + "@%zz"},
	} {
		is := is.New(t)
		err := run(t.Context(), append(settings, "REALTIME_MEMBERSHIP_TOKEN="+canary), os.Stderr, nil)
		is.True(err != nil)
		is.True(!strings.Contains(err.Error(), canary))
		is.True(strings.Contains(err.Error(), "REALTIME_"))
	}
}
