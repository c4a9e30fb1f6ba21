package stage_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/app/stage"
	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/loadtest/run"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// options are a small load test on embedded servers, in a folder of t's.
func options(t *testing.T) stage.LoadOptions {
	t.Helper()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "PERDURE_") && !strings.HasPrefix(name, "PERDURE_TEST_") {
			t.Setenv(name, "")
		}
	}
	tmp := t.TempDir()
	if err := os.Chmod(tmp, 0o711); err != nil { // an embedded Postgres is another user
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", tmp)
	cfg, err := config.LoadEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	o := stage.LoadOptions{Config: cfg, Version: "test", Load: run.Defaults()}
	o.Load.Tasks, o.Load.Warmup, o.Load.Batch = 500, 50, 100
	return o
}

// nothingLeft: the folder that the test was in is gone.
func nothingLeft(t *testing.T) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), "perdure-loadtest-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestClosedLoop: 500 tasks of every kind on embedded servers, each begun once
// and done (I1).
func TestClosedLoop(t *testing.T) {
	o := options(t)
	o.Load.Mix = run.Mix{run.Noop: 3, run.Sleep: 1, run.HTTP: 1}
	o.Load.Sleep = time.Millisecond
	dir := t.TempDir()
	o.Files = stage.Files{Result: filepath.Join(dir, "r.json"), HTML: filepath.Join(dir, "r.html"), CPUProfile: filepath.Join(dir, "cpu.pprof")}
	rep, err := stage.Load(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := rep.Err(); err != nil || rep.Begun != 500 || rep.FromDue.Count != 500 || rep.TasksPerSecond <= 0 {
		t.Errorf("%v: %+v", err, rep)
	}
	for _, name := range []string{"kafka", "redis"} {
		if !strings.Contains(rep.NotCounted[name], "embedded") {
			t.Errorf("the report does not say that %s is embedded: %v", name, rep.NotCounted)
		}
	}
	raw, err := os.ReadFile(o.Files.Result)
	if err != nil {
		t.Fatal(err)
	}
	var back run.Report
	if err := json.Unmarshal(raw, &back); err != nil || back.Begun != 500 {
		t.Errorf("the result file: %v, %d begun", err, back.Begun)
	}
	page, err := os.ReadFile(o.Files.HTML)
	if err != nil || bytes.Count(page, []byte("<svg")) != 3 {
		t.Errorf("the HTML report: %v, %d charts", err, bytes.Count(page, []byte("<svg")))
	}
	if st, err := os.Stat(o.Files.CPUProfile); err != nil || st.Size() == 0 {
		t.Errorf("the CPU profile: %v", err)
	}
	nothingLeft(t)
}

// TestStalledHandler: one handler at a time, and each hundredth stalls it for
// 600 ms. An open loop shows what the others were due for meanwhile.
func TestStalledHandler(t *testing.T) {
	o := options(t)
	o.Load.Loop, o.Load.Rate, o.Load.Duration = run.Open, 100, 2*time.Second
	o.Load.Mix, o.Load.Sleep, o.Load.Concurrency = run.Mix{run.Noop: 99, run.Sleep: 1}, 600*time.Millisecond, 1
	rep, err := stage.Load(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	// Of 200 tasks about 120 were due while one of two stalled the worker.
	if rep.FromDue.P90 < 300 || rep.FromDue.Max < 500 {
		t.Errorf("p90 %.0f ms, max %.0f ms: the stalls were left out", rep.FromDue.P90, rep.FromDue.Max)
	}
	if err := rep.Err(); err != nil {
		t.Error(err)
	}
}

// TestRealServersAreLeftAsTheyWere: with a database, topics and keys of its own,
// which are gone afterwards, and with the CPU time of each counted.
func TestRealServersAreLeftAsTheyWere(t *testing.T) {
	k, r, db := testkit.Kafka(t), testkit.Redis(t), testkit.Postgres(t)
	o := options(t)
	o.Config.KafkaBrokers, o.Config.KafkaTopicPrefix = k.Brokers, k.Prefix
	o.Config.RedisAddrs, o.Config.RedisKeyPrefix = []string{r.Addr}, r.Prefix
	o.Config.PostgresURL = db.URL
	o.Load.Loop, o.Load.Rate, o.Load.Duration, o.Load.Baseline = run.Open, 200, time.Second, true
	rep, err := stage.Load(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := rep.Err(); err != nil || rep.KafkaAlone == nil || rep.KafkaAlone.Count != 200 || rep.KafkaBeside == nil || rep.KafkaBeside.Count != 10 {
		t.Errorf("%v; Kafka alone: %+v; beside the load: %+v", err, rep.KafkaAlone, rep.KafkaBeside)
	}
	conn, err := pgx.Connect(t.Context(), db.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	var left int
	if err := conn.QueryRow(t.Context(), `select (select count(*) from pg_database where datname like 'perdure_load_%') + (select count(*) from pg_namespace where nspname = 'perdure')`).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d databases or schemas are left: %v", left, err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	testkit.Eventually(t, 10*time.Second, func() (bool, string) { // topics go a moment after they are deleted
		topics, err := kadm.NewClient(cl).ListTopics(t.Context())
		if err != nil {
			return false, err.Error()
		}
		for _, name := range topics.Names() {
			if strings.HasPrefix(name, k.Prefix) {
				return false, "topic " + name + " is left"
			}
		}
		return true, ""
	})
	rdb := redis.NewClient(&redis.Options{Addr: r.Addr})
	defer rdb.Close()
	if keys, err := rdb.Keys(t.Context(), r.Prefix+"*").Result(); err != nil || len(keys) != 0 {
		t.Errorf("keys are left: %v, %v", keys, err)
	}
	nothingLeft(t)
}

func TestWrongOptionsAreUsage(t *testing.T) {
	o := options(t)
	o.Load.Tasks = -1
	if _, err := stage.Load(t.Context(), o); exit.Code(err) != exit.Wrong {
		t.Errorf("got %v", err)
	}
}

// TestAStopLeavesNothing: Ctrl-C while it starts, and while it runs.
func TestAStopLeavesNothing(t *testing.T) {
	for _, when := range []string{"at once", "under load"} {
		o := options(t)
		o.Load.Loop, o.Load.Rate, o.Load.Duration = run.Open, 10, time.Minute
		ctx, cancel := context.WithCancel(t.Context())
		loaded := false
		o.Load.Progress = func(run.Progress) { loaded = true; cancel() }
		if when == "at once" {
			cancel()
		}
		_, err := stage.Load(ctx, o)
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("stopped %s: %v", when, err)
		}
		if loaded != (when == "under load") {
			t.Errorf("stopped %s: the load ran: %v", when, loaded)
		}
		nothingLeft(t)
	}
}

func TestReportThatCannotBeWritten(t *testing.T) {
	o := options(t)
	o.Files.HTML = filepath.Join(t.TempDir(), "no", "such", "folder.html")
	if _, err := stage.Load(t.Context(), o); err == nil || !strings.Contains(err.Error(), "write the report") {
		t.Errorf("got %v", err)
	}
	nothingLeft(t)
}
