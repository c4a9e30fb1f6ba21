// Package executiontest is the conformance suite of executors: what every
// Executor must answer for what a handler does, in Go or behind HTTP.
package executiontest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
)

// Behaviour is what the handler does with the attempt that it gets.
type Behaviour string

// The behaviours that a target must know.
const (
	Succeeds  Behaviour = "succeeds"
	Fails     Behaviour = "fails"     // with the text "no luck"
	Permanent Behaviour = "permanent" // with the text "never"
	Later     Behaviour = "later"     // asks for a retry in 7 s
	HandsOn   Behaviour = "hands on"  // its work goes on elsewhere
	Hangs     Behaviour = "hangs"     // until its context or connection ends
	Breaks    Behaviour = "breaks"    // in the middle: a panic, a cut connection
)

// Seen is what the handler was told.
type Seen struct {
	ID, Kind, Key, Fence, Payload string
	Attempt                       int
	Deadline                      bool // a bound on its time
}

// Target makes an executor of kind whose handler behaves so and reports what it
// was told.
type Target func(t *testing.T, kind *schemas.Kind, b Behaviour, seen func(Seen)) execution.Executor

// Run puts a target through every case.
func Run(t *testing.T, target Target) {
	kind := func(e schemas.Effects) *schemas.Kind {
		return &schemas.Kind{Name: "email.send", Queue: "mail", Timeout: 10 * time.Second, Effects: e}
	}
	run := func(t *testing.T, k *schemas.Kind, b Behaviour, timeout time.Duration) (execution.Result, Seen) {
		t.Helper()
		told := make(chan Seen, 1)
		x := target(t, k, b, func(s Seen) { told <- s })
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		began := time.Now()
		r := x.Execute(ctx, &execution.Attempt{
			Task: &schemas.Task{
				ID: "main-1-7", Kind: k.Name, Queue: k.Queue, Key: "ké y", Payload: []byte(`{"to":"a"}`),
				Time: time.Now(), Deadline: time.Now().Add(time.Hour), Epoch: 1,
			},
			Kind: k, N: 3, Run: 281474976710657,
		})
		if took := time.Since(began); took > timeout+5*time.Second {
			t.Errorf("returned %v after its context ended", took-timeout)
		}
		return r, <-told
	}
	check := func(t *testing.T, r execution.Result, want execution.Outcome, text string) {
		t.Helper()
		if r.Outcome != want || !strings.Contains(r.Message, text) {
			t.Errorf("got %v %q, want %v with %q", r.Outcome, r.Message, want, text)
		}
		if want != execution.Completed && want != execution.Elsewhere && r.Class == "" {
			t.Error("a failure without a class")
		}
	}

	t.Run("tells the handler everything", func(t *testing.T) {
		r, seen := run(t, kind(schemas.EffectsIdempotent), Succeeds, 10*time.Second)
		check(t, r, execution.Completed, "")
		want := Seen{ID: "main-1-7", Kind: "email.send", Key: "ké y", Fence: "0000281474976710657", Payload: `{"to":"a"}`, Attempt: 3, Deadline: true}
		if seen != want {
			t.Errorf("told %+v, want %+v", seen, want)
		}
	})
	t.Run("fails", func(t *testing.T) {
		r, _ := run(t, kind(schemas.EffectsIdempotent), Fails, 10*time.Second)
		check(t, r, execution.Retry, "no luck")
	})
	t.Run("fails for good", func(t *testing.T) {
		r, _ := run(t, kind(schemas.EffectsIdempotent), Permanent, 10*time.Second)
		check(t, r, execution.Permanent, "never")
	})
	t.Run("asks for time", func(t *testing.T) {
		r, _ := run(t, kind(schemas.EffectsIdempotent), Later, 10*time.Second)
		check(t, r, execution.Retry, "")
		if r.After < 6*time.Second || r.After > 7*time.Second {
			t.Errorf("after %v, want 7 s", r.After)
		}
	})
	for _, effects := range []schemas.Effects{schemas.EffectsIdempotent, schemas.EffectsOnce} {
		t.Run(fmt.Sprintf("hands on/%s", effects), func(t *testing.T) {
			r, _ := run(t, kind(effects), HandsOn, 10*time.Second)
			check(t, r, execution.Elsewhere, "")
		})
		want := execution.Retry
		if effects == schemas.EffectsOnce {
			want = execution.Unknown
		}
		t.Run(fmt.Sprintf("hangs/%s", effects), func(t *testing.T) {
			r, _ := run(t, kind(effects), Hangs, 100*time.Millisecond)
			check(t, r, want, "")
			if r.Class != "timeout" {
				t.Errorf("class %q, want timeout", r.Class)
			}
		})
		t.Run(fmt.Sprintf("breaks/%s", effects), func(t *testing.T) {
			r, _ := run(t, kind(effects), Breaks, 10*time.Second)
			check(t, r, want, "")
		})
	}
}

// ErrNoLuck and ErrNever are the texts of Fails and Permanent.
var (
	ErrNoLuck = errors.New("no luck")
	ErrNever  = errors.New("never")
)
