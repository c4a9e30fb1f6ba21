package dlq

// POST /v1/failure-groups/{fp}/merge and …/unmerge.

import (
	"context"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/perdure/perdure/internal/api"
)

type mergeInput struct {
	FP   string `path:"fp" doc:"fingerprint of the group whose letters become the other's"`
	Body struct {
		Into string `json:"into" minLength:"1" maxLength:"200" doc:"fingerprint of the group that they become"`
		Why  string `json:"why,omitempty" maxLength:"2000" doc:"for the audit"`
	}
}

type unmergeInput struct {
	FP   string `path:"fp" doc:"fingerprint of the group that was merged into another"`
	Body struct {
		Why string `json:"why,omitempty" maxLength:"2000" doc:"for the audit"`
	}
}

// Merged is the answer to a merge, or to taking one back.
type Merged struct {
	Group string `json:"group" doc:"whose letters the group's are now"`
	Moved int64  `json:"moved" doc:"letters that were there already; those to come follow"`
}

type mergeOutput struct{ Body Merged }

func (s *Letters) joinRoutes(a *api.API) {
	op := func(name, summary string) huma.Operation {
		return huma.Operation{OperationID: name + "-failure-group", Method: http.MethodPost, Path: "/v1/failure-groups/{fp}/" + name, Summary: summary,
			DefaultStatus: http.StatusOK, Tags: []string{"dead letters"}}
	}
	api.Register(a, api.Replay, op("merge", "Say that two failure groups are one cause: also letters to come"), s.httpMerge)
	api.Register(a, api.Replay, op("unmerge", "Take a merge back: the letters of the group's own cause are its own again"), s.httpUnmerge)
}

func (s *Letters) httpMerge(ctx context.Context, in *mergeInput) (*mergeOutput, error) {
	moved, err := s.Merge(ctx, in.FP, in.Body.Into, api.Who(ctx), in.Body.Why)
	return s.merged(ctx, in.FP, moved, err)
}

func (s *Letters) httpUnmerge(ctx context.Context, in *unmergeInput) (*mergeOutput, error) {
	moved, err := s.Unmerge(ctx, in.FP, api.Who(ctx), in.Body.Why)
	return s.merged(ctx, in.FP, moved, err)
}

func (s *Letters) merged(ctx context.Context, group string, moved int64, err error) (*mergeOutput, error) {
	switch {
	case errors.Is(err, ErrNoGroup):
		return nil, noGroup()
	case errors.Is(err, ErrRing), errors.Is(err, ErrMerged):
		return nil, api.NewProblem(http.StatusConflict, "group-merged", err.Error()).WithNext("perdure dlq unmerge FP")
	case errors.Is(err, ErrNotMerged):
		return nil, api.NewProblem(http.StatusConflict, "group-not-merged", err.Error()).WithNext("perdure audit ls --what group.merge")
	case err != nil:
		return nil, err
	}
	now, err := s.groups(ctx, &Filter{Group: group})
	if err != nil {
		return nil, err
	}
	return &mergeOutput{Body: Merged{Group: now[0], Moved: moved}}, nil
}
