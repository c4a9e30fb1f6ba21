package dispatcher

// POST /v1/tasks, and what each content type means.

import (
	"context"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/internal/api"
)

const (
	maxArray      = 10_000           // elements
	maxArrayBytes = 32 << 20         // of the whole post
	bodyTimeout   = 30 * time.Second // to send it
)

// TaskInput is a task as JSON, for the API's description; decodeTask reads it.
type TaskInput struct {
	Kind           string            `json:"kind" doc:"as in the catalog"`
	Payload        any               `json:"payload,omitempty" doc:"any JSON that the kind's schema allows"`
	PayloadBase64  string            `json:"payload_base64,omitempty" doc:"instead of payload: any bytes"`
	ContentType    string            `json:"content_type,omitempty" doc:"of payload_base64"`
	Queue          string            `json:"queue,omitempty" doc:"the kind's, which is the default; any other is refused"`
	Key            string            `json:"key,omitempty" doc:"orders and partitions"`
	IdempotencyKey string            `json:"idempotency_key,omitempty" doc:"the same request twice is one task, for 168 h"`
	UniqueKey      string            `json:"unique_key,omitempty" doc:"one task a key, for as long as the kind's unique says"`
	RunAt          *time.Time        `json:"run_at,omitempty" doc:"not before"`
	Deadline       *time.Time        `json:"deadline,omitempty" doc:"default: the kind's expires_after"`
	Headers        map[string]string `json:"headers,omitempty"`
}

// Accepted answers an accepted task.
type Accepted struct {
	ID        string `json:"id"`
	Seq       int64  `json:"seq"`
	State     string `json:"state" enum:"queued,scheduled"`
	Replayed  bool   `json:"replayed,omitempty" doc:"in the answer to an array only; for one task see the header Idempotency-Replayed"`
	Duplicate bool   `json:"duplicate,omitempty" doc:"the unique key is held: this is the task that holds it"`
}

// request gives the handler the raw request: huma would read the whole body.
type request struct{ ctx huma.Context }

// Resolve implements huma.Resolver.
func (r *request) Resolve(ctx huma.Context) []error {
	r.ctx = ctx
	return nil
}

type rawAnswer struct{ Body func(huma.Context) }

// Routes declares POST /v1/tasks and /v1/queues.
func (d *Dispatcher) Routes(a *api.API) {
	api.Register(a, api.Enqueue, postOperation(a.OpenAPI().Components.Schemas), d.post)
	describeBody(a.OpenAPI())
	d.queueRoutes(a)
}

func (d *Dispatcher) post(ctx context.Context, in *request) (*rawAnswer, error) {
	r, w := humago.Unwrap(in.ctx)
	r = r.WithContext(ctx) // with the principal
	c := d.client.Load()
	if c == nil {
		return nil, problemOf(errStopping)
	}
	media, p := mediaType(r.Header)
	if p != nil {
		return nil, p
	}
	key, p := idempotencyKey(r.Header.Get("Idempotency-Key"))
	if p != nil {
		return nil, p
	}
	f := formOf(media, r.Header)
	if f.event && key != "" {
		return nil, d.refused(api.NewProblem(http.StatusBadRequest, "invalid-header", "a CloudEvent needs no Idempotency-Key: source and id make it one task",
			api.FieldError{Pointer: "#/header/Idempotency-Key", Detail: "cannot stand beside an event's own source and id"}).WithNext("leave the header out"))
	}
	trace := r.Header.Get("Traceparent")
	if media == ndjson {
		s := &stream{d: d, client: c, who: d.gate.Producer(ctx), producer: api.Who(ctx), key: key, trace: trace}
		return &rawAnswer{Body: func(huma.Context) {
			if err := d.serveLines(w, r, s); err != nil {
				api.WriteProblem(w, d.problem(ctx, err))
			}
		}}, nil
	}
	body, done, p := d.bodies.read(w, r)
	if p != nil {
		return nil, d.refused(p)
	}
	defer done()
	if p := d.gate.Closed(); p != nil { // only now: who still sends would not hear it
		return nil, d.refused(p)
	}
	var answer func(huma.Context)
	if media == eventBatch || media == jsonTask && isArray(body) {
		answer, p = d.postArray(ctx, c, f, body, key, trace)
	} else {
		answer, p = d.postOne(ctx, c, f, body, key, trace)
	}
	if p != nil {
		return nil, p
	}
	return &rawAnswer{Body: answer}, nil
}

const (
	jsonTask = "application/json"
	ndjson   = "application/x-ndjson"
)

// form is what a post is written in.
type form struct {
	event  bool
	decode func([]byte) (client.Task, *api.Problem)
	place  func(pointer string) string // where a field of a task stands; nil: there
}

func formOf(media string, h http.Header) form {
	switch media {
	case oneEvent, eventBatch, binaryEvent:
		return eventForm(media, h)
	}
	return form{decode: decodeTask}
}

// placed moves the pointers of a problem with a task to where its fields stand.
func (f form) placed(p *api.Problem) *api.Problem {
	for i := range p.Errors {
		if f.place != nil {
			p.Errors[i].Pointer = f.place(p.Errors[i].Pointer)
		}
	}
	return p
}

func mediaType(h http.Header) (string, *api.Problem) {
	refuse := func(detail string) (string, *api.Problem) {
		return "", api.NewProblem(http.StatusUnsupportedMediaType, "unsupported-media-type", detail).
			WithNext(`curl -H 'Content-Type: application/json' -d '{"kind":…,"payload":…}'; for many lines application/x-ndjson`)
	}
	if e := h.Get("Content-Encoding"); e != "" && e != "identity" {
		return refuse("a compressed body is not accepted")
	}
	media, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	structured := strings.HasPrefix(media, "application/cloudevents")
	if !structured && isBinaryEvent(h) {
		return binaryEvent, nil
	}
	if err != nil {
		return refuse("Content-Type is missing or not a media type")
	}
	if cs := params["charset"]; cs != "" && !strings.EqualFold(cs, "utf-8") {
		return refuse("the charset must be UTF-8")
	}
	switch media {
	case jsonTask, oneEvent, eventBatch:
		return media, nil
	case ndjson, "application/ndjson", "application/jsonl":
		return ndjson, nil
	}
	if structured {
		return refuse("of the formats of CloudEvents only JSON is accepted: " + oneEvent + " or " + eventBatch)
	}
	return refuse("Content-Type must be " + jsonTask + ", " + ndjson + ", " + oneEvent + " or " + eventBatch + "; any, with a CloudEvent's ce- headers")
}

func tooLarge() *api.Problem {
	return api.NewProblem(http.StatusRequestEntityTooLarge, "too-large", fmt.Sprintf("the post is larger than %d bytes", maxArrayBytes)).
		WithNext("send one task a line as application/x-ndjson: that has no limit")
}

// withTrace keeps the request's trace context with the task.
func withTrace(t *client.Task, trace string) {
	if trace == "" || len(trace) > 128 || t.Headers["traceparent"] != "" {
		return
	}
	if t.Headers == nil {
		t.Headers = map[string]string{}
	}
	t.Headers["traceparent"] = trace
}

func (d *Dispatcher) postOne(ctx context.Context, c *client.Client, f form, body []byte, key, trace string) (func(huma.Context), *api.Problem) {
	if len(body) > maxTaskJSON {
		return nil, api.NewProblem(http.StatusRequestEntityTooLarge, "too-large", fmt.Sprintf("a task is at most %d bytes of JSON", maxTaskJSON))
	}
	who := d.gate.Producer(ctx)
	if p := who.Take(1); p != nil {
		return nil, d.refused(p)
	}
	t, p := f.decode(body)
	if p == nil && key != "" {
		if t.IdempotencyKey != "" && t.IdempotencyKey != key {
			p = invalid(api.FieldError{Pointer: "#/idempotency_key", Detail: "is another one than the header Idempotency-Key"})
		}
		t.IdempotencyKey = key
	}
	if p != nil {
		return nil, d.refused(p)
	}
	taken, p := who.Reserve(ctx, 1)
	if p != nil {
		return nil, d.refused(p)
	}
	t.Producer = api.Who(ctx)
	withTrace(&t, trace)
	ref, err := d.intake.accept(ctx, c, t)
	if !spent(ref, err) {
		taken.Return(1)
	}
	if err != nil {
		p = f.placed(d.problem(ctx, err))
	}
	d.intake.metrics.count(t.Kind, ref, p)
	if p != nil {
		return nil, p
	}
	return func(h huma.Context) {
		if ref.Replayed {
			h.SetHeader("Idempotency-Replayed", "true")
		}
		writeJSON(h, http.StatusAccepted, Accepted{ID: ref.ID, Seq: ref.Seq, State: string(ref.State), Duplicate: ref.Duplicate})
	}, nil
}

// refused counts p and returns it.
func (d *Dispatcher) refused(p *api.Problem) *api.Problem {
	d.intake.metrics.count("", client.Ref{}, p)
	return p
}

func writeJSON(h huma.Context, status int, v any) {
	h.SetHeader("Content-Type", "application/json")
	h.SetStatus(status)
	_ = json.NewEncoder(h.BodyWriter()).Encode(v) // the client is gone: nobody to tell
}
