package schemas

// A look at JSON before a parser sees it: one pass, no recursion, no allocation.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/perdure/perdure/schemas/jsonscan"
)

// MaxDepth is the deepest nesting of a JSON payload.
const MaxDepth = jsonscan.MaxDepth

// scanJSON says why b is not JSON of at most MaxDepth levels, "" if it is.
func scanJSON(b []byte) string {
	if jsonscan.Valid(b) {
		return ""
	}
	if jsonscan.Deeper(b, MaxDepth) {
		return fmt.Sprintf("is nested deeper than %d levels", MaxDepth)
	}
	if !json.Valid(b) {
		return "is not valid JSON" + where(b)
	}
	return ""
}

// where names the byte at which b stops being JSON.
func where(b []byte) string {
	var v json.RawMessage
	err := json.Unmarshal(b, &v)
	if syntax, ok := err.(*json.SyntaxError); ok { //nolint:errorlint // Unmarshal returns it bare
		return fmt.Sprintf(", at byte %d", syntax.Offset)
	}
	return ""
}

// hugeNumber reports whether valid JSON holds a number with more digits, or a
// larger exponent, than any double needs. Exact arithmetic on 1e999999999,
// which schema keywords such as multipleOf do, would take all memory there is.
func hugeNumber(b []byte) bool {
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		case c == '-' || c >= '0' && c <= '9':
			start := i
			for i < len(b) && strings.IndexByte("+-.eE0123456789", b[i]) >= 0 {
				i++
			}
			if tooBig(b[start:i]) {
				return true
			}
			i--
		}
	}
	return false
}

func tooBig(number []byte) bool {
	const digits, exponent = 400, 400
	if len(number) > digits {
		return true
	}
	e := bytes.IndexAny(number, "eE")
	if e < 0 {
		return false
	}
	n := 0
	for _, c := range number[e+1:] {
		if c >= '0' && c <= '9' {
			if n = n*10 + int(c-'0'); n > exponent {
				return true
			}
		}
	}
	return false
}
