package schemas_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"github.com/perdure/perdure/schemas"
)

var (
	at    = time.Date(2026, 11, 23, 9, 30, 0, 123456000, time.UTC)
	plain = schemas.Task{
		ID: "main-1-42", Kind: "mail.send", Payload: []byte(`{"to":"a"}`), ContentType: "application/json",
		Time: at, Attempt: 1,
	}
	full = schemas.Task{
		ID: "orders-eu-3-9007199254740993", Kind: "refund.issue", Queue: "payments", Key: "konto/8 é",
		Payload: []byte{0, 1, 2}, ContentType: "application/octet-stream", Time: at, Deadline: at.Add(time.Hour),
		DataSchema: "https://example.com/refund.json", TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		Headers: map[string]string{"tenant": "blue", "Accept": "a, b", "traceparent": "00-1", "ce_subject": "s"},
		Attempt: 4, Epoch: 2, Run: 2<<48 + 7, Due: at.Add(time.Minute).Truncate(time.Millisecond), Ordered: true, Unique: true, Repair: 2,
	}
)

func encode(t schemas.Task) []schemas.Header {
	if t.Queue != "" {
		return schemas.AppendRetryHeaders([]schemas.Header(nil), &t)
	}
	return schemas.AppendRecordHeaders([]schemas.Header(nil), &t)
}

func TestRecordHeadersGolden(t *testing.T) {
	for name, task := range map[string]schemas.Task{"record_plain": plain, "record_full": full} {
		var b bytes.Buffer
		for _, h := range encode(task) {
			fmt.Fprintf(&b, "%s: %s\n", h.Key, h.Value)
		}
		golden(t, name, b.Bytes())
	}
}

func TestKgoHeadersNeedNoConversion(t *testing.T) {
	headers := schemas.AppendRecordHeaders([]kgo.RecordHeader{{Key: "first"}}, &plain)
	if headers[0].Key != "first" || headers[1].Key != schemas.HeaderSpecVersion {
		t.Fatalf("headers were not appended: %v", headers)
	}
	got, err := schemas.DecodeRecord([]byte(plain.ID), plain.Payload, headers[1:])
	if err != nil || got.ID != plain.ID {
		t.Fatalf("decoded %+v, %v", got, err)
	}
}

func TestFirstDeliveryHasNoDeliveryHeaders(t *testing.T) {
	for _, h := range encode(plain) {
		if strings.HasPrefix(h.Key, "perdure_") || h.Key == schemas.HeaderPartitionKey {
			t.Errorf("%s is written although it says nothing", h.Key)
		}
	}
}

// An append to one value must not reach the next.
func TestValuesDoNotShareCapacity(t *testing.T) {
	headers := encode(full)
	for i := range headers {
		_ = append(headers[i].Value, "xxxxxxxx"...)
	}
	if got, err := schemas.DecodeRecord([]byte(full.Key), full.Payload, headers); err != nil || !same(got, full) {
		t.Fatalf("values ran into one another: %+v, %v", got, err)
	}
}

func TestOwnHeadersAreNotWrittenTwice(t *testing.T) {
	task := plain
	task.Headers = map[string]string{"ce_id": "main-1-1", "perdure_run": "9", "content-type": "x", "__dlq.errors.topic": "y", "ok": "1"}
	got, err := schemas.DecodeRecord([]byte(task.ID), task.Payload, encode(task))
	if err != nil || got.ID != plain.ID || got.Run != 0 || !maps.Equal(got.Headers, map[string]string{"ok": "1"}) {
		t.Fatalf("decoded %+v, %v", got, err)
	}
}

func same(a, b schemas.Task) bool {
	return a.ID == b.ID && a.Kind == b.Kind && a.Queue == b.Queue && a.Key == b.Key && bytes.Equal(a.Payload, b.Payload) &&
		a.ContentType == b.ContentType && a.Time.Equal(b.Time) && a.Deadline.Equal(b.Deadline) && a.DataSchema == b.DataSchema &&
		a.TraceParent == b.TraceParent && maps.Equal(a.Headers, b.Headers) && a.Attempt == b.Attempt && a.Epoch == b.Epoch &&
		a.Run == b.Run && a.Due.Equal(b.Due) && a.Ordered == b.Ordered && a.Unique == b.Unique && a.Repair == b.Repair &&
		a.Line == b.Line && a.Place == b.Place
}

// anyTask draws a task that is valid on a retry topic.
func anyTask(t *rapid.T) schemas.Task {
	text := func(label string, most int) string {
		return strings.ReplaceAll(rapid.StringN(0, -1, most).Draw(t, label), "\x00", "0")
	}
	id := schemas.ID{
		Source:     rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?`).Draw(t, "source"),
		Generation: rapid.IntRange(1, 1<<31-1).Draw(t, "generation"),
		Seq:        rapid.Int64Range(1, 1<<62).Draw(t, "seq"),
	}
	task := schemas.Task{
		ID: id.String(), Kind: rapid.StringMatching(`[A-Za-z0-9]([A-Za-z0-9._-]{0,60}[A-Za-z0-9])?`).Draw(t, "kind"),
		Queue: rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?`).Draw(t, "queue"), Key: text("key", schemas.MaxKey),
		Payload: rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, "payload"),
		ContentType: rapid.SampledFrom([]string{"application/json", "text/plain; charset=utf-8", "application/x-protobuf"}).
			Draw(t, "content type"),
		DataSchema: text("schema", 100), TraceParent: text("trace", 60),
		Attempt: rapid.IntRange(1, 1<<20).Draw(t, "attempt"), Epoch: rapid.IntRange(0, 1<<15-1).Draw(t, "epoch"),
		Run: rapid.Int64Min(0).Draw(t, "run"), Ordered: rapid.Bool().Draw(t, "ordered"), Unique: rapid.Bool().Draw(t, "unique"),
		Repair: rapid.IntRange(0, schemas.MaxRepairs).Draw(t, "repair"),
	}
	task.Line = rapid.SampledFrom([]string{"", "from 7", "ask 1", "lift 12", "lift 12 main-1-3@0 a-b-2-9@32767", "end 9223372036854775807", "dead 0 ", "dead 4 /a is é"}).Draw(t, "line")
	task.Place = rapid.Int64Min(0).Draw(t, "place")
	moment := rapid.Int64Range(1, 250_000_000_000)
	if rapid.Bool().Draw(t, "has time") {
		task.Time = time.Unix(moment.Draw(t, "time"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanos"))
	}
	if rapid.Bool().Draw(t, "has deadline") {
		task.Deadline = time.Unix(moment.Draw(t, "deadline"), 0).In(time.FixedZone("far", 5*3600))
	}
	if rapid.Bool().Draw(t, "has due") {
		task.Due = time.UnixMilli(moment.Draw(t, "due"))
	}
	name := rapid.StringMatching(`x-[A-Za-z0-9é ]{1,10}|traceparent|tracestate|baggage|ce_[a-z0-9]{3}`)
	value := rapid.Custom(func(t *rapid.T) string { return text("value", 60) })
	if h := rapid.MapOfN(name, value, 0, schemas.MaxHeaders).Draw(t, "headers"); len(h) > 0 {
		task.Headers = h
	}
	return task
}

func TestDecodeIsTheInverseOfEncode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		task := anyTask(t)
		headers := encode(task)
		// Their order says nothing.
		headers = rapid.Permutation(headers).Draw(t, "order")
		got, err := schemas.DecodeRecord([]byte(task.RecordKey()), task.Payload, headers)
		if err != nil {
			t.Fatalf("decode %+v: %v", task, err)
		}
		if !same(got, task) {
			t.Fatalf("got\n%+v, want\n%+v", got, task)
		}
	})
}

// edit returns the headers of a plain record with one changed, removed or added.
func edit(name string, value *string) []schemas.Header {
	var out []schemas.Header
	found := false
	for _, h := range encode(plain) {
		if h.Key == name {
			found = true
			if value == nil {
				continue
			}
			h.Value = []byte(*value)
		}
		out = append(out, h)
	}
	if !found && value != nil {
		out = append(out, schemas.Header{Key: name, Value: []byte(*value)})
	}
	return out
}

func set(name, value string) []schemas.Header { return edit(name, &value) }

func TestDecodeRefuses(t *testing.T) {
	const secret = "s3cr3t"
	many := encode(plain)
	for i := range 200 {
		many = append(many, schemas.Header{Key: fmt.Sprint("h", i), Value: []byte("1")})
	}
	large := encode(plain)
	for i := range 20 {
		large = append(large, schemas.Header{Key: fmt.Sprint("h", i), Value: bytes.Repeat([]byte("x"), 4096)})
	}
	twice := func(name string) []schemas.Header {
		return append(set(name, "1"), schemas.Header{Key: name, Value: []byte("2")})
	}
	for _, test := range []struct {
		name    string
		headers []schemas.Header
		field   string
	}{
		{"no headers", nil, "ce_specversion"},
		{"another version", set("ce_specversion", "0.3"+secret), "ce_specversion"},
		{"no id", edit("ce_id", nil), "ce_id"},
		{"nil id", append(edit("ce_id", nil), schemas.Header{Key: "ce_id"}), "ce_id"},
		{"bad id", set("ce_id", secret), "ce_id"},
		{"id not canonical", set("ce_id", "main-01-42"), "ce_id"},
		{"id twice", append(encode(plain), schemas.Header{Key: "ce_id", Value: []byte(plain.ID)}), "ce_id"},
		{"no source", edit("ce_source", nil), "ce_source"},
		{"source of another", set("ce_source", "/perdure/"+secret), "ce_source"},
		{"source without the prefix", set("ce_source", "main"), "ce_source"},
		{"no kind", edit("ce_type", nil), "ce_type"},
		{"empty kind", set("ce_type", ""), "ce_type"},
		{"kind with a space", set("ce_type", "a b"), "ce_type"},
		{"kind too long", set("ce_type", strings.Repeat("k", 129)), "ce_type"},
		{"key is not the partition key", set("ce_partitionkey", secret), "key"},
		{"empty partition key", set("ce_partitionkey", ""), "ce_partitionkey"},
		{"partition key not UTF-8", set("ce_partitionkey", "\xff"), "ce_partitionkey"},
		{"partition key with NUL", set("ce_partitionkey", "a\x00"), "ce_partitionkey"},
		{"partition key too long", set("ce_partitionkey", strings.Repeat("k", 513)), "ce_partitionkey"},
		{"time", set("ce_time", "yesterday "+secret), "ce_time"},
		{"empty time", set("ce_time", ""), "ce_time"},
		{"year 0", set("ce_time", "0000-01-01T00:00:00Z"), "ce_time"},
		{"zero time", set("ce_time", "0001-01-01T00:00:00Z"), "ce_time"},
		{"deadline", set("ce_expirytime", "1700000000"), "ce_expirytime"},
		{"empty schema", set("ce_dataschema", ""), "ce_dataschema"},
		{"schema too long", set("ce_dataschema", strings.Repeat("k", 2049)), "ce_dataschema"},
		{"huge schema", set("ce_dataschema", strings.Repeat("k", 1<<20)), "ce_dataschema"},
		{"trace not UTF-8", set("ce_traceparent", "\xc3"), "ce_traceparent"},
		{"structured mode", set("content-type", "application/cloudevents+json"), "content-type"},
		{"content type", set("content-type", "json "+secret), "content-type"},
		{"attempt 0", set("perdure_attempt", "0"), "perdure_attempt"},
		{"attempt with a sign", set("perdure_attempt", "+1"), "perdure_attempt"},
		{"attempt with zeros", set("perdure_attempt", "01"), "perdure_attempt"},
		{"attempt too large", set("perdure_attempt", "1048577"), "perdure_attempt"},
		{"empty attempt", set("perdure_attempt", ""), "perdure_attempt"},
		{"attempt twice", twice("perdure_attempt"), "perdure_attempt"},
		{"epoch below 0", set("perdure_epoch", "-1"), "perdure_epoch"},
		{"epoch too large", set("perdure_epoch", "32768"), "perdure_epoch"},
		{"run too large", set("perdure_run", "9223372036854775808"), "perdure_run"},
		{"run is text", set("perdure_run", secret), "perdure_run"},
		{"due in seconds with a point", set("perdure_due", "1.5"), "perdure_due"},
		{"due after year 9999", set("perdure_due", "253402300800000"), "perdure_due"},
		{"order", set("perdure_order", "none"), "perdure_order"},
		{"queue", set("perdure_queue", "A_b"), "perdure_queue"},
		{"line", set("perdure_line", "stop 1"), "perdure_line"},
		{"line without a number", set("perdure_line", "ask"), "perdure_line"},
		{"line with number 0", set("perdure_line", "end 0"), "perdure_line"},
		{"line with more", set("perdure_line", "ask 1 main-1-1@0"), "perdure_line"},
		{"line with a bad letter", set("perdure_line", "lift 1 main-1-1"), "perdure_line"},
		{"line with a bad epoch", set("perdure_line", "lift 1 main-1-1@x"), "perdure_line"},
		{"line too long", set("perdure_line", "dead 0 "+strings.Repeat("x", 8<<10)), "perdure_line"},
		{"place 0", set("perdure_place", "0"), "perdure_place"},
		{"unknown ours twice", twice("perdure_later"), "perdure_later"},
		{"extension twice", twice("ce_subject"), "ce_subject"},
		{"extension name", set("ce_a-b", "1"), "ce_a-b"},
		{"datacontenttype", set("ce_datacontenttype", "a/b"), "ce_datacontenttype"},
		{"user header not UTF-8", set("x", "\xff"), "header x"},
		{"user header with NUL", set("x", "\x00"), "header x"},
		{"user header name not UTF-8", set("\xff", "1"), "headers"},
		{"user header without a name", set("", "1"), "headers"},
		{"too many headers", many, "headers"},
		{"too large headers", large, "headers"},
	} {
		_, err := schemas.DecodeRecord([]byte(plain.ID), plain.Payload, test.headers)
		var bad *schemas.DecodeError
		if !errors.As(err, &bad) {
			t.Errorf("%s: accepted", test.name)
			continue
		}
		if bad.Field != test.field || bad.Reason() != schemas.ReasonUndecodable || bad.Detail == "" {
			t.Errorf("%s: error is %q of %q, want one of %q", test.name, bad.Detail, bad.Field, test.field)
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the value stands in the error: %s", test.name, err)
		}
	}
}

func TestDecodeRefusesTheValue(t *testing.T) {
	for name, test := range map[string]struct {
		value  []byte
		reason schemas.Reason
	}{
		"tombstone":    {nil, schemas.ReasonUndecodable},
		"empty":        {[]byte{}, schemas.ReasonUndecodable},
		"one too many": {make([]byte, schemas.MaxPayload+1), schemas.ReasonTooLarge},
	} {
		got, err := schemas.DecodeRecord([]byte(plain.ID), test.value, encode(plain))
		var bad *schemas.DecodeError
		if !errors.As(err, &bad) || bad.Field != "value" || bad.Reason() != test.reason {
			t.Errorf("%s: error is %v", name, err)
		}
		if got.ID != plain.ID || got.Kind != plain.Kind || got.Payload != nil {
			t.Errorf("%s: what is known of the task is %+v", name, got)
		}
	}
	if _, err := schemas.DecodeRecord([]byte(plain.ID), make([]byte, schemas.MaxPayload), encode(plain)); err != nil {
		t.Errorf("the largest payload: %v", err)
	}
	for _, key := range [][]byte{nil, {}, []byte("main-1-43")} {
		_, err := schemas.DecodeRecord(key, plain.Payload, encode(plain))
		if bad := (*schemas.DecodeError)(nil); !errors.As(err, &bad) || bad.Field != "key" {
			t.Errorf("record key %q: error is %v", key, err)
		}
	}
}

// A letter needs the id: it is kept when another header is wrong, and not
// believed when it is one of two.
func TestWhatIsKnownOfABadRecord(t *testing.T) {
	headers := append(set("perdure_attempt", "x"), schemas.Header{Key: "perdure_epoch", Value: []byte("3")})
	got, err := schemas.DecodeRecord([]byte(plain.ID), plain.Payload, headers)
	if err == nil || got.ID != plain.ID || got.Kind != plain.Kind || got.Epoch != 3 || got.Attempt != 0 {
		t.Errorf("known: %+v, %v", got, err)
	}
	got, err = schemas.DecodeRecord([]byte(plain.ID), plain.Payload,
		append(encode(plain), schemas.Header{Key: "ce_id", Value: []byte("main-1-7")}))
	if err == nil || got.ID != "" || got.Kind != "" {
		t.Errorf("one of two ids was believed: %+v, %v", got, err)
	}
}

func TestLetterHeadersAreNotTheTasks(t *testing.T) {
	headers := append(encode(plain),
		schemas.Header{Key: "__dlq.errors.topic", Value: []byte("tasks.mail")},
		schemas.Header{Key: schemas.HeaderReason, Value: []byte("poison")},
		schemas.Header{Key: "x", Value: []byte("1")}, schemas.Header{Key: "x", Value: []byte("2")})
	got, err := schemas.DecodeRecord([]byte(plain.ID), plain.Payload, headers)
	if err != nil || !maps.Equal(got.Headers, map[string]string{"x": "2"}) {
		t.Errorf("headers are %v, %v", got.Headers, err)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	for _, task := range []schemas.Task{plain, full} {
		var b bytes.Buffer
		for _, h := range encode(task) {
			fmt.Fprintf(&b, "%s\x1f%s\x1e", h.Key, h.Value)
		}
		f.Add([]byte(task.RecordKey()), task.Payload, b.Bytes())
	}
	f.Add([]byte(nil), []byte(nil), []byte("ce_id\x1f\x1ece_id\x1f-\x1e"))
	f.Fuzz(func(t *testing.T, key, value, raw []byte) {
		var headers []schemas.Header
		for h := range bytes.SplitSeq(raw, []byte{0x1e}) {
			k, v, _ := bytes.Cut(h, []byte{0x1f})
			headers = append(headers, schemas.Header{Key: string(k), Value: v})
		}
		task, err := schemas.DecodeRecord(key, value, headers)
		if err != nil {
			if bad := (*schemas.DecodeError)(nil); !errors.As(err, &bad) || bad.Field == "" || bad.Detail == "" {
				t.Fatalf("error is %#v", err)
			}
			return
		}
		// What was accepted must survive being written and read again.
		again, err := schemas.DecodeRecord([]byte(task.RecordKey()), task.Payload, encode(task))
		if err != nil || !same(task, again) {
			t.Fatalf("second reading of\n%+v\nis\n%+v, %v", task, again, err)
		}
	})
}

func BenchmarkAppendRecordHeaders(b *testing.B) {
	for name, task := range map[string]schemas.Task{"plain": plain, "full": full} {
		b.Run(name, func(b *testing.B) {
			dst := make([]kgo.RecordHeader, 0, 32)
			b.ReportAllocs()
			for b.Loop() {
				dst = schemas.AppendRecordHeaders(dst[:0], &task)
			}
		})
	}
}

func BenchmarkDecodeRecord(b *testing.B) {
	for name, task := range map[string]schemas.Task{"plain": plain, "full": full} {
		b.Run(name, func(b *testing.B) {
			headers := schemas.AppendRecordHeaders([]kgo.RecordHeader(nil), &task)
			key := []byte(task.RecordKey())
			b.ReportAllocs()
			for b.Loop() {
				if _, err := schemas.DecodeRecord(key, task.Payload, headers); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
