package dispatcher

import (
	"encoding/base64"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/dispatcher/client"
)

func TestDecodeTask(t *testing.T) {
	got, p := decodeTask([]byte(` {"kind":"k","payload": {"a" : 1},"queue":"q","key":"o","idempotency_key":"i","unique_key":null,"run_at":"2030-01-02T03:04:05+01:00","deadline":"2031-01-02T03:04:05.5Z","headers":{"a":"b"}} `))
	want := client.Task{
		Kind: "k", Payload: client.Raw(`{"a" : 1}`), Queue: "q", Key: "o", IdempotencyKey: "i",
		RunAt: time.Date(2030, 1, 2, 2, 4, 5, 0, time.UTC), Deadline: time.Date(2031, 1, 2, 3, 4, 5, 5e8, time.UTC), Headers: map[string]string{"a": "b"},
	}
	got.RunAt = got.RunAt.UTC()
	if p != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v %v", got, p)
	}
	got, p = decodeTask([]byte(`{"kind":"k","payload_base64":"AP8=","content_type":"image/png"}`))
	if p != nil || string(got.Payload.(client.Raw)) != "\x00\xff" || got.ContentType != "image/png" {
		t.Fatalf("%+v %v", got, p)
	}
}

func TestDecodeTaskSaysWhereItIsWrong(t *testing.T) {
	deep := `{"kind":"k","payload":` + strings.Repeat("[", 10001) + strings.Repeat("]", 10001) + `}`
	for _, c := range []struct {
		text, name, pointer, detail string
	}{
		{``, "malformed-json", "#", "ends too early"},
		{`{"kind":"k"`, "malformed-json", "#", "ends too early, after byte 11"},
		{`{"kind":`, "malformed-json", "#", "ends too early"},
		{`{"kind" "k"}`, "malformed-json", "#", "at byte 9"},
		{`{"kind":"k",}`, "malformed-json", "#", "at byte 13"},
		{`{"kind":"k"} {}`, "malformed-json", "#", "goes on after the object, at byte 1"},
		{`{"kind":"k"}]`, "malformed-json", "#", "goes on after"},
		{`["kind"]`, "malformed-json", "#", "must be a JSON object"},
		{`"kind"`, "malformed-json", "#", "must be a JSON object"},
		{"{\"kind\":\"a\x00\"}", "malformed-json", "#", "NUL byte, at byte 11"},
		{"{\"kind\":\"a\xff\"}", "malformed-json", "#", "not UTF-8, at byte 11"},
		{deep, "malformed-json", "#", "nested too deeply"},
		{`{"Kind":"k"}`, "invalid-task", "#/Kind", "not a field"},
		{`{"a/b~c":1}`, "invalid-task", "#/a~1b~0c", "not a field"},
		{`{"kind":"k","kind":"k"}`, "invalid-task", "#/kind", "given twice"},
		{`{"kind":1}`, "invalid-task", "#/kind", "must be a string"},
		{`{"queue":{}}`, "invalid-task", "#/queue", "must be a string"},
		{`{"run_at":"tomorrow"}`, "invalid-task", "#/run_at", "RFC 3339"},
		{`{"deadline":12}`, "invalid-task", "#/deadline", "RFC 3339"},
		{`{"deadline":"0001-01-01T00:00:00Z"}`, "invalid-task", "#/deadline", "RFC 3339"},
		{`{"headers":[]}`, "invalid-task", "#/headers", "object of strings"},
		{`{"headers":{"a":null}}`, "invalid-task", "#/headers/a", "must be a string"},
		{`{"payload":1,"payload_base64":"AA=="}`, "invalid-task", "#/payload_base64", "beside payload"},
		{`{"payload_base64":"AA=="}`, "invalid-task", "#/content_type", "must be given"},
		{`{"payload_base64":"A","content_type":"a/b"}`, "invalid-task", "#/payload_base64", "not base64"},
		{`{"payload":1,"content_type":"text/plain"}`, "invalid-task", "#/content_type", "payload_base64"},
	} {
		_, p := decodeTask([]byte(c.text))
		if p == nil || p.Name() != c.name || p.Errors[0].Pointer != c.pointer || !strings.Contains(p.Errors[0].Detail, c.detail) {
			t.Errorf("%.60q: got %+v", c.text, p)
		}
	}
}

func TestIdempotencyKeyQuotedOrBare(t *testing.T) {
	for header, want := range map[string]string{`a b`: `a b`, `"a"`: `a`, `"a\"b\\"`: `a"b\`, ` "a" `: `a`, ``: ``} {
		if got, p := idempotencyKey(header); p != nil || got != want {
			t.Errorf("%s: got %q, %v", header, got, p)
		}
	}
	for _, header := range []string{`"a`, `"`, `""`, `"a"b"`, `"a\"`, `"\x"`} {
		if got, p := idempotencyKey(header); p == nil {
			t.Errorf("%s: got %q", header, got)
		}
	}
}

func FuzzDecodeTask(f *testing.F) {
	f.Add([]byte(`{"kind":"k","payload":{"a":[1,null]},"headers":{"a":"b"},"run_at":"2030-01-02T03:04:05Z"}`))
	f.Add([]byte(`{"kind":"k","payload_base64":"` + base64.StdEncoding.EncodeToString([]byte("x")) + `","content_type":"a/b"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		task, p := decodeTask(b)
		if p == nil {
			if raw, ok := task.Payload.(client.Raw); ok && len(raw) > len(b) {
				t.Fatal("the payload is longer than the text")
			}
			return
		}
		if p.Status < 400 || p.Status > 499 || len(p.Errors) == 0 {
			t.Fatalf("%+v", p)
		}
		for _, e := range p.Errors {
			if !strings.HasPrefix(e.Pointer, "#") || e.Detail == "" {
				t.Fatalf("%+v", p)
			}
		}
	})
}
