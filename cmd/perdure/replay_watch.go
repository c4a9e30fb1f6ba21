package main

// Following a replay: a bar on a terminal, events where they are asked for.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/perdure/perdure/internal/apiclient"
	"github.com/perdure/perdure/internal/output"
	"github.com/perdure/perdure/internal/service"
	"github.com/perdure/perdure/replayer"
)

func newReplayWatch(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "watch ID",
		Short: "Follow a replay until every task that it replayed has come to an end",
		Long: `On a terminal a bar shows how far it is; elsewhere one line is written for each change
(-o jsonl: one JSON object). Ctrl-C ends the watching, not the replay.`,
		Example: "perdure replay watch r-va6ybdljmki2\nperdure replay watch r-va6ybdljmki2 -o jsonl | jq .became",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.api()
			if err != nil {
				return err
			}
			defer cl.Close()
			show, finish := c.replayBar()
			var last replayer.Replay
			err = cl.Follow(cmd.Context(), apiclient.Path("replays", args[0], "watch"), c.lost, func(_ string, data []byte) error {
				last = replayer.Replay{}
				if err := json.Unmarshal(data, &last); err != nil {
					return fmt.Errorf("an event is not a replay: %w", err)
				}
				switch {
				case c.format == output.JSONL:
					return c.event(data)
				case show != nil:
					show(&last)
				case c.format == output.Text:
					fmt.Fprintln(c.out, watchLine(&last))
				}
				return nil
			})
			finish()
			if cmd.Context().Err() != nil {
				return nil
			}
			if err != nil || c.format == output.JSONL {
				return err
			}
			if err := c.printer().One(last, func(w io.Writer) { showReplay(w, &last) }); err != nil {
				return err
			}
			if last.State == replayer.Stopped {
				return fmt.Errorf("replay %s stopped itself: %s", last.ID, last.Note)
			}
			return nil
		},
	}
}

// watchLine is a replay in one line.
func watchLine(r *replayer.Replay) string {
	s := fmt.Sprintf("%s: %d of %d letters", replayState(r), max(r.Letters-r.Left, r.Looked), r.Letters)
	if r.Refused > 0 {
		s += fmt.Sprintf(", %d refused", r.Refused)
	}
	if b := r.Became; b != nil && r.Replayed > 0 {
		s += fmt.Sprintf(", %d completed, %d died again, %d under way", b.Completed, b.DiedAgain, b.UnderWay)
	}
	return s
}

// replayBar shows a replay on a terminal; nil elsewhere. finish leaves the
// terminal clean.
func (c *cli) replayBar() (show func(*replayer.Replay), finish func()) {
	if !service.IsTerminal(c.errOut) {
		return nil, func() {}
	}
	var last atomic.Pointer[replayer.Replay] // the bar draws in a goroutine of its own
	last.Store(&replayer.Replay{})
	p := mpb.New(mpb.WithOutput(c.errOut), mpb.WithWidth(40))
	bar := p.New(0, mpb.BarStyle(), mpb.PrependDecorators(decor.Percentage()),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return " " + output.Safe(watchLine(last.Load())) })), mpb.BarRemoveOnComplete())
	return func(r *replayer.Replay) {
			last.Store(r)
			bar.SetTotal(max(r.Letters, 1), false)
			bar.SetCurrent(min(max(r.Letters-r.Left, r.Looked), max(r.Letters-1, 0)))
		}, func() {
			bar.Abort(true)
			p.Wait()
		}
}

// lost says that a stream broke, and that it is asked again.
func (c *cli) lost(err error) {
	fmt.Fprintf(c.errOut, "%v\n  the replay goes on by itself; asking again for a minute\n", err)
}

var errFollowed = errors.New("what was waited for has come")

// follow waits until done says so of a replay; Ctrl-C leaves it running. A replay that
// no replayer takes is not waited for. Its changes tell how far it is; the whole replay,
// whose refusals are counted one by one, is read once, at the end.
func (c *cli) follow(ctx context.Context, cl *apiclient.Client, r *replayer.Replay, done func(*replayer.Replay) bool) error {
	if done(r) {
		return nil
	}
	show, finish := c.replayBar()
	defer finish()
	path := apiclient.Path("replays", r.ID)
	watch, stop := context.WithCancel(ctx)
	defer stop()
	var taken atomic.Bool
	untaken := time.AfterFunc(patience, func() {
		var now replayer.Replay
		if !taken.Load() && cl.Get(watch, path, nil, &now) == nil && now.TakenAt == nil {
			stop()
		}
	})
	defer untaken.Stop()
	for !done(r) && watch.Err() == nil {
		err := cl.Follow(watch, apiclient.Path("replays", r.ID, "watch"), c.lost, func(_ string, data []byte) error {
			next := replayer.Replay{}
			if err := json.Unmarshal(data, &next); err != nil {
				return fmt.Errorf("an event is not a replay: %w", err)
			}
			*r = next
			taken.Store(r.TakenAt != nil)
			if show != nil {
				show(r)
			}
			if done(r) {
				return errFollowed
			}
			return nil
		})
		if err != nil && !errors.Is(err, errFollowed) && watch.Err() == nil {
			return fmt.Errorf("%w\n  the replay goes on by itself: perdure replay watch %s", err, r.ID)
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	*r = replayer.Replay{ID: r.ID}
	if err := cl.Get(ctx, path, nil, r); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// event writes one as it came, on a line.
func (c *cli) event(data []byte) error {
	_, err := fmt.Fprintf(c.out, "%s\n", output.SafeJSON(data))
	return err
}
