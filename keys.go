package main

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/time/rate"
)

// minRSABits is what RFC 7518, section 3.3 asks for.
const minRSABits = 2048

// errNoKey: a token is signed with no key of ours, or in a way that we don't know.
var errNoKey = errors.New("no key for this token")

// tokenKeys are those that tokens may be signed with.
type tokenKeys struct {
	// Static.
	secret []byte           // HS256; empty: none
	public crypto.PublicKey // nil: none
	jwks   keyfunc.Keyfunc  // nil: none
}

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

// of are the keys that a token may have been signed with. The token's own
// word decides nothing: its alg must be the key's, and its kid is looked up in a map.
func (k *tokenKeys) of(ctx context.Context, t *jwt.Token) (any, error) {
	if _, critical := t.Header["crit"]; critical { // RFC 7515, section 4.1.11: we know no extension
		return nil, errNoKey
	}
	alg := t.Method.Alg()
	if alg == jwt.SigningMethodHS256.Name && len(k.secret) > 0 {
		return k.secret, nil
	}
	var set jwt.VerificationKeySet
	if k.public != nil && algorithm(k.public) == alg {
		set.Keys = append(set.Keys, k.public)
	}
	for _, key := range k.published(ctx, t.Header["kid"]) {
		public, ok := key.Key().(crypto.PublicKey)
		own, use := key.Marshal().ALG.String(), key.Marshal().USE
		if fixed := algorithm(public); ok && fixed != "" && cmp.Or(own, fixed) == alg && (use == "" || use == jwkset.UseSig) {
			set.Keys = append(set.Keys, public)
		}
	}
	if len(set.Keys) == 0 {
		return nil, errNoKey
	}
	return set, nil
}

// published are the JWKS's keys of that kid, or all for a token without one.
func (k *tokenKeys) published(ctx context.Context, kid any) []jwkset.JWK {
	if k.jwks == nil {
		return nil
	}
	switch kid := kid.(type) {
	case nil:
		all, err := k.jwks.Storage().KeyReadAll(ctx)
		if err == nil {
			return all
		}
	case string:
		if len(kid) > 256 {
			return nil
		}
		key, err := k.jwks.Storage().KeyRead(ctx, kid)
		if err == nil {
			return []jwkset.JWK{key}
		}
	}
	return nil
}
