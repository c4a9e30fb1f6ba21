package workertest

// Play: a task from its first attempt to its end.

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

// poisonCrashes is how many crashes in all make a task poison: two that make
// it a suspect, three more while it runs alone.
const poisonCrashes = 5

// maxStarts bounds a play: a worker would go on, a test should not.
const maxStarts = 10_000

// Story is what became of a task.
type Story struct {
	Result schemas.Outcome // completed, dead, unknown, pending: it goes on elsewhere
	Reason schemas.Reason  // of the dead letter; "" = completed
	Last   worker.Outcome  // what the last attempt came to; zero if nobody learnt it
	Starts []Start         // every start of the handler, in order
}

// Start is one start of the handler.
type Start struct {
	Attempt int
	Run     int64          // the fence
	InDoubt bool           // what Task.InDoubt said
	Began   time.Time      // virtual inside synctest
	Took    time.Duration  // until its end, or until it was abandoned
	Crashed bool           // the worker was killed, and Outcome is not known to anybody
	Outcome worker.Outcome // of the handler; with Crashed, what it would have been
	Waited  time.Duration  // before the next start
}

// String tells the story in a line, for a test's message.
func (s *Story) String() string {
	var b strings.Builder
	for _, st := range s.Starts {
		what := string(st.Outcome.Result)
		if st.Crashed {
			what = "crash"
		}
		fmt.Fprintf(&b, "%d:%s", st.Attempt, what)
		if st.Waited > 0 {
			fmt.Fprintf(&b, " (%v)", st.Waited)
		}
		b.WriteString(" → ")
	}
	b.WriteString(string(s.Result))
	if s.Reason != "" {
		b.WriteString(" " + string(s.Reason))
	}
	return b.String()
}

// Play runs a task until it is completed or dead, or goes on elsewhere: every attempt, the delays
// between them, timeouts and deadline, as the kind says. It waits for real unless
// called inside synctest.Test. A handler that is abandoned goes on beside the
// next attempt, as it would in a worker.
func Play[T any](t testing.TB, handler func(context.Context, *worker.Task[T]) error, payload T, options ...Option) *Story {
	t.Helper()
	s := newSetup(t, options)
	s.accept(t, encode(t, payload))
	return s.play(t, func() worker.Outcome { return worker.Try(s.ctx, s.trial(), handler, s.around...) })
}

func (s *setup) play(t testing.TB, try func() worker.Outcome) *Story {
	t.Helper()
	story := &Story{}
	for crashes := 0; ; {
		if len(story.Starts) == maxStarts {
			t.Fatalf("workertest: the task is still not at its end after %d starts: %v", maxStarts, story)
		}
		if s.task.Expired(time.Now()) {
			return story.ends(schemas.OutcomeDead, schemas.ReasonExpired, worker.Outcome{})
		}
		if s.neverBegan() && s.kind.StartsTooLate(s.task.Time, time.Now()) {
			return story.ends(schemas.OutcomeDead, schemas.ReasonExpired, worker.Outcome{})
		}
		start := Start{Attempt: s.attempt, Run: s.run, InDoubt: s.inDoubt, Began: time.Now(), Crashed: s.crashes[len(story.Starts)+1]}
		o := try()
		start.Took, start.Outcome = time.Since(start.Began), o
		s.run++
		if start.Crashed {
			crashes++
			story.Starts = append(story.Starts, start)
			switch {
			case s.kind.Effects == schemas.EffectsOnce:
				if !s.reconciled(story, worker.Outcome{}) {
					return story
				}
				continue
			case crashes >= poisonCrashes:
				return story.ends(schemas.OutcomeDead, schemas.ReasonPoison, worker.Outcome{})
			}
			s.inDoubt = true
			continue
		}
		if o.Result == schemas.OutcomeUnknown {
			story.Starts = append(story.Starts, start)
			if !s.reconciled(story, o) {
				return story
			}
			continue
		}
		if o.Result != schemas.OutcomeRetry {
			story.Starts = append(story.Starts, start)
			return story.ends(o.Result, o.Reason, o)
		}
		delay := max(time.Duration(float64(o.Delay)*s.jitter), o.After)
		if s.task.Expired(time.Now().Add(delay)) {
			story.Starts = append(story.Starts, start)
			return story.ends(schemas.OutcomeDead, schemas.ReasonExpired, o)
		}
		start.Waited = delay
		story.Starts = append(story.Starts, start)
		time.Sleep(delay)
		s.attempt++
		s.inDoubt = false
	}
}

// neverBegan reports whether this would be the first start that the task ever had.
func (s *setup) neverBegan() bool {
	return s.attempt == 1 && !s.inDoubt && schemas.IsFirstRun(s.run)
}

// reconciled asks the hook about the last start, and reports whether the task
// runs again; else the story has ended.
func (s *setup) reconciled(story *Story, last worker.Outcome) bool {
	s.run-- // the one in doubt
	doubted := &story.Starts[len(story.Starts)-1]
	for asks := 1; ; asks++ {
		v, asked, err := worker.CannotTell, false, error(nil)
		if s.hook != nil && last.Class != "abandoned" {
			v, asked, err = s.hook()
		}
		delay := s.delay(asks)
		switch {
		case asked && err != nil && asks < s.kind.Retry.MaxAttempts:
			time.Sleep(delay)
			continue
		case !asked || err != nil || v == worker.CannotTell:
			story.ends(schemas.OutcomeUnknown, schemas.ReasonUnknown, last)
			return false
		case v == worker.Happened:
			story.ends(schemas.OutcomeCompleted, "", last)
			return false
		}
		delay = s.delay(s.attempt)
		switch {
		case s.attempt >= s.kind.Retry.MaxAttempts:
			story.ends(schemas.OutcomeDead, schemas.ReasonExhausted, last)
			return false
		case s.task.Expired(time.Now().Add(delay)):
			story.ends(schemas.OutcomeDead, schemas.ReasonExpired, last)
			return false
		}
		doubted.Waited = delay
		time.Sleep(delay)
		s.task.Epoch++
		s.attempt++
		s.run, s.inDoubt = int64(s.task.Epoch)<<schemas.RunEpochShift+1, false
		return true
	}
}

// delay is what Play waits after attempt n.
func (s *setup) delay(n int) time.Duration {
	d := s.kind.Retry.InitialDelay
	for i := 1; i < n && d < s.kind.Retry.MaxDelay; i++ {
		d *= 2
	}
	return time.Duration(float64(min(d, s.kind.Retry.MaxDelay)) * s.jitter)
}

func (s *Story) ends(result schemas.Outcome, reason schemas.Reason, last worker.Outcome) *Story {
	s.Result, s.Reason, s.Last = result, reason, last
	return s
}
