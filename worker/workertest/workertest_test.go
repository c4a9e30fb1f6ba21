package workertest_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
	"github.com/perdure/perdure/worker/workertest"
)

type email struct {
	To string `json:"to"`
}

func handler(err error) func(context.Context, *worker.Task[email]) error {
	return func(context.Context, *worker.Task[email]) error { return err }
}

func TestOutcomesAreTheWorkers(t *testing.T) {
	cause := errors.New("cause")
	for name, c := range map[string]struct {
		err     error
		options []workertest.Option
		result  schemas.Outcome
		reason  schemas.Reason
	}{
		"success":        {nil, nil, schemas.OutcomeCompleted, ""},
		"failure":        {cause, nil, schemas.OutcomeRetry, ""},
		"permanent":      {worker.Permanent(cause), nil, schemas.OutcomeDead, schemas.ReasonPermanent},
		"last attempt":   {cause, []workertest.Option{workertest.Attempt(10)}, schemas.OutcomeDead, schemas.ReasonExhausted},
		"unknown":        {worker.Unknown(cause), nil, schemas.OutcomeRetry, ""},
		"unknown, once":  {worker.Unknown(cause), []workertest.Option{workertest.Once()}, schemas.OutcomeUnknown, schemas.ReasonUnknown},
		"elsewhere":      {worker.Pending(), []workertest.Option{workertest.Once()}, schemas.OutcomePending, ""},
		"after deadline": {nil, []workertest.Option{workertest.Deadline(time.Now().Add(-time.Minute))}, schemas.OutcomeDead, schemas.ReasonExpired},
		"too late for a retry": {worker.RetryAfter(time.Hour, cause), []workertest.Option{workertest.Deadline(time.Now().Add(time.Minute))},
			schemas.OutcomeDead, schemas.ReasonExpired},
	} {
		if o := workertest.Run(t, handler(c.err), email{To: "a"}, c.options...); o.Result != c.result || o.Reason != c.reason {
			t.Errorf("%s: %+v, want %s %s", name, o, c.result, c.reason)
		}
	}
}

func TestThePayloadGoesThroughJSON(t *testing.T) {
	o := workertest.Run(t, func(_ context.Context, task *worker.Task[email]) error {
		if task.Payload.To != "a" || task.Key != "k" || task.ID != "main-1-9" || task.Fence() != "0000000000000000042" {
			return worker.Permanent(errors.New("told something else"))
		}
		return nil
	}, email{To: "a"}, workertest.Key("k"), workertest.ID("main-1-9"), workertest.Fence(42))
	if o.Result != schemas.OutcomeCompleted {
		t.Errorf("%+v", o)
	}
	if o := workertest.RunRaw(t, handler(nil), []byte(`{"to": 7}`)); o.Reason != schemas.ReasonPermanent {
		t.Errorf("a payload that does not decode: %+v", o)
	}
}

func TestWhatAHandlerNotes(t *testing.T) {
	notes := func(err error) func(context.Context, *worker.Task[email]) error {
		return func(_ context.Context, task *worker.Task[email]) error {
			if task.Heartbeat(1) != nil || task.Heartbeat(map[string]int{"done": 2}) != nil || task.Heartbeat(nil) != nil {
				t.Error("heartbeat")
			}
			if task.SetResult("first") != nil || task.SetResult([]string{task.Payload.To}) != nil {
				t.Error("result")
			}
			if task.Heartbeat(strings.Repeat("x", worker.MaxProgress)) == nil || task.Heartbeat(make(chan int)) == nil {
				t.Error("progress that cannot be told")
			}
			if task.SetResult(strings.Repeat("x", worker.MaxResult)) == nil || task.SetResult(func() {}) == nil {
				t.Error("a result that cannot be kept")
			}
			return err
		}
	}
	if o := workertest.Run(t, notes(nil), email{To: "a"}); o.Result != schemas.OutcomeCompleted || string(o.Value) != `["a"]` || string(o.Progress) != `{"done":2}` {
		t.Errorf("%+v", o)
	}
	if o := workertest.Run(t, notes(errors.New("no")), email{To: "a"}); o.Result != schemas.OutcomeRetry || o.Value != nil {
		t.Errorf("a result of an attempt that failed: %+v", o)
	}
	if s := workertest.Play(t, notes(worker.Pending()), email{}); s.Result != schemas.OutcomePending || len(s.Starts) != 1 {
		t.Error(s)
	}
}

func TestTimeIsVirtualInsideSynctest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		o := workertest.Run(t, func(ctx context.Context, _ *worker.Task[email]) error {
			<-ctx.Done()
			return ctx.Err()
		}, email{}, workertest.Timeout(time.Hour))
		if o.Result != schemas.OutcomeRetry || o.Class != "timeout" || time.Since(began) != time.Hour {
			t.Errorf("%+v after %v", o, time.Since(began))
		}
	})
}

func TestAHandlerThatIgnoresItsContextIsAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		o := workertest.Run(t, func(context.Context, *worker.Task[email]) error {
			time.Sleep(time.Hour)
			return nil
		}, email{}, workertest.Timeout(time.Minute), workertest.Once())
		if o.Reason != schemas.ReasonUnknown || o.Class != "abandoned" || time.Since(began) != time.Minute+worker.DefaultAbandonAfter {
			t.Errorf("%+v after %v", o, time.Since(began))
		}
		time.Sleep(time.Hour) // its goroutine
	})
}

func TestAHandlerMayEndItsTest(t *testing.T) {
	done := make(chan bool)
	go func() {
		returned := false
		defer func() { done <- returned }()
		workertest.Run(t, func(context.Context, *worker.Task[email]) error {
			runtime.Goexit() // as FailNow does
			return nil
		}, email{})
		returned = true
	}()
	if <-done {
		t.Error("the test went on after its handler had ended it")
	}
}

func TestMiddlewareRunsAroundATrial(t *testing.T) {
	o := workertest.Run(t, handler(errors.New("no")), email{}, workertest.Use(
		func(ctx context.Context, _ *worker.Task[[]byte], next func(context.Context) error) error {
			return worker.Permanent(worker.Fingerprint(next(ctx), "f"))
		}))
	if o.Reason != schemas.ReasonPermanent || o.Fingerprint != "f" {
		t.Errorf("%+v", o)
	}
}
