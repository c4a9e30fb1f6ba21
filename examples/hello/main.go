// Command hello is a worker with one handler in Go. Start `perdure up` in one
// terminal, this in another, and enqueue from a third: see catalog.yaml.
package main

import (
	"context"
	"fmt"

	"github.com/perdure/perdure/worker"
)

type greeting struct{ Name string }

func main() {
	worker.Main(func(w *worker.Worker) error {
		worker.Handle(w, "hello.say", func(_ context.Context, t *worker.Task[greeting]) error {
			fmt.Println("hello,", t.Payload.Name, "from task", t.ID)
			return nil
		})
		return nil
	})
}
