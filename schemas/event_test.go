package schemas_test

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/perdure/perdure/schemas"
)

// An event says the same as the record with these attributes, but for its id.
func TestEventMeansWhatItsRecordMeans(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		task := anyTask(t)
		headers := rapid.Permutation(encode(task)).Draw(t, "order")
		want, err := schemas.DecodeRecord([]byte(task.RecordKey()), task.Payload, headers)
		if err != nil {
			t.Fatal(err)
		}
		got, err := schemas.DecodeEvent(headers, task.Payload)
		if err != nil {
			t.Fatalf("decode %q: %v", headers, err)
		}
		extensions := map[string]string{}
		for name, value := range want.Headers {
			if ext, ok := strings.CutPrefix(name, "ce_"); ok {
				extensions[ext] = value
			}
		}
		if got.ID != want.ID || got.Source != "/perdure/"+want.ID[:strings.LastIndex(want.ID[:strings.LastIndex(want.ID, "-")], "-")] ||
			got.Kind != want.Kind || got.Key != want.Key || !bytes.Equal(got.Payload, want.Payload) || got.ContentType != want.ContentType ||
			!got.Time.Equal(want.Time) || !got.Deadline.Equal(want.Deadline) || got.DataSchema != want.DataSchema ||
			got.TraceParent != want.TraceParent || !maps.Equal(got.Extensions, extensions) {
			t.Errorf("got %+v, the record is %+v", got, want)
		}
	})
}

func TestDecodeEventNamesTheAttribute(t *testing.T) {
	base := map[string]string{"ce_specversion": "1.0", "ce_id": "7", "ce_source": "/shop", "ce_type": "mail.send"}
	long := strings.Repeat("x", 2049)
	for _, test := range []struct{ name, value, field, detail string }{
		{"ce_specversion", "-", "ce_specversion", "is missing"},
		{"ce_specversion", "0.3", "ce_specversion", "must be 1.0"},
		{"ce_id", "-", "ce_id", "is missing"},
		{"ce_id", "", "ce_id", "is missing"},
		{"ce_id", long, "ce_id", "longer than 2048"},
		{"ce_id", "a\x00", "ce_id", "NUL"},
		{"ce_id", "a\xff", "ce_id", "UTF-8"},
		{"ce_source", "-", "ce_source", "is missing"},
		{"ce_source", "my shop", "ce_source", "URI-reference"},
		{"ce_source", "%zz", "ce_source", "URI-reference"},
		{"ce_type", "-", "ce_type", "is missing"},
		{"ce_type", "mail send", "ce_type", "must be 1 to 128"},
		{"ce_time", "yesterday", "ce_time", "RFC 3339"},
		{"ce_expirytime", "2030", "ce_expirytime", "RFC 3339"},
		{"ce_partitionkey", "", "ce_partitionkey", "is empty"},
		{"ce_partitionkey", strings.Repeat("x", 513), "ce_partitionkey", "longer than 512"},
		{"ce_subject", "a\x00", "header ce_subject", "NUL"},
		{"ce_Subject", "a", "ce_Subject", "not a CloudEvents attribute"},
		{"ce_datacontenttype", "a/b", "ce_datacontenttype", "not a CloudEvents attribute"},
		{"content-type", "json", "content-type", "media type"},
		{"content-type", "application/cloudevents+json", "content-type", "structured mode"},
	} {
		attributes := maps.Clone(base)
		if attributes[test.name] = test.value; test.value == "-" {
			delete(attributes, test.name)
		}
		var headers []schemas.Header
		for name, value := range attributes {
			headers = append(headers, schemas.Header{Key: name, Value: []byte(value)})
		}
		_, err := schemas.DecodeEvent(headers, []byte("{}"))
		var bad *schemas.DecodeError
		if !errors.As(err, &bad) || bad.Field != test.field || !strings.Contains(bad.Detail, test.detail) || bad.Reason() != schemas.ReasonUndecodable {
			t.Errorf("%s=%.20q: got %v, want one at %s that says %q", test.name, test.value, err, test.field, test.detail)
		}
	}
	var sound []schemas.Header
	for name, value := range base {
		sound = append(sound, schemas.Header{Key: name, Value: []byte(value)})
	}
	if e, err := schemas.DecodeEvent(append(sound, schemas.Header{Key: "x-other", Value: []byte{0xff}}), []byte("{}")); err != nil || e.ContentType != "application/json" || e.Extensions != nil {
		t.Errorf("a sound event beside another's header: %+v, %v", e, err)
	}
	for data, reason := range map[string]schemas.Reason{"": schemas.ReasonUndecodable, strings.Repeat("x", schemas.MaxPayload+1): schemas.ReasonTooLarge} {
		_, err := schemas.DecodeEvent(sound, []byte(data))
		var bad *schemas.DecodeError
		if !errors.As(err, &bad) || bad.Field != "value" || bad.Reason() != reason {
			t.Errorf("%d bytes of data: %v", len(data), err)
		}
	}
	for _, twice := range []string{"ce_id", "ce_subject", "content-type"} {
		same := schemas.Header{Key: twice, Value: []byte("a/b")}
		if _, err := schemas.DecodeEvent(append(slices.Clone(sound), same, same), []byte("{}")); err == nil || !strings.Contains(err.Error(), twice+": is given twice") {
			t.Errorf("%s twice: %v", twice, err)
		}
	}
	many := sound
	for range 200 {
		many = append(many, schemas.Header{Key: "ce_a", Value: []byte("a")})
	}
	if _, err := schemas.DecodeEvent(many, []byte("{}")); err == nil {
		t.Error("200 attributes: accepted")
	}
}

func TestIdempotencyKeyOfAnEvent(t *testing.T) {
	for _, test := range []struct{ source, id, want string }{
		{"/shop", "17", "/shop 17"},
		{"/shop", "1 7", "/shop 1 7"}, // a source has no blank, so this is nobody else's
		{"/shop", strings.Repeat("x", 506), "/shop " + strings.Repeat("x", 506)},
	} {
		if got := (&schemas.Event{Source: test.source, ID: test.id}).IdempotencyKey(); got != test.want {
			t.Errorf("%s %s: got %q", test.source, test.id, got)
		}
	}
	seen := map[string]bool{}
	for _, id := range []string{strings.Repeat("x", 507), strings.Repeat("x", 508), strings.Repeat("x", 506) + "y"} {
		key := (&schemas.Event{Source: "/shop", ID: id}).IdempotencyKey()
		if !strings.HasPrefix(key, "sha256:") || len(key) != 71 || seen[key] {
			t.Errorf("%d bytes: got %q", len(id), key)
		}
		seen[key] = true
	}
}

func TestExtensionsAreChecked(t *testing.T) {
	c := refunds(t)
	many := map[string]string{}
	for _, c := range "abcdefghijklmnopqrstuvwxyz0123456" {
		many[string(c)] = ""
	}
	for pointer, extensions := range map[string]map[string]string{
		"":                         {"subject": "of it", "n1": ""},
		"#/extensions/id":          {"id": "1"},
		"#/extensions/traceparent": {"traceparent": "1"},
		"#/extensions/Subject":     {"Subject": "1"},
		"#/extensions/":            {"": "1"},
		"#/extensions/data":        {"data": "1"},
		"#/extensions/a~1b":        {"a/b": "1"},
		"#/extensions/nul":         {"nul": "\x00"},
		"#/extensions/utf8":        {"utf8": "\xff"},
		"#/extensions":             many,
	} {
		s := submission()
		s.Extensions = extensions
		errs := schemas.ValidateTask(c, &s, at, 0)
		if pointer == "" && errs != nil || pointer != "" && (len(errs) != 1 || errs[0].Pointer != pointer) {
			t.Errorf("%v: got %v, want one at %q", extensions, errs, pointer)
		}
	}
	s := submission()
	s.Headers, s.Extensions = map[string]string{"a": strings.Repeat("x", 9<<10)}, map[string]string{"b": strings.Repeat("x", 9<<10)}
	if errs := schemas.ValidateTask(c, &s, time.Now(), 0); len(errs) != 1 || errs[0].Pointer != "#/extensions" {
		t.Errorf("large with the headers: %v", errs)
	}
}
