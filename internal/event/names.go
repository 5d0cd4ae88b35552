package event

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of the contract. Those that an operator may choose are settings.
const (
	MaxTargetProfiles = 10_000 // that a target names, or excludes
	MaxExcludedIDs    = 1_000  // connections that a target excludes
	MaxAskedProfiles  = 200    // to watch or to ask about; types of a filter
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

// PlainWord says whether s is 1–128 of A-Za-z0-9 and the bytes in more, and neither "." nor
// "..", which mean a folder where s stands in a path.
func PlainWord(s string, more string) bool { return word(s, 128, more) && s != "." && s != ".." }

// ValidType is the rule of an event's type: 1–128 of A-Za-z0-9._- with a letter first.
func ValidType(s string) bool {
	return word(s, 128, "._-") && 'a' <= s[0]|0x20 && s[0]|0x20 <= 'z'
}

// Reserved says whether only the hub may use a type, or a browser's EventSource has another
// use for it.
func Reserved(s string) bool {
	switch kind, _, dot := strings.Cut(s, "."); kind {
	case "hub", "presence", "connection":
		return dot
	case "error", "open":
		return !dot
	}
	return false
}

// Printable says whether s is printable ASCII.
func Printable(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c > '~' })
}

// CheckTenant is the rule of a tenant's id.
func CheckTenant(id string) error {
	if !PlainWord(id, "._~@-") {
		return errors.New("must be 1–128 of A-Za-z0-9._~@-")
	}
	return nil
}

// maxText is how many bytes an id, or a text of metadata, may have.
const maxText = 256

// ValidText is the rule of a key and of a value of metadata: up to 256 bytes of UTF-8 without
// control characters.
func ValidText(s string) bool {
	return len(s) <= maxText && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// CheckName is the rule of the ids of profiles, conversations and groups: like metadata, but
// neither empty nor a folder.
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

// CheckConnectionID is the rule of a connection's id as it is asked for. That it passes does
// not mean that there is such a connection.
func CheckConnectionID(id string) error {
	if !word(id, 128, "._~-") {
		return errors.New("is not a connection's id")
	}
	return nil
}
