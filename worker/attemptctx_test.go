package worker

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A context that is made late must not be told from one that is made at once.
func TestAttemptContextIsADeadlineContext(t *testing.T) {
	type key struct{}
	for name, ends := range map[string]struct {
		do   func(cancelParent, end func())
		want error
	}{
		"nothing":       {func(_, _ func()) {}, nil},
		"its deadline":  {func(_, _ func()) { time.Sleep(time.Minute) }, context.DeadlineExceeded},
		"the attempt":   {func(_, end func()) { end() }, context.Canceled},
		"the worker":    {func(cancel, _ func()) { cancel() }, context.Canceled},
		"twice":         {func(cancel, end func()) { end(); cancel(); end() }, context.Canceled},
		"end, deadline": {func(_, end func()) { end(); time.Sleep(time.Minute) }, context.Canceled},
	} {
		for _, asked := range []string{"before", "after", "by a child", "never"} {
			t.Run(name+" ends it, Done asked for "+asked, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					parent, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, 7))
					defer cancel()
					c := &attemptContext{parent: parent, deadline: time.Now().Add(time.Minute)}
					defer c.end()
					var child context.Context
					switch asked {
					case "before":
						c.Done()
					case "by a child":
						var stop context.CancelFunc
						child, stop = context.WithCancel(c)
						defer stop()
					}
					ends.do(cancel, c.end)
					synctest.Wait()
					if asked == "after" {
						c.Done()
					}
					if got := c.Err(); !errors.Is(got, ends.want) {
						t.Fatalf("err %v, want %v", got, ends.want)
					}
					if got := context.Cause(c); !errors.Is(got, ends.want) {
						t.Fatalf("cause %v, want %v", got, ends.want)
					}
					if child != nil && !errors.Is(child.Err(), ends.want) {
						t.Fatalf("child's err %v, want %v", child.Err(), ends.want)
					}
					select {
					case <-c.Done():
						if ends.want == nil {
							t.Fatal("done, and has not ended")
						}
					default:
						if ends.want != nil {
							t.Fatal("ended, and is not done")
						}
					}
					if c.Value(key{}) != 7 {
						t.Fatal("the parent's values are gone")
					}
					if d, ok := c.Deadline(); !ok || !d.Equal(c.deadline) {
						t.Fatal(d, ok)
					}
				})
			})
		}
	}
}
