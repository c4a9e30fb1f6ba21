package replayer

// /v1/replays.

import (
	"context"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/perdure/perdure/internal/api"
)

type planInput struct {
	Body struct {
		Selector Selector `json:"selector"`
		DryRun   bool     `json:"dry_run,omitempty" doc:"look at every letter and say what would happen; change nothing"`
		Start    bool     `json:"start,omitempty" doc:"begin at once"`
		Why      string   `json:"why,omitempty" maxLength:"2000" doc:"for the audit"`
	}
}

type replayInput struct {
	ID string `path:"id"`
}

type replayOutput struct{ Body *Replay }

type listInput struct {
	Limit int `query:"limit" minimum:"1" maximum:"1000" default:"50"`
}

type listOutput struct {
	Body struct {
		Replays []Replay `json:"replays"`
	}
}

// Routes registers /v1/replays and what is below it.
func (j *Jobs) Routes(a *api.API) {
	op := func(id, method, path, summary string, status int) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, DefaultStatus: status, Tags: []string{"replays"}}
	}
	api.Register(a, api.Replay, op("plan-replay", http.MethodPost, "/v1/replays", "Freeze the letters of a selector; optionally begin", http.StatusAccepted), j.httpPlan)
	api.Register(a, api.ReadMeta, op("list-replays", http.MethodGet, "/v1/replays", "List replays, the latest first", http.StatusOK), j.httpList)
	api.Register(a, api.ReadMeta, op("get-replay", http.MethodGet, "/v1/replays/{id}", "How far a replay is, what it refused, what became of the rest", http.StatusOK), j.httpGet)
	api.Register(a, api.Replay, op("start-replay", http.MethodPost, "/v1/replays/{id}/start", "Let a planned replay run", http.StatusOK), j.httpStart)
	api.Register(a, api.Replay, op("cancel-replay", http.MethodPost, "/v1/replays/{id}/cancel", "End a replay; what it moved stays moved", http.StatusOK), j.httpCancel)
}

func (j *Jobs) httpPlan(ctx context.Context, in *planInput) (*replayOutput, error) {
	id, err := j.Plan(ctx, Plan{Selector: in.Body.Selector, DryRun: in.Body.DryRun, Start: in.Body.Start, Who: api.Who(ctx), Why: in.Body.Why})
	if err != nil {
		return nil, problem(err)
	}
	return j.httpGet(ctx, &replayInput{ID: id})
}

func (j *Jobs) httpList(ctx context.Context, in *listInput) (*listOutput, error) {
	list, err := j.List(ctx, in.Limit)
	if err != nil {
		return nil, err
	}
	out := &listOutput{}
	out.Body.Replays = list
	return out, nil
}

func (j *Jobs) httpGet(ctx context.Context, in *replayInput) (*replayOutput, error) {
	r, err := j.Get(ctx, in.ID)
	if err != nil {
		return nil, problem(err)
	}
	return &replayOutput{Body: r}, nil
}

func (j *Jobs) httpStart(ctx context.Context, in *replayInput) (*replayOutput, error) {
	if err := j.Start(ctx, in.ID, api.Who(ctx)); err != nil {
		return nil, problem(err)
	}
	return j.httpGet(ctx, in)
}

func (j *Jobs) httpCancel(ctx context.Context, in *replayInput) (*replayOutput, error) {
	if err := j.Cancel(ctx, in.ID, api.Who(ctx)); err != nil {
		return nil, problem(err)
	}
	return j.httpGet(ctx, in)
}

func problem(err error) error {
	switch {
	case errors.Is(err, ErrNoReplay):
		return api.NewProblem(http.StatusNotFound, "no-such-replay", "no replay has this id").WithNext("GET /v1/replays")
	case errors.Is(err, ErrNoSelection):
		return api.NewProblem(http.StatusUnprocessableEntity, "no-selection", "the selector chooses nothing in particular",
			api.FieldError{Pointer: "#/selector", Detail: "give ids, group, kind, queue, reason, key, since or until; or all: true"}).
			WithNext("perdure dlq groups")
	case errors.Is(err, ErrState):
		return api.NewProblem(http.StatusConflict, "replay-state", err.Error()).WithNext("plan a new replay: POST /v1/replays")
	}
	return err
}
