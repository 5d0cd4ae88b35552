package access

import (
	"net/http"
	"strconv"
	"time"

	"realtimehub/internal/problem"
)

// Refusal is why a credential is not accepted. A client gives up at a 401 (RFC 6750's
// invalid_token) or, if the credential is valid, at a 403. So a credential that may be
// accepted later, or that cannot be judged now, is answered 503. A Refusal never repeats the
// credential.
type Refusal struct {
	Status int // 401, 403, 429 or 503
	Code   string
	Detail string
	After  time.Duration // of 429 and 503: when to ask again; 0: soon
}

func (r *Refusal) Error() string { return r.Code + ": " + r.Detail }

// Problem implements Answerer.
func (r *Refusal) Problem() *problem.Problem {
	p := &problem.Problem{Status: r.Status, Code: r.Code, Detail: r.Detail, After: r.After}
	if r.Code == codeScope || r.Code == ErrTenant.Code { // RFC 6750, section 3
		p.Header = http.Header{"Www-Authenticate": {`Bearer realm="realtime", error="insufficient_scope"`}}
	}
	return p
}

// Refusals that are the same for everybody.
var (
	errNoCredential = &Refusal{http.StatusUnauthorized, problem.CodeCredentialRequired, "a token or an API key is needed", 0}
	errNoKeyID      = &Refusal{http.StatusUnauthorized, "InvalidCredential", "the token does not name its key (kid), and the identity provider has several", 0}
	errOtherScheme  = &Refusal{http.StatusUnauthorized, problem.CodeCredentialRequired, "a token or an API key is needed, sent with the scheme Bearer in Authorization", 0}
	errCredential   = &Refusal{http.StatusUnauthorized, "InvalidCredential", "the credential is not valid here", 0}
	ErrExpired      = &Refusal{http.StatusUnauthorized, "CredentialExpired", "the token has expired", 0}
	ErrTenant       = &Refusal{http.StatusForbidden, "TenantForbidden", "the credential belongs to another tenant", 0}
	errCookieSite   = &Refusal{http.StatusForbidden, "CrossSite", "a cookie is not accepted from another origin's page", 0}
	errForeignHost  = &Refusal{http.StatusForbidden, "ForbiddenHost", "in open mode the hub answers only as localhost; to use another host name, configure credentials such as REALTIME_JWT_SECRET", 0}
	errForeignSite  = &Refusal{http.StatusForbidden, "CrossSite", "in open mode the hub does not answer other sites' pages", 0}
	errSocketSite   = &Refusal{http.StatusForbidden, "CrossSite", "a WebSocket is not opened for a page of this origin: list it in REALTIME_CORS_ORIGINS", 0}
	errCertificate  = &Refusal{http.StatusForbidden, "CertificateRequired", "an API key is accepted only over TLS with a client certificate, at the address for services", 0}
	errScopeAll     = &Refusal{http.StatusForbidden, codeScope, "an API key for all tenants (*) is needed", 0}
)

// Codes of refusals.
const (
	codeScope  = "ScopeRequired"
	codeNotYet = "CredentialNotYetValid"
	codeKeys   = "KeysUnavailable"
	codeRate   = "RateLimited"

	// unlistedOrigin is only counted: it is the browser that refuses, not the hub.
	unlistedOrigin = "UnlistedOrigin"
)

// scopeNeeded refuses a credential that has none of some scopes.
func scopeNeeded(need Scope) *Refusal {
	return &Refusal{http.StatusForbidden, codeScope, "the credential needs the scope " + need.String(), 0}
}

// notYet refuses a token until its nbf, or for a minute if that is further away.
func notYet(until time.Duration) *Refusal {
	return &Refusal{http.StatusServiceUnavailable, codeNotYet, "the token is not valid yet", min(until, time.Minute)}
}

// unproven refuses a token whose key may be one that could not be fetched.
func unproven(after time.Duration) *Refusal {
	return &Refusal{http.StatusServiceUnavailable, codeKeys, "the token cannot be checked now: none of the known keys fits, and the identity provider could not be asked for new ones", after}
}

// tooMany refuses a token that has to wait too long for its proof.
func tooMany(after time.Duration) *Refusal {
	return &Refusal{http.StatusTooManyRequests, codeRate, "too many invalid tokens came from this address; send this one again later", after}
}

// Later says that the same credential may be accepted another time.
func (r *Refusal) Later() bool {
	return r.Status == http.StatusServiceUnavailable || r.Status == http.StatusTooManyRequests
}

// badClaim names the claim that is wrong. It is for tokens whose signature is good; of others
// no claim is known to be anybody's.
func badClaim(name string) *Refusal {
	return &Refusal{http.StatusUnauthorized, errCredential.Code, "the token's claim " + strconv.Quote(name) + " is missing or not valid here", 0}
}
