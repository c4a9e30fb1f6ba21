package client_test

import (
	"context"
	"database/sql"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/schemas"
)

// wayIn hands one task to the client as one of its methods takes it, and takes
// the error of that task out of what comes back.
type wayIn func(ctx context.Context, c *client.Client, tx pgx.Tx, stx *sql.Tx, t client.Task) error

// ofMany is the one refusal of a batch whose second task is bad.
func ofMany(err error) error {
	var bad client.TaskErrors
	if !errors.As(err, &bad) || len(bad) != 1 || bad[0].Index != 1 {
		return errors.Join(errors.New("is not TaskErrors of the second task alone"), err)
	}
	return bad[0].Err
}

var waysIn = map[string]wayIn{
	"Enqueue": func(ctx context.Context, c *client.Client, _ pgx.Tx, _ *sql.Tx, t client.Task) error {
		_, err := c.Enqueue(ctx, t)
		return err
	},
	"EnqueueTx": func(ctx context.Context, c *client.Client, tx pgx.Tx, _ *sql.Tx, t client.Task) error {
		_, err := c.EnqueueTx(ctx, tx, t)
		return err
	},
	"EnqueueSQLTx": func(ctx context.Context, c *client.Client, _ pgx.Tx, stx *sql.Tx, t client.Task) error {
		_, err := c.EnqueueSQLTx(ctx, stx, t)
		return err
	},
	"EnqueueMany": func(ctx context.Context, c *client.Client, _ pgx.Tx, _ *sql.Tx, t client.Task) error {
		_, err := c.EnqueueMany(ctx, []client.Task{good(""), t, good("k")})
		return ofMany(err)
	},
	"EnqueueManyTx": func(ctx context.Context, c *client.Client, tx pgx.Tx, _ *sql.Tx, t client.Task) error {
		_, err := c.EnqueueManyTx(ctx, tx, []client.Task{good(""), t, good("k")})
		return ofMany(err)
	},
	"EnqueueEach": func(ctx context.Context, c *client.Client, _ pgx.Tx, _ *sql.Tx, t client.Task) error {
		out, err := c.EnqueueEach(ctx, []client.Task{t})
		if err != nil {
			return err
		}
		return out[0].Err
	},
	"Validate": func(ctx context.Context, c *client.Client, _ pgx.Tx, _ *sql.Tx, t client.Task) error {
		return c.Validate(ctx, t)
	},
}

// nested is a Go value of so many levels.
func nested(levels int) any {
	var v any = 1
	for range levels {
		v = []any{v}
	}
	return v
}

// Every way in refuses the same tasks for the same field, and leaves the
// caller's transaction as it was: what the caller wrote before and writes after
// commits, and nothing of the bad tasks.
func TestInvalidTasksAreRefusedBeforeTheyAreWritten(t *testing.T) {
	pool := database(t)
	c := newClient(t, pool)
	ctx := t.Context()
	std := stdlib.OpenDBFromPool(pool)
	defer std.Close()
	if _, err := pool.Exec(ctx, `create table orders (id text)`); err != nil {
		t.Fatal(err)
	}
	const secret = "4111-1111"
	deep := strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000)
	bad := []struct {
		name, pointer string
		is            error
		task          client.Task
	}{
		{"schema", "#/payload/amount", nil, client.Task{Kind: "refund.issue", Payload: refund{0}}},
		{"schema, wrong type", "#/payload/amount", nil, client.Task{Kind: "refund.issue", Payload: map[string]string{"amount": secret}}},
		{"schema, absent", "#/payload/amount", nil, client.Task{Kind: "refund.issue", Payload: map[string]string{}}},
		{"no payload", "#/payload", nil, client.Task{Kind: "refund.issue"}},
		{"bytes that are not Raw", "#/payload", nil, client.Task{Kind: "refund.issue", Payload: []byte("{}")}},
		{"not to be marshalled", "#/payload", nil, client.Task{Kind: "refund.issue", Payload: math.Inf(1)}},
		{"value of a type that is not JSON", "#/payload", nil, client.Task{Kind: "refund.issue", Payload: refund{1}, ContentType: "text/plain"}},
		{"payload that is not JSON", "#/payload", nil, client.Task{Kind: "brief", Payload: client.Raw("{" + secret)}},
		{"payload that is not UTF-8", "#/payload", nil, client.Task{Kind: "brief", Payload: client.Raw("\"" + secret + "\xff\"")}},
		{"payload with a NUL", "#/payload", nil, client.Task{Kind: "brief", Payload: client.Raw("\"" + secret + "\x00\"")}},
		{"10,000 levels of text", "#/payload", nil, client.Task{Kind: "brief", Payload: client.Raw(deep)}},
		{"10,000 levels of Go", "#/payload", nil, client.Task{Kind: "brief", Payload: nested(10_000)}},
		{"10,000 levels under a schema", "#/payload", nil, client.Task{Kind: "refund.issue", Payload: client.Raw(`{"amount":` + deep + `}`)}},
		{"oversize", "#/payload", client.ErrTooLarge, client.Task{Kind: "brief", Payload: client.Raw(`"` + strings.Repeat("x", schemas.MaxPayload) + `"`)}},
		{"oversize when marshalled", "#/payload", client.ErrTooLarge, client.Task{Kind: "brief", Payload: strings.Repeat("x", schemas.MaxPayload)}},
		{"content type", "#/content_type", nil, client.Task{Kind: "brief", Payload: client.Raw("x"), ContentType: "a/b\x00"}},
		{"content type of an event", "#/content_type", nil, client.Task{Kind: "brief", Payload: client.Raw("{}"), ContentType: "application/cloudevents+json"}},
		{"unknown kind", "#/kind", client.ErrUnknownKind, client.Task{Kind: "refund.isue", Payload: refund{1}}},
		{"no kind", "#/kind", client.ErrUnknownKind, client.Task{Payload: refund{1}}},
		{"kind with a NUL", "#/kind", client.ErrUnknownKind, client.Task{Kind: "brief\x00", Payload: 1}},
		{"kind that is not UTF-8", "#/kind", client.ErrUnknownKind, client.Task{Kind: "brief\xff", Payload: 1}},
		{"unknown queue", "#/queue", nil, client.Task{Kind: "brief", Payload: 1, Queue: "none"}},
		{"queue of another kind", "#/queue", nil, client.Task{Kind: "brief", Payload: 1, Queue: "slow"}},
		{"queue with a NUL", "#/queue", nil, client.Task{Kind: "brief", Payload: 1, Queue: "slow\x00"}},
		{"deadline in the past", "#/deadline", nil, client.Task{Kind: "brief", Payload: 1, Deadline: time.Now().Add(-time.Second)}},
		{"deadline before run_at", "#/deadline", nil, client.Task{Kind: "brief", Payload: 1, RunAt: time.Now().Add(time.Hour), Deadline: time.Now().Add(time.Minute)}},
		{"deadline in year 10000", "#/deadline", nil, client.Task{Kind: "brief", Payload: 1, Deadline: time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)}},
		{"run_at before year 1", "#/run_at", nil, client.Task{Kind: "brief", Payload: 1, RunAt: time.Date(-5000, 1, 1, 0, 0, 0, 0, time.UTC)}},
		{"idempotency key with a NUL", "#/idempotency_key", nil, client.Task{Kind: "brief", Payload: 1, IdempotencyKey: secret + "\x00"}},
		{"idempotency key that is not UTF-8", "#/idempotency_key", nil, client.Task{Kind: "brief", Payload: 1, IdempotencyKey: secret + "\xff"}},
		{"long key", "#/key", nil, client.Task{Kind: "brief", Payload: 1, Key: strings.Repeat("k", schemas.MaxKey+1)}},
		{"key with a NUL", "#/key", nil, client.Task{Kind: "brief", Payload: 1, Key: secret + "\x00"}},
		{"key that is not UTF-8", "#/key", nil, client.Task{Kind: "brief", Payload: 1, Key: secret + "\xff"}},
		{"unique key", "#/unique_key", nil, client.Task{Kind: "brief", Payload: 1, UniqueKey: "a"}},
		{"producer with a separator", "#/producer", nil, client.Task{Kind: "brief", Payload: 1, Producer: "a\x1fb", IdempotencyKey: "k"}},
		{"producer with a NUL", "#/producer", nil, client.Task{Kind: "brief", Payload: 1, Producer: "a\x00b", IdempotencyKey: "k"}},
		{"producer that is not UTF-8", "#/producer", nil, client.Task{Kind: "brief", Payload: 1, Producer: "a\xff", IdempotencyKey: "k"}},
		{"long producer", "#/producer", nil, client.Task{Kind: "brief", Payload: 1, Producer: strings.Repeat("p", schemas.MaxKey+1), IdempotencyKey: "k"}},
		{"reserved header", "#/headers/ce_id", nil, client.Task{Kind: "brief", Payload: 1, Headers: map[string]string{"ce_id": secret}}},
		{"header with a NUL", "#/headers/a~1b", nil, client.Task{Kind: "brief", Payload: 1, Headers: map[string]string{"a/b": secret + "\x00"}}},
		{"header that is not UTF-8", "#/headers/a", nil, client.Task{Kind: "brief", Payload: 1, Headers: map[string]string{"a": secret + "\xff"}}},
	}
	for name, enqueue := range waysIn {
		t.Run(name, func(t *testing.T) {
			tx, err := pool.Begin(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback(ctx) //nolint:errcheck // after Commit it does nothing
			stx, err := std.BeginTx(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer stx.Rollback() //nolint:errcheck // the same
			write := func(id string) {
				t.Helper()
				_, err := tx.Exec(ctx, `insert into orders values ($1)`, id)
				_, serr := stx.ExecContext(ctx, `insert into orders values ($1)`, id)
				if err := errors.Join(err, serr); err != nil {
					t.Fatalf("the caller's transaction: %v", err)
				}
			}
			write("before")
			for _, b := range bad {
				err := enqueue(ctx, c, tx, stx, b.task)
				var invalid *client.InvalidError
				if !errors.As(err, &invalid) || len(invalid.Errors) != 1 || invalid.Errors[0].Pointer != b.pointer {
					t.Errorf("%s: got %v, want one error at %s", b.name, err, b.pointer)
					continue
				}
				if b.is != nil && !errors.Is(err, b.is) {
					t.Errorf("%s: %v is not %v", b.name, err, b.is)
				}
				if strings.Contains(err.Error(), secret) {
					t.Errorf("%s: the value stands in %v", b.name, err)
				}
			}
			write("after")
			if err := errors.Join(tx.Commit(ctx), stx.Commit()); err != nil {
				t.Fatal(err)
			}
			var tasks, keys, orders int
			if err := pool.QueryRow(ctx, `with gone as (delete from orders returning 1)
				select (select count(*) from perdure.outbox), (select count(*) from perdure.unique_keys), (select count(*) from gone)`).
				Scan(&tasks, &keys, &orders); err != nil {
				t.Fatal(err)
			}
			if tasks != 0 || keys != 0 || orders != 4 {
				t.Errorf("%d tasks and %d keys were written, and %d of the caller's 4 rows", tasks, keys, orders)
			}
		})
	}
}

// A key that was used for another payload is refused by Postgres' answer, not
// before it: still the transaction goes on.
func TestAReusedKeyLeavesTheTransactionUsable(t *testing.T) {
	pool := database(t)
	c := newClient(t, pool)
	ctx := t.Context()
	if _, err := c.Enqueue(ctx, good("k")); err != nil {
		t.Fatal(err)
	}
	other := client.Task{Kind: "refund.issue", Payload: refund{6}, IdempotencyKey: "k"}
	tx, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(ctx) //nolint:errcheck // after Commit it does nothing
	if _, err := c.EnqueueTx(ctx, tx, other); !errors.Is(err, client.ErrKeyReuse) {
		t.Fatalf("got %v", err)
	}
	if _, err := c.EnqueueTx(ctx, tx, good("l")); err != nil {
		t.Fatalf("after a refused key: %v", err)
	}
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if n := count(t, pool); n != 2 {
		t.Errorf("%d tasks, want 2", n)
	}
}
