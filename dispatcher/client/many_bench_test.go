package client

import (
	"context"
	"fmt"
	"testing"

	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
)

// BenchmarkManyRows is why copyFrom is what it is: a transaction of n tasks of 1 KiB
// by either way, µs a task.
func BenchmarkManyRows(b *testing.B) {
	ctx := context.Background()
	pool, err := pg.Pool(ctx, testkit.MigratedPostgres(b).URL)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	payload := make([]byte, 1024)
	for i := range payload {
		payload[i] = byte(i * i)
	}
	for _, n := range []int{2, 5, 10, 20, 50, 100, 1000} {
		rows, ids := make([]*row, n), make([]int64, n)
		for i := range rows {
			rows[i] = &row{kind: "k", queue: "q", contentType: "application/json", payload: payload}
		}
		for _, how := range []string{"unnest", "copy"} {
			b.Run(fmt.Sprintf("%d/%s", n, how), func(b *testing.B) {
				conn, err := pool.Acquire(ctx)
				if err != nil {
					b.Fatal(err)
				}
				defer conn.Release()
				if _, err := conn.Exec(ctx, `set synchronous_commit = off`); err != nil { // the disk is the same for both
					b.Fatal(err)
				}
				for b.Loop() {
					tx, err := conn.Begin(ctx)
					if err != nil {
						b.Fatal(err)
					}
					if err := tx.QueryRow(ctx, `select array_agg(nextval('perdure.outbox_id_seq')) from generate_series(1, $1)`, n).Scan(&ids); err != nil {
						b.Fatal(err)
					}
					if how == "copy" {
						err = copyPlain(ctx, tx, 1, true, rows, ids)
					} else {
						err = unnestPlain(ctx, tx, 1, rows, ids)
					}
					if err != nil {
						b.Fatal(err)
					}
					if err := tx.Commit(ctx); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "µs/task")
			})
		}
	}
}
