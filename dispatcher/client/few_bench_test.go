package client_test

import (
	"fmt"
	"testing"

	"github.com/perdure/perdure/dispatcher/client"
)

// BenchmarkEnqueueMany is a transaction of its own with n tasks, whose commit waits
// for no disk.
func BenchmarkEnqueueMany(b *testing.B) {
	pool := database(b)
	if _, err := pool.Exec(b.Context(), `do $$ begin execute format('alter database %I set synchronous_commit = off', current_database()); end $$`); err != nil {
		b.Fatal(err)
	}
	pool.Reset()
	c := newClient(b, pool)
	for _, n := range []int{1, 2, 5, 10, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			tasks := make([]client.Task, n)
			for i := range tasks {
				tasks[i] = client.Task{Kind: "brief", Payload: client.Raw(`{"n":1}`)}
			}
			for b.Loop() {
				if _, err := c.EnqueueMany(b.Context(), tasks); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
