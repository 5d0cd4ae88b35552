package stream

import "encoding/base32"

var encoding = base32.HexEncoding.WithPadding(base32.NoPadding)

// Token stands for a key in subjects, where keys have characters that may not.
func Token(key string) string { return encoding.EncodeToString([]byte(key)) }

// KeyOf is the key that a token stands for.
func KeyOf(token string) string {
	key, _ := encoding.DecodeString(token)
	return string(key)
}

// Tokens of no key.
const (
	ProofName = "proof" // where what is kept says nothing
	TryName   = "try"   // where nothing is kept
)
