package worker_test

// Workers that are killed, stopped, joined by others, or that lose Redis.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

// victim is what a worker process of its own is told, in VICTIM.
type victim struct {
	Instance, Catalog, Redis, Keys, Prefix, URL string
	Brokers                                     []string
	TTL, AbandonAfter                           time.Duration
}

// runAsVictim turns this test binary into a worker that is made to be killed.
func runAsVictim() bool {
	text := os.Getenv("VICTIM")
	if text == "" {
		return false
	}
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "victim:", err)
			os.Exit(1)
		}
	}
	var v victim
	fail(json.Unmarshal([]byte(text), &v))
	cat, err := schemas.ParseCatalog("catalog.yaml", []byte(v.Catalog), nil)
	fail(err)
	names := kafka.Names{Prefix: v.Prefix}
	store, err := newStore(v.Redis, v.Keys, names, v.Brokers, v.TTL, func(func()) {})
	fail(err)
	wk, err := worker.New(
		worker.Config{Instance: v.Instance, Concurrency: 8, CommitInterval: 20 * time.Millisecond, SessionTimeout: 6 * time.Second, AbandonAfter: v.AbandonAfter},
		worker.Deps{Catalog: cat, Names: names, Kafka: []kgo.Opt{kgo.SeedBrokers(v.Brokers...)}, Claims: store})
	fail(err)
	worker.Handle(wk, "job.run", func(ctx context.Context, t *worker.Task[job]) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, v.URL+"/"+t.ID+"/"+t.Fence(), nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		if res.StatusCode == http.StatusUnprocessableEntity {
			return worker.Permanent(errors.Join(errors.New("refused"), res.Body.Close()))
		}
		if t.Payload.Mode == "kill" {
			os.Exit(3)
		}
		if t.Payload.Mode == "deaf" {
			select {}
		}
		if t.Payload.Mode == "tidy up" {
			<-ctx.Done()
			<-time.After(50 * time.Millisecond) // the work of tidying up
			return errors.Join(ctx.Err(), res.Body.Close())
		}
		return res.Body.Close()
	})
	if err := wk.Run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "victim:", err)
		os.Exit(exit.Code(err))
	}
	return true
}

// spawn starts a worker process.
func (w *world) spawn(instance, catalog, url string, change ...func(*victim)) *exec.Cmd {
	w.Helper()
	return w.run(w.command(instance, catalog, url, change...))
}

// command is a worker process that is not started yet.
func (w *world) command(instance, catalog, url string, change ...func(*victim)) *exec.Cmd {
	w.Helper()
	v := victim{
		Instance: instance, Catalog: catalog, Redis: w.redis, Keys: w.keys, Prefix: w.names.Prefix,
		URL: url, Brokers: w.kafka.Brokers, TTL: w.ttl,
	}
	for _, c := range change {
		c(&v)
	}
	text, err := json.Marshal(v)
	if err != nil {
		w.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "VICTIM="+string(text))
	cmd.Stderr = os.Stderr
	return cmd
}

// run starts a process that does not outlive the test.
func (w *world) run(cmd *exec.Cmd) *exec.Cmd {
	w.Helper()
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

// effects is an HTTP server that keeps a ledger behind a fence. Requests of the
// instance in hang never get an answer.
func (w *world) effects(l *ledger, hang func(id string) bool) string {
	w.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
		var run int64
		if _, err := fmt.Sscanf(strings.TrimLeft(parts[1], "0"), "%d", &run); err != nil {
			w.Error(err)
		}
		l.began(parts[0], run)
		if hang(parts[0]) {
			<-r.Context().Done()
			return
		}
		if err := l.applied(parts[0], run); err != nil {
			rw.WriteHeader(http.StatusPreconditionFailed)
		}
	})}
	go func() { _ = srv.Serve(ln) }()
	w.Cleanup(func() { _ = srv.Close() })
	return "http://" + ln.Addr().String()
}

func TestTasksOfAKilledWorkerRunElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalogText)
	l := newLedger()
	var alive atomic.Bool // the survivor
	var hung atomic.Int64
	url := w.effects(l, func(string) bool { return !alive.Load() && hung.Add(1) > 20 })
	cmd := w.spawn("victim", catalogText, url)
	ids := w.sendJobs(200)
	testkit.Eventually(t, wait, func() (bool, string) { return hung.Load() >= 28, fmt.Sprintf("%d requests", hung.Load()) })
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	alive.Store(true)
	var inDoubt atomic.Int64
	w.start("b", nil, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(_ context.Context, task *worker.Task[job]) error {
			if task.InDoubt {
				inDoubt.Add(1)
			}
			if task.Attempt != 1 {
				return worker.Permanent(fmt.Errorf("a crash used an attempt: %d", task.Attempt))
			}
			l.began(task.ID, task.Run)
			return l.applied(task.ID, task.Run)
		})
	})
	l.doneWithin(t, len(ids))
	w.committedAll("jobs")
	if _, done, twice := l.count(); done != 200 || twice != 0 {
		t.Errorf("done %d, twice %d; want 200, 0", done, twice)
	}
	if n := inDoubt.Load(); n != 8 {
		t.Errorf("%d tasks were in doubt, want the 8 that ran", n)
	}
	for _, id := range ids {
		if n := l.runsOf(id); n > 2 {
			t.Errorf("%s ran %d times", id, n)
		}
	}
	if letters := w.letters("jobs"); len(letters) != 0 {
		t.Errorf("%d dead letters: %+v", len(letters), letters[0])
	}
}

func TestATaskThatKillsItsWorkerDiesAloneOfPoison(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalogText)
	w.ttl = time.Second
	l := newLedger()
	poison := w.task("job.run", job{Mode: "kill"})
	var ids []string
	// While it is not yet a suspect, it takes all its neighbours with it.
	url := w.effects(l, func(id string) bool {
		if id != poison.ID {
			return l.runsOf(id) <= claims.SuspectCrashes
		}
		if round := l.runsOf(id); round <= claims.SuspectCrashes {
			testkit.Eventually(t, wait, func() (bool, string) {
				for _, n := range ids {
					if l.runsOf(n) < round {
						return false, fmt.Sprintf("%s does not run in round %d", n, round)
					}
				}
				return true, ""
			})
		}
		return false
	})
	ids = w.sendJobs(7) // of the victim's eight slots
	w.send(poison)
	deaths := 0
	for range claims.SuspectCrashes + claims.DefaultMaxCrashes {
		if err := w.spawn("victim", catalogText, url).Wait(); err == nil || !strings.Contains(err.Error(), "exit status 3") {
			t.Fatalf("victim %d ended with %v, want exit status 3", deaths, err)
		}
		deaths++
	}
	w.start("victim", nil, ledgered(l))
	letter := w.lettersWithin("jobs", 1)[0]
	if letter.TaskID != poison.ID || letter.Reason != schemas.ReasonPoison || letter.Run == 0 {
		t.Errorf("letter %+v", letter)
	}
	l.doneWithin(t, len(ids)+1) // the poison's own effect was applied before it killed
	w.committedAll("jobs")
	if n := len(w.letters("jobs")); n != 1 {
		t.Errorf("%d letters: a neighbour was condemned", n)
	}
	if n := l.runsOf(poison.ID); n != deaths {
		t.Errorf("the poison ran %d times, its workers died %d times", n, deaths)
	}
	for _, id := range ids {
		if n := l.runsOf(id); n != claims.SuspectCrashes+1 {
			t.Errorf("%s ran %d times, want %d: the poison died alone from its second crash on", id, n, claims.SuspectCrashes+1)
		}
	}
}

func TestRedisKilledAndBack(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*testkit.OwnedRedis, testing.TB){
		"away and empty": func(r *testkit.OwnedRedis, t testing.TB) { r.Kill(t); r.Restart(t) },
		"flushed":        (*testkit.OwnedRedis).Flush,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := testkit.OwnRedis(t)
			w := newWorld(t, catalogText, withRedis(r.Addr))
			l := newLedger()
			a := w.start("a", nil, func(wk *worker.Worker) {
				worker.Handle(wk, "job.run", func(ctx context.Context, task *worker.Task[job]) error {
					l.began(task.ID, task.Run)
					select {
					case <-time.After(5 * time.Millisecond): // the work
					case <-ctx.Done():
						return ctx.Err()
					}
					return l.applied(task.ID, task.Run)
				})
			})
			w.sendJobs(300)
			l.doneWithin(t, 100)
			if err := a.Ready(t.Context()); err != nil {
				t.Errorf("not ready: %v", err)
			}
			lose(r, t)
			w.sendJobs(300)
			l.doneWithin(t, 600)
			w.committedAll("jobs")
			if _, done, twice := l.count(); done != 600 || twice != 0 {
				t.Errorf("done %d, twice %d; want 600, 0", done, twice)
			}
			testkit.Eventually(t, wait, func() (bool, string) {
				err := a.Ready(t.Context())
				return err == nil, fmt.Sprint(err)
			})
			if letters := w.letters("jobs"); len(letters) != 0 {
				t.Errorf("%d dead letters: %+v", len(letters), letters[0])
			}
		})
	}
}

func TestARunningTaskKeepsItsClaimThroughAFlush(t *testing.T) {
	t.Parallel()
	r := testkit.OwnRedis(t)
	w := newWorld(t, catalogText, withRedis(r.Addr))
	w.ttl = 3 * time.Second // the process must beat within it, however busy the machine is
	l := newLedger()
	release := make(chan struct{})
	a := w.start("a", nil, l.holding(release, func(j job, start int) bool { return start == 1 && j.N == 1 }))
	running, short := w.task("job.run", job{N: 1}), w.task("job.run", job{N: 2})
	w.send(short)
	l.doneWithin(t, 1)
	w.committedAll("jobs")
	w.send(running)
	testkit.Eventually(t, wait, func() (bool, string) { return l.runsOf(running.ID) == 1, "does not run" })
	r.Flush(t)
	// Duplicates of the one that runs and of the one that was just completed.
	w.send(running, short)
	testkit.Eventually(t, wait, func() (bool, string) {
		return a.count(t, "perdure_worker_claims_total", "ack") >= 2, "the duplicates were not recognized"
	})
	close(release)
	l.doneWithin(t, 2)
	w.committedAll("jobs")
	if l.runsOf(running.ID) != 1 || l.runsOf(short.ID) != 1 {
		t.Errorf("ran %d and %d times, want once each", l.runsOf(running.ID), l.runsOf(short.ID))
	}
}

func TestAStopWhileRedisIsAwayAtStartIsAStop(t *testing.T) {
	t.Parallel()
	r := testkit.OwnRedis(t)
	w := newWorld(t, catalogText, withRedis(r.Addr))
	r.Kill(t)
	a := w.start("a", nil, ledgered(newLedger()))
	testkit.Eventually(t, wait, func() (bool, string) {
		err := a.Ready(t.Context())
		return err != nil && strings.Contains(err.Error(), "redis"), fmt.Sprintf("ready says %v", err)
	})
	if err := a.Stop(); err != nil {
		t.Errorf("a stop that was asked for gave %v", err)
	}
}

func TestNothingStartsWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	r := testkit.OwnRedis(t)
	w := newWorld(t, catalogText, withRedis(r.Addr))
	l := newLedger()
	a := w.start("a", nil, ledgered(l))
	w.sendJobs(10)
	l.doneWithin(t, 10)
	w.committedAll("jobs")
	r.Kill(t)
	w.sendJobs(10)
	testkit.Eventually(t, wait, func() (bool, string) {
		err := a.Ready(t.Context())
		return err != nil && strings.Contains(err.Error(), "redis"), fmt.Sprintf("ready says %v", err)
	})
	if started, _, _ := l.count(); started != 10 {
		t.Fatalf("%d tasks started, 10 could be claimed", started)
	}
	r.Restart(t)
	l.doneWithin(t, 20)
	w.committedAll("jobs")
}

func TestJoinsAndLeavesUnderLoadLoseNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalogText)
	l := newLedger()
	setup := func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(ctx context.Context, task *worker.Task[job]) error {
			l.began(task.ID, task.Run)
			select {
			case <-time.After(2 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
			return l.applied(task.ID, task.Run)
		})
	}
	w.start("steady", nil, setup)
	const total = 3000
	var producing sync.WaitGroup
	producing.Go(func() {
		for range total / 100 {
			w.sendJobs(100)
		}
	})
	for i := range 4 {
		r := w.start(fmt.Sprintf("guest-%d", i), nil, setup)
		testkit.Eventually(t, wait, func() (bool, string) {
			err := r.Ready(t.Context())
			return err == nil, fmt.Sprint(err)
		})
		target := (i + 1) * total / 5
		l.doneWithin(t, target)
		if err := r.Stop(); err != nil {
			t.Errorf("guest %d: %v", i, err)
		}
	}
	producing.Wait()
	l.doneWithin(t, total)
	w.committedAll("jobs")
	_, done, twice := l.count()
	reruns := 0
	for _, runs := range l.runs {
		reruns += len(runs) - 1
	}
	if done != total || twice != 0 || reruns != 0 {
		t.Errorf("done %d, twice %d, re-run %d; want %d, 0, 0: every stop was orderly", done, twice, reruns, total)
	}
}

func TestARestartRunsOnlyWhatWasInFlight(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onePartition)
	l := newLedger()
	release := make(chan struct{})
	setup := l.holding(release, func(j job, start int) bool { return start == 1 && j.N == 0 })
	a := w.start("a", func(c *worker.Config) { c.Grace = 50 * time.Millisecond }, setup)
	ids := w.sendJobs(100)
	l.doneWithin(t, 99) // the first one holds the low watermark
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	close(release)
	b := w.start("a", nil, setup)
	l.doneWithin(t, 100)
	w.committedAll("jobs")
	if n := b.count(t, "perdure_worker_claims_total", ""); n != 1 {
		t.Errorf("%v claims were asked for after the restart, want 1: the commit's metadata knows the other 99", n)
	}
	for i, id := range ids {
		want := 1
		if i == 0 {
			want = 2 // cut off by the stop: not its failure, so the same attempt again
		}
		if n := l.runsOf(id); n != want {
			t.Errorf("task %d ran %d times, want %d", i, n, want)
		}
	}
	if events := w.read(w.names.Events("jobs")); len(events) != 0 {
		t.Errorf("%d events: a stop is not a failure", len(events))
	}
}

func TestOnceIsNeverRunAgainInDoubt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, strings.Replace(catalogText, "timeout: 2s", "timeout: 200ms\n    effects: once", 1))
	l := newLedger()
	w.start("a", nil, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(ctx context.Context, task *worker.Task[job]) error {
			l.began(task.ID, task.Run)
			switch task.Payload.Mode {
			case "timeout":
				<-ctx.Done()
				return ctx.Err()
			case "unknown":
				return worker.Unknown(errors.New("the line went dead"))
			case "panic":
				panic("after the effect?")
			}
			return errors.New("it surely did not happen")
		})
	})
	ids := map[string]string{}
	for _, mode := range []string{"timeout", "unknown", "panic", "plain"} {
		task := w.task("job.run", job{Mode: mode})
		ids[task.ID] = mode
		w.send(task)
	}
	for _, letter := range w.lettersWithin("jobs", 4) {
		mode := ids[letter.TaskID]
		wantReason, wantRuns := schemas.ReasonUnknown, 1
		if mode == "plain" {
			wantReason, wantRuns = schemas.ReasonExhausted, 3
		}
		if letter.Reason != wantReason || l.runsOf(letter.TaskID) != wantRuns {
			t.Errorf("%s: reason %s after %d runs, want %s after %d", mode, letter.Reason, l.runsOf(letter.TaskID), wantReason, wantRuns)
		}
	}
	w.committedAll("jobs")
}

func TestTasksOfAKeyNeitherOverlapNorReorder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, strings.Replace(catalogText, "timeout: 2s", "timeout: 2s\n    order: key", 1))
	var mu sync.Mutex
	running, order, overlaps := map[string]bool{}, map[string][]int{}, 0
	var done atomic.Int64
	setup := func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(_ context.Context, task *worker.Task[job]) error {
			mu.Lock()
			if running[task.Key] {
				overlaps++
			}
			running[task.Key] = true
			mu.Unlock()
			<-time.After(2 * time.Millisecond) // the work: time enough for another to begin
			fails := task.Payload.N%7 == 0 && task.Attempt == 1
			mu.Lock()
			defer mu.Unlock()
			running[task.Key] = false
			if fails {
				return errors.New("the first attempt fails")
			}
			order[task.Key] = append(order[task.Key], task.Payload.N)
			done.Add(1)
			return nil
		})
	}
	w.start("a", nil, setup)
	var tasks []schemas.Task
	for n := range 400 {
		task := w.task("job.run", job{N: n})
		task.Key, task.Ordered = fmt.Sprintf("key-%d", n%10), true
		tasks = append(tasks, task)
	}
	w.send(tasks[:200]...)
	b := w.start("b", nil, setup)
	w.send(tasks[200:]...)
	testkit.Eventually(t, wait, func() (bool, string) { return done.Load() > 250, fmt.Sprint(done.Load(), " done") })
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, wait, func() (bool, string) { return done.Load() >= 400, fmt.Sprint(done.Load(), " done") })
	w.committedAll("jobs")
	mu.Lock()
	defer mu.Unlock()
	if overlaps != 0 {
		t.Errorf("%d overlaps", overlaps)
	}
	for key, ns := range order {
		for i := 1; i < len(ns); i++ {
			if ns[i] <= ns[i-1] {
				t.Errorf("%s ran %d after %d", key, ns[i], ns[i-1])
			}
		}
	}
}
