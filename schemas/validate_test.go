package schemas_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/schemas"
)

const secret = "s3cr3t"

func refunds(t testing.TB) *schemas.Catalog {
	t.Helper()
	const text = `
version: 1
queues: {payments: {}, mail: {}}
kinds:
  refund.issue: {queue: payments, schema: schemas/refund.json}
  mail.send: {queue: mail}
`
	c, err := schemas.ParseCatalog("catalog.yaml", []byte(text), os.DirFS("testdata"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func submission() schemas.Submission {
	return schemas.Submission{Kind: "refund.issue", Payload: []byte(`{"amount":5,"currency":"EUR"}`)}
}

func TestValidateTaskAcceptsWhatIsWell(t *testing.T) {
	c := refunds(t)
	for name, change := range map[string]func(*schemas.Submission){
		"plain":              func(*schemas.Submission) {},
		"all fields":         func(s *schemas.Submission) { s.Queue, s.Key, s.IdempotencyKey, s.UniqueKey = "payments", "k", "i", "u" },
		"longest key":        func(s *schemas.Submission) { s.Key = strings.Repeat("k", schemas.MaxKey) },
		"future":             func(s *schemas.Submission) { s.RunAt, s.Deadline = at.Add(time.Minute), at.Add(time.Hour) },
		"run_at in the past": func(s *schemas.Submission) { s.RunAt = at.Add(-time.Hour) },
		"headers":            func(s *schemas.Submission) { s.Headers = map[string]string{"tenant": "blue", "traceparent": "00-1"} },
		"charset":            func(s *schemas.Submission) { s.ContentType = "application/json; charset=utf-8" },
		"bytes":              func(s *schemas.Submission) { s.ContentType, s.Payload = "application/octet-stream", []byte{0, 0xff} },
		"largest": func(s *schemas.Submission) {
			s.Kind, s.ContentType, s.Payload = "mail.send", "a/b", make([]byte, schemas.MaxPayload)
		},
		"100 levels": func(s *schemas.Submission) {
			s.Kind, s.Payload = "mail.send", []byte(strings.Repeat("[", 100)+strings.Repeat("]", 100))
		},
	} {
		s := submission()
		change(&s)
		if errs := schemas.ValidateTask(c, &s, at, 0); errs != nil {
			t.Errorf("%s: %v", name, errs)
		}
	}
}

func TestValidateTaskNamesTheField(t *testing.T) {
	c := refunds(t)
	deep := []byte(strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000))
	for _, test := range []struct {
		name    string
		change  func(*schemas.Submission)
		pointer string
		detail  string
	}{
		{"no kind", func(s *schemas.Submission) { s.Kind = "" }, "#/kind", "is missing"},
		{"unknown kind", func(s *schemas.Submission) { s.Kind = "refund.isue" }, "#/kind", `did you mean "refund.issue"?`},
		{"far from any kind", func(s *schemas.Submission) { s.Kind = secret }, "#/kind", "is not in the catalog"},
		{"bad kind", func(s *schemas.Submission) { s.Kind = "a\x00" }, "#/kind", "must be 1 to 128"},
		{"unknown queue", func(s *schemas.Submission) { s.Queue = "payment" }, "#/queue", `did you mean "payments"?`},
		{"queue of another kind", func(s *schemas.Submission) { s.Queue = "mail" }, "#/queue", "is not where kind refund.issue runs: name queue payments"},
		{"bad queue", func(s *schemas.Submission) { s.Queue = "A.b" }, "#/queue", "must be 1 to 60"},
		{"key with NUL", func(s *schemas.Submission) { s.Key = secret + "\x00" }, "#/key", "NUL"},
		{"key too long", func(s *schemas.Submission) { s.Key = strings.Repeat("k", 513) }, "#/key", "longer than 512"},
		{"key not UTF-8", func(s *schemas.Submission) { s.IdempotencyKey = "\xff" }, "#/idempotency_key", "UTF-8"},
		{"unique key", func(s *schemas.Submission) { s.UniqueKey = "\x00" }, "#/unique_key", "NUL"},
		{"deadline now", func(s *schemas.Submission) { s.Deadline = at }, "#/deadline", "in the past"},
		{"deadline before run_at", func(s *schemas.Submission) { s.Deadline, s.RunAt = at.Add(time.Hour), at.Add(time.Hour) }, "#/deadline", "never run"},
		{"deadline in year 10000", func(s *schemas.Submission) { s.Deadline = at.AddDate(9000, 0, 0) }, "#/deadline", "years"},
		{"run_at in year 10000", func(s *schemas.Submission) { s.RunAt = at.AddDate(9000, 0, 0) }, "#/run_at", "years"},
		{"reserved header", func(s *schemas.Submission) { s.Headers = map[string]string{"Perdure_Run": secret} }, "#/headers/Perdure_Run", "reserved"},
		{"header with NUL", func(s *schemas.Submission) { s.Headers = map[string]string{"a/b": "\x00"} }, "#/headers/a~1b", "NUL"},
		{"no payload", func(s *schemas.Submission) { s.Payload = nil }, "#/payload", "is missing"},
		{"large payload", func(s *schemas.Submission) { s.Payload = make([]byte, schemas.MaxPayload+1) }, "#/payload", "larger than 1048576"},
		{"content type", func(s *schemas.Submission) { s.ContentType = "json" }, "#/content_type", "media type"},
		{"content type of an event", func(s *schemas.Submission) { s.ContentType = "Application/CloudEvents+json; charset=utf-8" }, "#/content_type", "itself a CloudEvent"},
		{"content type with a line", func(s *schemas.Submission) { s.ContentType = "a/b\r\nx: y" }, "#/content_type", "media type"},
		{"long content type", func(s *schemas.Submission) { s.ContentType = "a/" + strings.Repeat("b", 255) }, "#/content_type", "media type"},
		{"not JSON", func(s *schemas.Submission) { s.Payload = []byte(`{"a":` + secret) }, "#/payload", "at byte 6"},
		{"two values", func(s *schemas.Submission) { s.Payload = []byte(`1 2`) }, "#/payload", "not valid JSON"},
		{"NUL in JSON", func(s *schemas.Submission) { s.Payload = []byte("\"\x00\"") }, "#/payload", "NUL"},
		{"JSON not UTF-8", func(s *schemas.Submission) { s.Payload = []byte("\"\xff\"") }, "#/payload", "UTF-8"},
		{"deep", func(s *schemas.Submission) { s.Payload = deep }, "#/payload", "deeper than 100"},
		{"deep and unknown kind's", func(s *schemas.Submission) { s.Kind, s.Payload = "mail.send", deep }, "#/payload", "deeper than 100"},
		{"out of range", func(s *schemas.Submission) { s.Payload = []byte(`{"amount":1e999999999,"currency":"EUR"}`) }, "#/payload", "out of range"},
		{"schema", func(s *schemas.Submission) { s.Payload = []byte(`{"amount":"` + secret + `","currency":"EUR"}`) }, "#/payload/amount", "must be integer, not string"},
	} {
		s := submission()
		test.change(&s)
		errs := schemas.ValidateTask(c, &s, at, 0)
		if len(errs) != 1 || errs[0].Pointer != test.pointer || !strings.Contains(errs[0].Detail, test.detail) {
			t.Errorf("%s: %v, want one at %s that says %q", test.name, errs, test.pointer, test.detail)
		}
		if text := fmt.Sprint(errs); strings.Contains(text, secret) {
			t.Errorf("%s: the value stands in %s", test.name, text)
		}
	}
}

func TestValidateTaskSaysEverythingAtOnce(t *testing.T) {
	s := schemas.Submission{Kind: "x y", Queue: "no", Key: "\x00", Deadline: at, Headers: map[string]string{"ce_id": "1"}, Payload: []byte("{")}
	errs := schemas.ValidateTask(refunds(t), &s, at, 0)
	var pointers []string
	for _, e := range errs {
		pointers = append(pointers, e.Pointer)
	}
	if got := strings.Join(pointers, " "); got != "#/kind #/queue #/key #/deadline #/headers/ce_id #/payload" {
		t.Errorf("pointers: %s", got)
	}
}

func TestPayloadLimitOfTheTopicCounts(t *testing.T) {
	s := submission()
	n := len(s.Payload)
	if errs := schemas.ValidateTask(refunds(t), &s, at, n); errs != nil {
		t.Errorf("a payload of just the limit: %v", errs)
	}
	if errs := schemas.ValidateTask(refunds(t), &s, at, n-1); len(errs) != 1 || errs[0].Pointer != "#/payload" {
		t.Errorf("a payload over the limit: %v", errs)
	}
}

func TestValidateHeaders(t *testing.T) {
	many, large := map[string]string{}, map[string]string{"a": strings.Repeat("x", 9<<10), "b": strings.Repeat("x", 9<<10)}
	for i := range schemas.MaxHeaders + 1 {
		many[fmt.Sprint("h", i)] = ""
	}
	for name, headers := range map[string]map[string]string{
		"ce_": {"ce_id": "1"}, "CE_": {"Ce_subject": "1"}, "perdure_": {"PERDURE_x": "1"}, "__": {"__x": "1"},
		"content-type": {"Content-Type": "a/b"}, "empty name": {"": "1"}, "long name": {strings.Repeat("n", 129): "1"},
		"name not UTF-8": {"\xff": "1"}, "newline in name": {"a\nb": "1"}, "NUL in name": {"a\x00": "1"},
		"value not UTF-8": {"a": "\xff"}, "NUL in value": {"a": "\x00"}, "many": many, "large": large,
	} {
		if err := schemas.ValidateHeaders(headers); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	delete(many, "h0")
	for _, headers := range []map[string]string{nil, {}, {"a": ""}, {"ce": "1"}, {"x_ce_": "é"}, many} {
		if err := schemas.ValidateHeaders(headers); err != nil {
			t.Errorf("%v: %v", headers, err)
		}
	}
}

// Each keyword is told by pointer and rule, never by the value.
func TestPayloadViolationsGolden(t *testing.T) {
	kind := refunds(t).Kind("refund.issue")
	base := func(more string) string { return `{"amount":5,"currency":"EUR",` + more + `}` }
	var out bytes.Buffer
	for _, payload := range []string{
		`[]`, `{}`, `{"amount":0,"currency":"s3cr3t"}`, `{"amount":7000003,"currency":"EUR"}`, base(`"s3cr3t":"s3cr3t"`),
		base(`"ratio":0`), base(`"ratio":1`), base(`"reason":"S"`), base(`"reason":"ssssssssssss3cr3t"`), base(`"day":"s3cr3t"`),
		base(`"fixed":"s3cr3t"`), base(`"lines":[]`), base(`"lines":[{"a/b~c":1},{"a/b~c":1}]`), base(`"lines":[{"a/b~c":1},{"x":1},{"y":1},{}]`),
		base(`"lines":[{"a/b~c":1,"y":2,"z":3}]`), base(`"either":[]`), base(`"not":"s3cr3t"`), base(`"never":1`), base(`"some":[2]`),
		base(`"names":{"s":1}`), base(`"pair":{"a":1}`), base(`"nested":{"nested":{"nested":{"n":"s3cr3t"}}}`),
	} {
		fmt.Fprintln(&out, payload)
		errs := kind.ValidatePayload([]byte(payload), "")
		if len(errs) == 0 {
			t.Errorf("%s was accepted", payload)
		}
		for _, e := range errs {
			fmt.Fprintf(&out, "\t%s %s\n", e.Pointer, e.Detail)
			if strings.Contains(e.Detail, secret) {
				t.Errorf("%s: the value stands in %q", payload, e.Detail)
			}
		}
	}
	golden(t, "payload_violations", out.Bytes())
}

func TestManyViolationsAreCut(t *testing.T) {
	var fields []string
	for i := range 100 {
		fields = append(fields, fmt.Sprintf(`"f%d":1`, i))
	}
	errs := refunds(t).Kind("refund.issue").ValidatePayload([]byte("{"+strings.Join(fields, ",")+"}"), "")
	if last := errs[len(errs)-1]; len(errs) != 21 || last.Pointer != "#/payload" || last.Detail != "and 82 more" {
		t.Errorf("%d errors, the last is %v", len(errs), last)
	}
}

// Each level of brackets inside a text is not a level.
func TestDepthCountsNoText(t *testing.T) {
	kind := refunds(t).Kind("mail.send")
	text, err := json.Marshal(strings.Repeat(`[{\"`, 500))
	if err != nil {
		t.Fatal(err)
	}
	if errs := kind.ValidatePayload(text, ""); errs != nil {
		t.Errorf("%v", errs)
	}
	for _, open := range []string{"[", `{"a":`, `[{"\"[":`} {
		deep := strings.Repeat(open, 101) + "1"
		if errs := kind.ValidatePayload([]byte(deep), ""); len(errs) != 1 || !strings.Contains(errs[0].Detail, "deeper") {
			t.Errorf("%s…: %v", open, errs)
		}
	}
}

func TestIsJSON(t *testing.T) {
	for contentType, want := range map[string]bool{
		"": true, "application/json": true, "Application/JSON; charset=utf-8": true, "text/json": true, "application/problem+json": true,
		"application/json-seq": false, "text/plain": false, "application/octet-stream": false, "application/xml; a=+json": false,
	} {
		if got := schemas.IsJSON(contentType); got != want {
			t.Errorf("IsJSON(%q) = %t", contentType, got)
		}
	}
}

func FuzzValidatePayload(f *testing.F) {
	for _, s := range []string{`{"amount":5,"currency":"EUR"}`, `{"amount":1e400}`, `[[[`, `"\ud800"`, `{"lines":[{"a/b~c":-0.0}]}`, "\xff", "\x00", `{"nested":{"nested":{}}}`} {
		f.Add([]byte(s), "application/json")
	}
	f.Add([]byte("x"), "text/plain")
	kind := refunds(f).Kind("refund.issue")
	f.Fuzz(func(t *testing.T, payload []byte, contentType string) {
		errs := kind.ValidatePayload(payload, contentType)
		if errs == nil && schemas.IsJSON(contentType) && !json.Valid(payload) {
			t.Fatalf("accepted, but not JSON: %q", payload)
		}
		for _, e := range errs {
			if !strings.HasPrefix(e.Pointer, "#/payload") || e.Detail == "" {
				t.Fatalf("error %+v", e)
			}
		}
	})
}

func BenchmarkValidateTask(b *testing.B) {
	c := refunds(b)
	for _, kind := range []string{"refund.issue", "mail.send"} {
		s := submission()
		s.Kind = kind
		b.Run(kind, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if errs := schemas.ValidateTask(c, &s, at, 0); errs != nil {
					b.Fatal(errs)
				}
			}
		})
	}
}
