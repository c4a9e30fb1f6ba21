package demo

// One post of lines, and what the API says to each.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/perdure/perdure/dispatcher"
	"github.com/perdure/perdure/examples/disputes"
	"github.com/perdure/perdure/internal/apiclient"
	"github.com/perdure/perdure/internal/output"
)

// post sends lines and files the answers. A post that fails as a whole is sent
// again: its lines carry idempotency keys.
func (w *world) post(ctx context.Context, lines []line, out *fed) error {
	body, err := encode(lines)
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		answers := make([]dispatcher.LineResult, 0, len(lines))
		err := w.api.PostLines(ctx, "/v1/tasks", body, func(b []byte) error {
			var a dispatcher.LineResult
			if err := json.Unmarshal(b, &a); err != nil {
				return fmt.Errorf("answer to a line: %w", err)
			}
			answers = append(answers, a)
			return nil
		})
		if err == nil && len(answers) == len(lines) && !again(answers) {
			for i, a := range answers {
				out.file(&lines[i], &a)
			}
			return nil
		}
		if err == nil {
			err = fmt.Errorf("%d lines were sent, %d answered", len(lines), len(answers))
		}
		var p *apiclient.Problem
		if try == 10 || ctx.Err() != nil || errors.As(err, &p) && p.Status < 500 && p.Status != 429 {
			return err
		}
		if err := w.pause(ctx, 300*time.Millisecond); err != nil {
			return err
		}
	}
}

// again is true where an answer only says that the server could not now.
func again(answers []dispatcher.LineResult) bool {
	for _, a := range answers {
		if p := a.Problem; p != nil && (p.Status >= 500 || p.Status == 409 || p.Status == 429) {
			return true
		}
	}
	return false
}

// encode wraps each line, which is JSON, as the payload of a task.
func encode(lines []line) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, l := range lines {
		task := struct {
			Kind           string          `json:"kind"`
			Payload        json.RawMessage `json:"payload"`
			Key            string          `json:"key,omitempty"`
			IdempotencyKey string          `json:"idempotency_key,omitempty"`
		}{disputes.KindIntake, l.text, l.DisputeID, l.DisputeID}
		if err := enc.Encode(task); err != nil {
			return nil, fmt.Errorf("line %d: %w", l.n, err)
		}
	}
	return b.Bytes(), nil
}

// file notes what became of a line. A dispute that stands twice in the file is
// one task; its second line is not accepted again.
func (f *fed) file(l *line, a *dispatcher.LineResult) {
	switch {
	case a.Problem != nil:
		why := a.Detail
		if len(a.Errors) > 0 {
			why = a.Errors[0].Pointer + " " + a.Errors[0].Detail
		}
		f.reject(l.n, output.Cut(why, 100))
	case f.seen[l.DisputeID]:
		f.reject(l.n, "the same dispute stands above")
	default:
		if f.seen == nil {
			f.seen = map[string]bool{}
		}
		f.seen[l.DisputeID] = true
		f.accepted = append(f.accepted, l.Accepted)
	}
}
