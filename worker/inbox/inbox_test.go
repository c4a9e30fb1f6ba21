package inbox_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/worker/inbox"
)

func TestMain(m *testing.M) { testkit.Main(m) }

type task struct {
	id  string
	run int64
}

func (t task) TaskID() string   { return t.id }
func (t task) RunNumber() int64 { return t.run }

var errStep = errors.New("the step failed")

func pool(t *testing.T) *pgxpool.Pool {
	t.Helper()
	p, err := pgxpool.New(t.Context(), testkit.MigratedPostgres(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	if _, err := p.Exec(t.Context(), `create table effects (n bigint)`); err != nil {
		t.Fatal(err)
	}
	return p
}

func count(t *testing.T, p *pgxpool.Pool, table string) (n int) {
	t.Helper()
	if err := p.QueryRow(t.Context(), `select count(*) from `+table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// step is one whole run of a step: begin, effect through the inbox, commit.
func step(ctx context.Context, p *pgxpool.Pool, tk task, name string) error {
	return pgx.BeginFunc(ctx, p, func(tx pgx.Tx) error {
		return inbox.Do(ctx, tx, tk, name, func(ctx context.Context) error {
			_, err := tx.Exec(ctx, `insert into effects values ($1)`, tk.run)
			return err
		})
	})
}

func TestEffectHappensOnceWhateverRunAsks(t *testing.T) {
	p := pool(t)
	for _, run := range []int64{5, 6, 4} { // again, higher, and a lower zombie
		if err := step(t.Context(), p, task{"main-1-1", run}, "refund"); err != nil {
			t.Fatal(err)
		}
	}
	if n := count(t, p, "effects"); n != 1 {
		t.Fatalf("%d effects of one step", n)
	}
	var run int64
	if err := p.QueryRow(t.Context(), `select run from perdure.inbox`).Scan(&run); err != nil || run != 5 {
		t.Fatalf("recorded run %d (%v), want the one that committed, 5", run, err)
	}
	if err := step(t.Context(), p, task{"main-1-1", 6}, "notify"); err != nil {
		t.Fatal(err)
	}
	if err := step(t.Context(), p, task{"main-1-2", 6}, "refund"); err != nil {
		t.Fatal(err)
	}
	if n := count(t, p, "effects"); n != 3 {
		t.Fatalf("%d effects, want one for each step and task", n)
	}
}

func TestRolledBackStepIsDoneByTheNextRun(t *testing.T) {
	p := pool(t)
	tx, err := p.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := inbox.Do(t.Context(), tx, task{"main-1-1", 1}, "s", func(context.Context) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(t.Context()); err != nil { // as when the worker dies here
		t.Fatal(err)
	}
	if err := step(t.Context(), p, task{"main-1-1", 2}, "s"); err != nil {
		t.Fatal(err)
	}
	if n := count(t, p, "effects"); n != 1 {
		t.Fatalf("%d effects after the first run rolled back", n)
	}
}

// A caller that swallows the error must not be able to commit the record
// without its effect, or half of the effect without its record.
func TestFailedStepCannotBeCommitted(t *testing.T) {
	p := pool(t)
	half := func(tx pgx.Tx, end func() error) func(context.Context) error {
		return func(ctx context.Context) error {
			if _, err := tx.Exec(ctx, `insert into effects values (1)`); err != nil {
				return err
			}
			return end()
		}
	}
	for name, end := range map[string]func() error{
		"error": func() error { return errStep },
		"panic": func() error { panic("in the step") },
	} {
		tx, err := p.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		func() {
			defer func() {
				if r := recover(); (r != nil) != (name == "panic") {
					t.Errorf("%s: recovered %v", name, r)
				}
			}()
			if err := inbox.Do(t.Context(), tx, task{"main-1-1", 1}, "s", half(tx, end)); !errors.Is(err, errStep) {
				t.Errorf("%s: got %v, want fn's own error", name, err)
			}
		}()
		if err := tx.Commit(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
			t.Errorf("%s: commit after a failed step: %v", name, err)
		}
	}
	// In a nested transaction only that one ends.
	err := pgx.BeginFunc(t.Context(), p, func(tx pgx.Tx) error {
		nested, err := tx.Begin(t.Context())
		if err != nil {
			return err
		}
		if err := inbox.Do(t.Context(), nested, task{"main-1-1", 1}, "s", half(nested, func() error { return errStep })); !errors.Is(err, errStep) {
			return fmt.Errorf("nested: %w", err)
		}
		_, err = tx.Exec(t.Context(), `insert into effects values (2)`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if e, r := count(t, p, "effects"), count(t, p, "perdure.inbox"); e != 1 || r != 0 {
		t.Fatalf("%d effects, %d records; want only the outer transaction's effect", e, r)
	}
}

func TestStepFailsWithItsContext(t *testing.T) {
	p := pool(t)
	ctx, cancel := context.WithCancel(t.Context())
	tx, err := p.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = inbox.Do(ctx, tx, task{"main-1-1", 1}, "s", func(ctx context.Context) error { cancel(); return ctx.Err() })
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
		t.Fatalf("commit: %v", err)
	}
	if n := count(t, p, "perdure.inbox"); n != 0 {
		t.Fatalf("%d records", n)
	}
}

// Two workers at the same step at the same time: the second waits for the first
// one's end, and does what that end calls for.
func TestConcurrentDuplicateWaitsForTheOthersEnd(t *testing.T) {
	for name, want := range map[string]bool{"commit": false, "rollback": true} {
		t.Run("first ends by "+name, func(t *testing.T) {
			p := pool(t)
			first, err := p.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer first.Rollback(t.Context()) //nolint:errcheck // ended below
			if err := inbox.Do(t.Context(), first, task{"main-1-1", 1}, "s", func(context.Context) error { return nil }); err != nil {
				t.Fatal(err)
			}
			ran, done := false, make(chan error, 1)
			go func() {
				done <- pgx.BeginFunc(t.Context(), p, func(tx pgx.Tx) error {
					return inbox.Do(t.Context(), tx, task{"main-1-1", 2}, "s", func(context.Context) error { ran = true; return nil })
				})
			}()
			testkit.Eventually(t, 10*time.Second, func() (bool, string) {
				var waiting int
				err := p.QueryRow(t.Context(), `select count(*) from pg_stat_activity
					where datname = current_database() and wait_event_type = 'Lock' and query like 'insert into perdure.inbox%'`).Scan(&waiting)
				return err == nil && waiting == 1, fmt.Sprintf("%d wait (%v)", waiting, err)
			})
			select {
			case err := <-done:
				t.Fatalf("the second did not wait: %v", err)
			default:
			}
			if name == "commit" {
				err = first.Commit(t.Context())
			} else {
				err = first.Rollback(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if ran != want {
				t.Fatalf("second ran: %v, want %v", ran, want)
			}
			if n := count(t, p, "perdure.inbox"); n != 1 {
				t.Fatalf("%d records", n)
			}
		})
	}
}

func TestDoSQL(t *testing.T) {
	url := testkit.MigratedPostgres(t).URL
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() //nolint:errcheck // only read from
	runs := 0
	for _, end := range []error{errStep, nil, nil} {
		tx, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		err = inbox.DoSQL(t.Context(), tx, task{"main-1-1", 1}, "s", func(context.Context) error { runs++; return end })
		if !errors.Is(err, end) {
			t.Fatalf("got %v, want %v", err, end)
		}
		if err := tx.Commit(); (end != nil) != errors.Is(err, sql.ErrTxDone) {
			t.Fatalf("commit after %v: %v", end, err)
		}
	}
	if runs != 2 {
		t.Fatalf("fn ran %d times, want once failing and once for good", runs)
	}
}

func TestUnusableNamesAreRefused(t *testing.T) {
	p := pool(t)
	for _, bad := range []struct{ id, step string }{{"", "s"}, {"main-1-1", ""}, {"main-1-1", string(make([]byte, inbox.MaxStep+1))}, {"main-1-1", "a\x00b"}} {
		tx, err := p.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		err = inbox.Do(t.Context(), tx, task{bad.id, 1}, bad.step, func(context.Context) error { t.Error("ran"); return nil })
		if err == nil {
			t.Errorf("%q %q: no error", bad.id, bad.step)
		}
		_ = tx.Rollback(t.Context())
	}
}
