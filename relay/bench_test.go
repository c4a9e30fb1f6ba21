package relay

// Rows a second through the relay alone: 1 KiB payloads, already committed, to
// acknowledged and passed by the cursor. `go test -bench Relay -run - ./relay`.

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

var quiet = slog.New(slog.DiscardHandler)

func BenchmarkRelay(b *testing.B) {
	for _, chunk := range []int{500, 2000, 5000, 8000} {
		b.Run(fmt.Sprintf("chunk=%d", chunk), func(b *testing.B) {
			g := newRig(b)
			payload := `{"pad":"` + strings.Repeat("x", 1013) + `"}`
			r := g.relay("bench", func(c *Config) { c.Chunk = chunk })
			r.deps.Log, r.log = quiet, quiet
			relayed, done := 0, make(chan struct{})
			r.seams.moved = func(_ context.Context, _ *term, w *window) error {
				if relayed += len(w.rows); relayed >= b.N {
					select {
					case <-done:
					default:
						close(done)
					}
				}
				return nil
			}
			g.exec(`insert into perdure.outbox (kind, queue, key, payload, checked)
				select 'pay', 'payments', 'key-' || n % 1000, convert_to($2, 'UTF8'), true from generate_series(1, $1) n`, b.N, payload)
			g.exec(`vacuum analyze perdure.outbox`)
			b.SetBytes(int64(len(payload)))
			b.ResetTimer()
			run := g.run(r)
			<-done
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
			if err := run.stop(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkIdle is what an empty pass costs.
func BenchmarkIdle(b *testing.B) {
	g := newRig(b)
	r := g.relay("bench", func(c *Config) { c.Idle = time.Nanosecond })
	r.deps.Log, r.log = quiet, quiet
	n, done := 0, make(chan struct{})
	r.seams.afterRead = func(context.Context, *term, *window) error {
		if n++; n == b.N {
			close(done)
		}
		return nil
	}
	run := g.run(r)
	<-done
	b.StopTimer()
	if err := run.stop(); err != nil {
		b.Fatal(err)
	}
}
