package worker

// What a handler says besides its error: that it is alive, how far it is, what
// it found.

import (
	"encoding/json"
	"fmt"

	"github.com/perdure/perdure/worker/internal/execution"
)

const (
	// MaxProgress bounds what Heartbeat says of a task's progress, in bytes of JSON.
	MaxProgress = execution.MaxProgress
	// MaxResult bounds a task's result, in bytes of JSON.
	MaxResult = execution.MaxResult
)

// Heartbeat says that the handler is alive and how far it is: any value with a
// JSON form of at most MaxProgress bytes, nil for nothing new. People see it
// within a second or two, by `perdure tasks get`. A kind with a heartbeat_timeout
// has its attempt ended when it is silent for longer: ctx ends, and the attempt
// counts as failed.
//
// It costs no more than a lock, so a handler may call it as often as it likes. An
// error is about the value; that it is alive counts all the same.
func (t *Task[T]) Heartbeat(progress any) error {
	if t.notes == nil {
		return nil
	}
	raw, err := noteJSON(progress, MaxProgress)
	t.notes.Beat(raw)
	if err != nil {
		return fmt.Errorf("progress: %w", err)
	}
	return nil
}

// SetResult sets what the task found: any value with a JSON form of at most
// MaxResult bytes. It is kept, for whoever asks for the task, if the handler then
// returns nil. The last call counts.
func (t *Task[T]) SetResult(result any) error {
	raw, err := noteJSON(result, MaxResult)
	if err != nil {
		return fmt.Errorf("result: %w", err)
	}
	if t.notes != nil {
		t.notes.SetValue(raw)
	}
	return nil
}

// noteJSON is v's JSON; nil for a nil v.
func noteJSON(v any, limit int) ([]byte, error) {
	if v == nil {
		return nil, nil
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(raw) > limit {
		return nil, fmt.Errorf("is %d bytes of JSON, more than %d", len(raw), limit)
	}
	return raw, nil
}
