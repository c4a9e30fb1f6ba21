package dlq

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/schemas"
)

var update = flag.Bool("update", false, "write golden files")

func taskRecord() *kgo.Record {
	return &kgo.Record{
		Topic: "tasks.payments", Partition: 3, Offset: 41, Key: []byte("acct-9"), Value: []byte(`{"amount":5}`),
		Headers: []kgo.RecordHeader{
			text("ce_specversion", "1.0"), text("ce_id", "main-1-77"), text("ce_source", "/perdure/main"),
			text("ce_type", "refund.issue"), text("ce_time", "2026-11-23T09:00:00Z"), text("ce_partitionkey", "acct-9"),
			text("content-type", "application/json"), text("x-user", "kept"), text("perdure_epoch", "2"), text("perdure_attempt", "8"),
		},
	}
}

func fullLetter() *Letter {
	l := From(taskRecord(), "perdure.payments")
	at := time.Date(2026, 11, 23, 9, 1, 2, 345e6, time.UTC)
	l.Reason, l.ErrorClass, l.Message = schemas.ReasonExhausted, "HTTP 500", "bank said no to 17"
	l.Release, l.Catalog, l.Run, l.DiedAt = "v1.2", "0011223344556677", 2<<48+1<<24+9, at
	l.Attempts = []Attempt{
		{N: 7, Run: 1, Start: at.Add(-time.Minute), End: at.Add(-50 * time.Second), Worker: "w-1", ErrorClass: "HTTP 503", Message: "busy"},
		{N: 8, Run: 2, Start: at.Add(-time.Second), End: at, Worker: "w-2", ErrorClass: "HTTP 500", Message: "bank said no to 17", Stack: "main.refund(0x1)\n\t/x.go:3"},
	}
	return l
}

// golden compares a record with its stored form: other programs read these.
func golden(t *testing.T, name string, r *kgo.Record) {
	t.Helper()
	type h struct{ Name, Value string }
	out := struct {
		Key, Value *string
		Time       time.Time
		Headers    []h
	}{Time: r.Timestamp.UTC()}
	if r.Key != nil {
		s := string(r.Key)
		out.Key = &s
	}
	if r.Value != nil {
		s := string(r.Value)
		out.Value = &s
	}
	for _, x := range r.Headers {
		out.Headers = append(out.Headers, h{x.Key, string(x.Value)})
	}
	got, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bytes.TrimSpace(want), got) {
		t.Errorf("%s changed:\n%s", path, got)
	}
}

func TestLetterGolden(t *testing.T) {
	golden(t, "letter", Encode(fullLetter()))
	tomb := From(&kgo.Record{Topic: "tasks.payments", Partition: 1, Offset: 5}, "perdure.payments")
	tomb.Reason, tomb.ErrorClass, tomb.Message, tomb.DiedAt = schemas.ReasonUndecodable, "schemas.header", "no ce_id", time.Unix(1e9, 0)
	golden(t, "tombstone", Encode(tomb))
	golden(t, "resolved", Resolved("acct-9", "main-1-77", 3, time.Unix(1e9, 0)))
}

func TestLetterRoundTrip(t *testing.T) {
	l := fullLetter()
	r := Encode(l)
	r.Topic, r.Partition, r.Offset = "dlq.payments", 0, 1
	got, res, err := Decode(r)
	if err != nil || res != nil {
		t.Fatal(res, err)
	}
	if got.ID() != "main-1-77@2" || got.Kind != "refund.issue" {
		t.Errorf("identity: %s %s", got.ID(), got.Kind)
	}
	if got.Fingerprint == "" || !strings.HasPrefix(got.Fingerprint, "fp2:") {
		t.Errorf("fingerprint %q", got.Fingerprint)
	}
	l.Fingerprint, l.Deliveries = got.Fingerprint, 2
	if !reflect.DeepEqual(l, got) {
		t.Errorf("want %+v\n got %+v", l, got)
	}
}

// A tombstone is not an empty value, and neither needs a header to survive.
func TestOriginalSurvivesUnchanged(t *testing.T) {
	for name, orig := range map[string]*kgo.Record{
		"tombstone":   {Topic: "tasks.a", Partition: 1, Offset: 2},
		"empty":       {Topic: "tasks.a", Partition: 1, Offset: 2, Key: []byte{}, Value: []byte{}},
		"binary":      {Topic: "tasks.a", Partition: 1, Offset: 2, Value: []byte{0, 0xff, 1}, Headers: []kgo.RecordHeader{{Key: "\xff\x00", Value: nil}, {Key: "", Value: []byte{0}}}},
		"twice an id": {Topic: "tasks.a", Partition: 1, Offset: 2, Headers: []kgo.RecordHeader{text("ce_id", "main-1-1"), text("ce_id", "main-1-2")}},
	} {
		t.Run(name, func(t *testing.T) {
			l := From(orig, "g")
			l.Reason = schemas.ReasonUndecodable
			got, _, err := Decode(Encode(l))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got.Key, orig.Key) || !reflect.DeepEqual(got.Value, orig.Value) || !reflect.DeepEqual(got.Headers, orig.Headers) {
				t.Errorf("changed: %#v", got)
			}
			if got.ID() != "kafka:tasks.a:1:2" {
				t.Errorf("id %s: an undecodable record took the place of a task's letter", got.ID())
			}
			if name == "twice an id" && got.TaskID != "main-1-2" {
				t.Errorf("task %q: the last header counts", got.TaskID)
			}
		})
	}
}

// A dead letter copied onto tasks.* dies again: its older block is part of the
// original, and the last block is the one that counts.
func TestLetterOfALetter(t *testing.T) {
	first := Encode(fullLetter())
	first.Topic, first.Partition, first.Offset = "tasks.other", 9, 99
	l := From(first, "perdure.other")
	l.Reason, l.Message = schemas.ReasonPermanent, "second death"
	got, _, err := Decode(Encode(l))
	if err != nil {
		t.Fatal(err)
	}
	if got.Origin != (Origin{"tasks.other", 9, 99, "perdure.other"}) || got.Reason != schemas.ReasonPermanent || got.Message != "second death" {
		t.Errorf("the older block was read: %+v", got)
	}
	if !reflect.DeepEqual(got.Headers, first.Headers) {
		t.Error("the older block was changed")
	}
}

func TestAnUnreadableEpochIsNoIdentity(t *testing.T) {
	for _, epoch := range []string{"x", "-1", "99999999999999999999", "32768"} {
		l := From(&kgo.Record{Topic: "t", Headers: []kgo.RecordHeader{text("ce_id", "main-1-1"), text("perdure_epoch", epoch)}}, "")
		if l.TaskID != "" || l.ID() != "kafka:t:0:0" {
			t.Errorf("epoch %q: %s", epoch, l.ID())
		}
	}
}

func TestHugeLettersAreCutAndMarked(t *testing.T) {
	big := bytes.Repeat([]byte{'x'}, 3<<20)
	many := make([]Attempt, 200) // a dozen for each that MaxAttempts has room for
	for i := range many {
		many[i] = Attempt{N: i + 1, Message: strings.Repeat("m", 200), Stack: strings.Repeat("s", 20<<10)}
	}
	if n := len(EncodeAttempts(many, 0)); n > MaxAttempts {
		t.Errorf("attempts take %d bytes", n)
	}
	base := taskRecord()
	for name, r := range map[string]*kgo.Record{
		"value":   {Topic: "t", Key: base.Key, Value: big, Headers: base.Headers},
		"headers": {Topic: "t", Key: base.Key, Value: base.Value, Headers: append([]kgo.RecordHeader{{Key: "h", Value: big}}, base.Headers...)},
		"key":     {Topic: "t", Key: big, Value: base.Value, Headers: base.Headers},
		"all":     {Topic: "t", Key: big, Value: big, Headers: append([]kgo.RecordHeader{{Key: "h", Value: big}}, base.Headers...)},
		"fits":    {Topic: "t", Key: base.Key, Value: big[:1<<20+300<<10], Headers: base.Headers},
	} {
		t.Run(name, func(t *testing.T) {
			l := From(r, "g")
			l.Reason, l.Attempts = schemas.ReasonTooLarge, many
			l.Message = strings.Repeat("é", MaxMessage)
			e := Encode(l)
			if n := size(e.Key, e.Value, e.Headers); n > MaxRecord {
				t.Errorf("%d bytes", n)
			}
			got, _, err := Decode(e)
			if err != nil {
				t.Fatal(err)
			}
			if got.Cut != (name != "fits") {
				t.Errorf("cut: %v", got.Cut)
			}
			if got.TaskID != "main-1-77" {
				t.Errorf("identity lost: %s", got.ID())
			}
			if name == "fits" && !bytes.Equal(got.Value, r.Value) {
				t.Error("value changed")
			}
			total := 0
			for _, a := range got.Attempts {
				total += dropped(a)
			}
			if first, last := got.Attempts[0], got.Attempts[len(got.Attempts)-1]; first.N != 1 || last.N != len(many) || total != len(many) {
				t.Errorf("first %d, last %d, total %d", first.N, last.N, total)
			}
		})
	}
}

// A history is bounded again and again while a task is retried for days: its
// count stays right.
func TestCutHistoryGrowsOn(t *testing.T) {
	var as []Attempt
	for n := 1; n <= 300; n++ {
		as = append(as, Attempt{N: n, Message: "m"})
		b := EncodeAttempts(as, 1<<10)
		if len(b) > 1<<10 {
			t.Fatalf("%d bytes", len(b))
		}
		var err error
		if as, err = DecodeAttempts(b); err != nil {
			t.Fatal(err)
		}
	}
	total := 0
	for _, a := range as {
		total += dropped(a)
	}
	if total != 300 || as[0].N != 1 || as[len(as)-1].N != 300 {
		t.Errorf("total %d of 300: %+v", total, as)
	}
}

func TestDecodeRefusesWithoutPanic(t *testing.T) {
	good := Encode(fullLetter())
	without := func(name, value string) *kgo.Record {
		c := *good
		c.Headers = append([]kgo.RecordHeader(nil), good.Headers...)
		for i := range c.Headers {
			if c.Headers[i].Key == name {
				c.Headers[i].Value = []byte(value)
			}
		}
		return &c
	}
	for name, r := range map[string]*kgo.Record{
		"nothing":          {},
		"a task":           taskRecord(),
		"record":           without(schemas.HeaderRecord, "other"),
		"reason":           without(schemas.HeaderReason, "because"),
		"partition":        without(headerPartition, "99999999999"),
		"offset":           without(headerOffset, "-7"),
		"run":              without(schemas.HeaderRun, "x"),
		"attempts":         without(schemas.HeaderAttempts, "{"),
		"topic":            without(headerTopic, ""),
		"resolved nothing": {Headers: []kgo.RecordHeader{text(schemas.HeaderRecord, "resolved")}},
	} {
		t.Run(name, func(t *testing.T) {
			l, res, err := Decode(r)
			if !errors.Is(err, ErrNotALetter) || l != nil || res != nil {
				t.Fatalf("%v %v %v", l, res, err)
			}
			r.Topic, r.Partition, r.Offset = "dlq.x", 2, 7
			s := Stray(r, err)
			if s.ID() != "kafka:dlq.x:2:7" || s.Reason != schemas.ReasonUndecodable || s.TaskID != "" {
				t.Errorf("stray: %+v", s)
			}
		})
	}
}

func TestResolvedRoundTrip(t *testing.T) {
	at := time.UnixMilli(1e12)
	for rec, want := range map[*kgo.Record]Resolution{
		Resolved("k", "main-1-5", 3, at):  {TaskID: "main-1-5", Epoch: 3, At: at},
		Cancelled("k", "main-1-5", 3, at): {TaskID: "main-1-5", Epoch: 3, At: at, Cancelled: true},
	} {
		if l, res, err := Decode(rec); err != nil || l != nil || *res != want {
			t.Error(l, res, err)
		}
	}
	other := Resolved("k", "main-1-5", 3, at)
	other.Headers = append(other.Headers, text(schemas.HeaderOutcome, "lost"))
	if _, res, err := Decode(other); !errors.Is(err, ErrNotALetter) {
		t.Error("an outcome that is not known:", res, err)
	}
}

func TestEventRoundTrip(t *testing.T) {
	e := &Event{TaskID: "main-1-5", Epoch: 1, Attempt: 3, Run: 9, Type: EventFailed, At: time.Unix(1e9, 5e6).UTC(),
		Worker: "w", ErrorClass: "c", Message: "m", Data: json.RawMessage(`{"next_at":"2026-01-01T00:00:00Z"}`)}
	r := EncodeEvent(e)
	golden(t, "event", r)
	got, err := DecodeEvent(r)
	if err != nil || !reflect.DeepEqual(e, got) {
		t.Fatalf("%+v %v", got, err)
	}
	bad := *e
	bad.Message, bad.Data = strings.Repeat("\xff", 9000), json.RawMessage("{")
	if got, err = DecodeEvent(EncodeEvent(&bad)); err != nil || got.Data != nil || len(got.Message) > MaxMessage {
		t.Fatalf("%+v %v", got, err)
	}
	for _, v := range []string{"", "{", "[]", `{"task_id":"x","type":"failed"}`, `{"task_id":"main-1-1"}`, `{"task_id":"main-1-1","type":"a","epoch":-1}`} {
		if _, err := DecodeEvent(&kgo.Record{Value: []byte(v)}); err == nil {
			t.Errorf("%q was taken", v)
		}
	}
}

// TestEventDataIsKeptUpToItsBound: whatever it is made of.
func TestEventDataIsKeptUpToItsBound(t *testing.T) {
	for _, c := range []string{"<", ">", "&", "x", "\u2028", "\u00e9"} {
		data := `"` + strings.Repeat(c, (MaxEventData-2)/len(c)) + `"`
		e, err := DecodeEvent(EncodeEvent(&Event{TaskID: "main-1-5", Type: EventResult, At: time.Unix(1e9, 0), Data: json.RawMessage(data)}))
		if err != nil || string(e.Data) != data {
			t.Errorf("%q: %d bytes became %d, %v", c, len(data), len(e.Data), err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	seed := Encode(fullLetter())
	for _, h := range seed.Headers {
		f.Add(seed.Key, seed.Value, h.Key, h.Value)
	}
	f.Fuzz(func(t *testing.T, key, value []byte, name string, hv []byte) {
		// One foreign header, before and after the letter's own block.
		for _, hs := range [][]kgo.RecordHeader{
			append([]kgo.RecordHeader{{Key: name, Value: hv}}, seed.Headers...),
			append(append([]kgo.RecordHeader(nil), seed.Headers...), kgo.RecordHeader{Key: name, Value: hv}),
			{{Key: name, Value: hv}},
		} {
			l, res, err := Decode(&kgo.Record{Key: key, Value: value, Headers: hs})
			if (err == nil) == (l == nil && res == nil) {
				t.Fatal("neither result nor error")
			}
			if l == nil {
				continue
			}
			again, _, err := Decode(Encode(l))
			if err != nil {
				t.Fatalf("cannot read what was written: %v", err)
			}
			if again.ID() != l.ID() || again.Fingerprint != l.Fingerprint {
				t.Fatalf("%s %s became %s %s", l.ID(), l.Fingerprint, again.ID(), again.Fingerprint)
			}
		}
	})
}

func FuzzDecodeEvent(f *testing.F) {
	f.Add([]byte(`{"task_id":"main-1-1","type":"failed","at":"2026-01-01T00:00:00Z","data":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := DecodeEvent(&kgo.Record{Value: b})
		if err != nil {
			return
		}
		if _, err := DecodeEvent(EncodeEvent(e)); err != nil {
			t.Fatal(err)
		}
	})
}
