package pg_test

// perdure.enqueue and enqueue_bytes as a producer sees them.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
)

// producer gives a migrated database with two kinds, and a pool on it.
func producer(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool, err := pg.Pool(t.Context(), testkit.MigratedPostgres(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	_, err = pool.Exec(t.Context(), `
		insert into perdure.queues (queue, settings) values ('q', '{}'), ('other', '{}');
		insert into perdure.kinds (kind, queue, ordered, effects, settings, catalog, expires_after, max_payload) values
		  ('k', 'q', false, 'idempotent', '{}', 'c', null, 1000), ('brief', 'q', false, 'idempotent', '{}', 'c', '1 hour', 1000)`)
	if err != nil {
		t.Fatal(err)
	}
	return pool
}

func enqueue(ctx context.Context, db pg.Querier, args string) (seq int64, err error) {
	err = db.QueryRow(ctx, "select perdure.enqueue("+args+")").Scan(&seq)
	return seq, err
}

func code(err error) string {
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		if strings.HasPrefix(pe.Code, "PD") && pe.Hint == "" {
			return pe.Code + " without a hint"
		}
		return pe.Code
	}
	return fmt.Sprint(err)
}

func TestEnqueueRefuses(t *testing.T) {
	db := producer(t)
	many := `(select jsonb_object_agg('h' || i, 'v') from generate_series(1, 33) i)`
	for _, c := range []struct{ args, code string }{
		{`kind => 'k', payload => '{}'`, ""},
		{`kind => 'k', payload => '{}', queue => 'q', key => 'a', run_at => now() + '1h', deadline => now() + '2h', headers => '{"a": "b"}'`, ""},
		{`kind => 'k', payload => '{}', headers => null, options => null`, ""},
		{`kind => 'nope', payload => '{}'`, "PD404"},
		{`kind => 'k', payload => '{}', queue => 'nope'`, "PD404"},
		{`kind => 'k', payload => '{}', queue => 'other'`, "PD400"},
		{`kind => null, payload => '{}'`, "PD400"},
		{`kind => 'k', payload => null`, "PD400"},
		{`kind => 'k', payload => to_jsonb(repeat('x', 1000))`, "PD413"},
		{`kind => 'k', payload => '{}', key => ''`, "PD400"},
		{`kind => 'k', payload => '{}', key => repeat('x', 513)`, "PD400"},
		{`kind => 'k', payload => '{}', idempotency_key => ''`, "PD400"},
		{`kind => 'k', payload => '{}', idempotency_key => repeat('ü', 257)`, "PD400"},
		{`kind => 'k', payload => '{}', unique_key => 'u'`, "PD400"},
		{`kind => 'k', payload => '{}', deadline => now() - interval '1s'`, "PD400"},
		{`kind => 'k', payload => '{}', deadline => 'infinity'`, "PD400"},
		{`kind => 'k', payload => '{}', run_at => 'infinity'`, "PD400"},
		{`kind => 'k', payload => '{}', run_at => now() + '2h', deadline => now() + '1h'`, "PD400"},
		{`kind => 'k', payload => '{}', options => '{"priority": 1}'`, "PD400"},
		{`kind => 'k', payload => '{}', options => '[]'`, "PD400"},
		{`kind => 'k', payload => '{}', headers => '["a"]'`, "PD400"},
		{`kind => 'k', payload => '{}', headers => '{"a": 1}'`, "PD400"},
		{`kind => 'k', payload => '{}', headers => '{"a": null}'`, "PD400"},
		{`kind => 'k', payload => '{}', headers => '{"": "b"}'`, "PD400"},
		{`kind => 'k', payload => '{}', headers => '{"a\nb": "b"}'`, "PD400"},
		{`kind => 'k', payload => '{}', headers => '{"ce_id": "b"}'`, "PD400"},
		{`kind => 'k', payload => '{}', headers => '{"Perdure_run": "b"}'`, "PD400"},
		{`kind => 'k', payload => '{}', headers => '{"__x": "b"}'`, "PD400"},
		{`kind => 'k', payload => '{}', headers => '{"Content-Type": "b"}'`, "PD400"},
		{`kind => 'k', payload => '{}', headers => '{"cell": "b", "_x": "b"}'`, ""},
		{`kind => 'k', payload => '{}', headers => ` + many, "PD400"},
		{`kind => 'k', payload => '{}', headers => jsonb_build_object('a', repeat('x', 17000))`, "PD400"},
		{`kind => 'k', payload => '{"a": "\u0000"}'`, "22P05"},
		{`kind => 'k', payload => '{"a": '`, "22P02"},
	} {
		if _, err := enqueue(t.Context(), db, c.args); err != nil && code(err) != c.code || err == nil && c.code != "" {
			t.Errorf("%s: got %s, want %q", c.args, code(err), c.code)
		}
	}
	for _, ct := range []string{"", "json", "a/b\n", "a b/c", "application/cloudevents+json", "Application/CloudEvents"} {
		_, err := db.Exec(t.Context(), `select perdure.enqueue_bytes(kind => 'k', payload => 'x', content_type => $1)`, ct)
		if code(err) != "PD400" {
			t.Errorf("content type %q: got %s", ct, code(err))
		}
	}
	if n := count(t, db); n != 4 {
		t.Errorf("%d rows in the outbox, want the 4 good ones", n)
	}
}

func TestEnqueueBytesKeepsThem(t *testing.T) {
	db := producer(t)
	want := "\x00\xff not JSON"
	var seq int64
	err := db.QueryRow(t.Context(), `select perdure.enqueue_bytes(kind => 'brief', payload => $1, content_type => 'image/png; q="1"')`, []byte(want)).Scan(&seq)
	if err != nil {
		t.Fatal(err)
	}
	var payload []byte
	var ct string
	var left time.Duration
	err = db.QueryRow(t.Context(), `select payload, content_type, deadline - created_at from perdure.outbox where id = $1`, seq).Scan(&payload, &ct, &left)
	if err != nil || string(payload) != want || ct != `image/png; q="1"` || left != time.Hour {
		t.Fatalf("%q %q %v %v", payload, ct, left, err)
	}
}

func TestProducerNeedsOnlyUsageOfTheSchema(t *testing.T) {
	db := producer(t)
	role := fmt.Sprintf("producer_%d", time.Now().UnixNano())
	if _, err := db.Exec(t.Context(), "create role "+role+"; grant usage on schema perdure to "+role); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if _, err := db.Exec(ctx, "revoke all on schema perdure from "+role+"; drop role "+role); err != nil {
			t.Error(err)
		}
	})
	tx, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // the test's own transaction
	if _, err := tx.Exec(t.Context(), "set local role "+role); err != nil {
		t.Fatal(err)
	}
	if _, err := enqueue(t.Context(), tx, `kind => 'k', payload => '{}', idempotency_key => 'a', headers => '{"a": "b"}'`); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `select payload from perdure.outbox`); code(err) != "42501" {
		t.Fatalf("reading the outbox: got %s", code(err))
	}
}

func TestOneKeyIsOneTask(t *testing.T) {
	db := producer(t)
	ctx := t.Context()
	first, err := enqueue(ctx, db, `kind => 'k', payload => '{"a": 1}', idempotency_key => 'x'`)
	if err != nil {
		t.Fatal(err)
	}
	again, err := enqueue(ctx, db, `kind => 'k', payload => '{"a":   1}', idempotency_key => 'x'`)
	if err != nil || again != first {
		t.Fatalf("got %d, %v, want %d", again, err, first)
	}
	if _, err := enqueue(ctx, db, `kind => 'k', payload => '{"a": 2}', idempotency_key => 'x'`); code(err) != "PD422" {
		t.Fatalf("another payload: got %s", code(err))
	}
	other, err := enqueue(ctx, db, `kind => 'brief', payload => '{"a": 2}', idempotency_key => 'x'`)
	if err != nil || other == first {
		t.Fatalf("another kind is another scope: got %d, %v", other, err)
	}
	if _, err := db.Exec(ctx, `update perdure.unique_keys set expires = clock_timestamp() - interval '1s'`); err != nil {
		t.Fatal(err)
	}
	later, err := enqueue(ctx, db, `kind => 'k', payload => '{"a": 2}', idempotency_key => 'x'`)
	if err != nil || later == first {
		t.Fatalf("after it expired: got %d, %v", later, err)
	}
	if n := count(t, db); n != 3 {
		t.Fatalf("%d tasks, want 3", n)
	}
}

func TestKeyOfARolledBackTaskIsFree(t *testing.T) {
	db := producer(t)
	ctx := t.Context()
	tx, err := db.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	lost, err := enqueue(ctx, tx, `kind => 'k', payload => '1', idempotency_key => 'x'`)
	if err != nil {
		t.Fatal(err)
	}
	impatient, err := db.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer impatient.Release()
	if _, err := impatient.Exec(ctx, `set lock_timeout = '50ms'`); err != nil {
		t.Fatal(err)
	}
	if _, err := enqueue(ctx, impatient, `kind => 'k', payload => '1', idempotency_key => 'x'`); code(err) != "55P03" {
		t.Fatalf("while the holder has not committed: got %s", code(err))
	}
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	kept, err := enqueue(ctx, impatient, `kind => 'k', payload => '1', idempotency_key => 'x'`)
	if err != nil || kept == lost || count(t, db) != 1 {
		t.Fatalf("got %d, %v", kept, err)
	}
}

func TestStricterTransactionThatLostTheKeyIsToldToRetry(t *testing.T) {
	db := producer(t)
	ctx := t.Context()
	tx, err := db.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // ends in an error
	if _, err := tx.Exec(ctx, `select count(*) from perdure.outbox`); err != nil {
		t.Fatal(err)
	}
	if _, err := enqueue(ctx, db, `kind => 'k', payload => '1', idempotency_key => 'x'`); err != nil {
		t.Fatal(err)
	}
	if _, err := enqueue(ctx, tx, `kind => 'k', payload => '1', idempotency_key => 'x'`); code(err) != "40001" {
		t.Fatalf("got %s", code(err))
	}
}

func TestHundredProducersTenKeys(t *testing.T) {
	db := producer(t)
	var mu sync.Mutex
	seqs := map[string]map[int64]bool{}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			key := fmt.Sprint(i % 10)
			seq, err := enqueue(t.Context(), db, `kind => 'k', payload => '{}', idempotency_key => '`+key+`'`)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if seqs[key] == nil {
				seqs[key] = map[int64]bool{}
			}
			seqs[key][seq] = true
		})
	}
	wg.Wait()
	for key, s := range seqs {
		if len(s) != 1 {
			t.Errorf("key %s: %d tasks", key, len(s))
		}
	}
	if n := count(t, db); n != 10 {
		t.Fatalf("%d tasks, want 10", n)
	}
}

func count(t *testing.T, db pg.Querier) (n int) {
	t.Helper()
	if err := db.QueryRow(t.Context(), `select count(*) from perdure.outbox`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
