package webhook

// Values of headers.

import (
	"fmt"
	"strings"
)

// Fence is a run as it stands in Perdure-Fence: decimal, 19 digits, so that
// fences compare as strings.
func Fence(run int64) string { return fmt.Sprintf("%019d", run) }

// Quote makes any text a header value: CloudEvents' HTTP binding percent-encodes
// what is not printable ASCII, and the quote and percent signs.
func Quote(s string) string {
	clean := true
	for i := 0; i < len(s) && clean; i++ {
		clean = s[i] > 0x20 && s[i] < 0x7f && s[i] != '"' && s[i] != '%' || s[i] == ' ' && i > 0 && i < len(s)-1
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= 0x20 || c >= 0x7f || c == '"' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
