package dispatcher

// GET /v1/tasks/{id}/why.

import (
	"context"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/perdure/perdure/internal/api"
)

type whyInput struct {
	ID string `path:"id"`
}

type whyOutput struct{ Body *Why }

// Routes registers GET /v1/tasks/{id}/why.
func (e *Explainer) Routes(a *api.API) {
	api.Register(a, api.ReadMeta, huma.Operation{
		OperationID: "why-task", Method: http.MethodGet, Path: "/v1/tasks/{id}/why", Tags: []string{"tasks"},
		Summary: "Why a task is not finished: one sentence, and the command to run next",
		Description: "An id under which nothing is known is answered with 404, or 410 where its history is gone: " +
			"`detail` is the sentence, `next` the command, and the last part of `type` the cause.",
	}, func(ctx context.Context, in *whyInput) (*whyOutput, error) {
		w, err := e.Explain(ctx, in.ID)
		if err != nil {
			return nil, taskProblem(err)
		}
		if w.State != StateUnknown {
			return &whyOutput{w}, nil
		}
		status := http.StatusNotFound
		if w.Cause == CauseHistoryGone {
			status = http.StatusGone
		}
		return nil, api.NewProblem(status, strings.ReplaceAll(string(w.Cause), "_", "-"), w.Why).WithNext(w.Command)
	})
}
