package doctor

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// mostSaid is how much of a finding is printed in words, in bytes: a server may say more.
const mostSaid = 2 << 10

// plain is a line for a terminal of what others may have had a say in: what would move
// the cursor, end the line or turn the direction of writing is shown as Go writes it.
func plain(text string) string {
	var b strings.Builder
	for i, r := range text {
		if b.Len() >= mostSaid {
			b.WriteString("…")
			break
		}
		switch {
		case unicode.IsGraphic(r) && r != utf8.RuneError:
			b.WriteRune(r)
		case r == utf8.RuneError: // as it came, or of no valid UTF-8
			_, n := utf8.DecodeRuneInString(text[i:])
			if n > 1 {
				b.WriteRune(r)
			} else {
				fmt.Fprintf(&b, `\x%02x`, text[i])
			}
		case r < utf8.RuneSelf:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	return b.String()
}

// plainJSON is plain for encoded JSON, which stays the same JSON: of what a terminal
// obeys, package json escapes only what is below U+0020.
func plainJSON(text []byte) []byte {
	b := make([]byte, 0, len(text))
	for _, r := range string(text) {
		if r < 0x7f || unicode.IsGraphic(r) {
			b = utf8.AppendRune(b, r)
			continue
		}
		for _, unit := range utf16.AppendRune(nil, r) {
			b = fmt.Appendf(b, `\u%04x`, unit)
		}
	}
	return b
}
