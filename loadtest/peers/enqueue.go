package main

// perdure.enqueue in the producer's transaction, beside a plain INSERT of the
// same row into the same table.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/loadtest/run"
)

// way is one way to write a task's row: $1 is the payload, as JSON text.
type way struct{ name, sql string }

// Each writes the same row: kind, queue, content type and payload; everything
// else by its default. In the first two the payload is bytes and is stored as it
// is, in the others it passes through jsonb.
var ways = []way{
	{"nothing", `select 1 where $1::bytea is not null`},
	{"INSERT of bytes", `insert into perdure.outbox (kind, queue, content_type, payload) values ('k', 'q', 'application/json', $1::bytea) returning id`},
	{"enqueue_bytes", `select perdure.enqueue_bytes(kind => 'k', payload => $1::bytea, content_type => 'application/json')`},
	{"INSERT of jsonb", `insert into perdure.outbox (kind, queue, content_type, payload) values ('k', 'q', 'application/json', convert_to($1::jsonb::text, 'UTF8')) returning id`},
	{"enqueue", `select perdure.enqueue(kind => 'k', payload => $1::jsonb)`},
}

// against is what a way is compared with.
var against = map[string]string{"enqueue_bytes": "INSERT of bytes", "enqueue": "INSERT of jsonb"}

type enqueueBench struct {
	bench
	tasks      int   // of each way, in a run
	statements []int // in one transaction: a shape each
	payload    int
}

// timing is what one way took in one run, µs.
type timing struct {
	statement, transaction float64 // medians
	cpu                    float64 // of the backend, a statement with its part of the transaction
}

func enqueueCommand(ctx context.Context, args []string) error {
	var e enqueueBench
	fs := flag.NewFlagSet("enqueue", flag.ContinueOnError)
	e.flags(fs)
	fs.IntVar(&e.tasks, "tasks", 2000, "of each way, in a run")
	fs.IntVar(&e.payload, "payload", 1024, "bytes of a task's payload")
	statements := fs.String("statements", "1,50", "in a transaction, each with a row of the producer's own before it; a table each")
	if err := parse(fs, args); err != nil {
		return err
	}
	for _, s := range strings.Split(*statements, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return &usageError{fmt.Errorf("statements: %q is no number of them", s)}
		}
		e.statements = append(e.statements, n)
	}
	if e.tasks < 1 || e.payload < 64 {
		return &usageError{errors.New("tasks: want at least 1; payload: 64")}
	}
	return e.bench.command(ctx, "enqueue", e.run)
}

// run measures every shape in a database of its own.
func (e *enqueueBench) run(ctx context.Context, srv servers) (table string, err error) {
	url, drop, err := srv.migrated(ctx, "perdure_enqueue", `create table orders (id bigint generated always as identity primary key, note text not null)`)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, drop()) }()
	var b strings.Builder
	fmt.Fprintf(&b, "Payloads of %d bytes. %d runs of %d tasks of each way: a hundred of one, then of the next, in one process, each way with a connection of its own.\n",
		e.payload, e.runs, e.tasks)
	for _, n := range e.statements {
		got, err := e.shape(ctx, url, n)
		if err != nil {
			return "", err
		}
		b.WriteString(e.table(n, got))
	}
	return b.String(), nil
}

// shape runs all ways with n statements in a transaction.
func (e *enqueueBench) shape(ctx context.Context, url string, n int) (map[string][]timing, error) {
	conns := map[string]*pgx.Conn{}
	for _, w := range ways {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return nil, err
		}
		defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is under way
		conns[w.name] = conn
	}
	payloads := run.NewPayloads(e.payload, run.Random)
	got := map[string][]timing{}
	transactions, block := max(1, e.tasks/n), max(1, 100/n)
	for r := range 1 + e.runs { // the first is for the plans
		took := map[string]*samples{}
		for _, w := range ways {
			took[w.name] = &samples{}
		}
		for done := 0; done < transactions; done += block {
			order := slices.Clone(ways)
			if done/block%2 == 1 {
				slices.Reverse(order)
			}
			for _, w := range order {
				if err := took[w.name].block(ctx, conns[w.name], w, min(block, transactions-done), n, payloads); err != nil {
					return nil, fmt.Errorf("%s: %w", w.name, err)
				}
			}
		}
		if r == 0 {
			continue
		}
		for name, s := range took {
			got[name] = append(got[name], s.timing())
		}
		fmt.Fprintf(os.Stderr, "%d a transaction: enqueue %.0f µs, INSERT %.0f µs\n", n, got["enqueue"][r-1].statement, got["INSERT of jsonb"][r-1].statement)
	}
	return got, nil
}

// samples are those of one way in one run.
type samples struct {
	statements, transactions []float64 // µs
	cpu                      time.Duration
}

func (s *samples) block(ctx context.Context, conn *pgx.Conn, w way, transactions, statements int, payloads *run.Payloads) error {
	before := threadCPU(conn)
	for i := range transactions {
		began := time.Now()
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		for j := range statements {
			if _, err := tx.Exec(ctx, `insert into orders (note) values ($1)`, "an order"); err != nil {
				return err
			}
			payload := payloads.Append(nil, i*statements+j)
			start := time.Now()
			var id int64
			if err := tx.QueryRow(ctx, w.sql, payload).Scan(&id); err != nil {
				return err
			}
			s.statements = append(s.statements, micros(time.Since(start)))
		}
		if err := tx.Commit(ctx); err != nil {
			return err
		}
		s.transactions = append(s.transactions, micros(time.Since(began)))
	}
	s.cpu += threadCPU(conn) - before
	return nil
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

func (s *samples) timing() timing {
	return timing{
		statement: spreadOf(s.statements).median, transaction: spreadOf(s.transactions).median,
		cpu: micros(s.cpu) / float64(len(s.statements)),
	}
}

// threadCPU is the CPU time of conn's backend, in nanoseconds' resolution; 0
// where the system does not tell.
func threadCPU(conn *pgx.Conn) time.Duration {
	return processCPU(int(conn.PgConn().PID()))
}

// processCPU is the CPU time of a process of one thread.
func processCPU(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), " ")
	n, err := strconv.ParseInt(first, 10, 64)
	if err != nil {
		return 0
	}
	return time.Duration(n)
}

// table is that of one shape.
func (e *enqueueBench) table(n int, got map[string][]timing) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n| %d in a transaction | the statement, µs | times the INSERT | whole transaction, µs | times | CPU of the backend, µs a statement | times |\n|---|---|---|---|---|---|---|\n", n)
	for _, w := range ways {
		runs, base := got[w.name], got[against[w.name]]
		fmt.Fprintf(&b, "| %s |", w.name)
		for _, of := range []func(timing) float64{
			func(t timing) float64 { return t.statement }, func(t timing) float64 { return t.transaction }, func(t timing) float64 { return t.cpu },
		} {
			var values, ratios []float64
			for i, r := range runs {
				values = append(values, of(r))
				if base != nil {
					ratios = append(ratios, of(r)/of(base[i]))
				}
			}
			times := ""
			if base != nil {
				times = spreadOf(ratios).text("%.2f")
			}
			fmt.Fprintf(&b, " %s | %s |", spreadOf(values).text("%.0f"), times)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// migrated makes a database with Perdure's schema, a queue q and its kind k, and
// runs sql in it.
func (s servers) migrated(ctx context.Context, name, sql string) (own string, drop func() error, err error) {
	own, remove, err := s.database(ctx, name)
	if err != nil {
		return "", nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, remove())
		}
	}()
	pool, err := pgxpool.New(ctx, own)
	if err != nil {
		return "", nil, err
	}
	defer pool.Close()
	if err := pg.Migrate(ctx, own, "bench"); err != nil {
		return "", nil, err
	}
	_, err = pool.Exec(ctx, `insert into perdure.queues (queue, settings) values ('q', '{}');
insert into perdure.kinds (kind, queue, ordered, effects, settings, catalog) values ('k', 'q', false, 'idempotent', '{}', 'c');`+sql)
	return own, remove, err
}
