package dispatcher_test

// unique: {until: completed}, as far as Postgres decides it: the same from every way
// in, given back by its holder's end alone, and never pruned.

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/dispatcher"
	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/internal/testkit"
)

// release gives back the keys of tasks that have ended, and says how many.
func release(t testing.TB, db *pgxpool.Pool, ids ...string) (n int) {
	t.Helper()
	if err := db.QueryRow(t.Context(), `select perdure.release_unique($1)`, ids).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func idOf(seq int64) string { return fmt.Sprintf("%s-1-%d", testkit.MigratedSource, seq) }

func TestAKeyHeldUntilCompletedIsTheSameFromEveryWayIn(t *testing.T) {
	s, c := serveUnique(t)
	for _, first := range waysIn {
		t.Run(first.name, func(t *testing.T) {
			task := uniqueTask{Kind: "held", Payload: 1, UniqueKey: first.name}
			var before int64
			for round := range 3 {
				a := first.put(t, s, c, task)
				holder, _ := newest(t, s.db, "held")
				if !a.is(answered{seq: holder, mark: "new"}) || holder <= before {
					t.Fatalf("round %d: %+v, newest is %d, before it %d", round, a, holder, before)
				}
				// The end of another task, and of this one's forerunner however late and
				// often it is said, frees nothing.
				if n := release(t, s.db, idOf(holder+1), idOf(before), idOf(before), "other-1-"+fmt.Sprint(holder), fmt.Sprintf("main-2-%d", holder)); n != 0 {
					t.Fatalf("round %d: %d keys were given back by others", round, n)
				}
				for i, w := range waysIn {
					task.Payload = i
					if got := w.put(t, s, c, task); !got.is(answered{seq: holder, mark: "duplicate"}) {
						t.Fatalf("round %d, %s: %+v, want a duplicate of %d", round, w.name, got, holder)
					}
				}
				if n := release(t, s.db, idOf(holder), "no id", idOf(holder), ""); n != 1 {
					t.Fatalf("round %d: %d keys were given back", round, n)
				}
				before = holder
			}
		})
	}
	var marked, others int
	if err := s.db.QueryRow(t.Context(), `select count(*) filter (where kind = 'held' and headers = '{"perdure_unique": "completed"}'), count(*) filter (where kind <> 'held' and headers is not null) from perdure.outbox`).Scan(&marked, &others); err != nil || marked != 3*len(waysIn) || others != 0 {
		t.Errorf("%d rows have the mark, want %d; %d others have headers: %v", marked, 3*len(waysIn), others, err)
	}
}

func TestBothKeysKeepTheirOwnMeaning(t *testing.T) {
	s, c := serveUnique(t)
	both := client.Task{Kind: "held", Payload: 1, UniqueKey: "k", IdempotencyKey: "k", Headers: map[string]string{"tenant": "blue"}}
	first, err := c.Enqueue(t.Context(), both)
	if err != nil || first.Replayed || first.Duplicate {
		t.Fatal(first, err)
	}
	if n := release(t, s.db, first.ID); n != 1 {
		t.Fatalf("%d keys were given back", n)
	}
	// The request keeps its first answer; another request is another task.
	if again, err := c.Enqueue(t.Context(), both); err != nil || again.Seq != first.Seq || !again.Replayed {
		t.Fatal(again, err)
	}
	both.IdempotencyKey = "k2"
	if next, err := c.Enqueue(t.Context(), both); err != nil || next.Seq == first.Seq || next.Duplicate {
		t.Fatal(next, err)
	}
	var headers string
	if err := s.db.QueryRow(t.Context(), `select headers::text from perdure.outbox where id = $1`, first.Seq).Scan(&headers); err != nil || headers != `{"tenant": "blue", "perdure_unique": "completed"}` {
		t.Errorf("headers %s, %v", headers, err)
	}
}

// Who was told of the holder may keep its transaction open: neither the holder's
// end nor anybody else waits for that.
func TestADuplicateHoldsNobodyUp(t *testing.T) {
	s, c := serveUnique(t)
	for _, kind := range []string{"held", "only"} {
		task := client.Task{Kind: kind, Payload: 1, UniqueKey: "k"}
		first, err := c.Enqueue(t.Context(), task)
		if err != nil {
			t.Fatal(err)
		}
		tx, err := s.db.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // nothing to keep
		if r, err := c.EnqueueTx(t.Context(), tx, task); err != nil || !r.Duplicate || r.Seq != first.Seq {
			t.Fatal(r, err)
		}
		if r, err := c.Enqueue(t.Context(), task); err != nil || !r.Duplicate {
			t.Fatalf("%s: beside an open transaction: %+v, %v", kind, r, err)
		}
		if kind == "only" {
			continue
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := dispatcher.ReleaseUnique(ctx, s.db, first.ID); err != nil {
			t.Fatalf("its end waits for an open transaction: %v", err)
		}
		if r, err := c.Enqueue(t.Context(), task); err != nil || r.Duplicate {
			t.Fatal(r, err)
		}
	}
}

// Keys are taken and given back by many at once: never two holders, and nobody is
// told of a conflict.
func TestOneTaskAKeyWhileItIsTakenAndGivenBack(t *testing.T) {
	s, c := serveUnique(t)
	const callers, each, keys = 12, 60, 3
	var mu sync.Mutex
	held := map[string]int64{} // by key, as those know who took it
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for n := range each {
				key := fmt.Sprint((i + n) % keys)
				tx, err := s.db.Begin(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				// EnqueueTx tries nothing again: what it was told of is what SQL says.
				r, err := c.EnqueueTx(t.Context(), tx, client.Task{Kind: "held", Payload: n, UniqueKey: key})
				if err = errors.Join(err, tx.Commit(t.Context())); err != nil {
					t.Error(err)
					return
				}
				if r.Duplicate {
					continue
				}
				mu.Lock()
				if other := held[key]; other != 0 {
					t.Errorf("key %s: task %d has it, and %d was told that it does", key, other, r.Seq)
				}
				held[key] = r.Seq
				mu.Unlock()
				mu.Lock()
				delete(held, key) // before it is given back
				mu.Unlock()
				if n := release(t, s.db, r.ID); n != 1 {
					t.Errorf("task %d gave back %d keys", r.Seq, n)
				}
			}
		})
	}
	wg.Wait()
	var left int
	if err := s.db.QueryRow(t.Context(), `select count(*) from perdure.unique_keys`).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d keys are left, %v", left, err)
	}
}

// A kind may change from a period to completed and back: each key is held as its
// kind said when the task was enqueued.
func TestAKindMayChangeHowLongItsKeysAreHeld(t *testing.T) {
	db := database(t)
	apply := func(until string) *client.Client {
		t.Helper()
		text := "version: 1\nqueues: {payments: {}}\nkinds:\n  k: {queue: payments" + until + "}\n"
		if _, err := dispatcher.ApplyCatalog(t.Context(), db, catalog(t, text), dispatcher.ApplyOptions{Prune: true}); err != nil {
			t.Fatal(err)
		}
		if again, err := dispatcher.ApplyCatalog(t.Context(), db, catalog(t, text), dispatcher.ApplyOptions{Prune: true}); err != nil || len(again) > 0 {
			t.Fatalf("applied a second time it changes %v, %v", again, err)
		}
		c, err := client.New(t.Context(), db)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	put := func(c *client.Client, key string, duplicateOf int64) int64 {
		t.Helper()
		r, err := c.Enqueue(t.Context(), client.Task{Kind: "k", Payload: 1, UniqueKey: key})
		if err != nil || r.Duplicate != (duplicateOf != 0) || r.Duplicate && r.Seq != duplicateOf {
			t.Fatalf("key %s: %+v, %v; want a duplicate of %d", key, r, err, duplicateOf)
		}
		return r.Seq
	}
	overdue := func() {
		t.Helper()
		if _, err := db.Exec(t.Context(), `update perdure.unique_keys set expires = clock_timestamp() - interval '1s' where expires < 'infinity'`); err != nil {
			t.Fatal(err)
		}
	}
	period := apply(", unique: {until: 1h}")
	a := put(period, "a", 0)
	completed := apply(", unique: {until: completed}")
	put(completed, "a", a)
	if n := release(t, db, idOf(a)); n != 0 {
		t.Error("a key that is held for a period was given back by its task's end")
	}
	overdue()
	a2 := put(completed, "a", 0) // now until it is completed
	b := put(completed, "b", 0)
	overdue()
	put(completed, "a", a2)
	period = apply(", unique: {until: 1h}")
	put(period, "a", a2)
	put(period, "b", b)
	if n := release(t, db, idOf(a2), idOf(b)); n != 2 {
		t.Errorf("%d keys were given back, want 2", n)
	}
	put(period, "a", 0)
	overdue()
	put(period, "a", 0)
	if _, err := apply("").Enqueue(t.Context(), client.Task{Kind: "k", Payload: 1, UniqueKey: "a"}); err == nil {
		t.Error("a kind without unique took a unique key")
	}
}
