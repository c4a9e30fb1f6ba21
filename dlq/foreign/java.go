package foreign

// Java's stack traces: the cause stands at the end, its frames behind it.

import "strings"

// jdk begins the frames that say how Java got there, not where the program is
// wrong: a parse error is in parseInt for everybody.
var jdk = []string{"java.", "javax.", "jdk.", "sun.", "com.sun."}

// javaCause returns the innermost cause of a stack trace and the first of its
// frames that is not the JDK's; all "" if trace is none. Suppressed exceptions,
// which are indented, do not count.
func javaCause(trace string) (class, message, frame string) {
	type cause struct{ class, message, frame, first string }
	var found cause // the last that has frames
	var c cause
	inHead := false // between the head and its first frame: the rest of the message
	begin := func(head string) {
		c = cause{}
		c.class, c.message, _ = strings.Cut(head, ": ")
		c.class = strings.TrimRight(strings.TrimSpace(c.class), ":")
		inHead = true
	}
	for i, line := range strings.Split(trace, "\n") {
		line = strings.TrimRight(line, "\r")
		head, isCause := strings.CutPrefix(line, "Caused by: ")
		at, isFrame := strings.CutPrefix(strings.TrimLeft(line, " \t"), "at ")
		switch {
		case i == 0:
			begin(line)
		case isCause:
			begin(head)
		case strings.HasPrefix(line, "\t\t"):
			// of a suppressed exception
		case isFrame && line[0] <= ' ' && strings.Contains(at, "("):
			inHead = false
			at = method(at)
			if c.first == "" {
				c.first = at
			}
			if c.frame == "" && !fromJDK(at) {
				c.frame = at
			}
			if className(c.class) {
				found = c
			}
		case inHead && len(c.message) < maxText:
			c.message += " " + strings.TrimSpace(line)
		}
	}
	if found.frame == "" {
		found.frame = found.first
	}
	return found.class, strings.TrimSpace(found.message), found.frame
}

// method is a frame without what changes from build to build: loader and module
// ("app//", "java.base/"), file and line, and the numbers of generated classes.
func method(at string) string {
	at, _, _ = strings.Cut(at, "(")
	at = at[strings.LastIndexByte(at, '/')+1:]
	if class, rest, is := strings.Cut(at, "$$"); is {
		at = class
		if i := strings.LastIndexByte(rest, '.'); i >= 0 {
			at += rest[i:]
		}
	}
	return at
}

func fromJDK(method string) bool {
	for _, p := range jdk {
		if strings.HasPrefix(method, p) {
			return true
		}
	}
	return false
}

// className tells a qualified class name from a sentence.
func className(s string) bool {
	dots := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.':
			dots++
		case c|0x20 >= 'a' && c|0x20 <= 'z', c >= '0' && c <= '9', c == '_', c == '$', c >= 0x80:
		default:
			return false
		}
	}
	return dots > 0 && s[0] != '.' && s[len(s)-1] != '.'
}
