package demo

// The repair: after the outage, the letters that the bank caused are replayed,
// a failure group at a time. Those of the bug in our own handler stay dead.

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/output"
	"github.com/perdure/perdure/replayer"
)

// bankErrors begin the class of every failure that the bank caused.
const bankErrors = "*disputes.Bank"

// replayBankLetters returns how many letters were replayed.
func (w *world) replayBankLetters(ctx context.Context) (replayed int, err error) {
	var answer struct {
		Groups []dlq.Group `json:"groups"`
	}
	if err := w.api.Get(ctx, "/v1/failure-groups", url.Values{"state": {"open"}, "limit": {"1000"}}, &answer); err != nil {
		return 0, fmt.Errorf("list failure groups: %w", err)
	}
	for _, g := range answer.Groups {
		what := fmt.Sprintf("group %s: %d letters, %s: %s", g.Group, g.States["open"], g.Sample.ErrorClass, output.Cut(g.Sample.Message, 70))
		if !strings.HasPrefix(g.Sample.ErrorClass, bankErrors) {
			w.say.linef("left dead: %s", what)
			continue
		}
		w.say.linef("replaying %s", what)
		n, err := w.replay(ctx, g.Group)
		if err != nil {
			return replayed, fmt.Errorf("replay group %s: %w", g.Group, err)
		}
		replayed += n
	}
	return replayed, nil
}

// replay runs one job to its end.
func (w *world) replay(ctx context.Context, group string) (int, error) {
	var r replayer.Replay
	body := map[string]any{"selector": replayer.Selector{Group: group}, "start": true, "why": "the bank is back"}
	if err := w.api.Post(ctx, "/v1/replays", body, &r); err != nil {
		return 0, err
	}
	for !r.State.Over() {
		if err := w.pause(ctx, 100*time.Millisecond); err != nil {
			return 0, err
		}
		if err := w.api.Get(ctx, "/v1/replays/"+r.ID, nil, &r); err != nil {
			return 0, err
		}
	}
	for _, f := range r.Refusals {
		w.say.linef("  %d refused: %s", f.Letters, output.Safe(f.Why))
	}
	return int(r.Replayed), nil
}
