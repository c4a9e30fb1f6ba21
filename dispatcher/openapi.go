package dispatcher

// The description of POST /v1/tasks: huma cannot see what the handler reads and
// writes by itself.

import (
	"net/http"
	"reflect"

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
		Summary: "Accept one task, an array of tasks, or a stream of them",
		Description: "One task or an array (all or nothing) is answered with 202 once it is committed. " +
			"NDJSON is answered line by line while it is read: each result names its line, bad lines get a problem, the rest goes on; " +
			"if Postgres goes away on the way, the answer ends early. The header Idempotency-Key gives element or line n the key <key>/<n>, n from 1.",
		Parameters: []*huma.Param{{
			Name: "Idempotency-Key", In: "header", Description: "quoted or bare; kept 168 h",
			Schema: &huma.Schema{Type: huma.TypeString},
		}},
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

// describeBody is for after the registration: huma reads the whole body of an
// operation that is registered with one.
func describeBody(doc *huma.OpenAPI) {
	task := doc.Components.Schemas.Schema(reflect.TypeFor[TaskInput](), true, "TaskInput")
	doc.Paths["/v1/tasks"].Post.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		"application/json": {Schema: either(task)},
		ndjson:             {Schema: task},
	}}
}

func either(one *huma.Schema) *huma.Schema {
	return &huma.Schema{OneOf: []*huma.Schema{one, {Type: huma.TypeArray, Items: one}}}
}
