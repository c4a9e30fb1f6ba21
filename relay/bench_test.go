package relay

// Rows a second through the relay alone: 1 KiB payloads, already committed, to
// acknowledged and passed by the cursor; and what a row costs in CPU time, of this
// process and of the relay's Postgres session, which other load on the machine
// hardly changes. `go test -bench Relay -run - -benchtime 100000x ./relay`.

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"syscall"
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
			backend := ""
			r.seams.beforeRead = func(_ context.Context, t *term) error {
				if backend == "" {
					backend = fmt.Sprintf("/proc/%d/stat", t.conn.PgConn().PID())
				}
				return nil
			}
			var postgres time.Duration
			r.seams.moved = func(_ context.Context, _ *term, w *window) error {
				if relayed += len(w.rows); relayed >= b.N {
					select {
					case <-done:
					default:
						postgres = spent(backend)
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
			before := ownCPU()
			run := g.run(r)
			<-done
			b.StopTimer()
			b.ReportMetric(float64((ownCPU()-before).Microseconds())/float64(b.N), "go-µs/row")
			b.ReportMetric(float64(postgres.Microseconds())/float64(b.N), "pg-µs/row")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
			if err := run.stop(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// ownCPU is the CPU time of this process.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// spent is the CPU time in a process's /proc/PID/stat, 0 where there is none.
func spent(path string) time.Duration {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), ") ") // the name may hold spaces
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * (time.Second / 100) // USER_HZ
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
