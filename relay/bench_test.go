package relay

// Rows a second through the relay alone: 1 KiB payloads, already committed, to
// acknowledged and passed by the cursor; and what a row costs in CPU time, which
// other load on the machine hardly changes: of this process, of the relay's
// Postgres session, and of the brokers where PERDURE_SERVERS_DIR tells their pids.
// `go test -bench Relay -run - -benchtime 100000x ./relay`.

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/kafka"
)

var quiet = slog.New(slog.DiscardHandler)

func BenchmarkRelay(b *testing.B) {
	for _, entropy := range []string{"random", "text"} {
		b.Run(entropy, func(b *testing.B) { benchmarkRelay(b, entropy, kafka.CompressWhatShrinks()) })
	}
}

// BenchmarkCompression tries what BenchmarkRelay measures with other codecs than
// the relay's own choice.
func BenchmarkCompression(b *testing.B) {
	for _, entropy := range []string{"random", "text"} {
		for name, codec := range map[string]kgo.CompressionCodec{
			"none": kgo.NoCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
		} {
			b.Run(entropy+"/"+name, func(b *testing.B) { benchmarkRelay(b, entropy, kgo.ProducerBatchCompression(codec)) })
		}
	}
}

// fill gives n rows of 1 KiB: base64 of noise, which no compressor shrinks by
// more than a quarter, or words.
func (g *rig) fill(n int, entropy string) {
	g.t.Helper()
	noise := string(incompressible(16 << 20))[1:]
	if entropy == "text" {
		noise = strings.Repeat("the payment was disputed by its holder and the bank has asked for evidence ", 1000)
	}
	i := 0
	_, err := g.db.CopyFrom(g.t.Context(), pgx.Identifier{"perdure", "outbox"}, []string{"kind", "queue", "payload", "checked"},
		pgx.CopyFromFunc(func() ([]any, error) {
			if i++; i > n {
				return nil, nil
			}
			at := i * 997 % (len(noise) - 1024)
			return []any{"post", "mail", fmt.Appendf(nil, `{"n":"%010d","d":"%s"}`, i, noise[at:at+1001]), true}, nil
		}))
	if err != nil {
		g.t.Fatal(err)
	}
	g.exec(`vacuum analyze perdure.outbox`)
}

func benchmarkRelay(b *testing.B, entropy string, opts ...kgo.Opt) {
	g := newRig(b)
	r := g.relay("bench", func(c *Config) { c.LeaseTTL = 5 * time.Second })
	r.deps.Log, r.log = quiet, quiet
	r.deps.Kafka = append(r.deps.Kafka, opts...)
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
	g.fill(b.N, entropy)
	b.SetBytes(1024)
	b.ReportAllocs()
	b.ResetTimer()
	before, brokers := ownCPU(), brokersCPU()
	run := g.run(r)
	<-done
	b.StopTimer()
	row := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(b.N) }
	b.ReportMetric(row(ownCPU()-before), "go-µs/row")
	b.ReportMetric(row(postgres), "pg-µs/row")
	b.ReportMetric(row(brokersCPU()-brokers), "kafka-µs/row")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
	if err := run.stop(); err != nil {
		b.Fatal(err)
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

// brokersCPU is the CPU time of the brokers that .ci/servers started, 0 where
// their pids are not known.
func brokersCPU() (sum time.Duration) {
	files, _ := filepath.Glob(filepath.Join(os.Getenv("PERDURE_SERVERS_DIR"), "kafka*.pid"))
	for _, file := range files {
		b, err := os.ReadFile(file)
		if pid, _, ok := strings.Cut(string(b), " "); err == nil && ok {
			sum += spent("/proc/" + pid + "/stat")
		}
	}
	return sum
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
	pass := func() {
		if n++; n == b.N {
			close(done)
		}
	}
	r.seams.unchanged = pass
	r.seams.afterRead = func(context.Context, *term, *window) error {
		pass()
		return nil
	}
	run := g.run(r)
	<-done
	b.StopTimer()
	if err := run.stop(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRead is what a read of an empty window costs, the session's own CPU time beside it.
func BenchmarkRead(b *testing.B) {
	g := newRig(b)
	r := g.relay("bench", nil)
	r.deps.Log, r.log = quiet, quiet
	tm := &term{r: r, words: map[string]string{}, limit: 1000}
	var err error
	if tm.conn, err = r.connect(b.Context()); err != nil {
		b.Fatal(err)
	}
	defer closeConn(tm.conn)
	if tm.is, err = r.identify(b.Context(), tm.conn); err != nil {
		b.Fatal(err)
	}
	if _, err := tm.standby(b.Context()); err != nil {
		b.Fatal(err)
	}
	session := fmt.Sprintf("/proc/%d/stat", tm.conn.PgConn().PID())
	b.ResetTimer()
	began := spent(session)
	for range b.N {
		w, err := tm.readWindow(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		tm.reuse(w.slab)
	}
	b.ReportMetric(float64((spent(session)-began).Microseconds())/float64(b.N), "µs-postgres/op")
}
