package dlq

// Fingerprint: one name for one cause. Two failures of the same cause differ in
// what they were about (ids, amounts, times, addresses), not in what happened.

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/perdure/perdure/dlq/internal/stacks"
)

// A version for each algorithm, so that groups of two never mix: whoever changes what
// comes out for an error makes a new one. What the one before it would have said is still
// known, and a letter whose cause has a group by that name goes there (successors.go).
const (
	firstVersion       = "fp1:" // the whole text, as Normalize leaves it
	fingerprintVersion = "fp2:" // of stack traces and JSON bodies only the cause
)

// namedVersion begins the fingerprints that handlers chose.
const namedVersion = "fpn1:"

// maxNormal bounds what of a text is looked at, in bytes: the end of a long
// message is data, not cause.
const maxNormal = 1 << 10

// Fingerprint names the cause of a failure: "fp2:" and 16 hex digits. The error
// class counts as it stands ("HTTP 422" is not "HTTP 500"); frame is the
// innermost line of the stack, "" = unknown. Of a message that is a stack trace or a
// JSON object counts what stacks.Reduce leaves: the same cause reached by another way,
// or with other fields, is the same group, and one that stands behind the first
// kilobyte of a long trace is seen.
func Fingerprint(kind, errorClass, message, frame string) string {
	if cause, at, ok := stacks.Reduce(message); ok {
		message = cause
		if frame == "" {
			frame = at
		}
	}
	return fingerprintVersion + digest(kind, errorClass, Normalize(message), Normalize(frame))
}

// firstFingerprint is what the first version says: "fp1:" and 16 hex digits.
func firstFingerprint(kind, errorClass, message, frame string) string {
	return firstVersion + digest(kind, errorClass, Normalize(message), Normalize(frame))
}

func digest(parts ...string) string {
	h := sha256.New()
	for _, s := range parts {
		h.Write([]byte(s))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// NamedFingerprint names a cause that the handler named itself: every failure of
// the kind with that name is one group. It never equals a Fingerprint.
func NamedFingerprint(kind, name string) string {
	return namedVersion + digest(kind, Clip(name, MaxErrorClass))
}

// lastFrame is the innermost line of the last stack of a history, without the
// folders that the program was built in: the same bug, built elsewhere, is the
// same group.
func lastFrame(as []Attempt) string {
	for i := len(as) - 1; i >= 0; i-- {
		if s := strings.TrimSpace(as[i].Stack); s != "" {
			line, _, _ := strings.Cut(s, "\n")
			words := strings.Fields(line)
			for i, w := range words {
				if strings.HasPrefix(w, "/") {
					words[i] = w[strings.LastIndexByte(w, '/')+1:]
				}
			}
			return strings.Join(words, " ")
		}
	}
	return ""
}

// Normalize takes out of an error's text what changes from one task to the
// next: quoted strings, and words that hold a digit (numbers, ids, UUIDs,
// addresses, times, sizes), become "#"; letters are lowered, runs of space and
// of "#" become one. Digits stay where they say what the error is: in a name
// (http2, Sha256Error), and in the code after a word like "status" or "SQLSTATE".
func Normalize(s string) string {
	if len(s) > maxNormal {
		s = s[:maxNormal]
	}
	out := make([]byte, 0, len(s))
	last := ""
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"' || c == '\'' || c == '`':
			n := 0
			if c != '\'' || i == 0 || !letter(s[i-1]) { // not the apostrophe of can't
				n = quoted(s[i:])
			}
			if n > 0 {
				out = hole(out)
			}
			i += max(n, 1)
		case wordByte(c):
			n := wordLen(s[i:])
			w := strings.TrimRight(s[i:i+n], ".-:+")
			if w == "" {
				w = s[i : i+n]
			}
			low := strings.ToLower(w)
			if variable(w) && (len(w) > 5 || !codeWord(last)) {
				out = hole(out)
			} else {
				out = append(out, low...)
			}
			i += len(w)
			if strings.Trim(w, ".-:+") != "" {
				last = low
			}
		case c <= ' ':
			if len(out) > 0 && out[len(out)-1] != ' ' {
				out = append(out, ' ')
			}
			i++
		case c == '#':
			out = hole(out)
			i++
		default:
			out = append(out, c)
			i++
		}
	}
	return strings.TrimRight(string(out), " ")
}

// hole appends "#" unless the text ends with one.
func hole(out []byte) []byte {
	if n := len(out); n > 0 && out[n-1] == '#' || n > 1 && out[n-1] == ' ' && out[n-2] == '#' {
		return out
	}
	return append(out, '#')
}

// codeWord tells the words whose next word is a code that names the error.
func codeWord(w string) bool {
	switch w {
	case "status", "code", "http", "http/1.1", "sqlstate", "errno", "signal":
		return true
	}
	return false
}

// quoted returns the length of the quoted string that s begins with, 0 if it
// does not end.
func quoted(s string) int {
	q := s[0]
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case q:
			if q == '\'' && i+1 < len(s) && letter(s[i+1]) {
				continue // an apostrophe inside the string
			}
			return i + 1
		}
	}
	return 0
}

// wordByte tells what may stand in a word: enough to hold a UUID, a time, an
// IPv6 address, a decimal and a path's element together.
func wordByte(c byte) bool {
	return letter(c) || digit(c) || c == '_' || c == '-' || c == '.' || c == ':' || c == '+' || c >= 0x80
}

func letter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
func digit(c byte) bool  { return c >= '0' && c <= '9' }

func wordLen(s string) int {
	n := 0
	for n < len(s) && wordByte(s[n]) {
		n++
	}
	return n
}

// variable reports whether a word is about the task rather than the error.
func variable(w string) bool {
	digits, hex := 0, true
	for i := 0; i < len(w); i++ {
		if digit(w[i]) {
			digits++
		} else if c := w[i] | 0x20; (c < 'a' || c > 'f') && w[i] != '-' {
			hex = false
		}
	}
	switch {
	case digits == 0:
		// A hash may hold no digit by chance: long, hex, and no English word is.
		return hex && len(w) >= 16
	case keep(w):
		return false
	}
	return true
}

// keep tells names that hold a few digits and still say what the error is:
// http2, utf8, Sha256Error.
func keep(w string) bool {
	if !letter(w[0]) && w[0] != '_' {
		return false
	}
	run, letters := 0, 0
	for i := 0; i < len(w); i++ {
		switch c := w[i]; {
		case digit(c):
			if run++; run > 3 {
				return false
			}
		case c == '-' || c == ':' || c == '+':
			return false
		default:
			run = 0
			letters++
		}
	}
	return letters >= 3 && float64(letters) > 0.6*float64(len(w))
}
