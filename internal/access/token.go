package access

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"realtimehub/internal/event"
	"realtimehub/internal/lobby"
)

// leeway is how far an issuer's clock may be ahead of ours when a token begins. Its end is
// exact.
const leeway = 30 * time.Second

// maxExpiry is the last time that RFC 3339 can write, 9999-12-31T23:59:59Z.
const maxExpiry = 253_402_300_799

// Renew proves a token that comes later than its connection's request, which had a place. The
// caller may subscribe. The error is a *Refusal.
func (a *Auth) Renew(ctx context.Context, place, text string) (*Caller, error) {
	if a.open {
		return &Caller{tenant: "*", open: true}, nil
	}
	caller, scopes, err := a.tokenFrom(ctx, place, text)
	if err == nil && scopes&ScopeSubscribe == 0 {
		err = scopeNeeded(ScopeSubscribe)
	}
	if err != nil {
		a.Refuse(err)
		return nil, err
	}
	return caller, nil
}

// token is tokenFrom of a request's client.
func (a *Auth) token(r *http.Request, text string) (*Caller, Scope, error) {
	return a.tokenFrom(r.Context(), lobby.PlaceOf(r), text)
}

// tokenFrom proves a JWT (RFC 7519) and reads its claims.
func (a *Auth) tokenFrom(ctx context.Context, place, text string) (caller *Caller, scopes Scope, err error) {
	broken := strings.ContainsAny(text, "\r\n") // which Go reads past, and RFC 7515 (section 2) does not have
	if text == "" || len(text) > maxToken || strings.Count(text, ".") != 2 || broken {
		return nil, 0, errCredential
	}
	proof, ok := a.proofs.begin(place, text)
	if !ok {
		return nil, 0, tooMany(time.Second)
	}
	defer func() {
		refusal, _ := errors.AsType[*Refusal](err)
		proof.end(err == nil || refusal != nil && refusal.Code == codeNotYet)
	}()
	return a.believe(ctx, proof, text)
}

// believe does the work of token, which has taken a place for it.
func (a *Auth) believe(ctx context.Context, proof *proof, text string) (*Caller, Scope, error) {
	claims, err := a.prove(ctx, proof, text)
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return nil, 0, ErrExpired
	case errors.Is(err, jwt.ErrTokenNotValidYet) && !wrongForever(err):
		caller, _, err := a.read(claims)
		if err != nil {
			return nil, 0, err
		}
		begins, _ := claims.GetNotBefore()
		if !begins.Before(caller.expires) {
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

// prove checks a token with the keys that are here. If none fits and others may have been
// published since, it has them fetched. An error is the library's, or a *Refusal.
func (a *Auth) prove(ctx context.Context, proof *proof, text string) (jwt.MapClaims, error) {
	claims, open, err := a.check(ctx, proof, text)
	if !open {
		return claims, err
	}
	came, fetched := a.tokens.published.renew(text)
	if fetched != nil && proof.apart(ctx, fetched) {
		if claims, open, err = a.check(ctx, proof, text); !open {
			return claims, err
		}
	}
	after, known := a.tokens.published.judged(came)
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
			return nil, ErrExpired // whoever signed it
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

// wrongForever says that a claim is at fault which no time mends: the library tells of all
// claims together.
func wrongForever(err error) bool {
	return errors.Is(err, jwt.ErrTokenInvalidIssuer) || errors.Is(err, jwt.ErrTokenInvalidAudience) ||
		errors.Is(err, jwt.ErrTokenRequiredClaimMissing) || errors.Is(err, jwt.ErrInvalidType)
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
		return nil, 0, ErrExpired
	}
	scopes, ok := scopesOf(claims["scope"])
	if !ok {
		return nil, 0, badClaim("scope")
	}
	return &Caller{tenant: strings.Clone(tenant), profile: profile, expires: expires.Time}, scopes, nil
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
