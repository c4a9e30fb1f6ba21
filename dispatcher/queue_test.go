package dispatcher_test

// A kind runs on its own queue only, so that no way in takes a task for another.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/perdure/perdure/dispatcher/client"
)

// put enqueues a task of kind any on a queue and returns what was said against it.
type put func(ctx context.Context, s *server, c *client.Client, queue string) error

func bySQL(query string) put {
	return func(ctx context.Context, s *server, _ *client.Client, queue string) error {
		_, err := s.db.Exec(ctx, query, queue)
		var pe *pgconn.PgError
		if errors.As(err, &pe) && pe.Code == "PD400" {
			return fmt.Errorf("#/%s, hint: %s", strings.TrimPrefix(pe.Message, "perdure.enqueue: "), pe.Hint)
		}
		return err
	}
}

// byGo is of one task among others, which are right.
func byGo(enqueue func(ctx context.Context, c *client.Client, tasks []client.Task) error) put {
	return func(ctx context.Context, _ *server, c *client.Client, queue string) error {
		err := enqueue(ctx, c, []client.Task{{Kind: "any", Payload: 1, Queue: queue}})
		var bad *client.InvalidError
		if errors.As(err, &bad) && len(bad.Errors) == 1 {
			return errors.New(bad.Errors[0].Pointer + " " + bad.Errors[0].Detail)
		}
		return err
	}
}

func byHTTP(media, before, after string) put {
	return func(_ context.Context, s *server, _ *client.Client, queue string) error {
		line, err := json.Marshal(map[string]any{"kind": "any", "payload": 1, "queue": queue})
		if err != nil {
			return err
		}
		res, err := s.Client().Post(s.URL+"/v1/tasks", media, strings.NewReader(before+string(line)+after))
		if err != nil {
			return err
		}
		defer res.Body.Close()
		var answer json.RawMessage
		if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
			return err
		}
		var p struct {
			Status int
			Type   string
			Errors []struct{ Pointer, Detail string }
		}
		if json.Unmarshal(answer, &p) != nil || p.Status == 0 {
			return nil // an array, or a task
		}
		if p.Status != 422 || len(p.Errors) != 1 || p.Type != "urn:perdure:problem:invalid-task" {
			return errors.New(string(answer))
		}
		pointer := strings.Replace(p.Errors[0].Pointer, "#/0/", "#/", 1)
		return errors.New(pointer + " " + p.Errors[0].Detail)
	}
}

func TestNoWayInTakesATaskForAnotherQueueThanItsKinds(t *testing.T) {
	s := serve(t, database(t), nil)
	c, err := client.New(t.Context(), s.db)
	if err != nil {
		t.Fatal(err)
	}
	inTx := func(tx pgx.Tx, err error, do func(pgx.Tx) error) error {
		if err != nil {
			return err
		}
		defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // after Commit it does nothing
		if err := do(tx); err != nil {
			return err
		}
		return tx.Commit(t.Context())
	}
	ways := map[string]put{
		"perdure.enqueue":       bySQL(`select perdure.enqueue(kind => 'any', payload => '1', queue => nullif($1, ''))`),
		"perdure.enqueue_bytes": bySQL(`select perdure.enqueue_bytes(kind => 'any', payload => '1', content_type => 'a/b', queue => nullif($1, ''))`),
		"with a key in SQL":     bySQL(`select perdure.enqueue(kind => 'any', payload => '1', queue => nullif($1, ''), idempotency_key => 'k' || $1)`),
		"Enqueue": byGo(func(ctx context.Context, c *client.Client, tasks []client.Task) error {
			_, err := c.Enqueue(ctx, tasks[0])
			return err
		}),
		"EnqueueTx": byGo(func(ctx context.Context, c *client.Client, tasks []client.Task) error {
			tx, err := s.db.Begin(ctx)
			return inTx(tx, err, func(tx pgx.Tx) error {
				_, err := c.EnqueueTx(ctx, tx, tasks[0])
				return err
			})
		}),
		"EnqueueMany": byGo(func(ctx context.Context, c *client.Client, tasks []client.Task) error {
			_, err := c.EnqueueMany(ctx, tasks)
			return err
		}),
		"EnqueueEach": byGo(func(ctx context.Context, c *client.Client, tasks []client.Task) error {
			out, err := c.EnqueueEach(ctx, tasks)
			if err != nil {
				return err
			}
			return out[0].Err
		}),
		"HTTP":       byHTTP("application/json", "", ""),
		"HTTP array": byHTTP("application/json", "[", "]"),
		"NDJSON":     byHTTP("application/x-ndjson", "", "\n"),
	}
	for name, put := range ways {
		for _, queue := range []string{"", "payments"} {
			if err := put(t.Context(), s, c, queue); err != nil {
				t.Errorf("%s, queue %q: %v", name, queue, err)
			}
		}
		err := put(t.Context(), s, c, "other")
		if err == nil || !strings.HasPrefix(err.Error(), "#/queue ") || !strings.Contains(err.Error(), "kind any") || !strings.Contains(err.Error(), "queue payments") {
			t.Errorf("%s: got %v, want an error at #/queue that names the kind and its queue", name, err)
		}
	}
	var right, wrong int
	if err := s.db.QueryRow(t.Context(), `select count(*) filter (where queue = 'payments'), count(*) filter (where queue <> 'payments') from perdure.outbox`).Scan(&right, &wrong); err != nil {
		t.Fatal(err)
	}
	if right != 2*len(ways) || wrong != 0 {
		t.Errorf("%d tasks on the kind's queue, want %d; %d on another", right, 2*len(ways), wrong)
	}
}
