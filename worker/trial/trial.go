// Package trial posts one task to an endpoint as a worker's HTTP executor would,
// outside of everything: no claim is taken, no record written, no letter
// changed. It is how a developer sees a production failure on a laptop.
package trial

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/webhook"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
	"github.com/perdure/perdure/worker/internal/httpexec"
)

// Endpoint is where a task is tried.
type Endpoint struct {
	URL       string
	SecretEnv string        // variable with the Standard Webhooks secret; "" = unsigned
	Timeout   time.Duration // of the attempt; must be above 0
}

// Result is how a trial ended.
type Result struct {
	Outcome string        `json:"outcome"` // completed, retry, permanent, again, misconfigured, elsewhere: what a worker would take it for
	Class   string        `json:"error_class,omitempty"`
	Message string        `json:"message,omitempty"`
	Group   string        `json:"group,omitempty"` // the failure group that this would be in; "" = it did not fail
	Took    time.Duration `json:"-"`
}

// Run posts t once, as attempt n under its run. Deadlines are not looked at: a
// dead letter's is as a rule over. The error says that the endpoint cannot be
// used at all.
func Run(ctx context.Context, t schemas.Task, n int, e Endpoint) (Result, error) {
	t.Deadline = time.Time{}
	kind := &schemas.Kind{Name: t.Kind, Effects: schemas.EffectsIdempotent, Timeout: e.Timeout, HTTP: &schemas.HTTPExecutor{URL: e.URL, SecretEnv: e.SecretEnv}}
	transport := webhook.NewTransport(1)
	defer transport.CloseIdleConnections()
	x, err := httpexec.New(kind, transport, os.Getenv)
	if err != nil {
		return Result{}, fmt.Errorf("try %s: %w", t.ID, err)
	}
	ctx, cancel := context.WithTimeout(ctx, e.Timeout)
	defer cancel()
	began := time.Now()
	r := x.Execute(ctx, &execution.Attempt{Task: &t, Kind: kind, N: n, Run: t.Run})
	out := Result{Outcome: r.Outcome.String(), Class: r.Class, Message: r.Message, Took: time.Since(began)}
	switch {
	case r.Outcome == execution.Completed || r.Outcome == execution.Elsewhere:
	case r.Fingerprint != "":
		out.Group = dlq.NamedFingerprint(t.Kind, r.Fingerprint)
	default:
		out.Group = dlq.Fingerprint(t.Kind, r.Class, r.Message, "")
	}
	return out, nil
}
