package claims

// What a claim and its done cost, and what of it is redis-server's own CPU.

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
)

// cpu reads a process's user and system time from /proc; ticks are 10 ms.
func cpu(b *testing.B, pid string) time.Duration {
	b.Helper()
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		b.Skipf("no /proc to read redis-server's CPU from: %v", err)
	}
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	if err1 != nil || err2 != nil {
		b.Fatal(err1, err2)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

func BenchmarkClaimAndDone(b *testing.B) {
	for _, size := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			r := testkit.OwnRedis(b)
			if !r.Real {
				b.Skip("no redis-server on this machine")
			}
			rdb := dial(b, r.Addr)
			s, err := New(rdb, Config{Prefix: "perdure:", Ledger: &memLedger{}, BeatTTL: time.Hour})
			if err != nil {
				b.Fatal(err)
			}
			ctx := b.Context()
			if err := s.Open(ctx); err != nil {
				b.Fatal(err)
			}
			if err := s.Beat(ctx, me); err != nil {
				b.Fatal(err)
			}
			recs, done := make([]Record, size), make([]Outcome, size)
			var grants []Grant
			var seq int64
			pid := infoField(rdb.Info(ctx, "server").Val(), "process_id")
			before, own := cpu(b, pid), cpu(b, "self")
			b.ReportAllocs()
			for b.Loop() {
				for i := range recs {
					seq++
					recs[i] = Record{TaskID: "main-1-" + strconv.FormatInt(seq, 10), Attempt: 1, Coord: Coord{"tasks.payments", 3, seq}}
				}
				if grants, err = s.Claim(ctx, me, recs, grants[:0]); err != nil {
					b.Fatal(err)
				}
				for i, g := range grants {
					if g.Verdict != VerdictRun {
						b.Fatalf("%+v", g)
					}
					done[i] = Outcome{TaskID: recs[i].TaskID, Run: g.Run, Lease: g.Lease}
				}
				if _, err := s.Done(ctx, me, done); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((cpu(b, pid)-before).Nanoseconds())/1e3/float64(seq), "redis-µs/task")
			b.ReportMetric(float64((cpu(b, "self")-own).Nanoseconds())/1e3/float64(seq), "go-µs/task")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/1e3/float64(seq), "µs/task")
		})
	}
}

// BenchmarkBeatAndLook is what a beat costs in a fleet of so many.
func BenchmarkBeatAndLook(b *testing.B) {
	for _, members := range []int{2, 16, 64} {
		b.Run(fmt.Sprintf("members=%d", members), func(b *testing.B) {
			r := testkit.OwnRedis(b)
			if !r.Real {
				b.Skip("no redis-server on this machine")
			}
			rdb := dial(b, r.Addr)
			s, err := New(rdb, Config{Prefix: "perdure:", Ledger: &memLedger{}, BeatTTL: time.Hour})
			if err != nil {
				b.Fatal(err)
			}
			ctx := b.Context()
			if err := s.Open(ctx); err != nil {
				b.Fatal(err)
			}
			line := "perdure.payments worker-host-0-2f1c8d34-91aa-4c3e-b7c3-5f4c7e0f9a11\n"
			for i := range members {
				if _, err := s.BeatAndLook(ctx, fmt.Sprintf("worker-host-%d/aaaaaaaaaa/0", i), line, false); err != nil {
					b.Fatal(err)
				}
			}
			pid := infoField(rdb.Info(ctx, "server").Val(), "process_id")
			before, own, n := cpu(b, pid), cpu(b, "self"), 0
			for b.Loop() {
				peers, err := s.BeatAndLook(ctx, "worker-host-0/aaaaaaaaaa/0", line, true)
				if err != nil || len(peers) != members-1 {
					b.Fatal(len(peers), err)
				}
				n++
			}
			b.ReportMetric(float64((cpu(b, pid)-before).Nanoseconds())/1e3/float64(n), "redis-µs/beat")
			b.ReportMetric(float64((cpu(b, "self")-own).Nanoseconds())/1e3/float64(n), "go-µs/beat")
		})
	}
}
