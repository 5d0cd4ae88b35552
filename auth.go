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
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"realtimehub/internal/count"
	"realtimehub/internal/event"
	"realtimehub/internal/lobby"
	"realtimehub/internal/problem"
)

// Refusal is why a credential does not open the door. Clients end at a 401 (RFC 6750's
// invalid_token) or, where the credential is a valid one, a 403: so what time may make
// good, or cannot be known now, is 503. It never repeats the credential.
type Refusal struct {
	Status int // 401, 403, 429 or 503
	Code   string
	Detail string
	After  time.Duration // of 429 and 503: when to ask again; 0: soon
}

func (r *Refusal) Error() string { return r.Code + ": " + r.Detail }

// Problem implements Answerer.
func (r *Refusal) Problem() *problem.Problem {
	return &problem.Problem{Status: r.Status, Code: r.Code, Detail: r.Detail, After: r.After}
}

var (
	errNoCredential = &Refusal{http.StatusUnauthorized, problem.CodeCredentialRequired, "a token or an API key is needed", 0}
	errNoKeyID      = &Refusal{http.StatusUnauthorized, "InvalidCredential", "the token does not name its key (kid), and the identity provider has several", 0}
	errOtherScheme  = &Refusal{http.StatusUnauthorized, problem.CodeCredentialRequired, "a token or an API key is needed, and in Authorization the scheme Bearer", 0}
	errCredential   = &Refusal{http.StatusUnauthorized, "InvalidCredential", "the credential is not valid here", 0}
	errExpired      = &Refusal{http.StatusUnauthorized, "CredentialExpired", "the token has expired", 0}
	errTenant       = &Refusal{http.StatusForbidden, "TenantForbidden", "the credential is of another tenant", 0}
	errCookieSite   = &Refusal{http.StatusForbidden, "CrossSite", "a cookie is no credential for another site's page", 0}
	errForeignHost  = &Refusal{http.StatusForbidden, "ForbiddenHost", "in open mode the hub answers to localhost only; to other names once it has credentials, such as REALTIME_JWT_SECRET", 0}
	errForeignSite  = &Refusal{http.StatusForbidden, "CrossSite", "in open mode the hub answers no other site's pages", 0}
	errCertificate  = &Refusal{http.StatusForbidden, "CertificateRequired", "an API key is taken over TLS with a client certificate only, at the address where services call", 0}
	errScopeAll     = &Refusal{http.StatusForbidden, codeScope, "an API key for all tenants (*) is needed", 0}
)

const (
	codeScope  = "ScopeRequired"
	codeNotYet = "CredentialNotYetValid"
	codeKeys   = "KeysUnavailable"
	codeRate   = "RateLimited"

	// unlistedOrigin is no answer's: the hub only counts, and the browser refuses.
	unlistedOrigin = "UnlistedOrigin"
)

// notYet refuses a token until its nbf, or for a while where that is far away.
func notYet(until time.Duration) *Refusal {
	return &Refusal{http.StatusServiceUnavailable, codeNotYet, "the token is not valid yet", min(until, time.Minute)}
}

// unproven refuses a token that some key may prove which could not be fetched.
func unproven(after time.Duration) *Refusal {
	return &Refusal{http.StatusServiceUnavailable, codeKeys, "whether the token is good is not known now: no key that is here fits, and the identity provider could not be asked for others", after}
}

// tooMany has a token come back that there is no time to prove.
func tooMany(after time.Duration) *Refusal {
	return &Refusal{http.StatusTooManyRequests, codeRate, "too many tokens from this address could not be proven; send this one again later", after}
}

// later says that the same credential may be good another time.
func (r *Refusal) later() bool {
	return r.Status == http.StatusServiceUnavailable || r.Status == http.StatusTooManyRequests
}

// leeway is how far ahead an issuer's clock may be of ours when a token begins; it
// ends to the second.
const leeway = 30 * time.Second

// badClaim names the claim that is at fault. Only of a token whose signature is good:
// the others' claims are nobody's word.
func badClaim(name string) *Refusal {
	return &Refusal{http.StatusUnauthorized, errCredential.Code, "the token's claim " + strconv.Quote(name) + " is missing or not valid here", 0}
}

// Where a token may be, and what is looked at before anything is believed.
const (
	maxToken     = 8 << 10 // bytes; an API key's too
	minAPIKey    = 16      // bytes
	tokenCookie  = "realtime_token"
	tokenInQuery = "access_token"
)

// maxExpiry is the last time that RFC 3339 can write, 9999-12-31T23:59:59Z.
const maxExpiry = 253_402_300_799

// AuthConfig is what credentials are checked against; without a key the hub is open.
type AuthConfig struct {
	Secret      string // HS256; several are separated by commas, and a token may be signed with any
	PublicKey   string // PEM, or the path of a file that holds it
	JWKSURL     string
	Issuer      string // empty: any
	Audience    string // empty: any
	TenantClaim string
	APIKeys     []string // "tenant=key", tenant "*" for all
	Certified   bool     // API keys open the door only to clients that have proven a certificate
	Origins     []string // whose pages may call ([ParseOrigins])
	FailedRate  float64  // tokens a second of a network that may turn out bad; 0: any number
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
	proofs      *proofs
	parser      *jwt.Parser
	tenantClaim string
	issuer      string // empty: any
	keys        []apiKey
	certified   bool
	origins     *Origins
	crossOrigin *http.CrossOriginProtection
	refused     count.Words[string] // by code
}

type apiKey struct {
	tenant string
	hash   [sha256.Size]byte
}

// NewAuth reads the keys; those of a JWKS are fetched and refreshed until ctx ends.
// Each error begins with the setting's name and never shows its value.
func NewAuth(ctx context.Context, cfg AuthConfig) (*Auth, error) {
	a := &Auth{
		open: cfg.open(), tenantClaim: cmp.Or(cfg.TenantClaim, "tenant"), issuer: cfg.Issuer, certified: cfg.Certified, crossOrigin: http.NewCrossOriginProtection(),
		refused: count.NewWords(errNoCredential.Code, errCredential.Code, errExpired.Code, errTenant.Code,
			errCookieSite.Code, errForeignHost.Code, errCertificate.Code, codeScope, codeNotYet, codeKeys, codeRate, unlistedOrigin),
		proofs: newProofs(cfg.FailedRate, cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))),
	}
	// The library forgives at a token's end as well; read does not.
	options := []jwt.ParserOption{jwt.WithExpirationRequired(), jwt.WithStrictDecoding(), jwt.WithLeeway(leeway)}
	if cfg.Issuer != "" {
		options = append(options, jwt.WithIssuer(cfg.Issuer))
	}
	if cfg.Audience != "" {
		options = append(options, jwt.WithAudience(cfg.Audience))
	}
	a.parser = jwt.NewParser(options...)
	var errs []error
	var err error
	if a.tokens.secrets, err = readSecrets(cfg.Secret); err != nil {
		errs = append(errs, errors.New("JWT_SECRET: "+err.Error()))
	}
	if cfg.PublicKey != "" {
		if a.tokens.public, err = openPublicKey(cfg.PublicKey, cfg.Logger); err != nil {
			errs = append(errs, errors.New("JWT_PUBLIC_KEY: "+err.Error()))
		}
	}
	seen := map[[sha256.Size]byte]bool{}
	for i, pair := range cfg.APIKeys {
		tenant, key, _ := strings.Cut(strings.TrimSpace(pair), "=")
		hash := sha256.Sum256([]byte(key))
		switch {
		case key == "" || tenant != "*" && event.CheckTenant(tenant) != nil:
			errs = append(errs, errors.New("API_KEYS: is not a list such as acme=KEY,*=KEY"))
		case len(key) < minAPIKey:
			errs = append(errs, fmt.Errorf("API_KEYS: entry %d has a key of %d bytes, and %d are needed: openssl rand -hex 32", i+1, len(key), minAPIKey))
		case seen[hash]:
			errs = append(errs, errors.New("API_KEYS: the same key twice"))
		}
		seen[hash] = true
		a.keys = append(a.keys, apiKey{tenant, hash})
	}
	if a.origins, err = ParseOrigins(cfg.Origins); err != nil {
		errs = append(errs, errors.New("CORS_ORIGINS: "+err.Error()))
	}
	if len(errs) == 0 && cfg.JWKSURL != "" {
		if a.tokens.published, err = fetchKeys(ctx, cfg.JWKSURL, cfg.Logger); err != nil {
			errs = append(errs, errors.New("JWKS_URL: is not a URL that keys can be fetched from"))
		}
	}
	return a, errors.Join(errs...)
}

// Refuse counts a *Refusal among what an answer says.
func (a *Auth) Refuse(err error) {
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		a.refused.Add(refusal.Code, 1)
	}
}

// Unlisted counts a call of a page whose origin is not listed.
func (a *Auth) Unlisted() { a.refused.Add(unlistedOrigin, 1) }

// Refused is how often each code was answered.
func (a *Auth) Refused() map[string]int64 { return a.refused.Now() }

// Open says that no credential is asked for.
func (a *Auth) Open() bool { return a.open }

// Admit finds the request's credential, proves it, and sees that it has one of the
// scopes and is of the path's tenant. The error is a *Refusal.
func (a *Auth) Admit(r *http.Request, need Scope, inQuery bool) (*Caller, error) {
	if a.open {
		return &Caller{tenant: "*", path: strings.Clone(r.PathValue("t")), open: true}, nil
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
		return nil, &Refusal{http.StatusForbidden, codeScope, "the credential needs the scope " + need.String(), 0}
	}
	if t := r.PathValue("t"); t != "" {
		if !caller.Reaches(t) {
			return nil, errTenant
		}
		caller.path = strings.Clone(t) // else who keeps it keeps the request's line
	}
	return caller, nil
}

// Ready is a *Refusal while no token can be proven, as the only keys for them were
// never fetched.
func (a *Auth) Ready() error {
	if t := &a.tokens; t.published != nil && len(t.secrets) == 0 && t.public == nil && !t.published.Fetched() {
		return &Refusal{http.StatusServiceUnavailable, codeKeys, "the identity provider's keys could not be fetched yet", 0}
	}
	return nil
}

// identify takes the first credential that the request has, good or bad. What another
// scheme says in Authorization is for whoever asked for it, such as a proxy.
func (a *Auth) identify(r *http.Request, inQuery bool) (*Caller, Scope, error) {
	missing := errNoCredential
	bearers := make([]string, 0, 1)
	for _, header := range r.Header["Authorization"] {
		if scheme, credential, _ := strings.Cut(header, " "); strings.EqualFold(scheme, "Bearer") {
			bearers = append(bearers, strings.TrimLeft(credential, " "))
		} else {
			missing = errOtherScheme
		}
	}
	switch {
	case len(bearers) > 1: // a proxy and the hub could take another one each
		return nil, 0, errCredential
	case len(bearers) == 1:
		if caller := a.service(bearers[0]); caller != nil {
			return a.admitService(r, caller)
		}
		return a.token(r, bearers[0])
	}
	switch keys := r.Header["X-Api-Key"]; {
	case len(keys) == 1:
		if caller := a.service(keys[0]); caller != nil {
			return a.admitService(r, caller)
		}
		return nil, 0, errCredential
	case len(keys) > 1:
		return nil, 0, errCredential
	}
	if inQuery {
		switch tokens := r.URL.Query()[tokenInQuery]; {
		case len(tokens) == 1:
			return a.token(r, tokens[0])
		case len(tokens) > 1:
			return nil, 0, errCredential
		}
	}
	switch n := cookies(r, tokenCookie); {
	case n > 0 && !a.ownPage(r):
		return nil, 0, errCookieSite
	case n > 1: // a sister host can add one, and which comes first is not said (RFC 6265, section 4.2.2)
		return nil, 0, errCredential
	}
	if cookie, err := r.Cookie(tokenCookie); err == nil {
		return a.token(r, cookie.Value)
	}
	return nil, 0, missing
}

// cookies is how many of a name there are, those among them that net/http cannot read.
func cookies(r *http.Request, name string) (n int) {
	for _, header := range r.Header["Cookie"] {
		for pair := range strings.SplitSeq(header, ";") {
			if is, _, _ := strings.Cut(pair, "="); strings.TrimSpace(is) == name {
				n++
			}
		}
	}
	return n
}

// ownPage says whether a cookie may speak for the request, whatever its method: a
// stream is a GET, and tells all. A page of a sister host is of the same site, and may
// be anybody's: it has to be listed like others.
func (a *Auth) ownPage(r *http.Request) bool {
	probe := *r
	probe.Method = http.MethodPost // else it is taken for harmless
	return a.crossOrigin.Check(&probe) == nil || a.origins.Trusts(r.Header.Get("Origin"))
}

// admitService has a service show its certificate, where that is asked for.
func (a *Auth) admitService(r *http.Request, caller *Caller) (*Caller, Scope, error) {
	if a.certified && (r.TLS == nil || len(r.TLS.VerifiedChains) == 0) {
		return nil, 0, errCertificate
	}
	return caller, caller.scopes(), nil
}

// Reread reads again what credentials are checked against and is in a file.
func (a *Auth) Reread() {
	if a.tokens.public != nil {
		a.tokens.public.Reload()
	}
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
func (a *Auth) token(r *http.Request, text string) (caller *Caller, scopes Scope, err error) {
	if text == "" || len(text) > maxToken || strings.Count(text, ".") != 2 {
		return nil, 0, errCredential
	}
	proof, ok := a.proofs.begin(lobby.PlaceOf(r), text)
	if !ok {
		return nil, 0, tooMany(time.Second)
	}
	defer func() {
		refusal, _ := errors.AsType[*Refusal](err)
		proof.end(err == nil || refusal != nil && refusal.Code == codeNotYet)
	}()
	return a.believe(r.Context(), proof, text)
}

// believe is token, once it has a place.
func (a *Auth) believe(ctx context.Context, proof *proof, text string) (*Caller, Scope, error) {
	claims, err := a.prove(ctx, proof, text)
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return nil, 0, errExpired
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		caller, _, err := a.read(claims)
		if err != nil {
			return nil, 0, err
		}
		begins, _ := claims.GetNotBefore()
		if !begins.Before(caller.Expires) {
			return nil, 0, badClaim("nbf")
		}
		return nil, 0, notYet(time.Until(begins.Add(-leeway)))
	case errors.Is(err, jwt.ErrTokenInvalidClaims): // the signature was good
		return nil, 0, a.claimFault(claims)
	case err != nil:
		if refusal, ok := errors.AsType[*Refusal](err); ok {
			return nil, 0, refusal
		}
		if errors.Is(err, errNoKid) {
			return nil, 0, errNoKeyID
		}
		return nil, 0, errCredential
	}
	return a.read(claims)
}

// prove holds a token against the keys; where others may have been published since
// those were fetched, it has them fetched. An error is the library's, or a *Refusal.
func (a *Auth) prove(ctx context.Context, proof *proof, text string) (jwt.MapClaims, error) {
	claims, open, err := a.check(ctx, proof, text)
	if !open {
		return claims, err
	}
	came, fetched := a.tokens.published.Renew(text)
	if fetched != nil && proof.apart(ctx, fetched) {
		if claims, open, err = a.check(ctx, proof, text); !open {
			return claims, err
		}
	}
	after, known := a.tokens.published.Judged(came)
	if !known {
		return nil, unproven(after)
	}
	proof.checked = true
	return claims, err
}

// check holds a token against the keys that are here, and says whether another may prove
// it where they do not. Its signature, which takes longest, comes last.
func (a *Auth) check(ctx context.Context, proof *proof, text string) (claims jwt.MapClaims, open bool, err error) {
	defer proof.leave()
	claims = jwt.MapClaims{}
	_, err = a.parser.ParseWithClaims(text, claims, func(t *jwt.Token) (any, error) {
		if expires, err := claims.GetExpirationTime(); err == nil && expires != nil && !time.Now().Before(expires.Time) {
			return nil, errExpired // whoever signed it
		}
		keys, more, err := a.tokens.of(t)
		if err != nil && !more {
			return nil, err
		}
		if after := proof.enter(ctx); after > 0 {
			return nil, tooMany(after)
		}
		proof.checked = err == nil // without a key there is nothing to check it with
		open = more
		return keys, err
	})
	open = open && (errors.Is(err, jwt.ErrTokenUnverifiable) || errors.Is(err, jwt.ErrTokenSignatureInvalid))
	return claims, open, err
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
	if event.CheckTenant(tenant) != nil {
		return nil, 0, badClaim(a.tenantClaim)
	}
	// What is no Unicode, such as half of a surrogate pair, JSON's reader makes U+FFFD: two
	// persons would be one.
	subject, _ := claims["sub"].(string)
	profile, err := event.ParseProfile(subject)
	if err != nil || strings.ContainsRune(subject, utf8.RuneError) {
		return nil, 0, badClaim("sub")
	}
	expires, err := claims.GetExpirationTime()
	if err != nil || expires == nil || expires.Unix() > maxExpiry || expires.Unix() < 0 {
		return nil, 0, badClaim("exp")
	}
	if !time.Now().Before(expires.Time) {
		return nil, 0, errExpired
	}
	scopes, ok := scopesOf(claims["scope"])
	if !ok {
		return nil, 0, badClaim("scope")
	}
	return &Caller{tenant: strings.Clone(tenant), profile: profile, Expires: expires.Time}, scopes, nil
}

// scopesOf reads the claim scope: words (RFC 8693, section 4.2) or, as some identity
// providers write them, an array of such. Where none is of ours, "openid profile", it
// is as if the claim were not there; an empty one grants nothing.
func scopesOf(claim any) (scopes Scope, ok bool) {
	words := []string{}
	switch claim := claim.(type) {
	case nil:
		return ScopeSubscribe, true
	case string:
		words = strings.Fields(claim)
	case []any:
		for _, element := range claim {
			text, isText := element.(string)
			if !isText {
				return 0, false
			}
			words = append(words, strings.Fields(text)...)
		}
	default:
		return 0, false
	}
	for _, word := range words {
		scopes |= scopeOf(word)
	}
	if scopes == 0 && len(words) > 0 {
		scopes = ScopeSubscribe
	}
	return scopes, true
}
