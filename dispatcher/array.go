package dispatcher

// POST /v1/tasks with an array, or with a batch of events: all or nothing.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/internal/api"
)

func (d *Dispatcher) postArray(ctx context.Context, c *client.Client, f form, body []byte, key, trace string) (func(huma.Context), *api.Problem) {
	parts, p := splitArray(body)
	if p != nil {
		return nil, d.refused(p)
	}
	who := d.gate.Producer(ctx)
	if p := who.Take(len(parts)); p != nil {
		return nil, d.refused(p)
	}
	tasks, p := decodeArray(parts, f)
	if p != nil {
		return nil, d.refused(p)
	}
	taken, p := who.Reserve(ctx, len(tasks))
	if p != nil {
		return nil, d.refused(p)
	}
	for i := range tasks {
		tasks[i].Producer = api.Who(ctx)
		withTrace(&tasks[i], trace)
		if key != "" && tasks[i].IdempotencyKey == "" {
			tasks[i].IdempotencyKey = key + "/" + strconv.Itoa(i+1)
		}
	}
	refs, err := d.enqueueArray(ctx, c, tasks)
	if err != nil {
		if !spent(client.Ref{}, err) {
			taken.Return(len(tasks))
		}
		return nil, d.refused(d.arrayProblem(ctx, f, err))
	}
	out := make([]Accepted, len(refs))
	all, old := len(refs) > 0, 0
	for i, ref := range refs {
		if !spent(ref, nil) {
			old++
		}
		d.intake.metrics.count(tasks[i].Kind, ref, nil)
		out[i] = Accepted{ID: ref.ID, Seq: ref.Seq, State: string(ref.State), Replayed: ref.Replayed, Duplicate: ref.Duplicate}
		all = all && ref.Replayed
	}
	taken.Return(old)
	return func(h huma.Context) {
		if all {
			h.SetHeader("Idempotency-Replayed", "true")
		}
		writeJSON(h, http.StatusAccepted, out)
	}, nil
}

func (d *Dispatcher) enqueueArray(ctx context.Context, c *client.Client, tasks []client.Task) ([]client.Ref, error) {
	ctx, cancel := context.WithTimeout(ctx, 4*writeTimeout)
	defer cancel()
	var refs []client.Ref
	err := patiently(ctx, func() (err error) {
		refs, err = c.EnqueueMany(ctx, tasks)
		return err
	})
	return refs, err
}

// arrayProblem is one problem for all the elements that are wrong.
func (d *Dispatcher) arrayProblem(ctx context.Context, f form, err error) *api.Problem {
	var each client.TaskErrors
	if !errors.As(err, &each) {
		return d.problem(ctx, err)
	}
	whole := d.problem(ctx, each[0].Err) // its type is that of the first
	whole.Detail = fmt.Sprintf("%d of the tasks cannot be accepted, so none was", len(each))
	const most = 100
	var errs []api.FieldError
	for _, e := range each[:min(len(each), most)] {
		errs = append(errs, below(strconv.Itoa(e.Index), f.placed(d.problem(ctx, e.Err)))...)
	}
	whole.Errors = errs
	return whole
}

func isArray(body []byte) bool {
	first := bytes.TrimLeft(body, " \t\r\n")
	return len(first) > 0 && first[0] == '['
}

func splitArray(body []byte) (parts []json.RawMessage, p *api.Problem) {
	if !isArray(body) {
		return nil, malformed("must be a JSON array")
	}
	if err := json.Unmarshal(body, &parts); err != nil {
		p := syntax(body)
		p.Detail = "the text is not a JSON array: see errors"
		return nil, p
	}
	if len(parts) > maxArray {
		return nil, api.NewProblem(http.StatusRequestEntityTooLarge, "too-large", fmt.Sprintf("an array has at most %d tasks", maxArray)).
			WithNext("send one task a line as application/x-ndjson: that has no limit")
	}
	return parts, nil
}

func decodeArray(parts []json.RawMessage, f form) ([]client.Task, *api.Problem) {
	tasks := make([]client.Task, len(parts))
	var errs []api.FieldError
	var first *api.Problem
	for i, part := range parts {
		t, p := f.decode(part)
		if p != nil {
			if first == nil {
				first = p
			}
			errs = append(errs, below(strconv.Itoa(i), p)...)
		}
		tasks[i] = t
	}
	if first != nil {
		first.Errors = errs
		return nil, first
	}
	return tasks, nil
}
