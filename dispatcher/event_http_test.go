package dispatcher_test

// CloudEvents over HTTP: which posts are events, and what is answered. That the
// SDK's own events come through to Kafka is tested in internal/app.

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/perdure/perdure/dispatcher"
)

const (
	structured = "application/cloudevents+json"
	batched    = "application/cloudevents-batch+json"
)

// eventText is an event of kind any, in the JSON format; more is members of it.
func eventText(id, more string) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/shop","type":"any"%s}`, id, more)
}

// binary are the headers of an event of kind any, and more.
func binary(id string, more ...string) []string {
	return append([]string{"Ce-Specversion", "1.0", "Ce-Id", id, "Ce-Source", "/shop", "Ce-Type", "any"}, more...)
}

func TestARedeliveredEventIsOneTaskInEveryMode(t *testing.T) {
	s := serve(t, database(t), nil)
	text := eventText("1", `,"data":{"a" : 1}`)
	var first dispatcher.Accepted
	r := s.post(t, strings.NewReader(text), "Content-Type", structured+"; charset=UTF-8")
	if err := json.Unmarshal([]byte(r.body), &first); err != nil || r.status != 202 || r.header.Get("Idempotency-Replayed") != "" {
		t.Fatalf("%+v", r)
	}
	for mode, again := range map[string]func() reply{
		"structured": func() reply { return s.post(t, strings.NewReader(text), "Content-Type", structured) },
		"binary":     func() reply { return s.post(t, strings.NewReader(`{"a" : 1}`), binary("1")...) },
		"binary, the body of an array": func() reply { // the data, not an array of tasks
			return s.post(t, strings.NewReader(`[1]`), binary("2")...)
		},
		"batch": func() reply {
			return s.post(t, strings.NewReader("["+text+","+text+"]"), "Content-Type", batched)
		},
		"an empty batch": func() reply { return s.post(t, strings.NewReader(" []"), "Content-Type", batched) },
	} {
		r := again()
		replayed := r.header.Get("Idempotency-Replayed") == "true"
		switch mode {
		case "batch":
			var both []dispatcher.Accepted
			if err := json.Unmarshal([]byte(r.body), &both); err != nil || len(both) != 2 || both[0].ID != first.ID || both[1].ID != first.ID || !replayed {
				t.Errorf("%s: %+v", mode, r)
			}
		case "an empty batch":
			if r.status != 202 || r.body != "[]\n" {
				t.Errorf("%s: %+v", mode, r)
			}
		default:
			var one dispatcher.Accepted
			if err := json.Unmarshal([]byte(r.body), &one); err != nil || (one.ID == first.ID) != (mode != "binary, the body of an array") || replayed != (one.ID == first.ID) {
				t.Errorf("%s: %+v, the first is %s", mode, r, first.ID)
			}
		}
	}
	// Another payload under the same source and id is another event, and told so.
	r = s.post(t, strings.NewReader(eventText("1", `,"data":2`)), "Content-Type", structured)
	if p := r.problem(t); r.status != 422 || p.Name() != "key-reuse" || p.Errors[0].Pointer != "#/id" {
		t.Errorf("%+v", r)
	}
	if n := outbox(t, s.db); n != 2 {
		t.Errorf("%d tasks, want 2", n)
	}
}

// Deliveries that overlap are one task too; the losers hear of it or come again.
func TestAnEventDeliveredManyTimesAtOnceIsOneTask(t *testing.T) {
	s := serve(t, database(t), nil)
	var mu sync.Mutex
	ids := map[string]bool{}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			r := s.post(t, strings.NewReader(`1`), binary("1")...)
			if i%2 == 0 {
				r = s.post(t, strings.NewReader(eventText("1", `,"data":1`)), "Content-Type", structured)
			}
			var a dispatcher.Accepted
			if err := json.Unmarshal([]byte(r.body), &a); err != nil || r.status != 202 {
				t.Errorf("%+v", r)
			}
			mu.Lock()
			defer mu.Unlock()
			ids[a.ID] = true
		})
	}
	wg.Wait()
	if n := outbox(t, s.db); n != 1 || len(ids) != 1 {
		t.Errorf("%d tasks, ids %v, want one", n, ids)
	}
}

func TestEventIsRefusedWithThePlaceInTheEvent(t *testing.T) {
	s := serve(t, database(t), nil)
	refund := func(data string) string {
		return `{"specversion":"1.0","id":"1","source":"/shop","type":"refund","data":` + data + `}`
	}
	for _, c := range []struct {
		body          string
		header        []string
		status        int
		name, pointer string
	}{
		{refund(`{"amount":0}`), []string{"Content-Type", structured}, 422, "invalid-task", "#/data/amount"},
		{`{"amount":0}`, binary("1", "Ce-Type", "refund"), 422, "invalid-task", "#/data/amount"},
		{strings.Replace(refund(`1`), "refund", "nope", 1), []string{"Content-Type", structured}, 422, "unknown-kind", "#/type"},
		{`{}`, binary("1", "Ce-Type", "nope"), 422, "unknown-kind", "#/header/ce-type"},
		{eventText("1", `,"data":1,"expirytime":"2020-01-01T00:00:00Z"`), []string{"Content-Type", structured}, 422, "invalid-task", "#/expirytime"},
		{`{}`, binary("1", "Ce-Expirytime", "2020-01-01T00:00:00Z"), 422, "invalid-task", "#/header/ce-expirytime"},
		{`{}`, binary("1", "Ce-Partitionkey", strings.Repeat("k", 513)), 422, "invalid-event", "#/header/ce-partitionkey"},
		{`{`, binary("1"), 422, "invalid-task", "#/data"},
		{``, binary("1"), 422, "invalid-event", "#/data"},
		{`{}`, binary("1", "Ce-Type", ""), 422, "invalid-event", "#/header/ce-type"},
		{strings.Repeat("x", 1<<20+1), binary("1", "Content-Type", "text/plain"), 413, "too-large", "#/data"},
		{strings.Repeat("x", 3<<20), binary("1", "Content-Type", "text/plain"), 413, "too-large", ""},
		{eventText("1", `,"data":"`+strings.Repeat("x", 1<<20)+`"`), []string{"Content-Type", structured}, 413, "too-large", "#/data"},
		{eventText("1", `,"data":1`), []string{"Content-Type", structured, "Idempotency-Key", "a"}, 400, "invalid-header", "#/header/Idempotency-Key"},
		{`1`, binary("1", "Idempotency-Key", "a"), 400, "invalid-header", "#/header/Idempotency-Key"},
		{eventText("1", `,"data":1`), []string{"Content-Type", "application/json"}, 422, "invalid-task", "#/specversion"},
		{"[" + eventText("1", `,"data":1`) + "]", []string{"Content-Type", structured}, 400, "malformed-json", "#"},
		{eventText("1", `,"data":1`), []string{"Content-Type", batched}, 400, "malformed-json", "#"},
		{`null`, []string{"Content-Type", batched}, 400, "malformed-json", "#"},
		{``, []string{"Content-Type", batched}, 400, "malformed-json", "#"},
		{"[" + eventText("1", `,"data":1`) + ",]", []string{"Content-Type", batched}, 400, "malformed-json", "#"},
		{"[" + eventText("1", `,"data":1`) + ",1]", []string{"Content-Type", batched}, 400, "malformed-json", "#/1"},
		{"[" + eventText("1", `,"data":1`) + "," + eventText("2", `,"data":1,"data_base64":"AA=="`) + "]", []string{"Content-Type", batched}, 422, "invalid-event", "#/1/data_base64"},
		{"[" + eventText("1", `,"data":1`) + "," + eventText("", `,"data":1`) + "]", []string{"Content-Type", batched}, 422, "invalid-event", "#/1/id"},
		{"[" + eventText("1", `,"data":1`) + "," + refund(`{"amount":0}`) + "]", []string{"Content-Type", batched}, 422, "invalid-task", "#/1/data/amount"},
		{"[" + strings.Repeat("1,", 10_000) + "1]", []string{"Content-Type", batched}, 413, "too-large", ""},
		{strings.Repeat(" ", 33<<20), []string{"Content-Type", batched}, 413, "too-large", ""},
		{`x`, []string{"Content-Type", "application/cloudevents+avro"}, 415, "unsupported-media-type", ""},
		{`x`, []string{"Content-Type", "application/cloudevents"}, 415, "unsupported-media-type", ""},
		{`{}`, []string{"Content-Type", structured + "; charset=latin1"}, 415, "unsupported-media-type", ""},
		{`{}`, []string{"Content-Type", structured, "Content-Encoding", "gzip"}, 415, "unsupported-media-type", ""},
		{`{}`, binary("1", "Content-Encoding", "gzip"), 415, "unsupported-media-type", ""},
		// Structured mode may repeat its attributes in headers: the text counts.
		{eventText("", `,"data":1`), binary("1", "Content-Type", structured), 422, "invalid-event", "#/id"},
	} {
		r := s.post(t, strings.NewReader(c.body), c.header...)
		p := r.problem(t)
		if r.status != c.status || p.Name() != c.name || c.pointer != "" && (len(p.Errors) == 0 || p.Errors[0].Pointer != c.pointer) {
			t.Errorf("%.70q %q: %d %s", c.body, c.header, r.status, r.body)
		}
	}
	if n := outbox(t, s.db); n != 0 {
		t.Errorf("%d tasks were accepted", n)
	}
}

// Other headers than the four attributes of every event make no event.
func TestAJSONTaskBesideOtherCEHeadersIsATask(t *testing.T) {
	s := serve(t, database(t), nil)
	if r := s.post(t, strings.NewReader(`{"kind":"any","payload":1}`), "Ce-Traceparent", "00-1"); r.status != 202 {
		t.Errorf("%+v", r)
	}
}
