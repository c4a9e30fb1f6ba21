package dlq

// PATCH /v1/failure-groups/{fp}, POST /v1/dead-letters/{discard|hold|release}.

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/perdure/perdure/internal/api"
)

type careInput struct {
	FP   string `path:"fp" doc:"fingerprint"`
	Body CareChange
}

// DecideBody is the body of a decision of letters. It is exported because huma
// leaves the fields of an unexported embedded type unread.
type DecideBody struct {
	Selector LetterSelector `json:"selector"`
	Why      string         `json:"why" minLength:"1" maxLength:"2000" doc:"for the audit"`
	Limit    int            `json:"limit,omitempty" minimum:"0" maximum:"10000" doc:"at most this many; default 10000"`
	DryRun   bool           `json:"dry_run,omitempty" doc:"only count"`
}

// Decided is the answer to a decision.
type Decided struct {
	Letters int  `json:"letters" doc:"so many were decided of, or would be"`
	More    bool `json:"more,omitempty" doc:"others may match: ask again"`
	DryRun  bool `json:"dry_run,omitempty"`
}

type decideInput struct{ Body DecideBody }

type decideOutput struct{ Body Decided }

const decideMost = 10_000

func (s *Letters) decideRoutes(a *api.API) {
	op := func(id, method, path, summary, description string) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, Description: description,
			DefaultStatus: http.StatusOK, Tags: []string{"dead letters"}}
	}
	api.Register(a, api.Replay, op("change-failure-group", http.MethodPatch, "/v1/failure-groups/{fp}", "Say who is on a cause of death, that it may be quiet, or that it is mended", ""), s.httpChange)
	for _, d := range []struct {
		Decision
		summary, description string
	}{
		{Discard, "Drop open or held letters for good: nobody wants their tasks to run", "They stay in the index until its retention is over, and can't be taken back."},
		{Hold, "Set open letters aside for a person: no policy and no replay of a group takes them", "A replay that names a held letter by its id takes it."},
		{Release, "Let held letters be open again", ""},
	} {
		api.Register(a, api.Replay, op(d.name+"-dead-letters", http.MethodPost, "/v1/dead-letters/"+d.name, d.summary, d.description),
			func(ctx context.Context, in *decideInput) (*decideOutput, error) {
				return s.httpDecide(ctx, d.Decision, &in.Body)
			})
	}
}

func (s *Letters) httpChange(ctx context.Context, in *careInput) (*groupOutput, error) {
	if wrong := in.Body.wrong(time.Now()); wrong != nil {
		return nil, api.NewProblem(http.StatusUnprocessableEntity, "invalid-request", "nothing is changed", wrong...)
	}
	switch err := s.Change(ctx, in.FP, api.Who(ctx), &in.Body); {
	case errors.Is(err, ErrNoGroup):
		return nil, noGroup()
	case err != nil:
		return nil, err
	}
	return s.httpGroup(ctx, &groupInput{FP: in.FP})
}

func (s *Letters) httpDecide(ctx context.Context, d Decision, b *DecideBody) (*decideOutput, error) {
	if b.Selector.empty() {
		return nil, api.NewProblem(http.StatusUnprocessableEntity, "invalid-request", "nothing is decided",
			api.FieldError{Pointer: "#/selector", Detail: "give ids, group, kind, queue, reason, key, since or until; or all: true"}).WithNext("perdure dlq groups")
	}
	limit := b.Limit
	if limit == 0 {
		limit = decideMost
	}
	out := &decideOutput{Body: Decided{DryRun: b.DryRun}}
	var err error
	if b.DryRun {
		out.Body.Letters, err = s.Matching(ctx, d, &b.Selector, limit)
	} else {
		out.Body.Letters, err = s.Decide(ctx, d, &b.Selector, api.Who(ctx), b.Why, limit)
	}
	out.Body.More = out.Body.Letters == limit
	return out, err
}
