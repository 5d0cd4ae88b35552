package signalr

import (
	"encoding/base64"
	"net/url"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/event"
)

var alice = Pass{Session: uuid.UUID{1, 2, 3}, Tenant: "acme", Profile: event.Profile{Type: "user", ID: "a:b/ü"}, Opens: time.Unix(1_700_000_000, 0)}

// A connectionToken says what it was signed with, needs no escaping in a URL, and is believed
// by hubs that have the key.
func TestPass(t *testing.T) {
	is := is.New(t)
	old, both, other := NewKeys("one"), NewKeys("two", "one"), NewKeys("three")
	token := old.Sign(alice)
	is.Equal(url.QueryEscape(token), token)
	for _, keys := range []Keys{old, both} {
		read, err := keys.Open(token)
		is.NoErr(err)
		is.Equal(read, alice)
	}
	_, err := other.Open(token)
	is.Equal(err, errForged)
	_, err = old.Open(both.Sign(alice)) // the first one signs
	is.Equal(err, errForged)
	_, err = NewKeys().Open(NewKeys().Sign(alice)) // nobody else has it
	is.Equal(err, errForged)
}

// No byte of a connectionToken can be changed, left out or added.
func TestPassTampered(t *testing.T) {
	is := is.New(t)
	keys := NewKeys("one")
	b, err := base64.RawURLEncoding.DecodeString(keys.Sign(alice))
	is.NoErr(err)
	for i := range b {
		b[i] ^= 1
		if _, err := keys.Open(base64.RawURLEncoding.EncodeToString(b)); err != errForged {
			t.Errorf("byte %d is another: %v", i, err)
		}
		b[i] ^= 1
		if _, err := keys.Open(base64.RawURLEncoding.EncodeToString(b[:i])); err != errForged {
			t.Errorf("%d bytes of it: %v", i, err)
		}
	}
	_, err = keys.Open(keys.Sign(alice) + "A")
	is.Equal(err, errForged)
	_, err = keys.Open(keys.Sign(alice) + "\n")
	is.Equal(err, errForged)
}

// What nobody has signed is refused, and what is read can be signed again.
func FuzzPass(f *testing.F) {
	keys := NewKeys("one")
	f.Add(keys.Sign(alice))
	f.Add("")
	f.Add("AAAA")
	f.Fuzz(func(t *testing.T, token string) {
		p, err := keys.Open(token)
		if err == nil && keys.Sign(p) != token {
			t.Fatalf("%q is read as %v", token, p)
		}
	})
}
