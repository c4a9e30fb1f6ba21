package client_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/perdure/perdure/dispatcher"
	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const catalogText = `version: 1
queues: {payments: {}, slow: {}}
kinds:
  refund.issue: {queue: payments, schema: refund.json}
  brief: {queue: payments, expires_after: 1h}
`

func catalog(t testing.TB, text string) *schemas.Catalog {
	t.Helper()
	c, err := schemas.ParseCatalog("catalog.yaml", []byte(text), fstest.MapFS{
		"refund.json": {Data: []byte(`{"type": "object", "required": ["amount"], "properties": {"amount": {"$ref": "amount.json"}}}`)},
		"amount.json": {Data: []byte(`{"type": "integer", "minimum": 1}`)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func database(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool, err := pg.Pool(context.Background(), testkit.MigratedPostgres(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	apply(t, pool, catalogText)
	return pool
}

func apply(t testing.TB, pool *pgxpool.Pool, text string) {
	t.Helper()
	if _, err := dispatcher.ApplyCatalog(context.Background(), pool, catalog(t, text), dispatcher.ApplyOptions{Prune: true}); err != nil {
		t.Fatal(err)
	}
}

func newClient(t testing.TB, pool *pgxpool.Pool, opts ...client.Option) *client.Client {
	t.Helper()
	c, err := client.New(context.Background(), pool, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

type refund struct {
	Amount int `json:"amount"`
}

func good(key string) client.Task {
	return client.Task{Kind: "refund.issue", Payload: refund{5}, IdempotencyKey: key}
}

func count(t testing.TB, db pg.Querier) (n int) {
	t.Helper()
	if err := db.QueryRow(context.Background(), `select count(*) from perdure.outbox`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestTaskIsStoredAsItWasGiven(t *testing.T) {
	pool := database(t)
	c := newClient(t, pool)
	run := time.Now().Add(time.Hour).Truncate(time.Microsecond)
	raw := client.Raw("{ \"amount\":\t1 }")
	task := client.Task{Kind: "brief", Payload: raw, Queue: "payments", Key: "k", RunAt: run, Headers: map[string]string{"a": "ü"}}
	one, err := c.Enqueue(t.Context(), task)
	if err != nil {
		t.Fatal(err)
	}
	many, err := c.EnqueueMany(t.Context(), []client.Task{task})
	if err != nil {
		t.Fatal(err)
	}
	lots := make([]client.Task, 60)
	for i := range lots {
		lots[i] = task
	}
	copied, err := c.EnqueueMany(t.Context(), lots)
	if err != nil {
		t.Fatal(err)
	}
	task.IdempotencyKey = "i"
	keyed, err := c.Enqueue(t.Context(), task)
	if err != nil {
		t.Fatal(err)
	}
	task.IdempotencyKey = "j"
	keyedMany, err := c.EnqueueMany(t.Context(), []client.Task{task})
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []client.Ref{one, many[0], copied[59], keyed, keyedMany[0]} {
		if ref.State != schemas.StateScheduled || ref.Replayed || ref.ID != fmt.Sprintf("main-1-%d", ref.Seq) {
			t.Errorf("%+v", ref)
		}
		var kind, queue, key, ct, headers string
		var checked bool
		var payload []byte
		var at, deadline time.Time
		err := pool.QueryRow(t.Context(), `select kind, queue, key, content_type, headers::text, payload, run_at, deadline, checked from perdure.outbox where id = $1`, ref.Seq).
			Scan(&kind, &queue, &key, &ct, &headers, &payload, &at, &deadline, &checked)
		if err != nil || kind != "brief" || queue != "payments" || key != "k" || ct != "application/json" || headers != `{"a": "ü"}` || string(payload) != string(raw) || !at.Equal(run) || !deadline.Equal(run.Add(time.Hour)) || !checked {
			t.Errorf("%s: %v %q %q %q %q %s %q %v %v", ref.ID, err, kind, queue, key, ct, headers, payload, at, deadline)
		}
	}
	plain, err := c.Enqueue(t.Context(), client.Task{Kind: "refund.issue", Payload: refund{7}})
	if err != nil || plain.State != schemas.StateQueued {
		t.Fatalf("%+v %v", plain, err)
	}
	var nulls int
	var payload string
	err = pool.QueryRow(t.Context(), `select num_nulls(run_at, deadline, key, headers, task_id), convert_from(payload, 'UTF8') from perdure.outbox where id = $1`, plain.Seq).Scan(&nulls, &payload)
	if err != nil || nulls != 5 || payload != `{"amount":7}` {
		t.Fatalf("%v %d %s", err, nulls, payload)
	}
}

func TestTaskLivesAndDiesWithItsTransaction(t *testing.T) {
	pool := database(t)
	c := newClient(t, pool)
	ctx := t.Context()
	std := stdlib.OpenDBFromPool(pool)
	defer std.Close()
	for _, commit := range []bool{false, true} {
		tx, err := pool.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		stx, err := std.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.EnqueueTx(ctx, tx, good("")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.EnqueueManyTx(ctx, tx, []client.Task{good(""), good("many")}); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"", "sql"} {
			if _, err := c.EnqueueSQLTx(ctx, stx, good(key)); err != nil {
				t.Fatal(err)
			}
		}
		end := func(tx pgx.Tx, stx *sql.Tx) error { return errors.Join(tx.Rollback(ctx), stx.Rollback()) }
		if commit {
			end = func(tx pgx.Tx, stx *sql.Tx) error { return errors.Join(tx.Commit(ctx), stx.Commit()) }
		}
		if err := end(tx, stx); err != nil {
			t.Fatal(err)
		}
		if n, want := count(t, pool), map[bool]int{true: 5}[commit]; n != want {
			t.Fatalf("commit %v: %d tasks, want %d", commit, n, want)
		}
	}
}

func TestSameKeyEveryWayIn(t *testing.T) {
	pool := database(t)
	c := newClient(t, pool)
	ctx := t.Context()
	first, err := c.Enqueue(ctx, good("k"))
	if err != nil || first.Replayed {
		t.Fatal(first, err)
	}
	other := client.Task{Kind: "refund.issue", Payload: refund{6}, IdempotencyKey: "k"}
	want := first
	want.Replayed = true
	ways := map[string]func(client.Task) (client.Ref, error){
		"Enqueue": func(t client.Task) (client.Ref, error) { return c.Enqueue(ctx, t) },
		"EnqueueMany": func(t client.Task) (client.Ref, error) {
			refs, err := c.EnqueueMany(ctx, []client.Task{t, t})
			if err != nil {
				return client.Ref{}, err
			}
			return refs[1], nil
		},
		"EnqueueEach": func(t client.Task) (client.Ref, error) {
			out, err := c.EnqueueEach(ctx, []client.Task{t})
			if err != nil {
				return client.Ref{}, err
			}
			return out[0].Ref, out[0].Err
		},
		"EnqueueTx": func(t client.Task) (ref client.Ref, err error) {
			err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { ref, err = c.EnqueueTx(ctx, tx, t); return err })
			return ref, err
		},
		"SQL": func(t client.Task) (client.Ref, error) {
			b, err := json.Marshal(t.Payload)
			if err != nil {
				return client.Ref{}, err
			}
			err = pool.QueryRow(ctx, `select perdure.enqueue_bytes(kind => $1, payload => $2, content_type => 'application/json', idempotency_key => $3)`, t.Kind, b, t.IdempotencyKey).Scan(new(int64))
			var pe interface{ SQLState() string }
			if errors.As(err, &pe) && pe.SQLState() == "PD422" {
				return client.Ref{}, client.ErrKeyReuse
			}
			return want, err
		},
	}
	for name, way := range ways {
		if got, err := way(good("k")); err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, want)
		}
		if _, err := way(other); !errors.Is(err, client.ErrKeyReuse) {
			t.Errorf("%s: another payload: %v", name, err)
		}
	}
	scoped := good("k")
	scoped.Producer = "token"
	if ref, err := c.Enqueue(ctx, scoped); err != nil || ref.Replayed {
		t.Errorf("another producer: %+v, %v", ref, err)
	}
	if n := count(t, pool); n != 2 {
		t.Errorf("%d tasks, want 2", n)
	}
}

func TestManyKeepTheirOrder(t *testing.T) {
	pool := database(t)
	c := newClient(t, pool)
	for _, n := range []int{3, 200} {
		tasks := make([]client.Task, n)
		for i := range tasks {
			tasks[i] = client.Task{Kind: "refund.issue", Payload: refund{i + 1}, Key: "same"}
			if i%2 == 0 {
				tasks[i].IdempotencyKey = fmt.Sprint(n, "-", 1000-i) // sorts the other way
			}
		}
		refs, err := c.EnqueueMany(t.Context(), tasks)
		if err != nil {
			t.Fatal(err)
		}
		for i := range refs {
			var payload string
			err := pool.QueryRow(t.Context(), `select convert_from(payload, 'UTF8') from perdure.outbox where id = $1`, refs[i].Seq).Scan(&payload)
			if err != nil || payload != fmt.Sprintf(`{"amount":%d}`, i+1) {
				t.Fatalf("task %d of %d: %s %v", i, n, payload, err)
			}
			if i > 0 && refs[i].Seq <= refs[i-1].Seq {
				t.Fatalf("task %d of %d has id %d after %d", i, n, refs[i].Seq, refs[i-1].Seq)
			}
		}
	}
}

func TestManyAreAcceptedTogetherOrNotAtAll(t *testing.T) {
	pool := database(t)
	c := newClient(t, pool)
	if _, err := c.Enqueue(t.Context(), good("taken")); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]client.Task{
		"invalid":  {Kind: "refund.issue", Payload: refund{0}},
		"key used": {Kind: "refund.issue", Payload: refund{9}, IdempotencyKey: "taken"},
	} {
		_, err := c.EnqueueMany(t.Context(), []client.Task{good(""), good("new"), bad, good("")})
		var each client.TaskErrors
		if !errors.As(err, &each) || len(each) != 1 || each[0].Index != 2 {
			t.Errorf("%s: got %v", name, err)
		}
		if n := count(t, pool); n != 1 {
			t.Errorf("%s: %d tasks", name, n)
		}
	}
	out, err := c.EnqueueEach(t.Context(), []client.Task{good(""), {Kind: "nope", Payload: 1}, good("new"), {Kind: "refund.issue", Payload: refund{9}, IdempotencyKey: "taken"}, good("new")})
	if err != nil {
		t.Fatal(err)
	}
	if out[0].Err != nil || !errors.Is(out[1].Err, client.ErrUnknownKind) || out[2].Err != nil || !errors.Is(out[3].Err, client.ErrKeyReuse) || out[4].Err != nil || !out[4].Ref.Replayed || out[4].Ref.ID != out[2].Ref.ID {
		t.Errorf("%+v", out)
	}
	if n := count(t, pool); n != 3 {
		t.Errorf("%d tasks, want 3", n)
	}
	if refs, err := c.EnqueueMany(t.Context(), nil); err != nil || len(refs) != 0 {
		t.Errorf("none: %v %v", refs, err)
	}
}

func TestHundredProducersTenKeys(t *testing.T) {
	pool := database(t)
	c := newClient(t, pool, client.WithLockTimeout(time.Minute))
	var wg sync.WaitGroup
	var mu sync.Mutex
	ids := map[string]map[string]bool{}
	note := func(key string, ref client.Ref) {
		mu.Lock()
		defer mu.Unlock()
		if ids[key] == nil {
			ids[key] = map[string]bool{}
		}
		ids[key][ref.ID] = true
	}
	for i := range 100 {
		wg.Go(func() {
			if i%2 == 0 {
				key := fmt.Sprint(i % 10)
				ref, err := c.Enqueue(t.Context(), good(key))
				if err != nil {
					t.Error(err)
					return
				}
				note(key, ref)
				return
			}
			tasks := make([]client.Task, 10) // all keys, in an order of its own
			for j := range tasks {
				tasks[j] = good(fmt.Sprint((i*7 + j*3) % 10))
			}
			refs, err := c.EnqueueMany(t.Context(), tasks)
			if err != nil {
				t.Error(err)
				return
			}
			for j, ref := range refs {
				note(tasks[j].IdempotencyKey, ref)
			}
		})
	}
	wg.Wait()
	for key, set := range ids {
		if len(set) != 1 {
			t.Errorf("key %s: %d tasks", key, len(set))
		}
	}
	if n := count(t, pool); n != 10 || len(ids) != 10 {
		t.Fatalf("%d tasks for %d keys", n, len(ids))
	}
}

func TestKeyThatIsStillCommitting(t *testing.T) {
	pool := database(t)
	c := newClient(t, pool, client.WithLockTimeout(20*time.Millisecond))
	ctx := t.Context()
	tx, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.EnqueueTx(ctx, tx, good("k")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Enqueue(ctx, good("k")); !errors.Is(err, client.ErrStillCommitting) {
		t.Errorf("Enqueue: %v", err)
	}
	if _, err := c.EnqueueMany(ctx, []client.Task{good("k")}); !errors.Is(err, client.ErrStillCommitting) {
		t.Errorf("EnqueueMany: %v", err)
	}
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	if ref, err := c.Enqueue(ctx, good("k")); err != nil || ref.Replayed {
		t.Errorf("after the rollback: %+v %v", ref, err)
	}
	var timeout string
	if err := pool.QueryRow(ctx, `show lock_timeout`).Scan(&timeout); err != nil || timeout != "0" {
		t.Errorf("lock_timeout leaked into the session: %s %v", timeout, err)
	}
}

func TestKindThatWasDeclaredLaterIsFound(t *testing.T) {
	pool := database(t)
	now := time.Now()
	c := newClient(t, pool)
	client.SetClock(c, func() time.Time { return now })
	apply(t, pool, catalogText+"  late: {queue: slow}\n")
	task := client.Task{Kind: "late", Payload: 1}
	now = now.Add(2 * time.Second)
	if _, err := c.Enqueue(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	apply(t, pool, catalogText)
	if _, err := c.Enqueue(t.Context(), task); err != nil {
		t.Fatalf("the copy of the catalog is not old yet: %v", err)
	}
	now = now.Add(time.Minute)
	if _, err := c.Enqueue(t.Context(), task); !errors.Is(err, client.ErrUnknownKind) {
		t.Fatalf("got %v", err)
	}
}

func TestAKindThatMovedIsTakenOnItsNewQueue(t *testing.T) {
	pool := database(t)
	now := time.Now()
	c := newClient(t, pool)
	client.SetClock(c, func() time.Time { return now })
	apply(t, pool, strings.Replace(catalogText, "brief: {queue: payments", "brief: {queue: slow", 1))
	now = now.Add(2 * time.Second) // its copy is not old yet, but the database has the last word
	if _, err := c.Enqueue(t.Context(), client.Task{Kind: "brief", Payload: 1, Queue: "slow"}); err != nil {
		t.Fatal(err)
	}
	var invalid *client.InvalidError
	if _, err := c.Enqueue(t.Context(), client.Task{Kind: "brief", Payload: 1, Queue: "payments"}); !errors.As(err, &invalid) || !strings.Contains(err.Error(), "name queue slow") {
		t.Fatalf("the queue that it left: %v", err)
	}
}

func TestDatabaseThatIsNotMigrated(t *testing.T) {
	pool, err := pg.Pool(t.Context(), testkit.Postgres(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := client.New(t.Context(), pool); !errors.Is(err, client.ErrNotMigrated) {
		t.Fatalf("got %v", err)
	}
}

func TestPostgresAwayIsToldApart(t *testing.T) {
	pool := database(t)
	c := newClient(t, pool)
	var pid int
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.QueryRow(t.Context(), `select pg_backend_pid()`).Scan(&pid); err != nil {
		t.Fatal(err)
	}
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), `select pg_terminate_backend($1)`, pid); err != nil {
		t.Fatal(err)
	}
	if _, err := c.EnqueueTx(t.Context(), tx, good("")); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	conn.Release()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Enqueue(ctx, good("")); errors.Is(err, client.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if n := count(t, pool); n != 0 {
		t.Errorf("%d tasks", n)
	}
}
