package event

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of the contract; those an operator may choose are in Config.
const (
	MaxTargetProfiles = 10_000
	MaxExcludedIDs    = 1_000 // of connections
	MaxAskedProfiles  = 200
)

// word says whether s is 1 to most of A-Za-z0-9 and the bytes in more.
func word(s string, most int, more string) bool {
	if s == "" || len(s) > most {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && strings.IndexByte(more, c) < 0 {
			return false
		}
	}
	return true
}

// PlainWord is a word that means no folder, where it stands in a path.
func PlainWord(s string, more string) bool { return word(s, 128, more) && s != "." && s != ".." }

func ValidType(s string) bool {
	return word(s, 128, "._-") && 'a' <= s[0]|0x20 && s[0]|0x20 <= 'z'
}

// Reserved says whether a type is the hub's own.
func Reserved(s string) bool {
	switch kind, _, dot := strings.Cut(s, "."); kind {
	case "hub", "presence", "connection":
		return dot
	case "error", "open":
		return !dot
	}
	return false
}

func Printable(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c > '~' })
}

func CheckTenant(id string) error {
	if !PlainWord(id, "._~@-") {
		return errors.New("must be 1–128 of A-Za-z0-9._~@-")
	}
	return nil
}

// maxText is how many bytes ids and metadata may have.
const maxText = 256

// ValidText is the rule of metadata.
func ValidText(s string) bool {
	return len(s) <= maxText && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// CheckName is the rule of profile, conversation and group ids.
func CheckName(id string) error {
	switch {
	case id == "" || len(id) > maxText:
		return errors.New("the id must have 1–256 bytes")
	case !ValidText(id):
		return errors.New("the id must be UTF-8 without control characters")
	case id == "." || id == "..":
		return errors.New(`an id must not be "." or ".."`)
	}
	return nil
}

func CheckConnectionID(id string) error {
	if !word(id, 128, "._~-") {
		return errors.New("is not a connection's id")
	}
	return nil
}
