package schemas

// Is it JSON? The same answer as encoding/json.Valid gives, with a bound on its
// nesting and at a tenth of the cost: strings, most of any payload, are passed
// eight bytes at a time. Every enqueue pays for this.

import "encoding/binary"

// validJSON reports whether b is one JSON value of at most MaxDepth levels. No
// recursion, no allocation.
func validJSON(b []byte) bool {
	var object [MaxDepth + 1]bool // what each open level is
	depth, i := 0, skipSpace(b, 0)
	for {
		// A value begins at i.
		if i >= len(b) {
			return false
		}
		open := false
		switch c := b[i]; c {
		case '{', '[':
			if depth++; depth > MaxDepth {
				return false
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
			if i < 0 {
				return false
			}
			i = skipSpace(b, i)
			if depth == 0 {
				return i == len(b)
			}
			if i >= len(b) {
				return false
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
					return false
				}
				i = skipSpace(b, i+1)
			}
			if object[depth] {
				if i >= len(b) || b[i] != '"' {
					return false
				}
				if i = passString(b, i); i < 0 {
					return false
				}
				if i = skipSpace(b, i); i >= len(b) || b[i] != ':' {
					return false
				}
				i = skipSpace(b, i+1)
			}
			break
		}
	}
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// passString returns what comes after the string that begins at i, -1 if it is none.
func passString(b []byte, i int) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for i++; ; {
		// Eight bytes without a quote, a backslash or a control character: in each
		// the high bit of one of these would be set (a borrow can only add a false
		// alarm above a true one; bytes from 0x80 on are let through by &^ w).
		for i+8 <= len(b) {
			w := binary.LittleEndian.Uint64(b[i:])
			quote, slash := w^ones*'"', w^ones*'\\'
			if ((quote-ones)&^quote|(slash-ones)&^slash|(w-ones*0x20)&^w)&highs != 0 {
				break
			}
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
