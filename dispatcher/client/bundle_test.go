package client_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/dispatcher/client"
)

// stored is a task as the outbox has it.
type stored struct {
	id, row                                     int64
	kind, queue, key, contentType, headers, pay string
	runAt, deadline                             time.Time
}

func readStored(t *testing.T, pool *pgxpool.Pool) map[int64]stored {
	t.Helper()
	rows, err := pool.Query(context.Background(), `select id, row_id, kind, queue, coalesce(key, ''), content_type, coalesce(headers ->> 'h', ''), convert_from(payload, 'UTF8'),
		coalesce(run_at, '2000-01-01'), coalesce(deadline, '2000-01-01') from perdure.outbox_tasks where checked`)
	if err != nil {
		t.Fatal(err)
	}
	all := map[int64]stored{}
	_, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (struct{}, error) {
		var s stored
		err := r.Scan(&s.id, &s.row, &s.kind, &s.queue, &s.key, &s.contentType, &s.headers, &s.pay, &s.runAt, &s.deadline)
		all[s.id] = s
		return struct{}{}, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Whatever tasks stand beside each other, and wherever their ids have gaps: each is
// stored as it would be alone, under the id that was answered for it.
func TestTasksThatShareARowAreStoredAsTheyWereGiven(t *testing.T) {
	pool := database(t)
	c := newClient(t, pool)
	if _, err := pool.Exec(t.Context(), `select setval('perdure.outbox_id_seq', 999700)`); err != nil { // the end of a partition is near
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(7, 7))
	given := map[int64]client.Task{}
	due := time.Now().Add(time.Hour).Truncate(time.Microsecond)
	left, shape := 0, 0 // of tasks that are alike
	gap := func() {
		if _, err := pool.Exec(context.Background(), `select nextval('perdure.outbox_id_seq')`); err != nil {
			t.Error(err)
		}
	}
	for few := false; len(given) < 1500; few = !few {
		tasks := make([]client.Task, 50+rng.IntN(200))
		if few { // one round trip writes them, each a row
			tasks = tasks[:1+rng.IntN(15)]
		}
		for i := range tasks {
			if left--; left < 0 {
				left, shape = rng.IntN(12), rng.IntN(30)
			}
			task := client.Task{Kind: "brief", Payload: client.Raw(fmt.Sprintf(`{"n":%d,"x":%q}`, i, strings.Repeat("ü", rng.IntN(200))))}
			switch shape % 10 {
			case 1:
				task.Headers = map[string]string{"h": fmt.Sprint(shape / 10)}
			case 2:
				task.Kind, task.Payload = "refund.issue", client.Raw(`{"amount":7}`)
			case 3:
				task.RunAt = due
			case 4:
				task.ContentType, task.Payload = "text/plain", client.Raw(strings.Repeat("y", 1+rng.IntN(3)))
			case 5:
				task.Payload = client.Raw(fmt.Sprintf("%q", strings.Repeat("z", rng.IntN(20_000))))
			case 6:
				task.Queue = "payments"
			case 7, 8:
				task.Deadline = time.Now().Add(time.Duration(1+shape/10) * time.Minute).Truncate(time.Second)
			}
			if rng.IntN(3) == 0 {
				task.Key = fmt.Sprint("k", rng.IntN(5))
			}
			if rng.IntN(40) == 0 {
				task.IdempotencyKey = fmt.Sprint(len(given), "-", i)
			}
			tasks[i] = task
		}
		done := make(chan struct{})
		go func() { defer close(done); gap() }()
		refs, err := c.EnqueueMany(t.Context(), tasks)
		if err != nil {
			t.Fatal(err)
		}
		<-done
		for i, r := range refs {
			if i > 0 && r.Seq <= refs[i-1].Seq {
				t.Fatalf("of %d tasks, number %d has id %d, the one before it %d", len(tasks), i, r.Seq, refs[i-1].Seq)
			}
			given[r.Seq] = tasks[i]
		}
	}
	all := readStored(t, pool)
	if len(all) != len(given) {
		t.Errorf("%d tasks are stored, %d were given", len(all), len(given))
	}
	rows := map[int64]int{}
	for id, task := range given {
		s, ok := all[id]
		want := string(task.Payload.(client.Raw))
		ct := task.ContentType
		if ct == "" {
			ct = "application/json"
		}
		if !ok || s.kind != task.Kind || s.queue != "payments" || s.key != task.Key || s.contentType != ct || s.headers != task.Headers["h"] || s.pay != want {
			t.Fatalf("id %d: %+v, want %+v", id, s, task)
		}
		if at := task.RunAt; !at.IsZero() && !s.runAt.Equal(at) || at.IsZero() && s.runAt.Year() != 2000 {
			t.Errorf("id %d: run_at %v, want %v", id, s.runAt, at)
		}
		if at := task.Deadline; !at.IsZero() && !s.deadline.Equal(at) {
			t.Errorf("id %d: deadline %v, want %v", id, s.deadline, at)
		}
		if expires := s.deadline.Year() != 2000; expires != (task.Kind == "brief") {
			t.Errorf("id %d: deadline %v", id, s.deadline)
		}
		rows[s.row]++
	}
	if len(rows) > len(given)*2/3 {
		t.Errorf("%d rows for %d tasks: they do not share any", len(rows), len(given))
	}
	if last := slices.Max(slices.Collect(maps.Keys(given))); last < 1_000_000 {
		t.Errorf("the ids end at %d, in the first partition", last)
	}
}

// A bundle has the ids of one partition.
func TestABundleEndsWithItsPartition(t *testing.T) {
	pool := database(t)
	c := newClient(t, pool)
	if _, err := pool.Exec(t.Context(), `select setval('perdure.outbox_id_seq', 999989)`); err != nil {
		t.Fatal(err)
	}
	tasks := make([]client.Task, 60)
	for i := range tasks {
		tasks[i] = good("")
	}
	if _, err := c.EnqueueMany(t.Context(), tasks); err != nil {
		t.Fatal(err)
	}
	var rows string
	err := pool.QueryRow(t.Context(), `select string_agg(id || '+' || cardinality(ends), ' ' order by id) from perdure.outbox`).Scan(&rows)
	if want := "999990+10 1000000+50"; err != nil || rows != want {
		t.Errorf("rows %s, want %s: %v", rows, want, err)
	}
}

// A bundle fills its page and stays in it.
func TestABundleFitsAPage(t *testing.T) {
	pool := database(t)
	c := newClient(t, pool)
	for _, size := range []int{1, 20, 100, 300, 1000, 2000, 3400} {
		tasks := make([]client.Task, 200)
		for i := range tasks {
			b := make([]byte, size)
			for j := range b {
				b[j] = byte('a' + rand.IntN(26))
			}
			tasks[i] = client.Task{Kind: "brief", ContentType: "text/plain", Payload: client.Raw(b), Key: strings.Repeat("k", size%50), Headers: map[string]string{"h": strings.Repeat("v", 200)}}
		}
		if _, err := c.EnqueueMany(t.Context(), tasks); err != nil {
			t.Fatal(err)
		}
	}
	var rows, toasted int64
	err := pool.QueryRow(t.Context(), `select (select count(*) from perdure.outbox), (select sum(pg_relation_size(c.reltoastrelid))::bigint
		from pg_class c join pg_inherits i on i.inhrelid = c.oid where i.inhparent = 'perdure.outbox'::regclass)`).Scan(&rows, &toasted)
	if err != nil || toasted != 0 {
		t.Errorf("%v: %d bytes of bundles lie outside of their pages", err, toasted)
	}
	if rows > 200/2+200/3+200/7+200/20+200/40+3*200/60+10 {
		t.Errorf("%d rows", rows)
	}
}

// Until the relay knows them, nobody writes them.
func TestNoBundlesForARelayOfAnOlderRelease(t *testing.T) {
	pool := database(t)
	if _, err := pool.Exec(t.Context(), `update perdure.source set bundles = false`); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, pool)
	tasks := make([]client.Task, 100)
	for i := range tasks {
		tasks[i] = good("")
	}
	if _, err := c.EnqueueMany(t.Context(), tasks); err != nil {
		t.Fatal(err)
	}
	if n := count(t, pool); n != 100 {
		t.Errorf("%d rows, want one for each of 100 tasks", n)
	}
}
