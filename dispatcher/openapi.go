package dispatcher

// The description of POST /v1/tasks: huma cannot see what the handler reads and
// writes by itself.

import (
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/perdure/perdure/internal/api"
)

func postOperation(schemas huma.Registry) huma.Operation {
	accepted := schemas.Schema(reflect.TypeFor[Accepted](), true, "Accepted")
	problem := map[string]*huma.MediaType{"application/problem+json": {Schema: schemas.Schema(reflect.TypeFor[api.Problem](), true, "Problem")}}
	later := map[string]*huma.Param{"Retry-After": {Description: "seconds until the same request may be accepted", Schema: &huma.Schema{Type: huma.TypeInteger}}}
	line := schemas.Schema(reflect.TypeFor[LineResult](), true, "LineResult")
	return huma.Operation{
		OperationID: "enqueue", Method: http.MethodPost, Path: "/v1/tasks",
		Summary: "Accept one task, an array of tasks, a stream of them, or CloudEvents",
		Description: "One task or an array (all or nothing) is answered with 202 once it is committed. " +
			"NDJSON is answered line by line while it is read: each result names its line, bad lines get a problem, the rest goes on; " +
			"if Postgres goes away on the way, the answer ends early. The header Idempotency-Key gives element or line n the key <key>/<n>, n from 1. " +
			"A CloudEvent 1.0 (one, a batch, or in binary mode: any Content-Type, with its attributes in ce- headers, percent-encoded) becomes a task of the kind " +
			"that its type names; the same source and id are one task, so that it takes no Idempotency-Key.",
		Parameters:    postHeaders(),
		DefaultStatus: http.StatusAccepted,
		Responses: map[string]*huma.Response{
			"202": {
				Description: "accepted",
				Headers:     map[string]*huma.Param{"Idempotency-Replayed": {Description: "true: the key was known, this is the first answer", Schema: &huma.Schema{Type: huma.TypeString}}},
				Content:     map[string]*huma.MediaType{"application/json": {Schema: either(accepted)}},
			},
			"200": {Description: "one result a line", Content: map[string]*huma.MediaType{ndjson: {Schema: line}}},
			"429": {
				Description: "over a limit of the token: rate-limited, quota-exceeded or too-many-streams; nothing was accepted. " +
					"Lines of NDJSON over the rate wait instead; over the quota each gets that problem.",
				Headers: later, Content: problem,
			},
			"503": {
				Description: "not now: backlog (too many tasks wait for the relay), overloaded, unavailable, stopping or busy",
				Headers:     later, Content: problem,
			},
		},
	}
}

func postHeaders() []*huma.Param {
	header := func(name, description string) *huma.Param {
		return &huma.Param{Name: name, In: "header", Description: description, Schema: &huma.Schema{Type: huma.TypeString}}
	}
	const event = "of an event in binary mode: "
	return []*huma.Param{
		header("Idempotency-Key", "quoted or bare; kept 168 h"),
		header("ce-specversion", event+"1.0"),
		header("ce-id", event+"with its source the idempotency key"),
		header("ce-source", event+"a URI-reference"),
		header("ce-type", event+"the kind"),
		header("ce-partitionkey", event+"the key"),
		header("ce-expirytime", event+"the deadline"),
	}
}

// EventInput is a CloudEvent in the JSON format, for the API's description;
// decodeEvent reads it.
type EventInput struct {
	_               struct{}   `additionalProperties:"true"`
	SpecVersion     string     `json:"specversion" enum:"1.0"`
	ID              string     `json:"id" doc:"the same source and id are one task, for 168 h"`
	Source          string     `json:"source" doc:"a URI-reference"`
	Type            string     `json:"type" doc:"the kind"`
	DataContentType string     `json:"datacontenttype,omitempty" doc:"default application/json"`
	Data            any        `json:"data,omitempty" doc:"the payload: JSON, or a string where datacontenttype is not JSON"`
	DataBase64      string     `json:"data_base64,omitempty" doc:"instead of data: any bytes"`
	PartitionKey    string     `json:"partitionkey,omitempty" doc:"the key: orders and partitions"`
	ExpiryTime      *time.Time `json:"expirytime,omitempty" doc:"the deadline"`
	Time            *time.Time `json:"time,omitempty" doc:"kept as the header event_time"`
	DataSchema      string     `json:"dataschema,omitempty" doc:"kept as the header event_dataschema"`
	TraceParent     string     `json:"traceparent,omitempty" doc:"instead of the header Traceparent of the request"`
	Subject         string     `json:"subject,omitempty" doc:"kept as ce_subject, as every other attribute under its name"`
}

// describeBody is for after the registration: huma reads the whole body of an
// operation that is registered with one.
func describeBody(doc *huma.OpenAPI) {
	task := doc.Components.Schemas.Schema(reflect.TypeFor[TaskInput](), true, "TaskInput")
	event := doc.Components.Schemas.Schema(reflect.TypeFor[EventInput](), true, "EventInput")
	doc.Paths["/v1/tasks"].Post.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		jsonTask:   {Schema: either(task)},
		ndjson:     {Schema: task},
		oneEvent:   {Schema: event},
		eventBatch: {Schema: &huma.Schema{Type: huma.TypeArray, Items: event}},
	}}
}

func either(one *huma.Schema) *huma.Schema {
	return &huma.Schema{OneOf: []*huma.Schema{one, {Type: huma.TypeArray, Items: one}}}
}
