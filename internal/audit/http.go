package audit

// /v1/audit.

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/perdure/perdure/internal/api"
)

type auditInput struct {
	Who    string `query:"who"`
	What   string `query:"what" doc:"such as replay.start"`
	Replay string `query:"replay"`
	Before int64  `query:"before" minimum:"0" doc:"places below this: next of the page before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
}

type auditOutput struct {
	Body struct {
		Rows []Row `json:"rows"`
		Next int64 `json:"next,omitempty" doc:"before of the next page; absent on the last"`
	}
}

type auditVerdictOutput struct{ Body Verdict }

// Routes registers /v1/audit and what is below it.
func (l *Log) Routes(a *api.API) {
	op := func(id, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: http.MethodGet, Path: path, Summary: summary, Tags: []string{"audit"}, RejectUnknownQueryParameters: true}
	}
	api.Register(a, api.ReadMeta, op("list-audit", "/v1/audit", "Who did what, the latest first"), l.httpList)
	api.Register(a, api.ReadMeta, op("verify-audit", "/v1/audit/verify", "Read the whole chain, and recompute every hash"), l.httpVerify)
	export := op("export-audit", "/v1/audit/export", "The whole chain, in its order, as NDJSON")
	export.Responses = map[string]*huma.Response{"200": {Description: "one row a line", Content: map[string]*huma.MediaType{"application/x-ndjson": {}}}}
	api.Register(a, api.ReadMeta, export, l.httpExport)
}

func (l *Log) httpList(ctx context.Context, in *auditInput) (*auditOutput, error) {
	list, err := l.List(ctx, Filter{Who: in.Who, What: in.What, Replay: in.Replay, Before: in.Before}, in.Limit)
	if err != nil {
		return nil, err
	}
	out := &auditOutput{}
	out.Body.Rows = list
	if n := len(list); n == in.Limit {
		out.Body.Next = list[n-1].Place
	}
	return out, nil
}

func (l *Log) httpVerify(ctx context.Context, _ *struct{}) (*auditVerdictOutput, error) {
	v, err := l.Verify(ctx)
	return &auditVerdictOutput{Body: v}, err
}

func (l *Log) httpExport(context.Context, *struct{}) (*huma.StreamResponse, error) {
	return &huma.StreamResponse{Body: func(c huma.Context) {
		c.SetHeader("Content-Type", "application/x-ndjson")
		c.SetStatus(http.StatusOK)
		enc := json.NewEncoder(c.BodyWriter())
		if err := l.Each(c.Context(), func(x *Row) error { return enc.Encode(x) }); err != nil {
			// The answer has begun: a last line that is no row says that it is not whole.
			_ = enc.Encode(map[string]string{"error": "the export ended early; ask again"})
		}
	}}, nil
}
