package main

// Replays of the large index: planning, moving as fast as it goes, moving at a
// rate, and what a large plan takes of memory.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/loadtest/run/usage"
	"github.com/perdure/perdure/replayer"
)

// replays is what the parts about replays have in common.
type replays struct {
	b     *lettersBench
	pool  *pgxpool.Pool
	jobs  *replayer.Jobs
	meter *usage.Meter
	close func() error
}

// openReplays starts a replayer, as `perdure replayer` runs it, over the large index.
// Redis knows nothing of the tasks: letters of kinds whose effect may happen twice go.
func (b *lettersBench) openReplays(ctx context.Context, srv servers) (*replays, error) {
	cat, err := lettersCatalog()
	if err != nil {
		return nil, err
	}
	pool, err := b.filled(ctx, srv)
	if err != nil {
		return nil, err
	}
	rdb := redis.NewClient(&redis.Options{Addr: srv.redis})
	closeAll := func() error { pool.Close(); return rdb.Close() }
	store, err := claims.New(rdb, claims.Config{Prefix: "bench-letters:"})
	if err != nil {
		return nil, errors.Join(err, closeAll())
	}
	meter, err := usage.New(srv.targets()[0], srv.targets()[2]) // Kafka has no part in it
	if err != nil {
		return nil, errors.Join(err, closeAll())
	}
	x, err := replayer.New(replayer.Config{Instance: "bench"}, replayer.Deps{DB: pool, Claims: store, Catalog: cat, Log: silent})
	if err != nil {
		return nil, errors.Join(err, closeAll())
	}
	run, cancel := context.WithCancel(ctx)
	ran := make(chan error, 1)
	go func() { ran <- x.Run(run) }()
	r := &replays{b: b, pool: pool, jobs: replayer.NewJobs(pool, cat, nil), meter: meter}
	r.close = func() error { cancel(); return errors.Join(<-ran, closeAll()) }
	return r, nil
}

// planned is how long a plan took.
type planned struct {
	freeze, judged float64 // s: until the answer, then until each letter was looked at
	letters        int
}

func (r *replays) plan(ctx context.Context, spec replayer.Spec) (id string, p planned, err error) {
	spec.Canary.Off, spec.Stop.Off = true, true
	began := time.Now()
	if id, err = r.jobs.Plan(ctx, replayer.Plan{Spec: spec, Who: "bench"}); err != nil {
		return "", p, err
	}
	p.freeze = time.Since(began).Seconds()
	if err := r.await(ctx, id, "planned"); err != nil {
		return "", p, err
	}
	p.judged = time.Since(began).Seconds() - p.freeze
	err = r.pool.QueryRow(ctx, `select letters - refused from perdure.replays where replay = $1`, id).Scan(&p.letters)
	return id, p, err
}

// await waits until a replay has come to a state.
func (r *replays) await(ctx context.Context, id, state string) error {
	for {
		var now, note string
		if err := r.pool.QueryRow(ctx, `select state, note from perdure.replays where replay = $1`, id).Scan(&now, &note); err != nil {
			return err
		}
		switch {
		case now == state:
			return nil
		case now == "stopped" || now == "cancelled":
			return fmt.Errorf("replay %s is %s: %s", id, now, note)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// run starts a plan and waits until it is done.
func (r *replays) run(ctx context.Context, id string, letters int) (*result, error) {
	before, err := r.meter.Read()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := r.jobs.Approve(ctx, id, "another", ""); err != nil && !errors.Is(err, replayer.ErrState) { // a large one needs it
		return nil, err
	}
	if err := r.jobs.Start(ctx, id, "bench", ""); err != nil {
		return nil, err
	}
	if err := r.await(ctx, id, "done"); err != nil {
		return nil, err
	}
	took := time.Since(began)
	after, err := r.meter.Read()
	if err != nil {
		return nil, err
	}
	var moved, sent int
	if err := r.pool.QueryRow(ctx, `select replayed, (select count(*) from perdure.replay_letters l join perdure.outbox o on o.id = l.seq where l.replay = r.replay)
from perdure.replays r where replay = $1`, id).Scan(&moved, &sent); err != nil {
		return nil, err
	}
	if moved != letters || sent != letters {
		return nil, fmt.Errorf("replay %s: %d of %d letters moved, and %d of them are in the outbox", id, moved, letters, sent)
	}
	res := &result{Tasks: letters, Seconds: took.Seconds(), CPU: map[string]float64{}}
	for name, v := range after.Since(before) {
		res.CPU[name] = micros(v) / float64(letters)
	}
	return res, nil
}

// runPlans plans, and replays what was planned.
func (b *lettersBench) runPlans(ctx context.Context, srv servers) (table string, err error) {
	r, err := b.openReplays(ctx, srv)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	group, err := causeOf(0)
	if err != nil {
		return "", err
	}
	var freeze, whole []float64
	var moved []*result
	for i := range b.runs {
		// In turn by what most people name; each takes the oldest deaths that are open.
		sel := []replayer.Selector{{Group: group.fingerprint}, {Kind: kindName(1)}, {Queue: "q2"}}[i%3]
		id, p, err := r.plan(ctx, replayer.Spec{Selector: sel, Limit: b.plan})
		if err != nil {
			return "", fmt.Errorf("plan: %w", err)
		}
		freeze, whole = append(freeze, p.freeze), append(whole, p.freeze+p.judged)
		fmt.Fprintf(os.Stderr, "planned in %.1f s, judged after %.1f s more\n", p.freeze, p.judged)
		res, err := r.run(ctx, id, p.letters)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(os.Stderr, "replayed %.0f/s %.1f µs a letter %v\n", res.rate(), res.cpu(), res.CPU)
		moved = append(moved, res)
	}
	var s strings.Builder
	fmt.Fprintf(&s, "Plans of %d letters out of %d, by group, kind and queue in turn, %d of them, each then replayed without a limit, canary or rules.\n\n", b.plan, b.letters, b.runs)
	s.WriteString("| | |\n|---|---|\n")
	fmt.Fprintf(&s, "| a plan: until its letters are frozen, s | %s |\n", spreadOf(freeze).text("%.1f"))
	fmt.Fprintf(&s, "| a plan: until each letter was looked at, s | %s |\n", spreadOf(whole).text("%.1f"))
	fmt.Fprintf(&s, "| a replay: letters/s | %s |\n", spreadOf(each(moved, (*result).rate)).text("%.0f"))
	fmt.Fprintf(&s, "| a replay: µs CPU a letter, all | %s |\n", spreadOf(each(moved, (*result).cpu)).text("%.1f"))
	for _, of := range []string{usage.Own, "postgres", "redis"} {
		fmt.Fprintf(&s, "| a replay: of it %s | %s |\n", of, spreadOf(each(moved, func(r *result) float64 { return r.CPU[of] })).text("%.1f"))
	}
	return s.String(), nil
}

// runRate replays at a rate, and compares each second with it.
func (b *lettersBench) runRate(ctx context.Context, srv servers) (table string, err error) {
	r, err := b.openReplays(ctx, srv)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	n := b.rate * b.seconds
	var off, worst []float64
	for range b.runs {
		id, p, err := r.plan(ctx, replayer.Spec{Selector: replayer.Selector{Queue: "q1"}, Limit: n, Rate: float64(b.rate)})
		if err != nil {
			return "", err
		}
		if _, err := r.run(ctx, id, p.letters); err != nil {
			return "", err
		}
		// What the first statement moved is left out at both ends: it took no time.
		var took float64
		var between, high, low int
		if err := r.pool.QueryRow(ctx, `with r as materialized (select done_at from perdure.replay_letters where replay = $1 and result = 'replayed'),
l as (select done_at, count(*) as n from r group by done_at),
s as (select floor(extract(epoch from done_at - (select min(done_at) from r)))::int as s, count(*) as n
  from r group by 1)
select extract(epoch from max(done_at) - min(done_at))::float8, (sum(n) - (select count(*) from r where done_at <= (select min(done_at) + interval '10 ms' from r)))::int,
  (select max(n) from s where s < (select max(s) from s))::int, (select min(n) from s where s < (select max(s) from s))::int from l`, id).Scan(&took, &between, &high, &low); err != nil {
			return "", err
		}
		off = append(off, 100*(float64(between)/took/float64(b.rate)-1))
		worst = append(worst, 100*float64(max(high-b.rate, b.rate-low))/float64(b.rate))
		fmt.Fprintf(os.Stderr, "rate: %.2f %% off, a second at worst %.1f %%, %d to %d\n", off[len(off)-1], worst[len(worst)-1], low, high)
	}
	var s strings.Builder
	fmt.Fprintf(&s, "%d letters at %d a second, %d runs.\n\n| at %d/s for %d s | |\n|---|---|\n", n, b.rate, b.runs, b.rate, b.seconds)
	fmt.Fprintf(&s, "| all of it: per cent off the rate | %s |\n", spreadOf(off).text("%.2f"))
	fmt.Fprintf(&s, "| its worst second: per cent off the rate | %s |\n", spreadOf(worst).text("%.1f"))
	return s.String(), nil
}

// runLarge looks at memory while plans of some sizes are made and go.
func (b *lettersBench) runLarge(ctx context.Context, srv servers) (table string, err error) {
	r, err := b.openReplays(ctx, srv)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	var s strings.Builder
	fmt.Fprintf(&s, "One plan of each size, the smallest first, in one process. Memory is what the process and the largest backend of Postgres have of their own, at its highest.\n\n")
	s.WriteString("| letters | planned and looked at, s | replayed, letters/s | process, MiB: planning | replaying | backend, MiB |\n|---|---|---|---|---|---|\n")
	for _, n := range b.large {
		w := watchMemory(ctx, r.pool)
		id, p, err := r.plan(ctx, replayer.Spec{Selector: replayer.Selector{All: true}, Limit: n})
		own, backend := w.stop()
		if err != nil {
			return "", err
		}
		w = watchMemory(ctx, r.pool)
		res, err := r.run(ctx, id, p.letters)
		own2, backend2 := w.stop()
		if err != nil {
			return "", err
		}
		line := fmt.Sprintf("| %d | %.1f | %.0f | %.0f | %.0f | %.0f |\n", p.letters, p.freeze+p.judged, res.rate(), own, own2, max(backend, backend2))
		fmt.Fprint(os.Stderr, line)
		s.WriteString(line)
	}
	return s.String(), nil
}

// memoryWatch keeps the highest of what is seen, in MiB.
type memoryWatch struct {
	cancel       context.CancelFunc
	done         chan struct{}
	own, backend float64
}

func watchMemory(ctx context.Context, pool *pgxpool.Pool) *memoryWatch {
	ctx, cancel := context.WithCancel(ctx)
	w := &memoryWatch{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for {
			w.own = max(w.own, anonymous(os.Getpid()))
			rows, err := pool.Query(ctx, `select pid from pg_stat_activity where datname = current_database()`)
			if err == nil {
				pids, _ := pgx.CollectRows(rows, pgx.RowTo[int])
				for _, pid := range pids {
					w.backend = max(w.backend, anonymous(pid))
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	return w
}

func (w *memoryWatch) stop() (own, backend float64) {
	w.cancel()
	<-w.done
	return w.own, w.backend
}

// anonymous is the memory that is a process's own, in MiB; 0 where it is not told.
func anonymous(pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "RssAnon:")
	line, _, _ := strings.Cut(rest, "kB")
	kib, err := strconv.ParseFloat(strings.TrimSpace(line), 64)
	if err != nil {
		return 0
	}
	return kib / 1024
}
