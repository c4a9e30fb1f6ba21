package worker_test

// A replayed task that is cancelled: its letter is settled, as its replay is told.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/replayer"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

const cancelCatalog = `
version: 1
queues:
  jobs: {partitions: 2, replication: 1}
  lines: {partitions: 2, replication: 1}
kinds:
  job.run: {queue: jobs, timeout: 60s, retry: {max_attempts: 3, initial_delay: 20ms, max_delay: 50ms}}
  line.run: {queue: lines, timeout: 60s, order: key, on_dead: block, retry: {max_attempts: 3, initial_delay: 20ms, max_delay: 50ms}}
`

func TestACancelledReplayIsAnOutcome(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ kind, queue string }{{"job.run", "jobs"}, {"line.run", "lines"}} {
		t.Run(c.queue, func(t *testing.T) {
			t.Parallel()
			cancelledReplay(t, c.kind, c.queue)
		})
	}
}

func cancelledReplay(t *testing.T, kind, queue string) {
	w := newWorld(t, cancelCatalog)
	db, err := pg.Pool(t.Context(), testkit.MigratedPostgres(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	index, err := dlq.NewIndex(dlq.Config{}, dlq.Deps{DB: db, Kafka: []kgo.Opt{kgo.SeedBrokers(w.kafka.Brokers...)}, Names: w.names, Catalog: w.cat, Log: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	runs, err := replayer.New(replayer.Config{Instance: "r", Poll: 20 * time.Millisecond}, replayer.Deps{DB: db, Claims: w.store(), Catalog: w.cat, Log: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	for _, run := range []func(context.Context) error{index.Run, runs.Run} {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
	l := newLedger()
	handle := func(ctx context.Context, task *worker.Task[job]) error {
		l.began(task.ID, task.Run)
		switch {
		case task.Epoch == 0:
			return worker.Permanent(errors.New("no"))
		case task.Payload.Mode == "is cancelled":
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	w.start("a", nil, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", handle)
		worker.Handle(wk, "line.run", handle)
	})
	cancelled, completes := w.task(kind, job{Mode: "is cancelled"}), w.task(kind, job{})
	cancelled.Key, completes.Key = "k1", "k2"
	cancelled.Ordered, completes.Ordered = kind == "line.run", kind == "line.run"
	w.send(cancelled, completes)
	count := func(sql string, args ...any) (n int) {
		if err := db.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	testkit.Eventually(t, wait, func() (bool, string) {
		n := count(`select count(*) from perdure.dead_letters`)
		return n == 2, fmt.Sprint(n, " letters")
	})
	jobs := replayer.NewJobs(db, w.cat, nil)
	id, err := jobs.Plan(t.Context(), replayer.Plan{Spec: replayer.Spec{Selector: replayer.Selector{All: true}}, Start: true, Who: "t"})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, wait, func() (bool, string) {
		n := count(`select count(*) from perdure.outbox`)
		return n == 2, fmt.Sprint(n, " replayed")
	})
	again := []schemas.Task{cancelled, completes}
	for i := range again {
		again[i].Epoch = 1
		again[i].Place = int64(count(`select origin_offset + 1 from perdure.dead_letters where task_id = $1`, again[i].ID))
	}
	w.send(again...)
	testkit.Eventually(t, wait, func() (bool, string) { return l.runsOf(cancelled.ID) == 2, "its replay does not run" })
	if c, err := w.store().Cancel(t.Context(), cancelled.ID); err != nil || c.State != claims.Running {
		t.Fatal(c, err)
	}
	// watch ends, which it does only when nothing is under way any more.
	a := api.New(http.NewServeMux(), "test", nil, testkit.Logger(t))
	jobs.Routes(a)
	srv := httptest.NewServer(a)
	defer srv.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+"/v1/replays/"+id+"/watch", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(b), "event: end") {
		t.Fatalf("watch does not end: %v: %s", err, b)
	}
	r, err := jobs.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if b := r.Became; b.Completed != 1 || b.Other != 1 || b.UnderWay != 0 || b.DiedAgain != 0 {
		t.Errorf("of the cancelled and the completed one became %+v", b)
	}
	if n := count(`select count(*) from perdure.dead_letters where state = 'resolved' and resolved_by = case when task_id = $1 then 'cancelled' else 'completed' end`, cancelled.ID); n != 2 {
		t.Errorf("%d letters are resolved by what their tasks became, want 2", n)
	}
	// Who finds it cancelled says so again: the one before may have been killed before it did.
	resolutions := func() (n int) {
		for _, rec := range w.read(w.names.DLQ(queue)) {
			if headerOf(rec, schemas.HeaderID) == cancelled.ID && headerOf(rec, schemas.HeaderOutcome) == "cancelled" {
				n++
			}
		}
		return n
	}
	before := resolutions()
	w.send(again[0])
	testkit.Eventually(t, wait, func() (bool, string) {
		n := resolutions()
		return n == before+1, fmt.Sprintf("said %d times, want %d", n, before+1)
	})
}
