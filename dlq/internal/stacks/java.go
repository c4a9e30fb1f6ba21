package stacks

// Java's stack traces: the cause stands at the end, its frames behind it.

import "strings"

// jdk begins the frames that say how Java got there, not where the program is
// wrong: a parse error is in parseInt for everybody.
var jdk = []string{"java.", "javax.", "jdk.", "sun.", "com.sun."}

// maxMessage bounds what of a message is kept, in bytes.
const maxMessage = 4 << 10

// Java returns the innermost cause of a stack trace that has frames, and the
// first of these that is not the JDK's; all "" if trace is none. Suppressed
// exceptions, which are indented, do not count.
func Java(trace string) (class, message, frame string) {
	const by = "\nCaused by: "
	for { // from the end, where the innermost is
		i := strings.LastIndex(trace, by)
		start := 0
		if i >= 0 {
			start = i + len(by)
		}
		if class, message, frame = javaException(trace[start:]); class != "" || i < 0 {
			return class, message, frame
		}
		trace = trace[:i]
	}
}

// javaException reads one exception: its head, a message of one or more lines, and
// its frames.
func javaException(s string) (class, message, frame string) {
	head, rest, _ := strings.Cut(s, "\n")
	class, message, _ = strings.Cut(strings.TrimRight(head, "\r"), ": ")
	if class = strings.TrimRight(class, ": "); !ClassName(class) {
		return "", "", ""
	}
	first := ""
	for line := range strings.Lines(rest) {
		line = strings.TrimRight(line, "\r\n")
		at, isFrame := strings.CutPrefix(strings.TrimLeft(line, " \t"), "at ")
		if isFrame && line[0] <= ' ' && !strings.HasPrefix(line, "\t\t") {
			at = method(at)
		} else {
			at = ""
		}
		switch {
		case at == "" && first == "" && len(message) < maxMessage: // it goes on
			message += " " + strings.TrimSpace(line)
		case at == "":
		case !fromJDK(at):
			return class, strings.TrimSpace(message), at
		case first == "":
			first = at
		}
	}
	if first == "" {
		return "", "", ""
	}
	return class, strings.TrimSpace(message), first
}

// method is a frame without what changes from build to build: loader and module
// ("app//", "java.base/"), file and line, and the numbers of generated classes;
// "" for what is no frame, such as a message's " at [Source: (byte[])".
func method(at string) string {
	at, _, is := strings.Cut(at, "(")
	if !is || strings.ContainsAny(at, " [,;") {
		return ""
	}
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

// ClassName tells a qualified class name from a sentence.
func ClassName(s string) bool {
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
