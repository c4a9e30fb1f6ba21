package relay

// Many producers that do all that a transaction can do, while servers and relays
// are killed under them.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/testkit"
)

// load are producers; each has keys of its own, whose order it promises.
type load struct {
	g    *rig
	url  func() string
	stop atomic.Bool
	hang atomic.Bool  // what is prepared is not ended
	away atomic.Bool  // nobody connects again
	done atomic.Int64 // transactions that were answered
	wg   sync.WaitGroup
}

func (g *rig) load(producers int, seed uint64, url func() string) *load {
	l := &load{g: g, url: url}
	for p := range producers {
		l.wg.Go(func() { l.produce(p, rand.New(rand.NewPCG(seed, uint64(p)))) })
	}
	return l
}

func (l *load) end() {
	l.stop.Store(true)
	l.wg.Wait()
}

// reach waits until so many transactions were answered.
func (l *load) reach(n int64) {
	l.g.t.Helper()
	testkit.Eventually(l.g.t, time.Minute, func() (bool, string) {
		return l.done.Load() >= n, fmt.Sprintf("%d of %d transactions", l.done.Load(), n)
	})
}

// produce connects again after every failure: what became of the transaction
// that failed is unknown to it, and irrelevant: the database is the truth. But it
// may still commit, so what comes after it has other keys.
func (l *load) produce(p int, rng *rand.Rand) {
	n := 0
	for life := 0; !l.stop.Load(); life++ {
		for l.away.Load() && !l.stop.Load() {
			time.Sleep(time.Millisecond)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		conn, err := pgx.Connect(ctx, l.url())
		if err == nil {
			for err == nil && !l.stop.Load() {
				n, err = l.one(ctx, conn, fmt.Sprintf("k%d-%d", p, life), n, rng)
				l.done.Add(1)
				if ctx.Err() != nil {
					break
				}
			}
			conn.Close(context.Background())
		}
		cancel()
	}
}

var errRollback = errors.New("rolled back on purpose")

// one runs one transaction and returns the next number to use.
func (l *load) one(ctx context.Context, conn *pgx.Conn, keys string, n int, rng *rand.Rand) (int, error) {
	key := fmt.Sprintf("%s-%d", keys, rng.IntN(3))
	sync := "on"
	if rng.IntN(3) == 0 {
		sync = "off"
	}
	prepare, commitPrepared := rng.IntN(10) == 0, rng.IntN(3) > 0
	gid := fmt.Sprintf("t%s-%d-%d", keys, n, rng.Uint64())
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "set local synchronous_commit = "+sync); err != nil {
			return err
		}
		for range 1 + rng.IntN(4) {
			n++
			keep := rng.IntN(4) > 0
			err := pgx.BeginFunc(ctx, tx, func(sp pgx.Tx) error { // a savepoint
				var err error
				if together := rng.IntN(3) * rng.IntN(20); together > 1 {
					err = enqueueBundle(ctx, sp, key, n, together)
					n += together - 1
				} else {
					_, err = enqueue(ctx, sp, key, n)
				}
				if err != nil {
					return err
				}
				if !keep {
					return errRollback
				}
				return nil
			})
			if err != nil && !errors.Is(err, errRollback) {
				return err
			}
		}
		if rng.IntN(4) == 0 { // a late commit
			if _, err := tx.Exec(ctx, `select pg_sleep($1)`, rng.Float64()*0.05); err != nil {
				return err
			}
		}
		if prepare {
			_, err := tx.Exec(ctx, "prepare transaction '"+gid+"'")
			return err
		}
		if rng.IntN(6) == 0 {
			return errRollback
		}
		return nil
	})
	if prepare && err == nil {
		for l.hang.Load() && !l.stop.Load() {
			time.Sleep(time.Millisecond)
		}
		end := "commit prepared '"
		if !commitPrepared {
			end = "rollback prepared '"
		}
		_, err = conn.Exec(ctx, end+gid+"'")
	}
	if errors.Is(err, errRollback) {
		err = nil
	}
	return n, err
}

// prepared are the transactions that somebody prepared and nobody ended.
func (g *rig) prepared() []string {
	g.t.Helper()
	rows, err := g.db.Query(context.Background(), `select gid from pg_prepared_xacts where database = current_database() order by gid`)
	if err != nil {
		g.t.Fatal(err)
	}
	gids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		g.t.Fatal(err)
	}
	return gids
}

// settlePrepared commits every second of them, and rolls the others back.
func (g *rig) settlePrepared(gids []string) {
	g.t.Helper()
	for i, gid := range gids {
		end := "commit"
		if i%2 > 0 {
			end = "rollback"
		}
		g.exec(end + " prepared '" + gid + "'")
	}
}

func TestNothingIsLostUnderSavepointsPreparedAndLateCommits(t *testing.T) {
	for _, chunk := range []int{3, 2000} {
		t.Run(fmt.Sprintf("chunk %d", chunk), func(t *testing.T) {
			g := newRig(t)
			g.run(g.relay("a", func(c *Config) { c.Chunk = chunk }))
			l := g.load(8, uint64(chunk), func() string { return g.url })
			l.reach(1200)
			l.end()
			g.settlePrepared(g.prepared())
			g.right()
		})
	}
}

// The relay is killed between acknowledgement and cursor, Postgres anywhere. What
// was prepared before a crash is ended long after it; one transaction stays open over
// a round of relays' deaths, another until the crash ends it.
func TestNothingIsLostWhenServersAndRelaysAreKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("kills servers for 20 s")
	}
	g, server := newOwnRig(t, "15")
	var url atomic.Value
	url.Store(g.url)
	l := g.load(8, 1, func() string { return url.Load().(string) })
	errKilled := errors.New("killed between acknowledgement and cursor")
	var left []string
	for round := range 3 {
		r := g.relay("a", func(c *Config) { c.Chunk = 20; c.LeaseTTL = time.Second })
		passes := 0
		r.seams.beforeCursor = func(context.Context, *term, *window) error {
			if passes++; passes%7 == 0 {
				return errKilled
			}
			return nil
		}
		open, never := g.begin(), g.begin()
		g.enqueueIn(open, fmt.Sprint("k-open-", round), 1)
		g.enqueueIn(never, fmt.Sprint("k-never-", round), 1)
		run := g.run(r)
		testkit.Eventually(t, time.Minute, active(r)) // so that they come late
		l.reach(l.done.Load() + 200)
		g.settlePrepared(left)
		l.reach(l.done.Load() + 200)
		g.commit(open)
		g.enqueue(fmt.Sprint("k-open-", round), 2)
		l.hang.Store(true)
		testkit.Eventually(t, time.Minute, func() (bool, string) {
			n := len(g.prepared())
			return n >= 4, fmt.Sprintf("%d transactions are prepared", n)
		})
		l.away.Store(true) // who connects before left is read would end its own
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		l.hang.Store(false)
		run.cancel()
		if err := run.wait(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		g.revive(server)
		if left = g.prepared(); len(left) < 4 {
			t.Fatalf("round %d: %d prepared transactions survived", round, len(left))
		}
		url.Store(g.url)
		l.away.Store(false)
	}
	g.run(g.relay("b", nil))
	l.reach(l.done.Load() + 200)
	l.end()
	g.settlePrepared(g.prepared()) // also the last crash's
	g.right()
}

// The second read of a large window is another way to the same set.
func TestBothReadsOfAWindowGiveTheSameRows(t *testing.T) {
	g := newRig(t)
	l := g.load(6, 7, func() string { return g.url })
	defer l.end()
	r := g.relay("a", func(c *Config) { c.Chunk = 1 << 20 })
	r.cfg.Chunk = 1 << 20
	conn, err := r.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	is, err := r.identify(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	tm := &term{r: r, conn: conn, is: is, words: map[string]string{}, limit: 1 << 20}
	if _, err := tm.standby(t.Context()); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	rows := 0
	for range 60 {
		l.reach(l.done.Load() + 10)
		tm.large, tm.at, tm.limit = false, 0, 1<<20
		w, err := tm.readWindow(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(w.rows) == 0 {
			continue
		}
		// Hold the target as a large window does, behind any row of it.
		at := rng.IntN(len(w.rows))
		for at+1 < len(w.rows) && w.rows[at+1].rowID == w.rows[at].rowID {
			at++
		}
		g.setCursor(tm, `upto = $1::text::pg_snapshot, at_id = $2`, w.upto, w.rows[at].id)
		var rest []int64
		for tm.large, tm.at, tm.last = true, w.rows[at].id, 0; ; {
			tm.limit = 1 + rng.IntN(9)
			c, err := tm.readWindow(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range c.rows {
				rest = append(rest, o.id)
			}
			if !c.full {
				break
			}
			tm.at = c.end
			if rng.IntN(2) == 0 { // as if read ahead, or not
				g.setCursor(tm, `at_id = $1`, c.end)
			}
		}
		var want []int64
		for _, o := range w.rows[at+1:] {
			want = append(want, o.id)
		}
		if fmt.Sprint(rest) != fmt.Sprint(want) {
			t.Fatalf("by primary key %v, by xid %v", rest, want)
		}
		rows += len(want)
		g.setCursor(tm, `prev = $1::text::pg_snapshot, upto = null, at_id = 0`, w.upto)
	}
	if rows == 0 {
		t.Fatal("nothing was compared")
	}
	t.Logf("compared %d rows", rows)
}

// A large window with a gap in its ids: the read by primary key looks no further
// than a little, and the read by xid jumps over the gap.
func TestGapInALargeWindow(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	for n := range 3 {
		g.enqueue("k", n)
	}
	g.exec(`select setval('perdure.outbox_id_seq', 900000)`)
	for n := range 5 {
		g.enqueue("k", 3+n)
	}
	g.exec(`select setval('perdure.outbox_id_seq', 5000000)`)
	g.enqueue("k", 8)
	g.run(g.relay("a", func(c *Config) { c.Chunk = 1 }))
	g.right()
	if n := one[int](g, `select count(*) from perdure.relay_log`); n != 10 {
		t.Errorf("%d batches of 10 rows, one at a time", n)
	}
}
