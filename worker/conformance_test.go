package worker

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
	"github.com/perdure/perdure/worker/internal/execution/executiontest"
)

func TestGoHandlersAreConformingExecutors(t *testing.T) {
	executiontest.Run(t, func(_ *testing.T, _ *schemas.Kind, b executiontest.Behaviour, seen func(executiontest.Seen)) execution.Executor {
		return goHandler[[]byte]{fn: func(ctx context.Context, task *Task[[]byte]) error {
			_, bounded := ctx.Deadline()
			seen(executiontest.Seen{
				ID: task.ID, Kind: task.Kind, Key: task.Key, Fence: task.Fence(),
				Payload: string(task.Payload), Attempt: task.Attempt, Deadline: bounded,
			})
			switch b {
			case executiontest.Fails:
				return executiontest.ErrNoLuck
			case executiontest.Permanent:
				return Permanent(executiontest.ErrNever)
			case executiontest.Later:
				return RetryAfter(7*time.Second, executiontest.ErrNoLuck)
			case executiontest.HandsOn:
				return fmt.Errorf("handed on: %w", Pending())
			case executiontest.Hangs:
				<-ctx.Done()
				return ctx.Err()
			case executiontest.Breaks:
				panic("broken")
			}
			return nil
		}}
	})
}
