package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

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
	errTenant       = &Refusal{true, "TenantForbidden", "the credential is of another tenant"}
	errCookieSite   = &Refusal{true, "CrossSite", "a cookie is no credential for another site's page"}
	errForeignHost  = &Refusal{true, "ForbiddenHost", "in open mode the hub answers to localhost only"}
	errForeignSite  = &Refusal{true, "CrossSite", "in open mode the hub answers no other site's pages"}
	errScopeAll     = &Refusal{true, codeScope, "an API key for all tenants (*) is needed"}
)

const codeScope = "ScopeRequired"

// badClaim names the claim that is at fault. Only of a token whose signature is good:
// the others' claims are nobody's word.
func badClaim(name string) *Refusal {
	return &Refusal{false, errCredential.Code, "the token's claim " + strconv.Quote(name) + " is missing or not valid here"}
}

// Where a token may be, and what is looked at before anything is believed.
const (
	maxToken     = 8 << 10 // bytes; an API key's too
	tokenCookie  = "realtime_token"
	tokenInQuery = "access_token"
)

// maxExpiry is the last time that RFC 3339 can write, 9999-12-31T23:59:59Z.
const maxExpiry = 253_402_300_799

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
	tokens      tokenKeys
	parser      *jwt.Parser
	tenantClaim string
	issuer      string // empty: any
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
		open: cfg.open(), tokens: tokenKeys{secret: []byte(cfg.Secret)}, tenantClaim: cmp.Or(cfg.TenantClaim, "tenant"), issuer: cfg.Issuer, crossOrigin: http.NewCrossOriginProtection(),
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
		if a.tokens.public, err = readPublicKey(cfg.PublicKey); err != nil {
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
	for i, origin := range cfg.Origins {
		if origin == "*" { // anybody may call, but nobody with a cookie
			continue
		}
		if err := a.crossOrigin.AddTrustedOrigin(origin); err != nil {
			errs = append(errs, fmt.Errorf("CORS_ORIGINS: entry %d is not an origin such as https://app.example.com, which has no path", i+1))
		}
	}
	if len(errs) == 0 && cfg.JWKSURL != "" {
		var err error
		if a.tokens.jwks, err = fetchKeys(ctx, cfg.JWKSURL, cfg.Logger); err != nil {
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

// token proves a JWT (RFC 7519) and reads its claims.
func (a *Auth) token(ctx context.Context, text string) (*Caller, Scope, error) {
	if text == "" || len(text) > maxToken || strings.Count(text, ".") != 2 {
		return nil, 0, errCredential
	}
	claims := jwt.MapClaims{}
	_, err := a.parser.ParseWithClaims(text, claims, func(t *jwt.Token) (any, error) { return a.tokens.of(ctx, t) })
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return nil, 0, errExpired
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return nil, 0, errNotYet
	case errors.Is(err, jwt.ErrTokenInvalidClaims): // the signature was good
		return nil, 0, a.claimFault(claims)
	case err != nil:
		return nil, 0, errCredential
	}
	return a.read(claims)
}

// claimFault says which of the claims that the library looks at is at fault.
func (a *Auth) claimFault(claims jwt.MapClaims) *Refusal {
	if expires, err := claims.GetExpirationTime(); err != nil || expires == nil {
		return badClaim("exp")
	}
	if _, err := claims.GetNotBefore(); err != nil {
		return badClaim("nbf")
	}
	if issuer, err := claims.GetIssuer(); err != nil || a.issuer != "" && issuer != a.issuer {
		return badClaim("iss")
	}
	return badClaim("aud")
}

// read makes a caller of proven claims.
func (a *Auth) read(claims jwt.MapClaims) (*Caller, Scope, error) {
	tenant, _ := claims[a.tenantClaim].(string)
	if checkTenant(tenant) != nil {
		return nil, 0, badClaim(a.tenantClaim)
	}
	subject, _ := claims["sub"].(string)
	profile, err := ParseProfile(subject)
	if err != nil {
		return nil, 0, badClaim("sub")
	}
	expires, err := claims.GetExpirationTime()
	if err != nil || expires == nil || expires.Unix() > maxExpiry || expires.Unix() < 0 {
		return nil, 0, badClaim("exp")
	}
	scopes := ScopeSubscribe
	if scope, there := claims["scope"]; there {
		text, isText := scope.(string)
		if !isText {
			return nil, 0, badClaim("scope")
		}
		scopes = 0
		for _, name := range strings.Fields(text) {
			scopes |= scopeOf(name)
		}
	}
	return &Caller{tenant: strings.Clone(tenant), profile: profile, Expires: expires.Time}, scopes, nil
}
