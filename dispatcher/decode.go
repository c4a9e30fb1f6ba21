package dispatcher

// A task as JSON: one post, one element of an array, one line of NDJSON.

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/schemas/jsonscan"
)

// maxTaskJSON is the longest JSON text of one task, in bytes: the largest
// payload in base64, its headers, and its names.
const maxTaskJSON = schemas.MaxPayload/3*4 + 4*schemas.MaxHeaderBytes + 16<<10

// malformed is a text that is not JSON.
func malformed(format string, args ...any) *api.Problem {
	return api.NewProblem(http.StatusBadRequest, "malformed-json", "the text is not one JSON object: see errors",
		api.FieldError{Pointer: "#", Detail: fmt.Sprintf(format, args...)})
}

// invalid is JSON that is not a task.
func invalid(errs ...api.FieldError) *api.Problem {
	return api.NewProblem(http.StatusUnprocessableEntity, "invalid-task", "the task is not acceptable: see errors", errs...)
}

// decodeTask reads one task. The payload is a copy of its part of b. What the
// catalog says is for the client to check.
func decodeTask(b []byte) (client.Task, *api.Problem) {
	if p := checkText(b); p != nil {
		return client.Task{}, p
	}
	var d taskDecoder
	if p := eachMember(b, d.field); p != nil {
		return client.Task{}, p
	}
	d.payloads()
	if len(d.errs) > 0 {
		return client.Task{}, invalid(d.errs...)
	}
	return d.task, nil
}

func checkText(b []byte) *api.Problem {
	if at := bytes.IndexByte(b, 0); at >= 0 {
		return malformed("holds a NUL byte, at byte %d", at+1)
	}
	if !utf8.Valid(b) {
		return malformed("is not UTF-8, at byte %d", badUTF8(b)+1)
	}
	return nil
}

func badUTF8(b []byte) int {
	at := 0
	for at < len(b) {
		r, n := utf8.DecodeRune(b[at:])
		if r == utf8.RuneError && n == 1 {
			break
		}
		at += n
	}
	return at
}

type taskDecoder struct {
	task   client.Task
	base64 *string
	seen   uint16 // bit per field
	errs   []api.FieldError
}

var taskFields = [...]string{"kind", "payload", "payload_base64", "content_type", "queue", "key",
	"idempotency_key", "unique_key", "run_at", "deadline", "headers"}

func (d *taskDecoder) fail(field, format string, args ...any) {
	d.errs = append(d.errs, api.FieldError{Pointer: "#/" + field, Detail: fmt.Sprintf(format, args...)})
}

// eachMember calls do for the members of the one object that b is, twice for one
// that stands there twice. Case counts, unlike in encoding/json. A value is a part
// of b or a copy of it.
func eachMember(b []byte, do func(name string, value json.RawMessage)) *api.Problem {
	var room [len(taskFields)]jsonscan.Member
	if members, ok := jsonscan.Members(room[:0], b); ok {
		for _, m := range members {
			do(m.Name, m.Value)
		}
		return nil
	}
	return eachToken(b, do)
}

// eachToken does the same by encoding/json, which says what is wrong.
func eachToken(b []byte, do func(name string, value json.RawMessage)) *api.Problem {
	d := json.NewDecoder(bytes.NewReader(b))
	open, err := d.Token()
	if err != nil {
		return syntax(b)
	}
	if open != json.Delim('{') {
		return malformed("must be a JSON object")
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return syntax(b)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return syntax(b)
		}
		do(name.(string), value) // More within an object: the token is a key
	}
	if _, err := d.Token(); err != nil {
		return syntax(b)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return malformed("goes on after the object, at byte %d", d.InputOffset()+1)
	}
	return nil
}

// syntax says where b stops being JSON. The decoder's own offsets are those of
// its tokens, so b is scanned once more.
func syntax(b []byte) *api.Problem {
	var whole json.RawMessage
	err := json.Unmarshal(b, &whole)
	var s *json.SyntaxError
	switch {
	case !errors.As(err, &s) || strings.Contains(s.Error(), "unexpected end"):
		return malformed("ends too early, after byte %d", len(b))
	case strings.Contains(s.Error(), "max depth"):
		return malformed("is nested too deeply")
	}
	return malformed("is not JSON, at byte %d", s.Offset)
}

func (d *taskDecoder) field(name string, value json.RawMessage) {
	known := false
	for i, f := range taskFields {
		if f != name {
			continue
		}
		known = true
		if d.seen&(1<<i) != 0 {
			d.fail(name, "is given twice")
			return
		}
		d.seen |= 1 << i
	}
	if !known {
		d.fail(pointerToken(name), "is not a field of a task; there are %s", strings.Join(taskFields[:], ", "))
		return
	}
	if name == "payload" {
		d.task.Payload = client.Raw(bytes.Clone(value))
		return
	}
	if string(value) == "null" {
		return
	}
	switch name {
	case "kind":
		d.text(name, value, &d.task.Kind)
	case "payload_base64":
		d.base64 = new(string)
		d.text(name, value, d.base64)
	case "content_type":
		d.text(name, value, &d.task.ContentType)
	case "queue":
		d.text(name, value, &d.task.Queue)
	case "key":
		d.text(name, value, &d.task.Key)
	case "idempotency_key":
		d.text(name, value, &d.task.IdempotencyKey)
	case "unique_key":
		d.text(name, value, &d.task.UniqueKey)
	case "run_at":
		d.time(name, value, &d.task.RunAt)
	case "deadline":
		d.time(name, value, &d.task.Deadline)
	case "headers":
		d.headers(value)
	}
}

func (d *taskDecoder) text(name string, value json.RawMessage, into *string) {
	if value[0] != '"' {
		d.fail(name, "must be a string")
		return
	}
	*into = jsonscan.Text(value)
}

func (d *taskDecoder) time(name string, value json.RawMessage, into *time.Time) {
	var s string
	if json.Unmarshal(value, &s) != nil {
		d.fail(name, "must be a string: a time in RFC 3339, as 2006-01-02T15:04:05Z")
		return
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.IsZero() {
		d.fail(name, "must be a time in RFC 3339, as 2006-01-02T15:04:05Z")
		return
	}
	*into = t
}

func (d *taskDecoder) headers(value json.RawMessage) {
	var raw map[string]json.RawMessage
	if json.Unmarshal(value, &raw) != nil {
		d.fail("headers", "must be an object of strings")
		return
	}
	d.task.Headers = make(map[string]string, len(raw))
	for name, v := range raw {
		var s *string // a null is not a string
		if json.Unmarshal(v, &s) != nil || s == nil {
			d.fail("headers/"+pointerToken(name), "must be a string")
			continue
		}
		d.task.Headers[name] = *s
	}
}

// payloads settles which of the two forms was given.
func (d *taskDecoder) payloads() {
	if d.base64 == nil {
		if d.task.ContentType != "" && !schemas.IsJSON(d.task.ContentType) && d.task.Payload != nil {
			d.fail("content_type", "is not JSON: give such a payload as payload_base64")
		}
		return
	}
	if d.task.Payload != nil {
		d.fail("payload_base64", "cannot stand beside payload")
		return
	}
	if d.task.ContentType == "" {
		d.fail("content_type", "must be given with payload_base64")
	}
	b, err := base64.StdEncoding.DecodeString(*d.base64)
	if err != nil {
		d.fail("payload_base64", "is not base64")
		return
	}
	d.task.Payload = client.Raw(b)
}

// pointerToken writes a name as a token of a JSON pointer, cut to a length that
// an answer can hold.
func pointerToken(name string) string {
	if len(name) > 64 {
		name = strings.ToValidUTF8(name[:64], "") + "…"
	}
	return strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1")
}

// idempotencyKey reads the Idempotency-Key header, quoted (as the RFC draft has
// it) or bare.
func idempotencyKey(header string) (string, *api.Problem) {
	header = strings.TrimSpace(header)
	if !strings.HasPrefix(header, `"`) {
		return header, nil
	}
	bad := api.NewProblem(http.StatusBadRequest, "invalid-header", "Idempotency-Key is not a quoted string",
		api.FieldError{Pointer: "#/header/Idempotency-Key", Detail: `want "key" or key`})
	key, ok := unquote(header)
	if !ok || key == "" {
		return "", bad
	}
	return key, nil
}

// unquote reads a quoted string of RFC 9110, which begins with a quote; of its
// escapes only those of the quote and the backslash.
func unquote(s string) (text string, ok bool) {
	inner, ok := strings.CutSuffix(s[1:], `"`)
	if !ok {
		return "", false
	}
	var b strings.Builder
	for i := 0; i < len(inner); i++ {
		c := inner[i]
		if c == '\\' && i+1 < len(inner) && (inner[i+1] == '"' || inner[i+1] == '\\') {
			i++
			c = inner[i]
		} else if c == '"' || c == '\\' {
			return "", false
		}
		b.WriteByte(c)
	}
	return b.String(), true
}
