// Package jsonscan walks JSON text without building anything of it. It gives the
// same answers as encoding/json, with a bound on the nesting and at a tenth of the
// cost: strings, most of any payload, are passed eight bytes at a time. Every
// enqueue pays for this.
package jsonscan

import (
	"encoding/binary"
	"encoding/json"
)

// MaxDepth is the deepest nesting of a value.
const MaxDepth = 100

// Valid reports whether b is one JSON value of at most MaxDepth levels. No
// recursion, no allocation.
func Valid(b []byte) bool {
	i := passValue(b, skipSpace(b, 0))
	return i >= 0 && skipSpace(b, i) == len(b)
}

// Member is one of an object's.
type Member struct {
	Name  string
	Value []byte // a part of the object's text, without space around it
}

// Members appends the members of the one object that b is, in their order, and one
// that stands there twice twice. ok is false where b is no object, is no JSON, or
// has a value deeper than MaxDepth.
func Members(to []Member, b []byte) (members []Member, ok bool) {
	i := skipSpace(b, 0)
	if i >= len(b) || b[i] != '{' {
		return to, false
	}
	if i = skipSpace(b, i+1); i < len(b) && b[i] == '}' {
		return to, skipSpace(b, i+1) == len(b)
	}
	for i < len(b) && b[i] == '"' {
		from := i
		if i = passString(b, i); i < 0 {
			return to, false
		}
		name := Text(b[from:i])
		if i = skipSpace(b, i); i >= len(b) || b[i] != ':' {
			return to, false
		}
		from = skipSpace(b, i+1)
		if i = passValue(b, from); i < 0 {
			return to, false
		}
		to = append(to, Member{name, b[from:i:i]})
		if i = skipSpace(b, i); i >= len(b) {
			return to, false
		}
		if b[i] == '}' {
			return to, skipSpace(b, i+1) == len(b)
		}
		if b[i] != ',' {
			return to, false
		}
		i = skipSpace(b, i+1)
	}
	return to, false
}

// Text is the string that a valid JSON string stands for.
func Text(quoted []byte) string {
	inner := quoted[1 : len(quoted)-1]
	for _, c := range inner {
		if c == '\\' || c >= 0x80 { // an escape, or what may not be UTF-8
			var s string
			_ = json.Unmarshal(quoted, &s) // it is valid
			return s
		}
	}
	return string(inner)
}

// passValue returns what comes after the value that begins at i, -1 if it is none
// or nests deeper than MaxDepth.
func passValue(b []byte, i int) int {
	var object [MaxDepth + 1]bool // what each open level is
	depth := 0
	for {
		// A value begins at i.
		if i >= len(b) {
			return -1
		}
		open := false
		switch c := b[i]; c {
		case '{', '[':
			if depth++; depth > MaxDepth {
				return -1
			}
			object[depth] = c == '{'
			open = true
			i++
		case '"':
			i = passString(b, i)
		case 't':
			i = passWord(b, i, "true")
		case 'f':
			i = passWord(b, i, "false")
		case 'n':
			i = passWord(b, i, "null")
		default:
			i = passNumber(b, i)
		}
		// What follows, up to the next value: commas, names, closing brackets.
		for {
			if i < 0 || depth == 0 {
				return i
			}
			if i = skipSpace(b, i); i >= len(b) {
				return -1
			}
			c := b[i]
			closing := object[depth] && c == '}' || !object[depth] && c == ']'
			if closing {
				depth, open = depth-1, false
				i++
				continue
			}
			if !open {
				if c != ',' {
					return -1
				}
				i = skipSpace(b, i+1)
			}
			if object[depth] {
				if i >= len(b) || b[i] != '"' {
					return -1
				}
				if i = passString(b, i); i < 0 {
					return -1
				}
				if i = skipSpace(b, i); i >= len(b) || b[i] != ':' {
					return -1
				}
				i = skipSpace(b, i+1)
			}
			break
		}
	}
}

// Deeper reports whether brackets outside strings nest deeper than limit. It
// need not be right about text that is not JSON.
func Deeper(b []byte, limit int) bool {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			if depth++; depth > limit {
				return true
			}
		case '}', ']':
			depth--
		}
	}
	return false
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// passString returns what comes after the string that begins at i, -1 if it is none.
func passString(b []byte, i int) int {
	for i++; ; {
		for len(b)-i >= 32 {
			w := b[i : i+32]
			if (special(w[:8])|special(w[8:16])|special(w[16:24])|special(w[24:]))&highs != 0 {
				break
			}
			i += 32
		}
		for len(b)-i >= 8 && special(b[i:i+8])&highs == 0 {
			i += 8
		}
		if i >= len(b) {
			return -1
		}
		switch c := b[i]; {
		case c == '"':
			return i + 1
		case c < 0x20:
			return -1
		case c == '\\':
			if i = passEscape(b, i+1); i < 0 {
				return -1
			}
		default:
			i++
		}
	}
}

const ones, highs = 0x0101010101010101, 0x8080808080808080

// special has one of highs set if one of the eight bytes is a quote, a backslash or
// a control character: a subtraction borrows where a byte is less (a borrow can only
// add a false alarm above a true one; bytes from 0x80 on are let through by &^ w).
// One of them asks for two things: with that bit turned, a quote is 0x20, control
// characters stay below it, and 0x20 and 0x21 are above.
func special(eight []byte) uint64 {
	w := binary.LittleEndian.Uint64(eight)
	other, slash := w^ones*0x02, w^ones*'\\'
	return ((other - ones*0x21) | (slash - ones)) &^ w
}

func passEscape(b []byte, i int) int {
	if i >= len(b) {
		return -1
	}
	switch b[i] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 1
	case 'u':
		if i+5 > len(b) {
			return -1
		}
		for _, c := range b[i+1 : i+5] {
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
				return -1
			}
		}
		return i + 5
	}
	return -1
}

func passWord(b []byte, i int, word string) int {
	if len(b)-i < len(word) || string(b[i:i+len(word)]) != word {
		return -1
	}
	return i + len(word)
}

func passNumber(b []byte, i int) int {
	if b[i] == '-' {
		i++
	}
	switch {
	case i < len(b) && b[i] == '0':
		i++
	case i < len(b) && b[i] >= '1' && b[i] <= '9':
		i = passDigits(b, i)
	default:
		return -1
	}
	if i < len(b) && b[i] == '.' {
		if i = passDigits(b, i+1); i < 0 {
			return -1
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		i = passDigits(b, i)
	}
	return i
}

// passDigits passes one digit at least.
func passDigits(b []byte, i int) int {
	from := i
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	if i == from {
		return -1
	}
	return i
}
