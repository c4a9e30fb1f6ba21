package demo

// The repair: after the outage, a policy of the catalog replays the letters that
// the bank caused, a failure group at a time. Those of the bug in our own handler
// stay dead.

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

// repairs is how far the policy is.
type repairs struct {
	open     []dlq.Group // groups with open letters
	bank     int         // open letters of the bank's
	moving   int         // replays that are not over, or whose tasks are under way
	replayed int         // letters, by all replays
	off      string      // why the policy switched itself off
}

func (w *world) repairs(ctx context.Context, told map[string]replayer.State) (s repairs, err error) {
	var groups struct {
		Groups []dlq.Group `json:"groups"`
	}
	if err := w.api.Get(ctx, "/v1/failure-groups", url.Values{"state": {"open"}, "limit": {"1000"}}, &groups); err != nil {
		return s, fmt.Errorf("list failure groups: %w", err)
	}
	for _, g := range groups.Groups {
		s.open = append(s.open, g)
		if strings.HasPrefix(g.Sample.ErrorClass, bankErrors) {
			s.bank += g.States["open"]
		}
	}
	var replays struct {
		Replays []replayer.Replay `json:"replays"`
	}
	if err := w.api.Get(ctx, "/v1/replays", url.Values{"limit": {"1000"}}, &replays); err != nil {
		return s, fmt.Errorf("list replays: %w", err)
	}
	for _, r := range replays.Replays {
		s.replayed += int(r.Replayed)
		if !r.State.Over() || r.Became.UnderWay > 0 {
			s.moving++
		}
		w.tell1(&r, told)
	}
	var policies struct {
		Policies []replayer.PolicyView `json:"policies"`
	}
	if err := w.api.Get(ctx, "/v1/policies", nil, &policies); err != nil {
		return s, fmt.Errorf("list policies: %w", err)
	}
	for _, p := range policies.Policies {
		if !p.Enabled {
			s.off = fmt.Sprintf("policy %s switched itself off: %s", p.Policy, p.Note)
		}
	}
	return s, nil
}

// tell1 says a replay's begin and its end, once each.
func (w *world) tell1(r *replayer.Replay, told map[string]replayer.State) {
	before, known := told[r.ID]
	if before == r.State {
		return
	}
	told[r.ID] = r.State
	if !known {
		w.say.linef("%s is replaying group %s: %d letters, a canary first", r.Who, r.Spec.Selector.Group, r.Letters)
	}
	if r.State == replayer.Stopped {
		w.say.linef("replay %s stopped itself: %s", r.ID, output.Safe(r.Note))
	}
}

// awaitPolicy waits until the policy has replayed what the bank caused, and
// returns how many letters were replayed. Where nothing moves for a while it
// gives up waiting: what is missing then, the ledger says.
func (w *world) awaitPolicy(ctx context.Context) (replayed int, err error) {
	told := map[string]replayer.State{}
	var last string
	moved := time.Now()
	for {
		s, err := w.repairs(ctx, told)
		if err != nil {
			return 0, err
		}
		if s.moving == 0 && (s.bank == 0 || s.off != "") {
			for _, g := range s.open {
				w.say.linef("left dead: group %s: %d letters, %s: %s", g.Group, g.States["open"], g.Sample.ErrorClass, output.Cut(g.Sample.Message, 70))
			}
			if s.off != "" {
				w.say.linef("%s", output.Safe(s.off))
			}
			return s.replayed, nil
		}
		if now := fmt.Sprint(s.bank, s.moving, s.replayed, told); now != last {
			last, moved = now, time.Now()
		}
		if time.Since(moved) > w.opts.Patience {
			w.say.linef("the policy does nothing any more: %d letters of the bank's are open, %d replays are at work", s.bank, s.moving)
			return s.replayed, nil
		}
		if err := w.pause(ctx, 100*time.Millisecond); err != nil {
			return 0, err
		}
	}
}
