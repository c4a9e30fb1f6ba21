package dlq

// GET /v1/dead-letters/export: letters with all that they hold, as NDJSON.

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"github.com/perdure/perdure/internal/api"
)

// exportPage is how many letters are read at a time. Each may hold more than a
// megabyte; a reader that is slow must hold no snapshot of the database.
const exportPage = 32

// Each hands every letter that f chooses (IDs are not looked at) to each, latest
// deaths first, with its attempts, payload and headers. Letters that die meanwhile are
// not among them, nor is one that was pruned or that f does not choose any more when it
// is read; one that comes to be chosen meanwhile may be left out. Each is as it was at
// one moment, not all at the same.
func (s *Letters) Each(ctx context.Context, f Filter, each func(*Entry) error) error {
	return s.eachPage(ctx, f, func(page []Entry) error {
		for i := range page {
			if err := each(&page[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Letters) eachPage(ctx context.Context, f Filter, each func(page []Entry) error) error {
	groups, err := s.groups(ctx, &f) // not pageGroups: people may merge groups meanwhile
	if err != nil {
		return err
	}
	f.IDs = nil
	before, beforeID := f.until(nil, "")
	x := s.finder(&f, groups, before, beforeID)
	for {
		list, err := x.next(ctx)
		if err != nil || len(list) == 0 {
			return err
		}
		for part := range slices.Chunk(list, exportPage) {
			page, err := s.readFound(ctx, &f, groups, part)
			if err != nil {
				return err
			}
			if err := each(page); err != nil {
				return err
			}
		}
	}
}

type exportInput struct {
	ListQuery
	Key   string `query:"key"`
	Where string `query:"where" maxLength:"4000" doc:"a jq condition, as of the list; every letter that the rest chooses is looked at"`
}

func (s *Letters) exportRoute(a *api.API) {
	schema := a.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[LetterView](), true, "LetterView")
	api.Register(a, api.ReadPayload, huma.Operation{
		OperationID: "export-dead-letters", Method: http.MethodGet, Path: "/v1/dead-letters/export", Tags: []string{"dead letters"},
		Summary: "Dead letters with attempts, payloads and headers, as NDJSON, latest deaths first", RejectUnknownQueryParameters: true,
		Responses: map[string]*huma.Response{"200": {Description: "one letter a line; a last line with error means that the rest is missing",
			Content: map[string]*huma.MediaType{"application/x-ndjson": {Schema: schema}}}},
	}, s.httpExport)
}

func (s *Letters) httpExport(_ context.Context, in *exportInput) (*huma.StreamResponse, error) {
	f := in.filter()
	f.Key = in.Key
	each := s.Each
	if in.Where != "" {
		if err := s.ready(in.Where); err != nil {
			return nil, wrongWhere(err)
		}
		each = func(ctx context.Context, f Filter, each func(*Entry) error) error {
			return s.EachWhere(ctx, f, in.Where, each)
		}
	}
	return &huma.StreamResponse{Body: func(c huma.Context) {
		c.SetHeader("Content-Type", "application/x-ndjson")
		enc := json.NewEncoder(c.BodyWriter())
		err := each(c.Context(), f, func(e *Entry) error { return enc.Encode(view(e, true)) })
		if err != nil && c.Context().Err() == nil {
			said := "the index could not be read to its end"
			if stopped := (*StoppedError)(nil); errors.As(err, &stopped) {
				said = stopped.Error()
			}
			_ = enc.Encode(map[string]string{"error": said})
		}
	}}, nil
}
