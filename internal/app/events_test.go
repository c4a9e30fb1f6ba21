package app_test

// CloudEvents in by HTTP, out by Kafka, judged by the CloudEvents SDK: it writes
// the posts in all modes, and reads the records.

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dispatcher"
	"github.com/perdure/perdure/schemas"
)

// sdkEvent is one of the SDK with every attribute that means something here.
func sdkEvent(t *testing.T, id, contentType string, data any) event.Event {
	t.Helper()
	e := event.New()
	e.SetID(id)
	e.SetSource("https://example.com/shop?a=1")
	e.SetType("hello.world")
	e.SetSubject("Köln/8")
	e.SetTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("far", -7*3600)))
	e.SetDataSchema("https://example.com/s.json")
	e.SetExtension("partitionkey", "konto/8")
	e.SetExtension("expirytime", time.Date(2999, 1, 2, 3, 4, 5, 0, time.UTC))
	e.SetExtension("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	e.SetExtension("tenant", "blue")
	e.SetExtension("urgent", true)
	e.SetExtension("retries", -3)
	if err := e.SetData(contentType, data); err != nil {
		t.Fatal(err)
	}
	if err := e.Validate(); err != nil {
		t.Fatal(err)
	}
	return e
}

// poster sends requests that the SDK makes.
type poster struct {
	t   *testing.T
	url string
}

func (p poster) send(req *http.Request, into any) (replayed bool) {
	p.t.Helper()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 202 || json.Unmarshal(body, into) != nil {
		p.t.Fatalf("%d %s, %v", res.StatusCode, body, err)
	}
	return res.Header.Get("Idempotency-Replayed") == "true"
}

// one posts an event in the mode that ctx asks of the SDK.
func (p poster) one(ctx context.Context, e event.Event) (id string, replayed bool) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), "POST", p.url, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := cehttp.WriteRequest(ctx, binding.ToMessage(&e), req); err != nil {
		p.t.Fatal(err)
	}
	var a dispatcher.Accepted
	replayed = p.send(req, &a)
	return a.ID, replayed
}

func (p poster) batch(events ...event.Event) (ids []string) {
	p.t.Helper()
	req, err := cehttp.NewHTTPRequestFromEvents(p.t.Context(), p.url, events)
	if err != nil {
		p.t.Fatal(err)
	}
	var all []dispatcher.Accepted
	p.send(req, &all)
	for _, a := range all {
		ids = append(ids, a.ID)
	}
	return ids
}

// content is what an event says and a task keeps, whatever names them.
type content struct {
	Kind, Key, Payload, ContentType, TraceParent string
	Deadline                                     time.Time
	Extensions                                   string
}

func contentOf(task *schemas.Task) content {
	var extensions []string
	for _, name := range slices.Sorted(maps.Keys(task.Headers)) {
		if strings.HasPrefix(name, "ce_") {
			extensions = append(extensions, name+"="+task.Headers[name])
		}
	}
	return content{Kind: task.Kind, Key: task.Key, Payload: string(task.Payload), ContentType: task.ContentType,
		TraceParent: task.TraceParent, Deadline: task.Deadline, Extensions: strings.Join(extensions, " ")}
}

// records reads a topic until each of ids has its record there.
func records(t *testing.T, brokers []string, topic string, ids []string) map[string]*kgo.Record {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	found := map[string]*kgo.Record{}
	for len(found) < len(ids) {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("of the tasks %v only %d are on %s after a minute", ids, len(found), topic)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			for _, h := range r.Headers {
				if h.Key == schemas.HeaderID && slices.Contains(ids, string(h.Value)) {
					found[string(h.Value)] = r
				}
			}
		})
	}
	return found
}

// read is a record as the SDK reads it: in HTTP's binary mode it differs from
// Kafka's by the prefix only.
func read(t *testing.T, r *kgo.Record) event.Event {
	t.Helper()
	h := http.Header{}
	for _, x := range r.Headers {
		if name, ok := strings.CutPrefix(x.Key, "ce_"); ok {
			h.Set("Ce-"+name, string(x.Value))
		} else if x.Key == schemas.HeaderContentType {
			h.Set("Content-Type", string(x.Value))
		}
	}
	e, err := binding.ToEvent(t.Context(), cehttp.NewMessage(h, io.NopCloser(bytes.NewReader(r.Value))))
	if err != nil {
		t.Fatalf("the SDK cannot read %v: %v", h, err)
	}
	if err := e.Validate(); err != nil {
		t.Fatalf("the SDK finds %v invalid: %v", h, err)
	}
	e.DataBase64 = !utf8.Valid(e.Data()) // the SDK's structured mode would write such bytes as text
	return *e
}

// isDescribed checks that a client that reads the description finds events in it.
func isDescribed(t *testing.T, url string) {
	t.Helper()
	res, err := http.Get(url + "/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var d description
	if err := json.NewDecoder(res.Body).Decode(&d); err != nil {
		t.Fatal(err)
	}
	content := d.Paths["/v1/tasks"]["post"].RequestBody.Content
	one, many := content["application/cloudevents+json"].Schema, content["application/cloudevents-batch+json"].Schema
	if one == nil || many == nil || many.Items == nil || !slices.Equal(d.resolve(one).Required, d.resolve(many.Items).Required) ||
		!slices.Contains(d.resolve(one).Required, "specversion") {
		t.Errorf("POST /v1/tasks is described with %v", slices.Collect(maps.Keys(content)))
	}
}

func TestCloudEventsComeThroughToKafkaAndBack(t *testing.T) {
	cfg := realConfig(t)
	url := runUp(t, cfg, io.Discard)
	isDescribed(t, url)
	p := poster{t, url + "/v1/tasks"}
	structured, binary := binding.WithForceStructured(t.Context()), binding.WithForceBinary(t.Context())

	data := json.RawMessage(`{"n":1,"s":"é"}`)
	jsonID, _ := p.one(binary, sdkEvent(t, "json", "application/json", data))
	if again, replayed := p.one(structured, sdkEvent(t, "json", "application/json", data)); again != jsonID || !replayed {
		t.Errorf("the same event in structured mode is task %s, replayed %v; the first is %s", again, replayed, jsonID)
	}
	textID, _ := p.one(structured, sdkEvent(t, "text", "text/plain", "grüße"))
	many := p.batch(sdkEvent(t, "bytes", "image/png", []byte("\x00\xff")), sdkEvent(t, "json", "application/json", data), sdkEvent(t, "lines", "text/plain", "a\n\"b\""))
	if len(many) != 3 || many[1] != jsonID {
		t.Fatalf("the batch is %v; the event in its middle was task %s before", many, jsonID)
	}
	payloads := map[string]string{jsonID: string(data), textID: "grüße", many[0]: "\x00\xff", many[2]: "a\n\"b\""}
	types := map[string]string{jsonID: "application/json", textID: "text/plain", many[0]: "image/png", many[2]: "text/plain"}
	ids := slices.Sorted(maps.Keys(payloads))
	topic := cfg.KafkaTopicPrefix + "tasks.hello"

	second := map[string]string{} // by the first's id
	first := map[string]content{}
	for id, r := range records(t, cfg.KafkaBrokers, topic, ids) {
		task, err := schemas.DecodeRecord(r.Key, r.Value, r.Headers)
		if err != nil {
			t.Fatal(err)
		}
		want := content{Kind: "hello.world", Key: "konto/8", Payload: payloads[id], ContentType: types[id],
			TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
			Deadline:    time.Date(2999, 1, 2, 3, 4, 5, 0, time.UTC), Extensions: "ce_retries=-3 ce_subject=Köln/8 ce_tenant=blue ce_urgent=true"}
		if first[id] = contentOf(&task); first[id] != want {
			t.Errorf("task %s:\n%+v, want\n%+v", id, first[id], want)
		}
		h := task.Headers
		if h["event_source"] != "https://example.com/shop?a=1" || h["event_id"] == "" || h["event_time"] != "2026-01-02T10:04:05Z" || h["event_dataschema"] != "https://example.com/s.json" {
			t.Errorf("task %s: what it keeps of the sender: %v", id, h)
		}
		// Back: what the SDK reads from Kafka, posted in both modes, is one new task.
		e := read(t, r)
		if e.ID() != id || e.Type() != "hello.world" || e.Subject() != "Köln/8" || !bytes.Equal(e.Data(), []byte(payloads[id])) {
			t.Errorf("the SDK reads %v", e)
		}
		back, replayed := p.one(binary, e)
		if again, twice := p.one(structured, e); again != back || !twice || replayed || back == id {
			t.Errorf("task %s posted back is task %s, replayed %v; then %s, replayed %v", id, back, replayed, again, twice)
		}
		second[id] = back
	}
	again := records(t, cfg.KafkaBrokers, topic, slices.Collect(maps.Values(second)))
	for id, back := range second {
		r := again[back]
		task, err := schemas.DecodeRecord(r.Key, r.Value, r.Headers)
		if err != nil {
			t.Fatal(err)
		}
		if got := contentOf(&task); got != first[id] {
			t.Errorf("task %s posted back:\n%+v, it was\n%+v", id, got, first[id])
		}
	}
}
