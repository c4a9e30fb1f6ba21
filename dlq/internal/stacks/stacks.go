// Package stacks reads what errors of several languages look like when they are
// handed on as text: stack traces of Java, Python, Node and Go, and error bodies in
// JSON. It tells what failed and where, without the way that led there. It knows
// nothing of letters.
package stacks

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Reduce returns what of an error's text is its cause: of a stack trace the innermost
// error, and the innermost frame that is not a library's; of a JSON object the fields
// that say what is wrong. ok is false for any other text.
func Reduce(text string) (cause, frame string, ok bool) {
	text = strings.TrimSpace(strings.ReplaceAll(text, "\r\n", "\n"))
	if strings.HasPrefix(text, "{") {
		cause, ok = object(text)
		return cause, "", ok
	}
	if class, message, at := Java(text); class != "" {
		return join(class, message), stable(at), true
	}
	for _, read := range []func(string) (string, string){python, golang, node} {
		if cause, at := read(text); at != "" {
			return cause, stable(at), true
		}
	}
	return "", "", false
}

func join(class, message string) string {
	if message == "" {
		return class
	}
	return class + ": " + message
}

// generated are numbers of classes and closures that are counted anew in each build or
// process.
var generated = regexp.MustCompile(`(\$|Proxy|Accessor|\bfunc)\d+`)

func stable(frame string) string { return generated.ReplaceAllString(frame, "$1") }

// base is a path's last element.
func base(path string) string { return path[strings.LastIndexAny(path, `/\\`)+1:] }

const (
	traceback   = "Traceback (most recent call last):\n"
	directCause = "The above exception was the direct cause of the following exception:"
)

var pythonFrame = regexp.MustCompile(`^\s+File "([^"]+)", line \d+, in (\S+)`)

// python reads a traceback. The innermost error is the last of it, but for errors that
// were raised from another: then it is that one.
func python(s string) (cause, frame string) {
	blocks := strings.Split(s, traceback)
	if len(blocks) < 2 {
		return "", ""
	}
	i := len(blocks) - 1
	for i > 1 && strings.Contains(blocks[i-1], directCause) {
		i--
	}
	var said []string
	for line := range strings.Lines(blocks[i]) {
		line = strings.TrimRight(line, "\n")
		switch m := pythonFrame.FindStringSubmatch(line); {
		case m != nil:
			own := !strings.Contains(m[1], "site-packages/") && !strings.Contains(m[1], "/lib/python") && !strings.HasPrefix(m[1], "<frozen")
			if own || frame == "" {
				frame = base(m[1]) + " " + m[2]
			}
			said = nil
		case line == "" && said != nil:
			return strings.Join(said, " "), frame
		case line != "" && line[0] != ' ' && line[0] != '\t' || said != nil:
			said = append(said, strings.TrimSpace(line))
		}
	}
	if said == nil { // the end was cut off
		return "", ""
	}
	return strings.Join(said, " "), frame
}

var nodeFrame = regexp.MustCompile(`^\s+at (?:async )?(?:(.+?) \()?([^()]+?):\d+:\d+\)?( \{)?$`)

// node reads the stack of a JavaScript error, the innermost of its causes.
func node(s string) (cause, frame string) {
	const by = "[cause]: "
	if i := strings.LastIndex(s, by); i >= 0 {
		if cause, frame = node(s[i+len(by):]); frame != "" {
			return cause, frame
		}
		s = s[:i]
	}
	var said []string
	for line := range strings.Lines(s) {
		line = strings.TrimRight(line, "\n")
		m := nodeFrame.FindStringSubmatch(line)
		switch {
		case m == nil && frame == "":
			said = append(said, strings.TrimSpace(line))
		case m == nil: // what follows are the error's fields
			return strings.Join(said, " "), frame
		default:
			at := strings.TrimSpace(m[1] + " " + base(m[2]))
			library := strings.HasPrefix(m[2], "node:") || strings.Contains(m[2], "node_modules/")
			if frame == "" {
				frame = at
			}
			if !library {
				return strings.Join(said, " "), at
			}
		}
	}
	return strings.Join(said, " "), frame
}

var (
	goroutine = regexp.MustCompile(`(?m)^goroutine \d+ \[[^\]]+\]:\n`)
	goFrame   = regexp.MustCompile(`^((?:[\w.~-]+/)*[\w.~-]+\.[^\s]+?)\((?:[^()]|\([^()]*\))*\)$`)
)

// golang reads a panic, or an error that carries debug.Stack.
func golang(s string) (cause, frame string) {
	at := goroutine.FindStringIndex(s)
	if at == nil {
		return "", ""
	}
	cause = strings.Join(strings.Fields(s[:at[0]]), " ")
	panicked := strings.Contains(s[at[1]:], "\npanic(") || strings.HasPrefix(s[at[1]:], "panic(")
	for line := range strings.Lines(s[at[1]:]) {
		line = strings.TrimRight(line, "\n")
		if line == "" { // another goroutine's
			break
		}
		if strings.HasPrefix(line, "panic(") {
			panicked = false
			continue
		}
		m := goFrame.FindStringSubmatch(line)
		if m == nil || panicked || strings.HasPrefix(m[1], "runtime.") || strings.HasPrefix(m[1], "runtime/") {
			continue
		}
		return cause, m[1]
	}
	return "", ""
}

// What fields of an error's body are called that say what is wrong.
var causes = map[string]bool{"code": true, "description": true, "detail": true, "error": true, "error_code": true, "error_description": true, "error_type": true,
	"errorcode": true, "errors": true, "errormessage": true, "exception": true, "field": true, "message": true, "msg": true, "name": true, "path": true, "pointer": true, "reason": true, "rule": true,
	"status": true, "statuscode": true, "title": true, "type": true}

const (
	maxDepth  = 4 // of a body that is looked at
	maxFields = 32
)

// object reads an error's body: what its fields that say what is wrong hold, in a
// fixed order, and the names of the others, whose values are about the task.
func object(s string) (string, bool) {
	d := json.NewDecoder(strings.NewReader(s))
	d.UseNumber()
	var body map[string]any
	if d.Decode(&body) != nil || d.More() || len(body) == 0 {
		return "", false
	}
	var out []string
	walk(&out, "", body, maxDepth)
	return strings.Join(out, ", "), true
}

func walk(out *[]string, name string, v any, depth int) {
	if len(*out) >= maxFields || depth < 0 {
		return
	}
	switch v := v.(type) {
	case map[string]any:
		for _, field := range slices.Sorted(maps.Keys(v)) {
			inner := v[field]
			_, nested := inner.(map[string]any)
			if low := strings.ToLower(field); causes[low] || nested {
				walk(out, low, inner, depth-1)
			} else if len(*out) < maxFields {
				*out = append(*out, low)
			}
		}
	case []any:
		if len(v) > 0 { // the others are of the same kind, and as many as the task had
			walk(out, name, v[0], depth-1)
		}
	case nil:
	default:
		*out = append(*out, name+" "+fmt.Sprint(v))
	}
}
