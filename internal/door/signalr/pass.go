package signalr

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strings"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/event"
)

// Pass is what a connectionToken says. Nothing is kept of it: what hubs have to know they read
// from the token.
type Pass struct {
	Session uuid.UUID // the id of its connection, but for the mark of the hub that will hold it
	Tenant  string
	Profile event.Profile
	Opens   time.Time // until then it opens a stream; afterwards it only names one that is open
}

func (p Pass) who() event.TenantProfile {
	return event.TenantProfile{Tenant: p.Tenant, Profile: p.Profile}
}

// Keys sign connectionTokens: the first one does, and each is believed, so that secrets can be
// replaced one hub after the other.
type Keys [][sha256.Size]byte

// NewKeys makes keys of secrets that all hubs of a cluster have; without any, a key that nobody
// else has.
func NewKeys(secrets ...string) Keys {
	if len(secrets) == 0 {
		secrets = []string{rand.Text()}
	}
	keys := make(Keys, len(secrets))
	for i, secret := range secrets {
		keys[i] = [sha256.Size]byte(sum([]byte(secret), []byte("realtimehub: connectionToken of SignalR")))
	}
	return keys
}

func sum(key, text []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write(text)
	return mac.Sum(nil)
}

// Errors of connectionTokens.
var (
	errForged = errors.New("is not a connectionToken of this hub")
	errLate   = errors.New("has expired: negotiate again")
)

const (
	passVersion = 1
	passHead    = 1 + 16 + 8 // the version, the session and the time, before the names
	maxToken    = 1 << 10
)

// Sign is the connectionToken of a pass. Its alphabet is that of URLs (RFC 4648 §5), since
// clients do not escape it.
func (k Keys) Sign(p Pass) string {
	b := append([]byte{passVersion}, p.Session[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(p.Opens.Unix()))
	b = append(append(append(b, p.Tenant...), 0), p.Profile.String()...)
	return base64.RawURLEncoding.EncodeToString(append(b, sum(k[0][:], b)...))
}

// Open reads a connectionToken that one of the keys has signed.
func (k Keys) Open(token string) (p Pass, err error) {
	if len(token) > maxToken || strings.ContainsAny(token, "\r\n") { // which the decoder skips
		return p, errForged
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) < passHead+sha256.Size {
		return p, errForged
	}
	b, mac := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if !k.signed(b, mac) || b[0] != passVersion {
		return p, errForged
	}
	tenant, profile, _ := strings.Cut(string(b[passHead:]), "\x00")
	p = Pass{Session: uuid.UUID(b[1:17]), Tenant: tenant, Opens: time.Unix(int64(binary.BigEndian.Uint64(b[17:])), 0)}
	if p.Profile, err = event.ParseProfile(profile); err != nil {
		return Pass{}, errForged
	}
	return p, nil
}

func (k Keys) signed(b, mac []byte) bool {
	for _, key := range k {
		if hmac.Equal(sum(key[:], b), mac) {
			return true
		}
	}
	return false
}
