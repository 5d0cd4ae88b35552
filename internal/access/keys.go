package access

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"realtimehub/internal/reread"
)

// minRSABits is what RFC 7518, section 3.3 asks for.
const minRSABits = 2048

// Why no key is tried on a token.
var (
	errNoKey = errors.New("no key for this token")                                        // it is signed with none of ours, or in a way that we don't know
	errNoKid = errors.New("the token does not name its key (kid), and there are several") // and trying all would cost as much as there are
)

// tokenKeys are the keys that tokens may be signed with.
type tokenKeys struct {
	// Static.
	secrets   []jwt.VerificationKey          // HS256
	public    *reread.File[crypto.PublicKey] // nil: none
	published *publishedKeys                 // nil: none
}

// minSecret is what RFC 7518, section 3.2 asks for, in bytes.
const minSecret = 32

// readSecrets reads one secret, or several separated by commas: so the old one and the new
// one are both accepted while a secret is being replaced.
func readSecrets(text string) (secrets []jwt.VerificationKey, err error) {
	if text == "" {
		return nil, nil
	}
	list := strings.Split(text, ",")
	for i, secret := range list {
		entry := ""
		if len(list) > 1 {
			entry = fmt.Sprintf("is not valid: entry %d ", i+1)
		}
		switch {
		case len(list) > 1 && secret != strings.TrimSpace(secret):
			return nil, errors.New(entry + "begins or ends with a space")
		case len(secret) < minSecret:
			return nil, fmt.Errorf("%shas %d bytes, and %d are needed: openssl rand -hex 32 (a comma separates several secrets)", entry, len(secret), minSecret)
		}
		secrets = append(secrets, []byte(secret))
	}
	return secrets, nil
}

// openPublicKey reads a key, and reads it again when its file changes.
func openPublicKey(text string, logger *slog.Logger) (*reread.File[crypto.PublicKey], error) {
	var paths []string
	if !strings.HasPrefix(text, "-----BEGIN") {
		paths = []string{text}
	}
	return reread.Open("public key", logger, func() (crypto.PublicKey, error) { return readPublicKey(text) }, paths...)
}

// readPublicKey reads a PEM block, in which \n may stand for a line's end.
func readPublicKey(text string) (crypto.PublicKey, error) {
	data := []byte(strings.ReplaceAll(text, `\n`, "\n"))
	if !strings.HasPrefix(text, "-----BEGIN") {
		var err error
		if data, err = os.ReadFile(text); err != nil {
			// The text may be a key without its first line: only the reason is told.
			if inPath, ok := errors.AsType[*fs.PathError](err); ok {
				err = inPath.Err
			}
			return nil, fmt.Errorf("is neither a PEM block nor a file that can be read: %w", err)
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

// algorithm is the only algorithm that a key is used with (RFC 8725, section 3.1), or
// empty if the key is not accepted.
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

// of finds the keys that a token may have been signed with. open says that a key which was
// not fetched yet may prove it. The token itself decides nothing: its alg must be the key's,
// and its kid is only looked up.
func (t *tokenKeys) of(token *jwt.Token) (keys any, open bool, err error) {
	if _, critical := token.Header["crit"]; critical { // RFC 7515, section 4.1.11: we know no extension
		return nil, false, errNoKey
	}
	alg := token.Method.Alg()
	if alg == jwt.SigningMethodHS256.Name && len(t.secrets) > 0 {
		return jwt.VerificationKeySet{Keys: t.secrets}, false, nil
	}
	var set jwt.VerificationKeySet
	if t.public != nil {
		if key := t.public.Get(); algorithm(key) == alg {
			set.Keys = append(set.Keys, key)
		}
	}
	var published []jwkset.JWK
	if t.published != nil {
		published, open = t.published.of(token)
	}
	fitting := 0
	for _, key := range published {
		public, ok := key.Key().(crypto.PublicKey)
		own, use := key.Marshal().ALG.String(), key.Marshal().USE
		if fixed := algorithm(public); ok && fixed != "" && cmp.Or(own, fixed) == alg && (use == "" || use == jwkset.UseSig) {
			set.Keys = append(set.Keys, public)
			fitting++
		}
	}
	if len(set.Keys) == 0 {
		return nil, open, errNoKey
	}
	if kid, _ := token.Header["kid"].(string); kid == "" && fitting > 1 {
		return nil, false, errNoKid
	}
	return set, open, nil
}
