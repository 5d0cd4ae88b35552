package main

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/time/rate"
)

// Scope is a set of what a credential may do; the route table says what each
// route needs.
type Scope uint8

// The scopes there are.
const (
	ScopeSubscribe Scope = 1 << iota
	ScopePublish
	ScopeAdmin
	ScopeAll // what shows every tenant: only an API key for all (*) has it, no token
)

var scopeNames = map[string]Scope{"subscribe": ScopeSubscribe, "publish": ScopePublish, "admin": ScopeAdmin}

// String lists the names, as a person would.
func (s Scope) String() string {
	var names []string
	for name, one := range scopeNames {
		if s&one != 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, " or ")
}

// Refusal is why a credential does not open the door: 401 (RFC 6750's
// invalid_token), or where it is a valid one 403. It never repeats the credential.
type Refusal struct {
	Valid  bool
	Code   string
	Detail string
}

func (r *Refusal) Error() string { return r.Code + ": " + r.Detail }

var (
	errNoCredential = &Refusal{false, "CredentialRequired", "a token or an API key is needed"}
	errCredential   = &Refusal{false, "InvalidCredential", "the credential is not valid here"}
	errExpired      = &Refusal{false, "CredentialExpired", "the token has expired"}
	errNotYet       = &Refusal{false, "InvalidCredential", "the token is not valid yet"}
	errClaims       = &Refusal{false, "InvalidCredential", "the token needs the claims tenant, sub and exp, and a scope only as text"}
	errTenant       = &Refusal{true, "TenantForbidden", "the credential is of another tenant"}
	errCookieSite   = &Refusal{true, "CrossSite", "a cookie is no credential for another site's page"}
	errForeignHost  = &Refusal{true, "ForbiddenHost", "in open mode the hub answers to localhost only"}
	errForeignSite  = &Refusal{true, "CrossSite", "in open mode the hub answers no other site's pages"}
	errScopeAll     = &Refusal{true, codeScope, "an API key for all tenants (*) is needed"}
)

const codeScope = "ScopeRequired"

// Bounds of what is looked at before anything is believed.
const (
	maxToken     = 8 << 10 // bytes
	minRSABits   = 2048
	tokenCookie  = "realtime_token"
	tokenInQuery = "access_token"
)

// maxExpiry is the last time that RFC 3339 can write.
var maxExpiry = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// AuthConfig is what credentials are checked against; without a key the hub is open.
type AuthConfig struct {
	Secret      string // HS256
	PublicKey   string // PEM, or the path of a file that holds it
	JWKSURL     string
	Issuer      string // empty: any
	Audience    string // empty: any
	TenantClaim string
	APIKeys     []string // "tenant=key", tenant "*" for all
	Origins     []string // that may use a cookie from another site
	Logger      *slog.Logger
}

// open says that there is nothing to check against, so that no credential is asked for.
func (cfg AuthConfig) open() bool {
	return cfg.Secret == "" && cfg.PublicKey == "" && cfg.JWKSURL == "" && len(cfg.APIKeys) == 0
}

// Auth proves who a request acts for.
type Auth struct {
	open        bool
	secret      []byte
	public      crypto.PublicKey
	jwks        keyfunc.Keyfunc // nil: none
	parser      *jwt.Parser
	tenantClaim string
	keys        []apiKey
	crossOrigin *http.CrossOriginProtection
	refused     counts[string] // by code
}

type apiKey struct {
	tenant string
	hash   [sha256.Size]byte
}

// NewAuth reads the keys; those of a JWKS are fetched and refreshed until ctx ends.
// Each error begins with the setting's name and never shows its value.
func NewAuth(ctx context.Context, cfg AuthConfig) (*Auth, error) {
	a := &Auth{
		open: cfg.open(), secret: []byte(cfg.Secret), tenantClaim: cmp.Or(cfg.TenantClaim, "tenant"), crossOrigin: http.NewCrossOriginProtection(),
		refused: newCounts(errNoCredential.Code, errCredential.Code, errExpired.Code, errTenant.Code,
			errCookieSite.Code, errForeignHost.Code, codeScope),
	}
	options := []jwt.ParserOption{jwt.WithExpirationRequired(), jwt.WithStrictDecoding()}
	if cfg.Issuer != "" {
		options = append(options, jwt.WithIssuer(cfg.Issuer))
	}
	if cfg.Audience != "" {
		options = append(options, jwt.WithAudience(cfg.Audience))
	}
	a.parser = jwt.NewParser(options...)
	var errs []error
	if cfg.PublicKey != "" {
		var err error
		if a.public, err = readPublicKey(cfg.PublicKey); err != nil {
			errs = append(errs, errors.New("JWT_PUBLIC_KEY: "+err.Error()))
		}
	}
	seen := map[[sha256.Size]byte]bool{}
	for _, pair := range cfg.APIKeys {
		tenant, key, _ := strings.Cut(strings.TrimSpace(pair), "=")
		hash := sha256.Sum256([]byte(key))
		switch {
		case key == "" || tenant != "*" && checkTenant(tenant) != nil:
			errs = append(errs, errors.New("API_KEYS: is not a list such as acme=key1,*=key2"))
		case seen[hash]:
			errs = append(errs, errors.New("API_KEYS: the same key twice"))
		}
		seen[hash] = true
		a.keys = append(a.keys, apiKey{tenant, hash})
	}
	for _, origin := range cfg.Origins {
		if origin == "*" { // anybody may call, but nobody with a cookie
			continue
		}
		if err := a.crossOrigin.AddTrustedOrigin(origin); err != nil {
			errs = append(errs, errors.New("CORS_ORIGINS: is not a list of origins such as https://app.example.com"))
		}
	}
	if len(errs) == 0 && cfg.JWKSURL != "" {
		var err error
		if a.jwks, err = fetchKeys(ctx, cfg.JWKSURL, cfg.Logger); err != nil {
			errs = append(errs, errors.New("JWKS_URL: is not a URL that keys can be fetched from"))
		}
	}
	return a, errors.Join(errs...)
}

// Refuse counts a *Refusal among what an answer says.
func (a *Auth) Refuse(err error) {
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		a.refused.add(refusal.Code, 1)
	}
}

// Refused is how often each code was answered.
func (a *Auth) Refused() map[string]int64 { return a.refused.now() }

// Open says that no credential is asked for.
func (a *Auth) Open() bool { return a.open }

// readPublicKey reads a PEM block, in which \n may stand for a line's end.
func readPublicKey(text string) (crypto.PublicKey, error) {
	data := []byte(strings.ReplaceAll(text, `\n`, "\n"))
	if !strings.HasPrefix(text, "-----BEGIN") {
		var err error
		if data, err = os.ReadFile(text); err != nil {
			return nil, errors.New("is neither a PEM block nor a file that can be read")
		}
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("is not a PEM block")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		if key, err = x509.ParsePKCS1PublicKey(block.Bytes); err != nil {
			return nil, errors.New("is not a public key")
		}
	}
	if algorithm(key) == "" {
		return nil, errors.New("is not an RSA key of 2,048 bits or more, an ECDSA or an Ed25519 key")
	}
	return key, nil
}

// algorithm is the only one that a key is used with (RFC 8725, section 3.1);
// empty for a key that is not taken.
func algorithm(key crypto.PublicKey) string {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() >= minRSABits {
			return jwt.SigningMethodRS256.Name
		}
	case *ecdsa.PublicKey:
		switch key.Curve.Params().BitSize {
		case 256:
			return jwt.SigningMethodES256.Name
		case 384:
			return jwt.SigningMethodES384.Name
		case 521:
			return jwt.SigningMethodES512.Name
		}
	case ed25519.PublicKey:
		return jwt.SigningMethodEdDSA.Alg()
	}
	return ""
}

// Of a JWKS: when it is fetched. What was good stays while it cannot be.
const (
	jwksEvery   = 10 * time.Minute
	jwksUnknown = time.Minute // and at most so often for a kid that is not known
	jwksTimeout = 5 * time.Second
)

func fetchKeys(ctx context.Context, from string, logger *slog.Logger) (keyfunc.Keyfunc, error) {
	return keyfunc.NewDefaultOverrideCtx(ctx, []string{from}, keyfunc.Override{
		HTTPTimeout: jwksTimeout, RefreshInterval: jwksEvery,
		RefreshUnknownKID: rate.NewLimiter(rate.Every(jwksUnknown), 1), RateLimitWaitMax: jwksTimeout,
		RefreshErrorHandlerFunc: func(string) func(context.Context, error) {
			return func(_ context.Context, err error) {
				if inURL, ok := errors.AsType[*url.Error](err); ok {
					err = inURL.Err // it repeats the URL, which may hold a secret
				}
				logger.Warn("jwks: not refreshed, the keys stay as they were", "err", err)
			}
		},
	})
}

// Caller is who a request acts for. Only Admit makes one, so that its tenant is proven.
type Caller struct {
	Expires time.Time // of the token; zero: never

	tenant  string     // where it may act; "*": everywhere
	path    string     // the tenant of the request's path, if it has one
	profile ProfileRef // of a token
	open    bool
}

// Tenant is the tenant of the request's path.
func (c *Caller) Tenant() string { return c.path }

// Reaches says whether the caller may act in a tenant.
func (c *Caller) Reaches(tenant string) bool { return c.tenant == "*" || c.tenant == tenant }

// Client is the tenant and the profile that a request of a browser acts for: the
// token's; in open mode it says so itself, in the query or else in the headers.
func (c *Caller) Client(r *http.Request, query url.Values) (tenant string, p ProfileRef, err error) {
	if !c.open {
		return c.tenant, c.profile, nil
	}
	var faults Faults
	tenant = strings.Clone(either(query.Get("tenant"), r.Header.Get("X-Tenant-Id")))
	faults.tenant("tenant", tenant)
	p = faults.profile("profile", strings.Clone(either(query.Get("profile"), r.Header.Get("X-Profile-Id"))))
	return tenant, p, faults.Err()
}

// Viewer is Client for a call whose "profile" is who is asked about: in open mode
// the viewer is the header's, or nobody.
func (c *Caller) Viewer(r *http.Request, query url.Values) (tenant string, p ProfileRef, err error) {
	if !c.open {
		return c.tenant, c.profile, nil
	}
	var faults Faults
	tenant = either(query.Get("tenant"), r.Header.Get("X-Tenant-Id"))
	faults.tenant("tenant", tenant)
	if text := r.Header.Get("X-Profile-Id"); text != "" {
		p = faults.profile("X-Profile-Id", text)
	}
	return tenant, p, faults.Err()
}

// Owner is who makes a call about a connection, which may be nil, and whether it is
// the caller's own; in open mode its id is enough.
func (c *Caller) Owner(conn *Connection) (tenant string, p ProfileRef, own bool) {
	if c.open && conn != nil {
		return conn.Tenant, conn.Profile, true
	}
	return c.tenant, c.profile, conn != nil && conn.Tenant == c.tenant && conn.Profile == c.profile
}

func either(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// Admit finds the request's credential, proves it, and sees that it has one of the
// scopes and is of the path's tenant. The error is a *Refusal.
func (a *Auth) Admit(r *http.Request, need Scope, inQuery bool) (*Caller, error) {
	if a.open {
		return &Caller{tenant: "*", path: r.PathValue("t"), open: true}, nil
	}
	caller, scopes, err := a.identify(r, inQuery)
	if err != nil {
		return nil, err
	}
	switch {
	case scopes&need != 0:
	case need == ScopeAll:
		return nil, errScopeAll
	default:
		return nil, &Refusal{true, codeScope, "the credential needs the scope " + need.String()}
	}
	if t := r.PathValue("t"); t != "" {
		if !caller.Reaches(t) {
			return nil, errTenant
		}
		caller.path = t
	}
	return caller, nil
}

// identify takes the first credential that the request has, good or bad.
func (a *Auth) identify(r *http.Request, inQuery bool) (*Caller, Scope, error) {
	switch headers := r.Header["Authorization"]; {
	case len(headers) > 1:
		return nil, 0, errCredential
	case len(headers) == 1:
		scheme, credential, _ := strings.Cut(headers[0], " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return nil, 0, errCredential
		}
		credential = strings.TrimLeft(credential, " ")
		if caller := a.service(credential); caller != nil {
			return caller, caller.scopes(), nil
		}
		return a.token(r.Context(), credential)
	}
	switch keys := r.Header["X-Api-Key"]; {
	case len(keys) == 1:
		if caller := a.service(keys[0]); caller != nil {
			return caller, caller.scopes(), nil
		}
		return nil, 0, errCredential
	case len(keys) > 1:
		return nil, 0, errCredential
	}
	if inQuery {
		switch tokens := r.URL.Query()[tokenInQuery]; {
		case len(tokens) == 1:
			return a.token(r.Context(), tokens[0])
		case len(tokens) > 1:
			return nil, 0, errCredential
		}
	}
	if cookie, err := r.Cookie(tokenCookie); err == nil {
		if !a.sameSite(r) {
			return nil, 0, errCookieSite
		}
		return a.token(r.Context(), cookie.Value)
	}
	return nil, 0, errNoCredential
}

// sameSite says whether a cookie may speak for the request, whatever its method:
// a stream is a GET, and tells all.
func (a *Auth) sameSite(r *http.Request) bool {
	if r.Header.Get("Sec-Fetch-Site") == "same-site" {
		return true
	}
	probe := *r
	probe.Method = http.MethodPost // else it is taken for harmless
	return a.crossOrigin.Check(&probe) == nil
}

// service finds an API key, nil where it is none; all are compared, so that the
// time tells nothing.
func (a *Auth) service(key string) *Caller {
	if key == "" || len(key) > maxToken {
		return nil
	}
	hash := sha256.Sum256([]byte(key))
	var found *Caller
	for i := range a.keys {
		if subtle.ConstantTimeCompare(a.keys[i].hash[:], hash[:]) == 1 {
			found = &Caller{tenant: a.keys[i].tenant}
		}
	}
	return found
}

// scopes are an API key's.
func (c *Caller) scopes() Scope {
	if c.tenant == "*" {
		return ScopePublish | ScopeAdmin | ScopeAll
	}
	return ScopePublish | ScopeAdmin
}

// token proves a JWT (RFC 7519) and reads its claims.
func (a *Auth) token(ctx context.Context, text string) (*Caller, Scope, error) {
	if text == "" || len(text) > maxToken || strings.Count(text, ".") != 2 {
		return nil, 0, errCredential
	}
	claims := jwt.MapClaims{}
	_, err := a.parser.ParseWithClaims(text, claims, func(t *jwt.Token) (any, error) { return a.keysFor(ctx, t) })
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return nil, 0, errExpired
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return nil, 0, errNotYet
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return nil, 0, errClaims
	case err != nil:
		return nil, 0, errCredential
	}
	c, scopes, ok := a.read(claims)
	if !ok {
		return nil, 0, errClaims
	}
	return c, scopes, nil
}

// read makes a caller of proven claims.
func (a *Auth) read(claims jwt.MapClaims) (c *Caller, scopes Scope, ok bool) {
	tenant, _ := claims[a.tenantClaim].(string)
	subject, _ := claims["sub"].(string)
	profile, err := ParseProfile(subject)
	expires, err2 := claims.GetExpirationTime()
	if err != nil || err2 != nil || checkTenant(tenant) != nil || expires == nil || expires.After(maxExpiry) || expires.Unix() < 0 {
		return nil, 0, false
	}
	scopes = ScopeSubscribe
	if scope, there := claims["scope"]; there {
		text, isText := scope.(string)
		if !isText {
			return nil, 0, false
		}
		scopes = 0
		for _, name := range strings.Fields(text) {
			scopes |= scopeNames[name]
		}
	}
	return &Caller{tenant: strings.Clone(tenant), profile: profile, Expires: expires.Time}, scopes, true
}

// keysFor are the keys that a token may have been signed with. The token's own
// word decides nothing: its alg must be the key's, and its kid is looked up in a map.
func (a *Auth) keysFor(ctx context.Context, t *jwt.Token) (any, error) {
	if _, critical := t.Header["crit"]; critical { // RFC 7515, section 4.1.11: we know no extension
		return nil, errCredential
	}
	alg := t.Method.Alg()
	if alg == jwt.SigningMethodHS256.Name && len(a.secret) > 0 {
		return a.secret, nil
	}
	var set jwt.VerificationKeySet
	if a.public != nil && algorithm(a.public) == alg {
		set.Keys = append(set.Keys, a.public)
	}
	for _, key := range a.published(ctx, t.Header["kid"]) {
		public, ok := key.Key().(crypto.PublicKey)
		own, use := key.Marshal().ALG.String(), key.Marshal().USE
		if fixed := algorithm(public); ok && fixed != "" && cmp.Or(own, fixed) == alg && (use == "" || use == jwkset.UseSig) {
			set.Keys = append(set.Keys, public)
		}
	}
	if len(set.Keys) == 0 {
		return nil, errCredential
	}
	return set, nil
}

// published are the JWKS's keys of that kid, or all for a token without one.
func (a *Auth) published(ctx context.Context, kid any) []jwkset.JWK {
	if a.jwks == nil {
		return nil
	}
	switch kid := kid.(type) {
	case nil:
		all, err := a.jwks.Storage().KeyReadAll(ctx)
		if err == nil {
			return all
		}
	case string:
		if len(kid) > 256 {
			return nil
		}
		key, err := a.jwks.Storage().KeyRead(ctx, kid)
		if err == nil {
			return []jwkset.JWK{key}
		}
	}
	return nil
}
