package replayer

// /v1/replays.

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/perdure/perdure/internal/api"
)

// PlanBody is the body of POST /v1/replays. It is exported because huma leaves
// the fields of an unexported embedded type unread.
type PlanBody struct {
	Spec
	DryRun bool   `json:"dry_run,omitempty" doc:"look at every letter and say what would happen; change nothing"`
	Start  bool   `json:"start,omitempty" doc:"begin at once, without looking at every letter first; a plan that needs an approval does not"`
	Why    string `json:"why,omitempty" maxLength:"2000" doc:"for the audit"`
}

type planInput struct{ Body PlanBody }

type replayInput struct {
	ID string `path:"id"`
}

type whyInput struct {
	ID   string `path:"id"`
	Body *struct {
		Why string `json:"why,omitempty" maxLength:"2000" doc:"for the audit"`
	}
}

func (in *whyInput) why() string {
	if in.Body == nil {
		return ""
	}
	return in.Body.Why
}

type startInput struct {
	ID   string `path:"id"`
	Body *struct {
		Hash string `json:"hash,omitempty" doc:"start only the plan that has this hash"`
		Why  string `json:"why,omitempty" maxLength:"2000" doc:"for the audit"`
	}
}

type rateInput struct {
	ID   string `path:"id"`
	Body struct {
		Rate float64 `json:"rate" minimum:"0" maximum:"1000000" doc:"letters a second; 0 = as fast as it can"`
		Why  string  `json:"why,omitempty" maxLength:"2000" doc:"for the audit"`
	}
}

type replayOutput struct{ Body *Replay }

type listInput struct {
	Limit int `query:"limit" minimum:"1" maximum:"1000" default:"50"`
}

type replayLettersInput struct {
	ID     string `path:"id"`
	Which  string `query:"which" enum:"left,refused,died_again" doc:"absent = all"`
	Cursor int64  `query:"cursor" minimum:"0" doc:"next of the page before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
}

type replayLettersOutput struct {
	Body struct {
		Letters []ReplayLetter `json:"letters"`
		Next    string         `json:"next,omitempty" doc:"cursor of the next page; absent on the last"`
	}
}

type listOutput struct {
	Body struct {
		Replays []Replay `json:"replays"`
	}
}

// Routes registers /v1/replays and what is below it.
func (j *Jobs) Routes(a *api.API) {
	op := func(id, method, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, DefaultStatus: http.StatusOK, Tags: []string{"replays"}}
	}
	plan := op("plan-replay", http.MethodPost, "/v1/replays", "Freeze the letters of a selector; optionally begin")
	plan.DefaultStatus = http.StatusAccepted
	api.Register(a, api.Replay, plan, j.httpPlan)
	api.Register(a, api.ReadMeta, op("list-replays", http.MethodGet, "/v1/replays", "List replays, the latest first"), j.httpList)
	api.Register(a, api.ReadMeta, op("get-replay", http.MethodGet, "/v1/replays/{id}", "How far a replay is, what it refused, what became of the rest"), j.httpGet)
	watch := op("watch-replay", http.MethodGet, "/v1/replays/{id}/watch", "The same, as server-sent events: `replay` for each change, `end` once nothing changes any more")
	watch.Responses = map[string]*huma.Response{"200": {Description: "events; data is a replay", Content: map[string]*huma.MediaType{"text/event-stream": {}}}}
	api.Register(a, api.ReadMeta, watch, j.httpWatch)
	letters := op("list-replay-letters", http.MethodGet, "/v1/replays/{id}/letters", "The letters of a replay in its order, with what became of each")
	letters.RejectUnknownQueryParameters = true // a misspelt filter would show everything
	api.Register(a, api.ReadMeta, letters, j.httpLetters)
	j.reportRoute(a)
	api.Register(a, api.Replay, op("approve-replay", http.MethodPost, "/v1/replays/{id}/approve", "Approve a plan that another person made"), j.httpApprove)
	api.Register(a, api.Replay, op("start-replay", http.MethodPost, "/v1/replays/{id}/start", "Let a planned replay run"), j.httpStart)
	api.Register(a, api.Replay, op("pause-replay", http.MethodPost, "/v1/replays/{id}/pause", "Hold a replay"), j.httpPause)
	api.Register(a, api.Replay, op("resume-replay", http.MethodPost, "/v1/replays/{id}/resume", "Let a paused replay go on"), j.httpResume)
	api.Register(a, api.Replay, op("rate-replay", http.MethodPost, "/v1/replays/{id}/rate", "Change how many letters a second move"), j.httpRate)
	api.Register(a, api.Replay, op("cancel-replay", http.MethodPost, "/v1/replays/{id}/cancel", "End a replay; what it moved stays moved"), j.httpCancel)
}

func (j *Jobs) httpPlan(ctx context.Context, in *planInput) (*replayOutput, error) {
	b := &in.Body
	if b.readsPayloads() && !api.Can(ctx, api.ReadPayload) {
		return nil, api.NewProblem(http.StatusForbidden, "forbidden", "a condition or a fixer of the plan's own reads payloads and headers, and needs the verb read-payload")
	}
	id, err := j.Plan(ctx, Plan{Spec: b.Spec, DryRun: b.DryRun, Start: b.Start, Who: api.Who(ctx), Why: b.Why})
	if err != nil {
		return nil, problem(err)
	}
	return j.answer(ctx, id, nil)
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
	return j.answer(ctx, in.ID, nil)
}

func (j *Jobs) httpLetters(ctx context.Context, in *replayLettersInput) (*replayLettersOutput, error) {
	list, err := j.Letters(ctx, in.ID, in.Which, in.Cursor, in.Limit+1)
	if err != nil {
		return nil, problem(err)
	}
	out := &replayLettersOutput{}
	if len(list) > in.Limit { // there is a page behind it
		list = list[:in.Limit]
		out.Body.Next = strconv.FormatInt(list[in.Limit-1].N, 10)
	}
	out.Body.Letters = list
	return out, nil
}

func (j *Jobs) httpApprove(ctx context.Context, in *whyInput) (*replayOutput, error) {
	return j.answer(ctx, in.ID, j.Approve(ctx, in.ID, api.Who(ctx), in.why()))
}

func (j *Jobs) httpStart(ctx context.Context, in *startInput) (*replayOutput, error) {
	hash, why := "", ""
	if in.Body != nil {
		hash, why = in.Body.Hash, in.Body.Why
	}
	return j.answer(ctx, in.ID, j.StartHash(ctx, in.ID, api.Who(ctx), why, hash))
}

func (j *Jobs) httpPause(ctx context.Context, in *whyInput) (*replayOutput, error) {
	return j.answer(ctx, in.ID, j.Pause(ctx, in.ID, api.Who(ctx), in.why()))
}

func (j *Jobs) httpResume(ctx context.Context, in *whyInput) (*replayOutput, error) {
	return j.answer(ctx, in.ID, j.Resume(ctx, in.ID, api.Who(ctx), in.why()))
}

func (j *Jobs) httpRate(ctx context.Context, in *rateInput) (*replayOutput, error) {
	return j.answer(ctx, in.ID, j.SetRate(ctx, in.ID, api.Who(ctx), in.Body.Why, in.Body.Rate))
}

func (j *Jobs) httpCancel(ctx context.Context, in *whyInput) (*replayOutput, error) {
	return j.answer(ctx, in.ID, j.Cancel(ctx, in.ID, api.Who(ctx), in.why()))
}

// answer is the replay after an act that ended with err.
func (j *Jobs) answer(ctx context.Context, id string, err error) (*replayOutput, error) {
	if err != nil {
		return nil, problem(err)
	}
	r, err := j.Get(ctx, id)
	if err != nil {
		return nil, problem(err)
	}
	if err := j.withFixes(ctx, r); err != nil {
		return nil, err
	}
	if err := j.withFirst(ctx, r); err != nil {
		return nil, err
	}
	return &replayOutput{Body: r}, nil
}

func problem(err error) error {
	var spec *SpecError
	var syntax *SyntaxError
	var changed *ChangedError
	switch {
	case errors.Is(err, ErrNoReplay):
		return api.NewProblem(http.StatusNotFound, "no-such-replay", "no replay has this id").WithNext("perdure replay status")
	case errors.As(err, &spec):
		return api.NewProblem(http.StatusUnprocessableEntity, "invalid-plan", "nothing is planned", spec.Fields...).WithNext("perdure dlq groups")
	case errors.As(err, &syntax):
		return api.NewProblem(http.StatusUnprocessableEntity, "invalid-plan", "nothing is planned", syntax.Fields()...).
			WithNext("try it on one letter: perdure dlq show ID -o json | jq '…'")
	case errors.As(err, &changed):
		return api.NewProblem(http.StatusConflict, "letters-changed", changed.Error()).WithNext("plan it again: perdure replay plan")
	case errors.Is(err, ErrHash):
		return api.NewProblem(http.StatusConflict, "plan-changed", err.Error()).WithNext("look at it: perdure replay status ID; or plan it again")
	case errors.Is(err, ErrApproval):
		return api.NewProblem(http.StatusConflict, "needs-approval", err.Error()).
			WithNext("another person, with a token of another name: perdure replay approve ID")
	case errors.Is(err, ErrState):
		return api.NewProblem(http.StatusConflict, "replay-state", err.Error()).WithNext("perdure replay status")
	}
	return err
}
