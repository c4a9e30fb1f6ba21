//go:build soak

package loadtest

// A million tasks that are due within one second, beside a live flow through the
// same relay, which is a process of its own. The table is for docs/performance.md.

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/internal/testkit"
)

const dueCatalog = `version: 1
queues:
  heap: {partitions: 4}
  live: {partitions: 4}
kinds:
  heap.step: {queue: heap}
  live.step: {queue: live}
  beside.step: {queue: heap}
`

// heapOf is how many tasks the long runs have: PERDURE_SOAK_DUE, a million by default.
func heapOf(t *testing.T) int {
	n := 1_000_000
	if v := os.Getenv("PERDURE_SOAK_DUE"); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func TestSoakAMillionDueAtOnce(t *testing.T) { newHeap(t, heapOf(t)).release(false) }

func TestSoakAMillionDueAtOnceWhileTheRelayIsKilled(t *testing.T) {
	newHeap(t, heapOf(t)).release(true)
}

// An old snapshot keeps every dead row from being forgotten.
func TestSoakAMillionDueAtOnceUnderAnOldSnapshot(t *testing.T) {
	h := newHeap(t, heapOf(t))
	tx, err := h.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background()) //nolint:errcheck // it only held a snapshot
	if _, err := tx.Exec(t.Context(), `set transaction isolation level repeatable read`); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `select pg_current_snapshot(), txid_current()`); err != nil {
		t.Fatal(err)
	}
	h.release(false)
}

// Due → record on Kafka, by the broker's clock: 1,000 tasks due over ten seconds,
// beside 200 a second that are due 1 to 5 s after they were accepted.
func TestSoakTasksGoOutWhenTheyAreDue(t *testing.T) {
	h := newHeap(t, 0)
	dueAt := map[string]map[int64]time.Time{"1,000 over 10 s": {}, "200/s, 1 to 5 s ahead": {}}
	first := time.Now().Add(5 * time.Second)
	spread := make([]client.Task, 1000)
	for i := range spread {
		spread[i] = client.Task{Kind: "heap.step", RunAt: first.Add(time.Duration(rand.IntN(10_000)) * time.Millisecond), Payload: json.RawMessage(`{}`)}
	}
	refs, err := h.client.EnqueueMany(t.Context(), spread)
	if err != nil {
		t.Fatal(err)
	}
	for i, ref := range refs {
		dueAt["1,000 over 10 s"][ref.Seq] = spread[i].RunAt
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range 200 * 20 {
		<-tick.C
		at := time.Now().Add(time.Second + time.Duration(rand.IntN(4000))*time.Millisecond).Truncate(time.Millisecond)
		ref, err := h.client.Enqueue(t.Context(), client.Task{Kind: "live.step", RunAt: at, Payload: json.RawMessage(`{}`)})
		if err != nil {
			t.Fatal(err)
		}
		dueAt["200/s, 1 to 5 s ahead"][ref.Seq] = at
	}
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		n := h.value(waiting)
		return n == 0, fmt.Sprintf("%d wait", n)
	})
	sent := map[int64]time.Time{}
	h.read(func(seq int64, rec *kgo.Record) {
		if _, again := sent[seq]; again {
			t.Errorf("%d has two records", seq)
		}
		sent[seq] = rec.Timestamp
	}, func() bool { return len(sent) == 1000+200*20 })
	load, _ := os.ReadFile("/proc/loadavg")
	for name, tasks := range dueAt {
		var late []float64
		for seq, at := range tasks {
			late = append(late, sent[seq].Sub(at.Truncate(time.Millisecond)).Seconds()*1000)
		}
		p50, p99, most := quantile(late, 0.5), quantile(late, 0.99), quantile(late, 1)
		if late[0] < 0 || p99 > 1000 {
			t.Errorf("%s: between %.0f and %.0f ms late", name, late[0], p99)
		}
		t.Logf("%s: due to record p50 %.0f ms, p99 %.0f ms, max %.0f ms; load average %s", name, p50, p99, most, strings.TrimSpace(string(load)))
	}
}

// heap is a fleet of relays, its tasks, and what was seen of them.
type heap struct {
	*fleet
	n      int
	db     *pgxpool.Pool
	client *client.Client
	relays []*role

	mu   sync.Mutex
	live map[int64]time.Time // seq → when the commit was answered

	first, last int64 // seqs of the heap
}

func newHeap(t *testing.T, n int) *heap {
	h := &heap{fleet: newFleet(t, &Ledger{}, "max_attempts: 1"), n: n, live: map[int64]time.Time{}}
	h.write("catalog.yaml", dueCatalog)
	h.run("catalog", "apply")
	h.relays = append(h.relays, h.start("relay", "a"))
	cfg, err := pgxpool.ParseConfig(h.DB)
	if err != nil {
		t.Fatal(err)
	}
	cfg.MaxConns = 16
	if h.db, err = pgxpool.NewWithConfig(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.db.Close)
	if h.client, err = client.New(t.Context(), h.db); err != nil {
		t.Fatal(err)
	}
	// The broker's own clock says when a record was appended, whoever reads it later.
	cl, err := kgo.NewClient(kgo.SeedBrokers(h.Kafka.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	logAppend := "LogAppendTime"
	_, err = kadm.NewClient(cl).AlterTopicConfigs(t.Context(),
		[]kadm.AlterConfig{{Op: kadm.SetConfig, Name: "message.timestamp.type", Value: &logAppend}},
		h.Kafka.Prefix+"tasks.heap", h.Kafka.Prefix+"tasks.live")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// fill enqueues the heap, due at any millisecond of the second that begins at due.
func (h *heap) fill(due time.Time) {
	h.t.Helper()
	words := strings.Repeat("the payment was disputed by its holder and the bank has asked for evidence ", 20)
	for sent := 0; sent < h.n; {
		batch := make([]client.Task, min(2000, h.n-sent))
		for i := range batch {
			at := rand.IntN(400)
			batch[i] = client.Task{Kind: "heap.step", RunAt: due.Add(time.Duration(rand.IntN(1000)) * time.Millisecond),
				Payload: json.RawMessage(fmt.Sprintf(`{"n":"%010d","d":"%s"}`, sent+i, words[at:at+1000]))}
		}
		refs, err := h.client.EnqueueMany(h.t.Context(), batch)
		if err != nil {
			h.t.Fatal(err)
		}
		if sent == 0 {
			h.first = refs[0].Seq
		}
		sent += len(batch)
		h.last = refs[len(refs)-1].Seq
	}
}

// flow enqueues rate tasks a second, every other one on the heap's own queue,
// at fixed times, until ctx ends.
func (h *heap) flow(ctx context.Context, rate int) {
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		kind := []string{"live.step", "beside.step"}[n%2]
		wg.Go(func() {
			ref, err := h.client.Enqueue(context.WithoutCancel(ctx), client.Task{Kind: kind, Payload: json.RawMessage(`{"live":true}`)})
			now := time.Now()
			if err != nil {
				h.t.Error(err)
				return
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			h.live[ref.Seq] = now
		})
	}
}

// phase is a span of time and what the database did in it.
type phase struct {
	name       string
	begin, end time.Time
	wal        int64
}

func (h *heap) value(sql string) (v int64) {
	h.t.Helper()
	if err := h.db.QueryRow(context.Background(), sql).Scan(&v); err != nil {
		h.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

const (
	walPosition = `select (pg_current_wal_insert_lsn() - '0/0')::bigint`
	waiting     = `select count(*) from perdure.scheduled`
	heapBytes   = `select pg_relation_size('perdure.scheduled')`
	indexBytes  = `select pg_indexes_size('perdure.scheduled')`
	vacuums     = `select autovacuum_count from pg_stat_user_tables where relid = 'perdure.scheduled'::regclass`
	deadRows    = `select n_dead_tup from pg_stat_user_tables where relid = 'perdure.scheduled'::regclass`
)

func (h *heap) space(when string) {
	h.t.Helper()
	h.t.Logf("perdure.scheduled %s: table %d MiB, indexes %d MiB, %d dead rows", when,
		h.value(heapBytes)>>20, h.value(indexBytes)>>20, h.value(deadRows))
}

// during runs do as a phase.
func (h *heap) during(name string, do func()) phase {
	p := phase{name: name, begin: time.Now(), wal: h.value(walPosition)}
	do()
	p.end, p.wal = time.Now(), h.value(walPosition)-p.wal
	return p
}

func (h *heap) release(kill bool) {
	t := h.t
	if kill {
		h.relays = append(h.relays, h.start("relay", "b"))
	}
	h.space("before")
	ctx, stop := context.WithCancel(t.Context())
	var flowing sync.WaitGroup
	flowing.Go(func() { h.flow(ctx, 300) })
	memory := watchMemory(h.relays)
	lead := time.Duration(h.n/8000)*time.Second + 20*time.Second
	var due time.Time
	phases := []phase{
		h.during("before", func() { time.Sleep(10 * time.Second) }),
		h.during("filing", func() {
			due = time.Now().Add(lead).Truncate(time.Second)
			h.fill(due)
			testkit.Eventually(t, lead, func() (bool, string) {
				// The last is filed last. To count them all the time would be a load of its own.
				n := h.value(fmt.Sprintf(`select count(*) from perdure.scheduled where id = %d`, h.last))
				return n == 1, "the last is not filed yet"
			})
		}),
	}
	if n := h.value(waiting); n != int64(h.n) {
		t.Fatalf("%d are filed of %d", n, h.n)
	}
	h.space("filed")
	if time.Until(due) < 0 {
		t.Fatalf("filing took longer than %v", lead)
	}
	phases = append(phases, h.during("waiting", func() { time.Sleep(time.Until(due)) }))
	phases = append(phases, h.during("release", func() {
		killed := !kill
		testkit.Eventually(t, 10*time.Minute, func() (bool, string) {
			n := h.value(fmt.Sprintf(`select coalesce(sum(tasks), 0) from perdure.relay_log where relayed_at > '%s' and last_id <= %d`, due.UTC().Format(time.RFC3339), h.last))
			if !killed && n > int64(h.n)*4/10 {
				h.relays[0].kill()
				killed = true
			}
			time.Sleep(100 * time.Millisecond)
			return n >= int64(h.n), fmt.Sprintf("%d are out", n)
		})
	}))
	if n := h.value(waiting); n != 0 {
		t.Errorf("%d still wait", n)
	}
	h.space("at the end of the release")
	vacuumed := h.value(vacuums)
	phases = append(phases, h.during("after", func() { time.Sleep(10 * time.Second) }))
	stop()
	flowing.Wait()
	memory.stop()
	load, _ := os.ReadFile("/proc/loadavg")
	t.Logf("load average %s", strings.TrimSpace(string(load)))
	t.Logf("relay's resident memory: %s", memory)
	h.batches(due)
	h.judge(phases, due, kill)
	if kill {
		return
	}
	testkit.Eventually(t, 3*time.Minute, func() (bool, string) {
		n := h.value(vacuums)
		return n > vacuumed, "autovacuum has not been there"
	})
	h.space("after autovacuum")
}
