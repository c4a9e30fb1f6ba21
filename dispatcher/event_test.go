package dispatcher

import (
	"encoding/base64"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/internal/api"
)

// Both modes of one event give one task.
func TestDecodeEvent(t *testing.T) {
	const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	want := client.Task{
		Kind: "mail.send", Payload: client.Raw(`{"n" : 1}`), ContentType: "application/json", Key: "konto/8 é",
		Deadline: time.Date(2999, 1, 2, 2, 4, 5, 0, time.UTC), IdempotencyKey: "/shop/eu 17",
		Extensions: map[string]string{"subject": `100% "é"`, "retries": "-3", "urgent": "true", "tracestate": "a=1"},
		Headers: map[string]string{"event_id": "17", "event_source": "/shop/eu", "event_time": "2026-01-02T02:04:05.5Z",
			"event_dataschema": "https://example.com/s.json", "traceparent": trace, "tracestate": "a=1"},
	}
	got, p := decodeEvent([]byte(`{"specversion":"1.0","id":"17","source":"/shop/eu","type":"mail.send","data":{"n" : 1},"subject":"100% \"é\"",
		"time":"2026-01-02T03:04:05.5+01:00","dataschema":"https://example.com/s.json","partitionkey":"konto/8 é","expirytime":"2999-01-02T03:04:05+01:00",
		"traceparent":"` + trace + `","tracestate":"a=1","retries":-3,"urgent":true,"unset":null}`))
	if p != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("JSON: %+v\n%v", got, p)
	}
	header := http.Header{}
	for name, value := range map[string]string{
		"ce-specversion": "1.0", "ce-id": "17", "ce-source": "/shop/eu", "ce-type": "mail.send", "ce-subject": "100%25%20%22%c3%A9%22",
		"ce-time": "2026-01-02T03:04:05.5+01:00", "ce-dataschema": "https://example.com/s.json", "ce-partitionkey": `"konto/8 é"`,
		"ce-expirytime": "2999-01-02T03:04:05+01:00", "ce-traceparent": trace, "ce-tracestate": "a=1", "ce-retries": "-3", "ce-urgent": "true",
		"content-type": "application/json", "x-other": "%zz",
	} {
		header.Set(name, value)
	}
	got, p = decodeBinary(header, []byte(`{"n" : 1}`))
	if p != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("binary: %+v\n%v", got, p)
	}
	for data, payload := range map[string]string{
		`"data_base64":"AP8=","datacontenttype":"image/png"`: "\x00\xff",
		`"data":"<a/>","datacontenttype":"text/xml"`:         "<a/>",
		`"data":"a","datacontenttype":"application/a+json"`:  `"a"`,
		`"data":null`: `null`,
	} {
		got, p := decodeEvent([]byte(`{"specversion":"1.0","id":"17","source":"/","type":"k",` + data + `}`))
		if p != nil || string(got.Payload.(client.Raw)) != payload {
			t.Errorf("%s: %+v, %v", data, got, p)
		}
	}
}

func TestDecodeEventSaysWhereItIsWrong(t *testing.T) {
	const sound = `{"specversion":"1.0","id":"17","source":"/shop","type":"k"`
	for _, c := range []struct {
		text, name, pointer, detail string
	}{
		{``, "malformed-json", "#", "ends too early"},
		{`[` + sound + `,"data":1}]`, "malformed-json", "#", "must be a JSON object"},
		{sound + `,"data":}`, "malformed-json", "#", "at byte"},
		{sound + `,"data":1} {}`, "malformed-json", "#", "goes on after"},
		{sound + `,"data":"` + "\x00" + `"}`, "malformed-json", "#", "NUL byte"},
		{sound + `,"data":"` + "\xff" + `"}`, "malformed-json", "#", "not UTF-8"},
		{`{"id":"17","source":"/shop","type":"k","data":1}`, "invalid-event", "#/specversion", "is missing"},
		{`{"specversion":"0.3","id":"17","source":"/shop","type":"k","data":1}`, "invalid-event", "#/specversion", "must be 1.0"},
		{`{"specversion":1.0,"id":"17","source":"/shop","type":"k","data":1}`, "invalid-event", "#/specversion", "must be a string"},
		{`{"specversion":"1.0","source":"/shop","type":"k","data":1}`, "invalid-event", "#/id", "is missing"},
		{`{"specversion":"1.0","id":"","source":"/shop","type":"k","data":1}`, "invalid-event", "#/id", "is missing"},
		{`{"specversion":"1.0","id":null,"source":"/shop","type":"k","data":1}`, "invalid-event", "#/id", "is missing"},
		{`{"specversion":"1.0","id":"\ud800","source":"/shop","type":"k","data":1}`, "invalid-event", "#/id", "not Unicode"},
		{`{"specversion":"1.0","id":"\u0000","source":"/shop","type":"k","data":1}`, "invalid-event", "#/id", "NUL"},
		{`{"specversion":"1.0","id":"17","type":"k","data":1}`, "invalid-event", "#/source", "is missing"},
		{`{"specversion":"1.0","id":"17","source":"my shop","type":"k","data":1}`, "invalid-event", "#/source", "URI-reference"},
		{`{"specversion":"1.0","id":"17","source":"/shop","data":1}`, "invalid-event", "#/type", "is missing"},
		{`{"specversion":"1.0","id":"17","source":"/shop","type":"a b","data":1}`, "invalid-event", "#/type", "must be 1 to 128"},
		{sound + `}`, "invalid-event", "#/data", "is empty"},
		{sound + `,"id":"18","data":1}`, "invalid-event", "#/id", "given twice"},
		{sound + `,"data":1,"data":2}`, "invalid-event", "#/data", "given twice"},
		{sound + `,"subject":null,"subject":"a","data":2}`, "invalid-event", "#/subject", "given twice"},
		{sound + `,"data":1,"data_base64":"AA=="}`, "invalid-event", "#/data_base64", "beside data"},
		{sound + `,"data_base64":"A"}`, "invalid-event", "#/data_base64", "not base64"},
		{sound + `,"data_base64":1}`, "invalid-event", "#/data_base64", "must be a string"},
		{sound + `,"data":{},"datacontenttype":"text/xml"}`, "invalid-event", "#/data", "must be a string"},
		{sound + `,"data":null,"datacontenttype":"text/xml"}`, "invalid-event", "#/data", "must be a string"},
		{sound + `,"data":1,"datacontenttype":"json"}`, "invalid-event", "#/data", "must be a string"},
		{sound + `,"data":"a","datacontenttype":"json"}`, "invalid-event", "#/datacontenttype", "media type"},
		{sound + `,"data":1,"Subject":"a"}`, "invalid-event", "#/Subject", "not an attribute"},
		{sound + `,"data":1,"my/ext":"a"}`, "invalid-event", "#/my~1ext", "not an attribute"},
		{sound + `,"data":1,"":"a"}`, "invalid-event", "#/", "not an attribute"},
		{sound + `,"data":1,"` + strings.Repeat("x", 65) + `":"a"}`, "invalid-event", "#/xxx", "not a CloudEvents attribute"},
		{sound + `,"data":1,"subject":7}`, "invalid-event", "#/subject", "must be a string"},
		{sound + `,"data":1,"ext":{}}`, "invalid-event", "#/ext", "a string, a boolean or a whole number"},
		{sound + `,"data":1,"ext":1.5}`, "invalid-event", "#/ext", "a string, a boolean or a whole number"},
		{sound + `,"data":1,"ext":2147483648}`, "invalid-event", "#/ext", "a string, a boolean or a whole number"},
		{sound + `,"data":1,"ext":"\u0000"}`, "invalid-event", "#/ext", "NUL"},
		{sound + `,"data":1,"time":"today"}`, "invalid-event", "#/time", "RFC 3339"},
		{sound + `,"data":1,"expirytime":"today"}`, "invalid-event", "#/expirytime", "RFC 3339"},
		{sound + `,"data":1,"partitionkey":""}`, "invalid-event", "#/partitionkey", "is empty"},
		{sound + `,"data":"` + strings.Repeat("x", 1<<20) + `"}`, "too-large", "#/data", "larger than 1048576"},
	} {
		_, p := decodeEvent([]byte(c.text))
		if p == nil || p.Name() != c.name || !strings.HasPrefix(p.Errors[0].Pointer, c.pointer) || !strings.Contains(p.Errors[0].Detail, c.detail) {
			t.Errorf("%.90q: got %+v", c.text, p)
		}
	}
}

func TestDecodeBinarySaysWhichHeaderIsWrong(t *testing.T) {
	for _, c := range []struct{ name, value, pointer, detail string }{
		{"Ce-Id", "-", "#/header/ce-id", "is missing"},
		{"Ce-Source", "-", "#/header/ce-source", "is missing"},
		{"Ce-Type", "-", "#/header/ce-type", "is missing"},
		{"Ce-Specversion", "-", "#/header/ce-specversion", "is missing"},
		{"Ce-Specversion", "2.0", "#/header/ce-specversion", "must be 1.0"},
		{"Ce-Id", "%00", "#/header/ce-id", "NUL"},
		{"Ce-Id", "100%", "#/header/ce-id", "write it as %25"},
		{"Ce-Id", "%4", "#/header/ce-id", "write it as %25"},
		{"Ce-Id", "%zz", "#/header/ce-id", "write it as %25"},
		{"Ce-Id", "%C0%A0", "#/header/ce-id", "not UTF-8"}, // the specification's own example
		{"Ce-Id", "\xff", "#/header/ce-id", "not UTF-8"},
		{"Ce-Id", `"half`, "#/header/ce-id", "quoted string"},
		{"Ce-Subject", `"a"b"`, "#/header/ce-subject", "quoted string"},
		{"Ce-Subject", "%00", "#/header/ce-subject", "NUL"},
		{"Ce-My_ext", "a", "#/header/ce-my_ext", "not an attribute"},
		{"Ce-", "a", "#/header/ce-", "not an attribute"},
		{"Ce-Data", "a", "#/header/ce-data", "the body is the data"},
		{"Ce-Datacontenttype", "a/b", "#/header/ce-datacontenttype", "Content-Type is its type"},
		{"Ce-Time", "today", "#/header/ce-time", "RFC 3339"},
		{"Content-Type", "json", "#/header/Content-Type", "media type"},
	} {
		header := http.Header{"Ce-Specversion": {"1.0"}, "Ce-Id": {"17"}, "Ce-Source": {"/shop"}, "Ce-Type": {"k"}, c.name: {c.value}}
		if c.value == "-" {
			delete(header, c.name)
		}
		_, p := decodeBinary(header, []byte("{}"))
		if p == nil || p.Status != 422 || p.Errors[0].Pointer != c.pointer || !strings.Contains(p.Errors[0].Detail, c.detail) {
			t.Errorf("%s: %q: got %+v", c.name, c.value, p)
		}
	}
	twice := http.Header{"Ce-Specversion": {"1.0"}, "Ce-Id": {"17", "18"}, "Ce-Source": {"/shop"}, "Ce-Type": {"k"}}
	if _, p := decodeBinary(twice, []byte("{}")); p == nil || p.Errors[0].Pointer != "#/header/ce-id" || !strings.Contains(p.Errors[0].Detail, "twice") {
		t.Errorf("two ids: %+v", p)
	}
	delete(twice, "Ce-Id")
	twice["Ce-Id"] = []string{"17"}
	if _, p := decodeBinary(twice, nil); p == nil || p.Errors[0].Pointer != "#/data" {
		t.Errorf("no body: %+v", p)
	}
}

func FuzzDecodeEvent(f *testing.F) {
	f.Add([]byte(`{"specversion":"1.0","id":"1","source":"/s","type":"k","data":{"a":[1,null]},"subject":"é","n":-1,"b":true,"time":"2030-01-02T03:04:05Z"}`), "a%20b")
	f.Add([]byte(`{"specversion":"1.0","id":"1","source":"/s","type":"k","data_base64":"`+base64.StdEncoding.EncodeToString([]byte("x"))+`","datacontenttype":"a/b"}`), `"a\"b"`)
	f.Add([]byte(`{"data":"\ud800","a":null}`), "%ff")
	f.Fuzz(func(t *testing.T, b []byte, value string) {
		task, p := decodeEvent(b)
		checkDecoded(t, b, task, p)
		sound := http.Header{"Ce-Specversion": {"1.0"}, "Ce-Id": {"1"}, "Ce-Source": {"/s"}, "Ce-Type": {"k"}}
		for _, name := range []string{"Ce-Id", "Ce-Source", "Ce-Type", "Ce-Subject", "Ce-Partitionkey", "Ce-Time", "Ce-" + value, "Content-Type"} {
			header := sound.Clone()
			header[name] = []string{value}
			task, p := decodeBinary(header, b)
			checkDecoded(t, b, task, p)
		}
	})
}

func checkDecoded(t *testing.T, b []byte, task client.Task, p *api.Problem) {
	t.Helper()
	if p == nil {
		if raw := task.Payload.(client.Raw); len(raw) > len(b) || len(raw) == 0 || task.Kind == "" || task.IdempotencyKey == "" {
			t.Fatalf("%+v", task)
		}
		return
	}
	if p.Status < 400 || p.Status > 499 || len(p.Errors) == 0 {
		t.Fatalf("%+v", p)
	}
	for _, e := range p.Errors {
		if !strings.HasPrefix(e.Pointer, "#") || e.Detail == "" || !utf8.ValidString(e.Pointer+e.Detail) {
			t.Fatalf("%+v", p)
		}
	}
}
