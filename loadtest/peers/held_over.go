package main

// The same at a steady rate, for as long as people forget a transaction: every
// system twice at once, with a snapshot held and without, each side a process with a
// database of its own. What the machine does meanwhile, both sides of a pair feel.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/perdure/perdure/loadtest/run/usage"
)

// history is how long what is done is kept, by us and by River.
const history = time.Minute

// side is what one side says of its run.
type side struct {
	Tasks     int     `json:"tasks"`
	CPU       float64 `json:"cpu"`        // µs a task: this process, its relay, and the sessions of its database
	FirstCPU  float64 `json:"first_cpu"`  // in the first tenth of the time
	LastCPU   float64 `json:"last_cpu"`   // in the last one
	Behind    float64 `json:"behind"`     // the most tasks that were inserted and not passed, as seconds of the rate
	EndBehind float64 `json:"end_behind"` // seconds from the last insert until all were passed
	MiB       float64 `json:"mib"`        // of the tables that tasks go through, when the history was waited out
	Rows      int     `json:"rows"`       // in them
}

// table is where a system's tasks lie: which tables, for their size, and what counts
// the rows that are left.
type table struct{ relations, rows string }

var heldTables = map[string]table{
	ours:     {`select inhrelid from pg_inherits where inhparent = 'perdure.outbox'::regclass`, `select count(*) from perdure.outbox`},
	"river":  {`select 'river_job'::regclass`, `select count(*) from river_job`},
	deleting: {`select 'box'::regclass`, `select count(*) from box`},
}

// overCommand is one side, started by over.
func overCommand(ctx context.Context, args []string) error {
	var b heldBench
	fs := flag.NewFlagSet("held-side", flag.ContinueOnError)
	b.work.flags(fs)
	fs.StringVar(&b.perdure, "perdure", "", "the perdure binary")
	fs.DurationVar(&b.work.over, "over", 0, "spread the tasks over this time")
	fs.DurationVar(&b.work.settle, "settle", 0, "and look this long after the last at what is left")
	fs.BoolVar(&b.work.held, "held", false, "with a snapshot held open")
	system := fs.String("system", "", "one of "+strings.Join(heldOrder, ", "))
	if err := parse(fs, args); err != nil {
		return err
	}
	srv, err := serversFromEnv()
	if err != nil {
		return &usageError{err}
	}
	pass, ok := b.passers()[*system]
	if !ok || b.over <= 0 {
		return &usageError{fmt.Errorf("held-side: there is no system %q, or no time", *system)}
	}
	b.work.table = heldTables[*system]
	if err := os.Setenv("PERDURE_HISTORY", history.String()); err != nil { // of the relay that is started
		return err
	}
	res, err := pass(ctx, b.work, srv)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(res.over)
}

// overAll runs all sides at once; when one fails, the others end with it.
func (b *heldBench) overAll(ctx context.Context) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	type key struct {
		system string
		held   bool
	}
	got, going := map[key]*side{}, map[key]*child{}
	var mu sync.Mutex
	for _, system := range b.systems {
		for _, held := range []bool{false, true} {
			args := append([]string{"held-side", "-system", system, "-perdure", b.perdure, "-over", b.over.String(), "-settle", b.settle.String()}, b.work.args()...)
			if held {
				args = append(args, "-held")
			}
			c, err := startChild(ctx, self, args)
			if err != nil {
				return "", err
			}
			defer c.stop()
			going[key{system, held}] = c
		}
	}
	for k, c := range going { // all are warm before any begins
		if err := c.ready(); err != nil {
			return "", fmt.Errorf("%s, held %v: %w", k.system, k.held, err)
		}
	}
	fmt.Fprintf(os.Stderr, "%d sides are ready; %v from now\n", len(going), b.over)
	eg := errgroup.Group{}
	for k, c := range going {
		eg.Go(func() error {
			s, err := c.result()
			if err != nil {
				cancel()
				return fmt.Errorf("%s, held %v: %w", k.system, k.held, err)
			}
			fmt.Fprintf(os.Stderr, "%-30s held %-5v %+v\n", k.system, k.held, *s)
			mu.Lock()
			defer mu.Unlock()
			got[k] = s
			return nil
		})
	}
	if err := eg.Wait(); err != nil {
		return "", err
	}
	var s strings.Builder
	fmt.Fprintf(&s, "%d tasks of %d bytes over %v, %d a transaction; all at once, each side a process with a database of its own. CPU: of that process, "+
		"its relay, and its database's sessions. What is done is kept for %v; rows and size are those %v after the last task, the snapshot still held.\n\n",
		b.Tasks, b.Payload, b.over, b.Batch, history, b.settle)
	s.WriteString("| | snapshot | µs CPU a task | in the first tenth | in the last | with by without | behind at most, s | after the last insert, s | rows left | MiB |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, system := range b.systems {
		free := got[key{system, false}]
		for _, held := range []bool{false, true} {
			x, name, ratio := got[key{system, held}], "none", ""
			if held {
				name, ratio = "held", fmt.Sprintf("%.2f", x.CPU/free.CPU)
			}
			fmt.Fprintf(&s, "| %s | %s | %.0f | %.0f | %.0f | %s | %.1f | %.1f | %d | %.0f |\n", system, name, x.CPU, x.FirstCPU, x.LastCPU, ratio, x.Behind, x.EndBehind, x.Rows, x.MiB)
		}
	}
	return s.String(), nil
}

// child is a side under way.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startChild(ctx context.Context, self string, args []string) (*child, error) {
	c := &child{cmd: exec.CommandContext(ctx, self, args...)}
	c.cmd.Stderr = os.Stderr
	c.cmd.Cancel = func() error { return c.cmd.Process.Signal(os.Interrupt) } // it has a relay or a database to end
	c.cmd.WaitDelay = 30 * time.Second
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReader(out)
	return c, c.cmd.Start()
}

// stop ends a side that goes on; of one that has ended nothing is left to do.
func (c *child) stop() {
	_ = c.in.Close() // it may wait to be told to go
	_ = c.cmd.Process.Signal(os.Interrupt)
	_ = c.cmd.Wait()
}

// ready waits until it has warmed up.
func (c *child) ready() error {
	line, err := c.out.ReadString('\n')
	if err != nil || line != "ready\n" {
		return fmt.Errorf("it ended before it was warm: %q, %w", line, errors.Join(err, c.cmd.Wait()))
	}
	return nil
}

// result lets it begin and waits for what it says.
func (c *child) result() (*side, error) {
	if _, err := io.WriteString(c.in, "go\n"); err != nil {
		return nil, err
	}
	var s side
	err := json.NewDecoder(c.out).Decode(&s)
	return &s, errors.Join(err, c.cmd.Wait())
}

// measureOver is measure for one side: told to go, it spreads the tasks over the
// time. passed says how many have been passed since the warm-up began.
func (w *work) measureOver(ctx context.Context, p peer, url string, passed func(context.Context) (int, error)) (res *result, err error) {
	if err := p.send(ctx, 0, w.Warmup); err != nil {
		return nil, err
	}
	if err := awaitPassed(ctx, w.Warmup, passed); err != nil {
		return nil, err
	}
	sessions, err := newSessions(ctx, url)
	if err != nil {
		return nil, err
	}
	defer sessions.close()
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return nil, fmt.Errorf("not told to go: %w", err)
	}
	if err := sessions.look(ctx); err != nil {
		return nil, err
	}
	before := sessions.cpu
	start := time.Now()
	s := &side{Tasks: w.Tasks}
	var firstAt, lastFrom, end point
	inserted := 0
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { // one producer: the rate is far below what it can do
		for inserted < w.Tasks {
			due := start.Add(time.Duration(float64(w.over) * float64(inserted) / float64(w.Tasks)))
			if err := pause(gctx, time.Until(due)); err != nil {
				return err
			}
			n := min(w.Batch, w.Tasks-inserted)
			if err := p.insert(gctx, w.Warmup+inserted, n); err != nil {
				return err
			}
			inserted += n
		}
		return nil
	})
	rate := float64(w.Tasks) / w.over.Seconds()
	g.Go(func() error {
		for {
			if err := pause(gctx, time.Second); err != nil {
				return err
			}
			have, err := passed(gctx)
			if err != nil {
				return err
			}
			have -= w.Warmup
			if err := sessions.look(gctx); err != nil {
				return err
			}
			at := time.Since(start)
			now := point{have, sessions.cpu - before}
			s.Behind = max(s.Behind, min(at.Seconds()*rate, float64(w.Tasks))/rate-float64(have)/rate)
			if at >= w.over/10 && firstAt.tasks == 0 {
				firstAt = now
			}
			if at >= w.over-w.over/10 && lastFrom.tasks == 0 {
				lastFrom = now
			}
			if at >= w.over && end.tasks == 0 {
				end = now
			}
			if have >= w.Tasks && at >= w.over {
				s.EndBehind, s.CPU = (at - w.over).Seconds(), now.perTask(point{})
				if have > w.Tasks {
					return fmt.Errorf("%d tasks were passed, of %d", have, w.Tasks)
				}
				return nil
			}
			if at > w.over+10*patience {
				s.EndBehind, s.CPU = at.Seconds()-w.over.Seconds(), now.perTask(point{})
				s.Tasks = have
				fmt.Fprintf(os.Stderr, "given up: %d of %d tasks were passed %v after the last was inserted\n", have, w.Tasks, (at - w.over).Round(time.Second))
				return nil
			}
		}
	})
	err = g.Wait()
	if err != nil {
		return nil, err
	}
	s.FirstCPU, s.LastCPU = firstAt.perTask(point{}), end.perTask(lastFrom)
	if err := pause(ctx, w.settle); err != nil {
		return nil, err
	}
	err = sessions.conn.QueryRow(ctx, `select coalesce(sum(pg_total_relation_size(r)), 0)::float8 / 1048576, (`+w.table.rows+`) from (`+w.table.relations+`) t(r)`).Scan(&s.MiB, &s.Rows)
	return &result{Tasks: w.Tasks, over: s}, err
}

// point is a moment of a run.
type point struct {
	tasks int
	cpu   time.Duration
}

func (p point) perTask(from point) float64 {
	return micros(p.cpu-from.cpu) / float64(max(1, p.tasks-from.tasks))
}

func awaitPassed(ctx context.Context, n int, passed func(context.Context) (int, error)) error {
	for end := time.Now().Add(patience); ; {
		have, err := passed(ctx)
		if err != nil || have >= n {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("given up: %d of %d tasks were passed", have, n)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// sessions sums the CPU time of our own process tree and of every session of one
// database, autovacuum's among them: seen once a second, so that of one that ends the
// last second may be missing.
type sessions struct {
	conn  *pgx.Conn
	meter *usage.Meter
	seen  map[int]time.Duration
	gone  time.Duration
	cpu   time.Duration // all, so far
}

func newSessions(ctx context.Context, url string) (*sessions, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	meter, err := usage.New()
	if err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	s := &sessions{conn: conn, meter: meter, seen: map[int]time.Duration{}}
	return s, s.look(ctx)
}

func (s *sessions) close() { s.conn.Close(context.Background()) } //nolint:errcheck // only read from

func (s *sessions) look(ctx context.Context) error {
	rows, err := s.conn.Query(ctx, `select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`)
	if err != nil {
		return err
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return err
	}
	for pid, last := range s.seen {
		if !slices.Contains(pids, pid) {
			s.gone += last
			delete(s.seen, pid)
		}
	}
	s.cpu = s.gone
	for _, pid := range pids {
		if used := processCPU(pid); used > 0 { // it may have ended
			s.seen[pid] = used
		}
		s.cpu += s.seen[pid]
	}
	own, err := s.meter.Read()
	s.cpu += own[usage.Own]
	return err
}
