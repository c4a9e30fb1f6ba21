package output

// What a terminal would obey is shown as an escape instead.

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Safe returns s for one cell or line of a terminal: control characters, line
// breaks included, bidirectional overrides and invalid UTF-8 become \xNN or
// \uNNNN.
func Safe(s string) string {
	if strings.IndexFunc(s, obeyed) < 0 && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case obeyed(r) && r < utf8.RuneSelf:
			fmt.Fprintf(&b, `\x%02x`, r)
		case obeyed(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// Block is Safe for text that may have line breaks and tabs of its own.
func Block(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		cells := strings.Split(l, "\t")
		for j := range cells {
			cells[j] = Safe(cells[j])
		}
		lines[i] = strings.Join(cells, "\t")
	}
	return strings.Join(lines, "\n")
}

// Cut is Safe, and at most n runes long.
func Cut(s string, n int) string {
	r := []rune(Safe(s))
	if len(r) <= n {
		return string(r)
	}
	return string(r[:n-1]) + "…"
}

func obeyed(r rune) bool {
	return unicode.IsControl(r) || // C0, DEL, C1
		r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0x200e || r == 0x200f || r == 0x061c ||
		r == 0x2028 || r == 0x2029
}

// SafeJSON escapes in encoded JSON what encoding/json leaves as it is: DEL, C1
// and bidirectional controls, which can only stand inside strings. The line
// breaks between tokens stay.
func SafeJSON(b []byte) []byte {
	if bytes.IndexFunc(b, beyondJSON) < 0 {
		return b
	}
	var out bytes.Buffer
	for _, r := range string(b) {
		if beyondJSON(r) {
			fmt.Fprintf(&out, `\u%04x`, r)
			continue
		}
		out.WriteRune(r)
	}
	return out.Bytes()
}

func beyondJSON(r rune) bool { return r >= 0x7f && obeyed(r) }

// Word is s as one word of a shell, quoted where it must be: commands are printed to
// be pasted, and what stands in them may come from anyone.
func Word(s string) string {
	plain := s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(":._/@-", r)
	})
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
