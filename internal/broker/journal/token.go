package journal

import "encoding/base32"

var encoding = base32.HexEncoding.WithPadding(base32.NoPadding)

// token stands for a key in subjects, where keys have characters that may not.
func token(key string) string { return encoding.EncodeToString([]byte(key)) }

// keyOf is the key that a token stands for.
func keyOf(token string) string {
	key, _ := encoding.DecodeString(token)
	return string(key)
}

// Tokens of no key.
const (
	proofName = "proof" // where what is kept says nothing
	tryName   = "try"   // where nothing is kept
)
