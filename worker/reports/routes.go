package reports

// POST /v1/tasks/{id}/heartbeat and …/outcome.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
)

const (
	maxRetryAfter = 24 * time.Hour // as of an endpoint's Retry-After
)

// Run is a run as it stands in JSON: a number, or its decimal digits as the
// header Perdure-Fence has them, which no JavaScript rounds.
type Run int64

// UnmarshalJSON reads a number or a string of digits.
func (r *Run) UnmarshalJSON(b []byte) error {
	n, err := strconv.ParseInt(string(bytes.Trim(b, `"`)), 10, 64)
	if err != nil {
		return errors.New("want a run: digits, as Perdure-Fence has them")
	}
	*r = Run(n)
	return nil
}

// Schema implements huma.SchemaProvider.
func (Run) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{
		Description: "the run it speaks for: Task.Run, or the header Perdure-Fence as it is",
		OneOf:       []*huma.Schema{{Type: huma.TypeInteger, Format: "int64", Minimum: new(float64)}, {Type: huma.TypeString, Pattern: "^[0-9]{1,19}$"}},
	}
}

type heartbeatInput struct {
	ID   string `path:"id"`
	Body struct {
		Run      Run             `json:"run"`
		Progress json.RawMessage `json:"progress,omitempty" doc:"any JSON of at most 4 KiB; shown with the task until the next"`
	}
}

// HeartbeatAnswer answers a sign of life that counts.
type HeartbeatAnswer struct {
	ID     string        `json:"id"`
	State  schemas.State `json:"state" enum:"running,waiting" doc:"running: a worker waits for the end of the call; waiting: the end is to be reported"`
	Cancel bool          `json:"cancel" doc:"somebody asked that the task end: stop if that is possible"`
	Within float64       `json:"within_seconds,omitempty" doc:"waiting: when the next sign has to come, else the task is in doubt"`
}

type heartbeatOutput struct{ Body *HeartbeatAnswer }

type outcomeInput struct {
	ID   string `path:"id"`
	Body struct {
		Run     Run             `json:"run"`
		Outcome string          `json:"outcome" enum:"completed,retry,dead,unknown" doc:"dead: it failed and will fail again; unknown: nobody can say whether its effect happened"`
		Result  json.RawMessage `json:"result,omitempty" doc:"completed: any JSON of at most 64 KiB, kept with the task"`
		Error   *ReportedError  `json:"error,omitempty" doc:"why it did not complete"`
	}
}

// ReportedError is why work elsewhere failed.
type ReportedError struct {
	Class      string  `json:"class,omitempty" maxLength:"200" doc:"what it is, without values: failures are grouped by it"`
	Message    string  `json:"message,omitempty" doc:"its text; what is longer than 4 KiB is cut"`
	RetryAfter float64 `json:"retry_after_seconds,omitempty" minimum:"0" maximum:"86400" doc:"retry: not sooner"`
}

// OutcomeAnswer answers a report that was taken.
type OutcomeAnswer struct {
	ID       string `json:"id"`
	State    string `json:"state" enum:"completed,reported" doc:"reported: a worker acts on it, at once if it can be told, at the latest when the task's timer is due"`
	Repeated bool   `json:"repeated,omitempty" doc:"it was said before"`
}

type outcomeOutput struct{ Body *OutcomeAnswer }

// Routes registers both.
func (d *Desk) Routes(a *api.API) {
	api.Register(a, api.Report, huma.Operation{
		OperationID: "task-heartbeat", Method: http.MethodPost, Path: "/v1/tasks/{id}/heartbeat", Tags: []string{"tasks"},
		Summary:     "Say that a task's work goes on, and how far it is",
		Description: "409 `run-over`: the run is not the task's any more, and whoever works for it should stop.",
	}, d.heartbeat)
	api.Register(a, api.Report, huma.Operation{
		OperationID: "task-outcome", Method: http.MethodPost, Path: "/v1/tasks/{id}/outcome", Tags: []string{"tasks"},
		Summary:     "Report how work that went on elsewhere ended",
		Description: "May be repeated. A success counts from any run that was granted, unless the task is cancelled: its effect has happened. A failure counts only from the run that is waited for. 409 `run-over`: it did not count. 503 `not-yet`: its worker has not let go of the run yet; send it again.",
	}, d.outcome)
}

func (d *Desk) heartbeat(ctx context.Context, in *heartbeatInput) (*heartbeatOutput, error) {
	run := int64(in.Body.Run)
	if p := d.check(in.ID, run); p != nil {
		return nil, p
	}
	progress, p := jsonWithin(in.Body.Progress, execution.MaxProgress, "#/progress")
	if p != nil {
		return nil, p
	}
	h, err := d.deps.Claims.Hear(ctx, claims.Sign{TaskID: in.ID, Run: run, Counts: schemas.DefaultHeartbeat, Progress: progress})
	if err == nil && !h.Counts {
		err = &refusal{in.ID, run, h.Claim}
	}
	if err != nil {
		return nil, problem(err)
	}
	out := &HeartbeatAnswer{ID: in.ID, State: schemas.StateRunning, Cancel: h.Claim.Cancel}
	if h.Claim.State == claims.Waiting {
		out.State, out.Within = schemas.StateWaiting, h.For.Seconds()
	}
	return &heartbeatOutput{out}, nil
}

func (d *Desk) outcome(ctx context.Context, in *outcomeInput) (*outcomeOutput, error) {
	b := &in.Body
	if p := d.check(in.ID, int64(b.Run)); p != nil {
		return nil, p
	}
	r := &Report{TaskID: in.ID, Run: int64(b.Run), Outcome: schemas.Outcome(b.Outcome), By: api.Who(ctx)}
	completed := r.Outcome == schemas.OutcomeCompleted
	switch {
	case completed && b.Error != nil:
		return nil, invalid("#/error", "says why a task failed, and the outcome is completed")
	case !completed && b.Result != nil:
		return nil, invalid("#/result", "is of a completed task, and the outcome is "+b.Outcome)
	}
	var p *api.Problem
	if r.Result, p = jsonWithin(b.Result, execution.MaxResult, "#/result"); p != nil {
		return nil, p
	}
	if e := b.Error; e != nil {
		r.Class, r.Message = e.Class, dlq.ClipMessage(e.Message)
		r.After = min(time.Duration(e.RetryAfter*float64(time.Second)), maxRetryAfter)
	}
	again, err := d.take(ctx, r)
	if err != nil {
		return nil, problem(err)
	}
	out := &OutcomeAnswer{ID: in.ID, State: "reported", Repeated: again}
	if completed {
		out.State = string(schemas.StateCompleted)
	}
	return &outcomeOutput{out}, nil
}

// check refuses what cannot be a task of this source, or a run.
func (d *Desk) check(id string, run int64) *api.Problem {
	parsed, err := schemas.ParseID(id)
	if err != nil || parsed.Source != d.deps.Source {
		return api.NewProblem(http.StatusNotFound, "no-such-task", "no task has this id").
			WithNext("use the id as it came: Task.ID, or the header Webhook-Id without its -r suffix")
	}
	if run <= 0 || run>>schemas.RunEpochShift > 1<<15 {
		return invalid("#/run", "is no run: use Task.Run, or the header Perdure-Fence as it is")
	}
	return nil
}

func invalid(pointer, detail string) *api.Problem {
	return api.NewProblem(http.StatusUnprocessableEntity, "invalid-request", "the report is not valid", api.FieldError{Pointer: pointer, Detail: detail})
}

// jsonWithin drops a null and refuses what is too large.
func jsonWithin(raw json.RawMessage, limit int, pointer string) (json.RawMessage, *api.Problem) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	if len(raw) > limit {
		return nil, invalid(pointer, fmt.Sprintf("is %d bytes of JSON, more than %d", len(raw), limit))
	}
	return raw, nil
}

func problem(err error) error {
	var refused *refusal
	var away *awayError
	switch {
	case errors.As(err, &refused) && refused.early():
		return api.NewProblem(http.StatusServiceUnavailable, "not-yet", refused.Error()).
			WithRetryAfter(time.Second).WithNext("send the report again")
	case errors.As(err, &refused):
		return api.NewProblem(http.StatusConflict, "run-over", refused.Error()).WithNext("perdure tasks get " + refused.id)
	case errors.As(err, &away):
		return api.Unavailable("Kafka", "send the report again: it may be repeated")
	default:
		return api.Unavailable("Redis", "send it again: it may be repeated")
	}
}
