package app_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/perdure/perdure/internal/api"
)

// described is what /openapi.json says of one operation, and no more than this
// test reads.
type described struct {
	OperationID string `json:"operationId"`
	Parameters  []struct {
		Name, In string
		Schema   *schema
	} `json:"parameters"`
	RequestBody *struct {
		Content map[string]struct{ Schema *schema } `json:"content"`
	} `json:"requestBody"`
	Responses map[string]struct {
		Content map[string]any `json:"content"`
	} `json:"responses"`

	method, path string
}

type schema struct {
	Ref        string             `json:"$ref"`
	Type       any                `json:"type"` // a string, or several where null is one
	Properties map[string]*schema `json:"properties"`
	Required   []string           `json:"required"`
	Items      *schema            `json:"items"`
	OneOf      []*schema          `json:"oneOf"`
	Enum       []any              `json:"enum"`
}

type description struct {
	Paths      map[string]map[string]*described `json:"paths"`
	Components struct {
		Schemas map[string]*schema `json:"schemas"`
	} `json:"components"`
}

func (d *description) resolve(s *schema) *schema {
	for s != nil && (s.Ref != "" || len(s.OneOf) > 0) {
		if s.Ref != "" {
			s = d.Components.Schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")]
		} else {
			s = s.OneOf[0]
		}
	}
	return s
}

// sample is a value that the schema allows: the required fields alone.
func (d *description) sample(s *schema) any {
	s = d.resolve(s)
	if s == nil {
		return 1
	}
	if len(s.Enum) > 0 {
		return s.Enum[0]
	}
	switch kind := fmt.Sprint(s.Type); {
	case strings.Contains(kind, "object"):
		o := map[string]any{}
		for _, name := range s.Required {
			o[name] = d.sample(s.Properties[name])
		}
		return o
	case strings.Contains(kind, "array"):
		return []any{}
	case strings.Contains(kind, "string"):
		return "x"
	case strings.Contains(kind, "boolean"):
		return true
	}
	return 1
}

// wrongValues stand in the place of any field of any body, as JSON texts: wrong
// types, the edges of numbers, and texts that a database cannot keep.
var wrongValues = []string{
	`null`, `true`, `0`, `-1`, `1.5`, `2147483648`, `9223372036854775807`, `99999999999999999999`, `-1e308`, `1e999`,
	`""`, `"x"`, `"\u0000"`, `"a\u0000b"`, `"\ud800"`, `"0001-01-01T00:00:00Z"`, `"9999-12-31T23:59:59Z"`, `"99999999h"`, `"-1s"`,
	`[]`, `[null]`, `["\u0000"]`, `[1e999]`, `{}`, `{"":{}}`, `{"\u0000":"\u0000"}`,
	`"` + strings.Repeat("x", 100_000) + `"`, strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000),
}

// malformed are bodies of no schema at all.
var malformed = []string{
	``, ` `, `{`, `{"`, `{"a":}`, `]`, `nul`, `null`, `true`, `1`, `1e999`, `"x"`, `[]`, `[[]]`, `[null]`, `{}`, `{"":""}`, `{}{}`, "\x00", "{\"a\":\"\x00\"}",
	"{\"a\":\"\xff\"}", "\xef\xbb\xbf{}", "\xff\xfe{\x00}\x00", `{"a":1,"a":2}`, strings.Repeat("[", 100_000), strings.Repeat(`{"a":`, 10_000) + `1` + strings.Repeat(`}`, 10_000),
}

// words are values of path and query parameters.
var words = []string{
	"", "x", "0", "-1", "1.5", "1e9", "NaN", "9223372036854775807", "99999999999999999999", "null", "true", "\x00", "a\x00b", "\xff", "\xc3\x28",
	"\n", "'", `"`, "%", "😀", "..", "../..", "a/b", "a b", "main-1-77", "main-1--1", "main-0-1", "main-1-9223372036854775807", "main-1-99999999999999999999",
	"main-99999999999-1", "nobody-1-1", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "10000-01-01T00:00:00Z", "-1s", "99999999h", "0s", strings.Repeat("x", 5000),
}

// bodies puts each wrong value into each field of the operation's body, the rest
// of which is right.
func (d *description) bodies(s *schema, most int) (out []string) {
	s = d.resolve(s)
	if s == nil || most == 0 {
		return nil
	}
	for name, field := range s.Properties {
		whole, ok := d.sample(s).(map[string]any)
		if !ok {
			return nil
		}
		for _, v := range append(d.bodies(field, most-1), wrongValues...) {
			whole[name] = json.RawMessage("0")
			rest := maps.Clone(whole)
			delete(rest, name)
			text, err := json.Marshal(rest)
			if err != nil {
				panic(err)
			}
			sep := ","
			if len(rest) == 0 {
				sep = ""
			}
			quoted, _ := json.Marshal(name) // a string always is JSON
			out = append(out, fmt.Sprintf("%s%s%s:%s}", bytes.TrimSuffix(text, []byte("}")), sep, quoted, v))
		}
	}
	return out
}

// contract are the statuses of problems that docs promise, besides the 405 of a
// path that has other methods.
var contract = []int{400, 401, 403, 404, 405, 409, 410, 413, 415, 422, 429, 503}

type fuzzer struct {
	t    *testing.T
	url  string
	http *http.Client
	sent int
	by   map[int]int
}

// send makes one request and judges the answer by op; op nil means that nothing
// is at this method and path.
func (f *fuzzer) send(op *described, method, target, body string, header ...string) {
	f.t.Helper()
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(f.t.Context(), method, f.url+target, in)
	if err != nil {
		f.t.Fatalf("%s %.200q: %v", method, target, err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header[header[i]] = []string{header[i+1]}
	}
	what := fmt.Sprintf("%s %.150s %.150q %.100q", method, target, body, header)
	res, err := f.http.Do(req)
	if err != nil {
		f.t.Errorf("%s: %v", what, err)
		return
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		f.t.Errorf("%s: %d, then %v", what, res.StatusCode, err)
		return
	}
	f.sent++
	f.by[res.StatusCode]++
	if p, _, _ := strings.Cut(target, "?"); res.StatusCode == http.StatusTemporaryRedirect && p != path.Clean(p) {
		return // the router's: to the path without empty and dotted parts
	}
	media := strings.TrimSpace(strings.Split(res.Header.Get("Content-Type"), ";")[0])
	if op != nil && res.StatusCode < 400 {
		declared, ok := op.Responses[fmt.Sprint(res.StatusCode)]
		if _, is := declared.Content[media]; !ok || !is && len(declared.Content) > 0 {
			f.t.Errorf("%s: %d %s is not described", what, res.StatusCode, media)
		}
		return
	}
	var p api.Problem
	switch {
	case !slices.Contains(contract, res.StatusCode):
		f.t.Errorf("%s: %d %.300s", what, res.StatusCode, text)
	case media != "application/problem+json":
		f.t.Errorf("%s: %d as %s: %.300s", what, res.StatusCode, media, text)
	case json.Unmarshal(text, &p) != nil || p.Status != res.StatusCode || !strings.HasPrefix(p.Type, api.ProblemPrefix):
		f.t.Errorf("%s: %d is no problem of ours: %.300s", what, res.StatusCode, text)
	case (res.StatusCode == 429 || res.StatusCode == 503) && res.Header.Get("Retry-After") == "":
		f.t.Errorf("%s: %d without Retry-After", what, res.StatusCode)
	}
}

// fill puts values into the braces of a path.
func fill(path string, value string) string {
	for {
		open, rest, ok := strings.Cut(path, "{")
		if !ok {
			return path
		}
		_, after, _ := strings.Cut(rest, "}")
		path = open + url.PathEscape(value) + after
	}
}

// TestWhatIsDescribedIsKept derives requests from /openapi.json that no client
// should make. None is answered with a 5xx, a status that nothing describes, or
// anything but a problem.
func TestWhatIsDescribedIsKept(t *testing.T) {
	cfg := realConfig(t)
	f := &fuzzer{t: t, url: runUp(t, cfg, io.Discard), http: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, by: map[int]int{}}
	res, err := f.http.Get(f.url + "/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var d description
	if err := json.NewDecoder(res.Body).Decode(&d); err != nil {
		t.Fatal(err)
	}
	operations := 0
	for _, path := range slices.Sorted(maps.Keys(d.Paths)) {
		item := d.Paths[path]
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "QUERY"} {
			op := item[strings.ToLower(method)]
			if op == nil {
				f.send(nil, method, fill(path, "x"), `{}`, "Content-Type", "application/json")
				continue
			}
			operations++
			op.method, op.path = method, path
			f.operation(&d, op)
		}
	}
	f.send(nil, "GET", "/v1/no/such/path", "")
	t.Logf("%d operations, %d requests: %v", operations, f.sent, f.by)
	if operations < 20 || f.by[404] == 0 || f.by[422] == 0 || f.by[400] == 0 || f.by[405] == 0 || f.by[415] == 0 {
		t.Errorf("%d operations, answers %v: too few for a check of them all", operations, f.by)
	}
}

func (f *fuzzer) operation(d *description, op *described) {
	sound := ``
	json1 := []string{"Content-Type", "application/json"}
	if op.RequestBody != nil {
		text, err := json.Marshal(d.sample(op.RequestBody.Content["application/json"].Schema))
		if err != nil {
			f.t.Fatal(err)
		}
		sound = string(text)
	}
	if strings.Contains(op.path, "{") {
		for _, w := range words {
			f.send(op, op.method, fill(op.path, w), sound, json1...)
		}
	}
	at := fill(op.path, "main-1-77")
	for _, p := range op.Parameters {
		for _, w := range words {
			switch p.In {
			case "query":
				f.send(op, op.method, at+"?"+url.QueryEscape(p.Name)+"="+url.QueryEscape(w), sound, json1...)
			case "header":
				if !strings.ContainsAny(w, "\x00\n") { // no HTTP client can send these
					f.send(op, op.method, at, sound, append([]string{p.Name, w}, json1...)...)
				}
			}
		}
	}
	for _, query := range []string{"?%00=%00", "?no-such=1", "?limit=1&limit=2", "?%zz", "?&&=;"} {
		f.send(op, op.method, at+query, sound, json1...)
	}
	if op.RequestBody == nil {
		return
	}
	for media := range op.RequestBody.Content {
		for _, body := range append(slices.Clone(malformed), d.bodies(op.RequestBody.Content[media].Schema, 3)...) {
			f.send(op, op.method, at, body, "Content-Type", media)
		}
	}
	for _, media := range []string{"", "x", "text/plain", "application/json; charset=latin1", "application/xml", "multipart/form-data"} {
		f.send(op, op.method, at, sound, "Content-Type", media)
	}
	f.send(op, op.method, at, sound, append([]string{"Content-Encoding", "gzip"}, json1...)...)
}
