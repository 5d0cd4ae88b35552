package access

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"

	"github.com/golang-jwt/jwt/v5"

	"realtimehub/internal/count"
	"realtimehub/internal/event"
)

// Where a token may be, and the bounds that are checked before it is parsed.
const (
	maxToken     = 8 << 10 // bytes; an API key's too
	minAPIKey    = 16      // bytes
	tokenCookie  = "realtime_token"
	tokenInQuery = "access_token"
)

// Config is what credentials are checked against; without a key the hub is open.
type Config struct {
	Secret      string // HS256; several are separated by commas, and a token may be signed with any
	PublicKey   string // PEM, or the path of a file that holds it
	JWKSURL     string
	Issuer      string // empty: any
	Audience    string // empty: any
	TenantClaim string
	APIKeys     []string     // "tenant=key", tenant "*" for all
	Certified   bool         // API keys open the door only to clients that have proven a certificate
	Origins     []string     // whose pages may call, such as https://*.example.com; "*": all
	FailedRate  float64      // tokens a second of a network that may turn out bad; 0: any number
	Logger      *slog.Logger // nil: nobody is told
}

// Open says that there is no key, so no credential is asked for.
func (c Config) Open() bool {
	return c.Secret == "" && c.PublicKey == "" && c.JWKSURL == "" && len(c.APIKeys) == 0
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
	origins     *origins
	crossOrigin *http.CrossOriginProtection
	refused     count.Words[string] // by code
}

type apiKey struct {
	tenant string
	hash   [sha256.Size]byte
}

// readAPIKeys reads a list of "tenant=key". Each error begins with the setting's name.
func readAPIKeys(list []string) (keys []apiKey, err error) {
	var errs []error
	seen := map[[sha256.Size]byte]bool{}
	for i, pair := range list {
		tenant, key, _ := strings.Cut(strings.TrimSpace(pair), "=")
		hash := sha256.Sum256([]byte(key))
		switch {
		case key == "" || tenant != "*" && event.CheckTenant(tenant) != nil:
			errs = append(errs, errors.New("API_KEYS is not a list such as acme=KEY,*=KEY"))
		case len(key) < minAPIKey:
			errs = append(errs, fmt.Errorf("API_KEYS is not valid: entry %d has a key of %d bytes, and %d are needed: openssl rand -hex 32", i+1, len(key), minAPIKey))
		case seen[hash]:
			errs = append(errs, errors.New("API_KEYS has the same key twice"))
		}
		seen[hash] = true
		keys = append(keys, apiKey{tenant, hash})
	}
	return keys, errors.Join(errs...)
}

// NewAuth reads the keys; those of a JWKS are fetched and refreshed until ctx ends.
// Each error begins with the setting's name and never shows its value.
func NewAuth(ctx context.Context, cfg Config) (*Auth, error) {
	logger := cfg.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	a := &Auth{
		open: cfg.Open(), tenantClaim: cmp.Or(cfg.TenantClaim, "tenant"), issuer: cfg.Issuer, certified: cfg.Certified, crossOrigin: http.NewCrossOriginProtection(),
		refused: count.NewWords(errNoCredential.Code, errCredential.Code, ErrExpired.Code, ErrTenant.Code,
			errCookieSite.Code, errForeignHost.Code, errCertificate.Code, codeScope, codeNotYet, codeKeys, codeRate, unlistedOrigin),
		proofs: newProofs(cfg.FailedRate, logger),
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
		errs = append(errs, errors.New("JWT_SECRET "+err.Error()))
	}
	if cfg.PublicKey != "" {
		if a.tokens.public, err = openPublicKey(cfg.PublicKey, logger); err != nil {
			errs = append(errs, errors.New("JWT_PUBLIC_KEY "+err.Error()))
		}
	}
	if a.keys, err = readAPIKeys(cfg.APIKeys); err != nil {
		errs = append(errs, err)
	}
	if a.origins, err = newOrigins(cfg.Origins); err != nil {
		errs = append(errs, err)
	}
	if len(errs) == 0 && cfg.JWKSURL != "" {
		if a.tokens.published, err = fetchKeys(ctx, cfg.JWKSURL, logger); err != nil {
			errs = append(errs, errors.New("JWKS_URL is not a URL that keys can be fetched from"))
		}
	}
	return a, errors.Join(errs...)
}

// Refuse counts the code of an error that is answered, if it is a *Refusal.
func (a *Auth) Refuse(err error) {
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		a.refused.Add(refusal.Code, 1)
	}
}

// unlisted counts a call of a page whose origin is not listed.
func (a *Auth) unlisted() { a.refused.Add(unlistedOrigin, 1) }

// Refused is how often each code was answered.
func (a *Auth) Refused() map[string]int64 { return a.refused.Now() }

// Open says that no credential is asked for.
func (a *Auth) Open() bool { return a.open }

// Admit finds the request's credential and proves it. The credential must have one of the
// scopes, and must be for the tenant of the path, if there is one. A token in the query
// counts only if inQuery is true. The error is a *Refusal.
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
		return nil, scopeNeeded(need)
	}
	if t := r.PathValue("t"); t != "" {
		if !caller.Reaches(t) {
			return nil, ErrTenant
		}
		caller.path = strings.Clone(t) // else who keeps it keeps the request's line
	}
	return caller, nil
}

// Ready is a *Refusal while no token can be proven because the only keys, the identity
// provider's, have never been fetched.
func (a *Auth) Ready() error {
	if t := &a.tokens; t.published != nil && len(t.secrets) == 0 && t.public == nil && !t.published.fetched() {
		return &Refusal{http.StatusServiceUnavailable, codeKeys, "the identity provider's keys could not be fetched yet", 0}
	}
	return nil
}

// identify takes the first credential of the request, valid or not. An Authorization of
// another scheme is for somebody else, such as a proxy.
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
		switch n := parameters(r, tokenInQuery); {
		case n == 1:
			return a.token(r, r.URL.Query().Get(tokenInQuery))
		case n > 1:
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

// parameters counts the parameters of a name in the query, including those that net/url cannot read.
func parameters(r *http.Request, name string) (n int) {
	for pair := range strings.SplitSeq(r.URL.RawQuery, "&") {
		text, _, _ := strings.Cut(pair, "=")
		if is, err := url.QueryUnescape(text); err == nil && is == name {
			n++
		}
	}
	return n
}

// cookies counts the cookies of a name, including those that net/http cannot read.
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

// ownPage says whether a cookie counts for the request, whatever its method: even a GET
// opens a stream, which tells everything. A page of a sister host is of the same site, but
// may be anybody's, so it has to be listed like any other.
func (a *Auth) ownPage(r *http.Request) bool {
	probe := *r
	probe.Method = http.MethodPost // else it is taken for harmless
	return a.crossOrigin.Check(&probe) == nil || a.origins.trusts(r.Header.Get("Origin"))
}

// admitService requires a client certificate of a service, if the hub asks for one.
func (a *Auth) admitService(r *http.Request, caller *Caller) (*Caller, Scope, error) {
	if a.certified && (r.TLS == nil || len(r.TLS.VerifiedChains) == 0) {
		return nil, 0, errCertificate
	}
	return caller, caller.scopes(), nil
}

// Reread reads the keys that are in a file again.
func (a *Auth) Reread() {
	if a.tokens.public != nil {
		a.tokens.public.Reload()
	}
}

// service finds the holder of an API key, or nil. It compares all keys, so that the time
// it takes tells nothing.
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
