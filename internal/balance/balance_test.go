package balance

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/relaylog"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// fakeRedis is what Redis knows, as a test wants it.
type fakeRedis struct {
	mu     sync.Mutex
	claims map[string]claims.Claim
	done   map[int64][]byte // chunk → bits
	inc    int64
	slow   bool // answers travel for a while: what they say is old when it arrives
}

func (r *fakeRedis) travel() {
	if r.slow {
		time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
	}
}

func (r *fakeRedis) Present(context.Context) (int64, error) { return r.inc, nil }

func (r *fakeRedis) Get(_ context.Context, ids ...string) ([]claims.Claim, error) {
	defer r.travel()
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]claims.Claim, len(ids))
	for i, id := range ids {
		out[i] = r.claims[id]
		p, err := schemas.ParseID(id)
		if err != nil {
			return nil, err
		}
		if b := r.done[p.Seq/claims.ChunkBits]; b != nil && b[p.Seq%claims.ChunkBits/8]&(0x80>>(p.Seq%8)) != 0 {
			out[i] = claims.Claim{State: claims.Done}
		}
	}
	return out, nil
}

func (r *fakeRedis) DoneBits(_ context.Context, _ string, _ int, chunk int64) ([]byte, error) {
	defer r.travel()
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.done[chunk]), nil
}

func (r *fakeRedis) set(seq int64, c claims.Claim) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.claims[id(seq)] = c
}

func (r *fakeRedis) bit(seq int64, on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.done[seq/claims.ChunkBits]
	if b == nil {
		b = make([]byte, claims.ChunkBits/8)
		r.done[seq/claims.ChunkBits] = b
	}
	if on {
		b[seq%claims.ChunkBits/8] |= 0x80 >> (seq % 8)
	} else {
		b[seq%claims.ChunkBits/8] &^= 0x80 >> (seq % 8)
	}
}

func id(seq int64) string { return "main-1-" + strconv.FormatInt(seq, 10) }

type rig struct {
	t     *testing.T
	db    *pgxpool.Pool
	cl    *kgo.Client
	adm   *kadm.Client
	names kafka.Names
	redis *fakeRedis
	deps  Deps
}

func newRig(t *testing.T) *rig {
	t.Helper()
	db, err := pg.Pool(t.Context(), testkit.MigratedPostgres(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	k := testkit.Kafka(t)
	r := &rig{t: t, db: db, names: kafka.Names{Prefix: k.Prefix}, redis: &fakeRedis{claims: map[string]claims.Claim{}, done: map[int64][]byte{}, inc: 1}}
	seeds := []kgo.Opt{kgo.SeedBrokers(k.Brokers...)}
	if r.cl, err = kgo.NewClient(append(seeds, kgo.RecordPartitioner(kgo.ManualPartitioner()))...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.cl.Close)
	r.adm = kadm.NewClient(r.cl)
	topics := []string{r.names.Tasks("q"), r.names.DLQ("q"), r.names.Control()}
	for _, tier := range kafka.Tiers {
		topics = append(topics, r.names.Retry(tier.Name))
	}
	if _, err := r.adm.CreateTopics(t.Context(), 1, 1, nil, topics...); err != nil {
		t.Fatal(err)
	}
	r.deps = Deps{DB: db, Claims: r.redis, Admin: r.adm, Kafka: seeds, Names: r.names, Queues: []string{"q"}, Source: "main", Settle: 20 * time.Millisecond}
	r.exec(`insert into perdure.relay_cursor (shard, fence, prev, system_id, database, timeline) values ('main', 1, pg_current_snapshot(), '', 0, '')`)
	return r
}

func (r *rig) exec(sql string, args ...any) {
	r.t.Helper()
	if _, err := r.db.Exec(context.Background(), sql, args...); err != nil {
		r.t.Error(err)
	}
}

// accept writes n tasks, by tens in a row where they are so many.
func (r *rig) accept(n int) (first int64) {
	r.t.Helper()
	ctx := context.Background()
	if n < 10 {
		if err := r.db.QueryRow(ctx, `with i as (insert into perdure.outbox (kind, queue, payload) select 'k', 'q', '{}' from generate_series(1, $1) returning id) select min(id) from i`, n).Scan(&first); err != nil {
			r.t.Error(err)
		}
		return first
	}
	tx, err := r.db.Begin(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	defer tx.Rollback(ctx)                                                                          //nolint:errcheck // after a commit it does nothing
	if _, err = tx.Exec(ctx, `lock table perdure.outbox in share row exclusive mode`); err != nil { // nobody else takes ids
		r.t.Fatal(err)
	}
	if err = tx.QueryRow(ctx, `select last_value + is_called::int from perdure.outbox_id_seq`).Scan(&first); err == nil {
		_, err = tx.Exec(ctx, `insert into perdure.outbox (id, kind, queue, payload, ends)
			select $1 + 10 * i, 'k', 'q', repeat('{}', 10)::bytea, array(select generate_series(2, 20, 2)) from generate_series(0, $2::bigint / 10 - 1) i`, first, n)
	}
	if err == nil {
		_, err = tx.Exec(ctx, `select setval('perdure.outbox_id_seq', $1)`, first+int64(n/10*10)-1)
	}
	if err == nil {
		err = tx.Commit(ctx)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	if rest := n % 10; rest > 0 {
		r.accept(rest)
	}
	return first
}

// relay moves the cursor over everything committed and produces it; skip leaves
// ids out, as a broken relay would.
func (r *rig) relay(skip ...int64) {
	ctx := context.Background()
	err := pgx.BeginFunc(ctx, r.db, func(tx pgx.Tx) error {
		var snap string
		if err := tx.QueryRow(ctx, `select prev::text from perdure.relay_cursor for update`).Scan(&snap); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `select s.upto::text, o.id, coalesce(o.task_id, '') from (select pg_current_snapshot() as upto) s
left join perdure.outbox_tasks o on pg_visible_in_snapshot(o.xid, s.upto) and not pg_visible_in_snapshot(o.xid, $1::text::pg_snapshot) order by o.id`, snap)
		if err != nil {
			return err
		}
		var upto string
		var seq *int64
		var task *string
		var hops []relaylog.Hop
		var recs []*kgo.Record
		if _, err := pgx.ForEachRow(rows, []any{&upto, &seq, &task}, func() error {
			if seq == nil || slices.Contains(skip, *seq) {
				return nil
			}
			name := *task
			if name == "" {
				name = id(*seq)
			}
			hops = append(hops, relaylog.Hop{ID: *seq, Topic: r.names.Tasks("q")})
			recs = append(recs, &kgo.Record{Topic: r.names.Tasks("q"), Headers: []kgo.RecordHeader{{Key: schemas.HeaderID, Value: []byte(name)}}})
			return nil
		}); err != nil {
			return err
		}
		if len(recs) > 0 {
			if err := r.cl.ProduceSync(ctx, recs...).FirstErr(); err != nil {
				return err
			}
			for i := range recs {
				hops[i].Offset = recs[i].Offset
			}
			if _, err := tx.Exec(ctx, `insert into perdure.relay_log (shard, first_id, last_id, tasks, replays, hops) values ('main', $1, $2, $3, 0, $4)`,
				hops[0].ID, hops[len(hops)-1].ID, len(hops), relaylog.Encode(hops)); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, `update perdure.relay_cursor set prev = $1::text::pg_snapshot`, upto)
		return err
	})
	if err != nil {
		r.t.Error(err)
	}
}

func (r *rig) commit(group, topic string, offset int64, metadata string) {
	r.t.Helper()
	var offs kadm.Offsets
	offs.Add(kadm.Offset{Topic: topic, At: offset, LeaderEpoch: -1, Metadata: metadata})
	testkit.Eventually(r.t, 10*time.Second, func() (bool, string) {
		err := r.adm.CommitAllOffsets(context.Background(), group, offs)
		return err == nil, fmt.Sprint(err)
	})
}

func (r *rig) letter(seq int64, epoch int, state, by string) {
	r.exec(`with u as (update perdure.dead_letters set state = $3, resolved_by = $4 where letter = $1::text || '@' || $2::int::text returning 1)
insert into perdure.dead_letters (letter, task_id, epoch, queue, state, resolved_by, reason, fingerprint, origin_topic, origin_partition, origin_offset, dlq_topic, dlq_partition, dlq_offset, died_at)
select $1::text || '@' || $2::int::text, $1, $2::int, 'q', $3, $4, 'permanent', 'f', 't', 0, 0, 'd', 0, 0, now() where not exists (select from u)`, id(seq), epoch, state, by)
}

func (r *rig) replay(seq int64, epoch int) (row int64) {
	r.exec(`insert into perdure.replays (replay, state, selector, who) values ('r', 'done', '{}', 't') on conflict do nothing`)
	err := r.db.QueryRow(context.Background(), `
with l as (update perdure.dead_letters set state = 'replaying' where letter = $1 returning letter),
o as (insert into perdure.outbox (kind, queue, payload, task_id, epoch) select 'k', 'q', '{}', $2::text, $3::int from l returning id),
x as (insert into perdure.replay_letters (replay, letter, n, result, seq) select 'r', $1, o.id, 'replayed', o.id from o)
select id from o`, fmt.Sprintf("%s@%d", id(seq), epoch), id(seq), epoch+1).Scan(&row)
	if err != nil {
		r.t.Error(err)
	}
	return row
}

func (r *rig) compute() Report {
	r.t.Helper()
	rep, err := Compute(r.t.Context(), r.deps, time.Time{})
	if err != nil {
		r.t.Fatal(err)
	}
	return rep
}

func (r *rig) want(line string) Report {
	r.t.Helper()
	rep := r.compute()
	if got := rep.Line(); got != line {
		r.t.Errorf("got  %s\nwant %s\n%v %v", got, line, rep.LostIDs, rep.Where)
	}
	if sum := rep.Completed + rep.Waiting + rep.Dead + rep.Discarded + rep.Cancelled + rep.Lost; sum != rep.Accepted {
		r.t.Errorf("it does not add up: %d of %d", sum, rep.Accepted)
	}
	return rep
}

// A checker must be seen to fail: take away one trace at a time.
func TestBalanceSeesEachLoss(t *testing.T) {
	r := newRig(t)
	first := r.accept(10) // 0…9 of them: 0-4 done, 5 dead, 6 cancelled, 7 retrying, 8 running, 9 queued
	r.want("accepted=10 completed=0 waiting=10 dead=0 discarded=0 cancelled=0 replayed=0 lost=0")
	r.relay()
	r.want("accepted=10 completed=0 waiting=10 dead=0 discarded=0 cancelled=0 replayed=0 lost=0")
	for n := range int64(5) {
		r.redis.bit(first+n, true)
	}
	r.redis.set(first+5, claims.Claim{State: claims.Dead, Coord: claims.Coord{Topic: r.names.Tasks("q"), Offset: 5}})
	r.letter(first+5, 0, "open", "")
	r.redis.set(first+6, claims.Claim{State: claims.Cancelled})
	r.redis.set(first+7, claims.Claim{State: claims.Waiting, Coord: claims.Coord{Topic: r.names.Tasks("q"), Offset: 7}})
	r.redis.set(first+8, claims.Claim{State: claims.Running, Coord: claims.Coord{Topic: r.names.Tasks("q"), Offset: 8}})
	group := r.names.WorkerGroup("q")
	r.commit(group, r.names.Tasks("q"), 8, "")
	good := "accepted=10 completed=5 waiting=3 dead=1 discarded=0 cancelled=1 replayed=0 lost=0"
	if rep := r.want(good); rep.Where["running"] != 1 || rep.Where["retrying"] != 1 || rep.Where["queued"] != 1 {
		t.Errorf("%v", rep.Where)
	}
	lost := func(what string, n int64, line string) {
		t.Helper()
		if rep := r.want(line); len(rep.LostIDs) != 1 || rep.LostIDs[0].ID != id(first+n) || rep.LostIDs[0].Why == "" {
			t.Errorf("%s: %+v", what, rep.LostIDs)
		}
	}
	r.redis.bit(first+2, false)
	lost("a done bit is missing", 2, "accepted=10 completed=4 waiting=3 dead=1 discarded=0 cancelled=1 replayed=0 lost=1")
	r.redis.bit(first+2, true)

	r.exec(`delete from perdure.dead_letters`)
	lost("a letter is missing", 5, "accepted=10 completed=5 waiting=3 dead=0 discarded=0 cancelled=1 replayed=0 lost=1")
	r.letter(first+5, 0, "open", "")

	r.redis.set(first+7, claims.Claim{})
	lost("a retry is missing", 7, "accepted=10 completed=5 waiting=2 dead=1 discarded=0 cancelled=1 replayed=0 lost=1")
	// … unless its record is on a delay topic: then only Redis forgot it.
	if err := r.cl.ProduceSync(t.Context(), &kgo.Record{Topic: r.names.Retry("30s"), Headers: []kgo.RecordHeader{{Key: schemas.HeaderID, Value: []byte(id(first + 7))}}}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	r.want(good)
	r.commit(r.names.RetryGroup(), r.names.Retry("30s"), 1, "")
	lost("its retry was moved on, and is nowhere", 7, "accepted=10 completed=5 waiting=2 dead=1 discarded=0 cancelled=1 replayed=0 lost=1")
	r.redis.set(first+7, claims.Claim{State: claims.Waiting})

	r.commit(group, r.names.Tasks("q"), 10, "")
	rep := r.want("accepted=10 completed=5 waiting=1 dead=1 discarded=0 cancelled=1 replayed=0 lost=2")
	if len(rep.LostIDs) != 2 {
		t.Errorf("an offset was committed past two tasks: %+v", rep.LostIDs)
	}
	r.commit(group, r.names.Tasks("q"), 8, "")
	r.want(good)

	// A relay that skips a late row.
	skipped := r.accept(1)
	r.relay(skipped)
	if rep := r.want("accepted=11 completed=5 waiting=3 dead=1 discarded=0 cancelled=1 replayed=0 lost=1"); rep.LostIDs[0].ID != id(skipped) {
		t.Errorf("%+v", rep.LostIDs)
	}
	r.exec(`insert into perdure.parked (id, why, generation, epoch, created_at, kind, queue, content_type, payload, checked) select id, 'x', generation, epoch, created_at, kind, queue, content_type, payload, checked from perdure.outbox where id = $1`, skipped)
	r.want("accepted=11 completed=5 waiting=4 dead=1 discarded=0 cancelled=1 replayed=0 lost=0")

	r.exec(`insert into perdure.held (id, was, generation, epoch, created_at, kind, queue, content_type, payload, checked) select id, 'parked', generation, epoch, created_at, kind, queue, content_type, payload, checked from perdure.parked`)
	r.exec(`delete from perdure.parked`)
	r.want("accepted=11 completed=5 waiting=4 dead=1 discarded=0 cancelled=1 replayed=0 lost=0")

	// A replay whose row vanishes.
	r.replay(first+5, 0)
	r.want("accepted=11 completed=5 waiting=5 dead=0 discarded=0 cancelled=1 replayed=1 lost=0")
	r.exec(`delete from perdure.outbox where task_id is not null`)
	r.want("accepted=11 completed=5 waiting=4 dead=0 discarded=0 cancelled=1 replayed=0 lost=1")
}

// Redis was lost: what it knew is inferred, what came after is not.
func TestBalanceAfterRedisWasLost(t *testing.T) {
	r := newRig(t)
	r.accept(5)
	r.relay()
	r.commit(r.names.WorkerGroup("q"), r.names.Tasks("q"), 5, "")
	r.want("accepted=5 completed=0 waiting=0 dead=0 discarded=0 cancelled=0 replayed=0 lost=5")
	raise := func(n int64, at time.Time) {
		if err := r.cl.ProduceSync(t.Context(), &kgo.Record{Topic: r.names.Control(), Timestamp: at, Key: fmt.Appendf(nil, "incarnation/%d", n), Value: fmt.Appendf(nil, `{"n":%d}`, n)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	raise(1, time.Now().Add(-time.Hour))
	r.want("accepted=5 completed=0 waiting=0 dead=0 discarded=0 cancelled=0 replayed=0 lost=5")
	r.redis.inc = 0
	if rep := r.want("accepted=5 completed=5 waiting=0 dead=0 discarded=0 cancelled=0 replayed=0 lost=0"); rep.Inferred != 5 || !rep.Forgot {
		t.Errorf("%+v", rep)
	}
	r.redis.inc = 2
	raise(2, time.Now())
	if rep := r.want("accepted=5 completed=5 waiting=0 dead=0 discarded=0 cancelled=0 replayed=0 lost=0"); rep.Inferred != 5 || rep.Forgot {
		t.Errorf("%+v", rep)
	}
	// What was relayed after it began is not excused.
	first := r.accept(3)
	r.relay()
	r.exec(`update perdure.relay_log set relayed_at = relayed_at + interval '1 minute' where first_id >= $1`, first)
	r.commit(r.names.WorkerGroup("q"), r.names.Tasks("q"), 8, "")
	r.redis.bit(first, true)
	r.want("accepted=8 completed=6 waiting=0 dead=0 discarded=0 cancelled=0 replayed=0 lost=2")
}

// While tasks move through every place, none ever seems lost.
func TestBalanceOnARunningSystem(t *testing.T) {
	r := newRig(t)
	r.redis.slow = true
	stop := make(chan struct{})
	var wg sync.WaitGroup
	work := func(f func()) {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					f()
				}
			}
		})
	}
	var backlog atomic.Int64 // always some hundred tasks between acceptance and outcome
	work(func() {
		if backlog.Load() > 500 {
			time.Sleep(time.Millisecond)
			return
		}
		n := 1 + rand.IntN(20)
		r.accept(n)
		backlog.Add(int64(n))
	})
	work(func() { r.relay() })
	// A worker: runs each record in order, and commits after the outcome is durable.
	type death struct {
		seq   int64
		epoch int
	}
	died := make(chan death, 100_000)
	ctx, cancel := context.WithCancel(t.Context())
	cons, err := kgo.NewClient(append(r.deps.Kafka, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{r.names.Tasks("q"): {0: kgo.NewOffset().AtStart()}}))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cons.Close()
	epochs := map[int64]int{}
	var dlqEnd int64
	wg.Go(func() {
		for ctx.Err() == nil {
			var last int64 = -1
			cons.PollRecords(ctx, 20).EachRecord(func(rec *kgo.Record) {
				parsed, err := schemas.ParseID(string(rec.Headers[0].Value))
				if err != nil {
					t.Error(err)
				}
				epoch := epochs[parsed.Seq]
				at := claims.Coord{Topic: rec.Topic, Offset: rec.Offset}
				r.redis.set(parsed.Seq, claims.Claim{State: claims.Running, Epoch: epoch, Coord: at})
				switch n := rand.IntN(10); {
				case n == 0 && epoch < 3:
					backlog.Add(-1)
					r.redis.set(parsed.Seq, claims.Claim{State: claims.Dead, Epoch: epoch, Coord: at})
					if err := r.cl.ProduceSync(context.Background(), &kgo.Record{Topic: r.names.DLQ("q")}).FirstErr(); err != nil {
						t.Error(err)
					}
					epochs[parsed.Seq]++
					died <- death{parsed.Seq, epoch}
				case n == 1:
					r.redis.set(parsed.Seq, claims.Claim{State: claims.Waiting, Epoch: epoch, Coord: at})
					again := &kgo.Record{Topic: rec.Topic, Headers: rec.Headers}
					if err := r.cl.ProduceSync(context.Background(), again).FirstErr(); err != nil {
						t.Error(err)
					}
				default:
					r.redis.bit(parsed.Seq, true)
					backlog.Add(-1)
				}
				last = rec.Offset
			})
			time.Sleep(2 * time.Millisecond) // the work
			if last >= 0 {
				r.commit(r.names.WorkerGroup("q"), r.names.Tasks("q"), last+1, "")
			}
		}
	})
	// The index, then a replay of everything.
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case d := <-died:
				if d.epoch > 0 {
					r.exec(`update perdure.dead_letters set state = 'resolved', resolved_by = 'replay' where task_id = $1 and epoch < $2`, id(d.seq), d.epoch)
				}
				r.letter(d.seq, d.epoch, "open", "")
				dlqEnd++
				r.commit(r.names.IndexGroup("main"), r.names.DLQ("q"), dlqEnd, "")
				if rand.IntN(2) == 0 {
					backlog.Add(1)
					r.replay(d.seq, d.epoch)
				}
			}
		}
	})
	looks, seen := 0, map[string]int64{}
	var rep Report
	for end := time.Now().Add(6 * time.Second); time.Now().Before(end); looks++ {
		// Not even at the first look: the order of reading alone must hold.
		rep = Report{Where: map[string]int64{}}
		c := &computation{Deps: r.deps, report: &rep}
		if err := errors.Join(c.check(), c.openLife(t.Context()), c.scan(t.Context())); err != nil {
			t.Fatal(err)
		}
		if len(c.suspect) > 0 {
			s := c.suspect[0]
			t.Errorf("look %d: %d tasks seem lost, the first is %+v, hop %+v, letter %+v, replay %+v", looks, len(c.suspect), s, s.hop, s.letter, s.replay)
			break
		}
		for where, n := range rep.Where {
			seen[where] += n
		}
	}
	t.Logf("%d looks, last: %s, seen %v", looks, rep.Line(), seen)
	if looks < 5 || seen["queued"] == 0 || rep.Completed == 0 || rep.Replayed == 0 || rep.Dead == 0 {
		t.Errorf("the test did not move tasks: %d looks, %s", looks, rep.Line())
	}
	close(stop)
	cancel()
	wg.Wait()
}

// A million tasks, a tenth of them still queued; PERDURE_TEST_TASKS=1000000.
func TestBalanceOfManyTasksInBoundedMemory(t *testing.T) {
	n, _ := strconv.Atoi(os.Getenv("PERDURE_TEST_TASKS"))
	if n == 0 {
		n = 100_000
	}
	r := newRig(t)
	first := r.accept(n)
	r.exec(`update perdure.relay_cursor set prev = pg_current_snapshot()`)
	for lo := 0; lo < n; lo += 8000 {
		var hops []relaylog.Hop
		for i := lo; i < min(lo+8000, n); i++ {
			hops = append(hops, relaylog.Hop{ID: first + int64(i), Topic: r.names.Tasks("q"), Offset: int64(i)})
			r.redis.bit(first+int64(i), i < n-n/10)
		}
		r.exec(`insert into perdure.relay_log (shard, first_id, last_id, tasks, replays, hops) values ('main', $1, $2, $3, 0, $4)`,
			hops[0].ID, hops[len(hops)-1].ID, len(hops), relaylog.Encode(hops))
	}
	r.commit(r.names.WorkerGroup("q"), r.names.Tasks("q"), int64(n-n/10), "")
	runtime.GC()
	var before, peak runtime.MemStats
	runtime.ReadMemStats(&before)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				peak.HeapAlloc = max(peak.HeapAlloc, m.HeapAlloc)
			}
		}
	})
	start := time.Now()
	r.want(fmt.Sprintf("accepted=%d completed=%d waiting=%d dead=0 discarded=0 cancelled=0 replayed=0 lost=0", n, n-n/10, n/10))
	took := time.Since(start)
	close(done)
	wg.Wait()
	grown := int64(peak.HeapAlloc-min(peak.HeapAlloc, before.HeapAlloc)) >> 20
	t.Logf("%d tasks in %v, heap grew by %d MiB at most", n, took.Round(time.Millisecond), grown)
	if grown > 128 {
		t.Errorf("heap grew by %d MiB", grown)
	}
}
