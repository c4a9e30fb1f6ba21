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
	Result schemas.Outcome // completed, dead, unknown
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

// Play runs a task until it is completed or dead: every attempt, the delays
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
		start := Start{Attempt: s.attempt, Run: s.run, InDoubt: s.inDoubt, Began: time.Now(), Crashed: s.crashes[len(story.Starts)+1]}
		o := try()
		start.Took, start.Outcome = time.Since(start.Began), o
		s.run++
		if start.Crashed {
			crashes++
			story.Starts = append(story.Starts, start)
			switch {
			case s.kind.Effects == schemas.EffectsOnce:
				return story.ends(schemas.OutcomeUnknown, schemas.ReasonUnknown, worker.Outcome{})
			case crashes >= poisonCrashes:
				return story.ends(schemas.OutcomeDead, schemas.ReasonPoison, worker.Outcome{})
			}
			s.inDoubt = true
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

func (s *Story) ends(result schemas.Outcome, reason schemas.Reason, last worker.Outcome) *Story {
	s.Result, s.Reason, s.Last = result, reason, last
	return s
}
