package loadtest

// How long tasks wait for a standby once the active relay is gone.

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/testkit"
)

// flow commits a task every few milliseconds and reads the topic as it grows.
type flow struct {
	mu        sync.Mutex
	committed []time.Time       // by row
	arrived   map[int]time.Time // first record
	copies    map[int]int
}

func newFlow(t *testing.T, f *fleet) *flow {
	t.Helper()
	w := &flow{arrived: map[int]time.Time{}, copies: map[int]int{}}
	db := connect(t, f.DB)
	cl, err := kgo.NewClient(kgo.SeedBrokers(f.Kafka.Brokers...), kgo.ConsumeTopics(f.Kafka.Prefix+"tasks.load"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var both sync.WaitGroup
	both.Go(func() { w.commit(ctx, t, db) })
	both.Go(func() { w.read(ctx, cl) })
	t.Cleanup(func() { cancel(); both.Wait(); cl.Close() })
	return w
}

func (w *flow) commit(ctx context.Context, t *testing.T, db *pgx.Conn) {
	for ctx.Err() == nil {
		row := len(w.committed) // only we append
		_, err := db.Exec(ctx, `select perdure.enqueue(kind => 'load.step', payload => jsonb_build_object('row', $1::int))`, row)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			t.Errorf("row %d: %v", row, err)
			return
		}
		w.mu.Lock()
		w.committed = append(w.committed, time.Now())
		w.mu.Unlock()
		time.Sleep(5 * time.Millisecond) // the rate
	}
}

func (w *flow) read(ctx context.Context, cl *kgo.Client) {
	for ctx.Err() == nil {
		fetches := cl.PollFetches(ctx)
		now := time.Now()
		w.mu.Lock()
		fetches.EachRecord(func(r *kgo.Record) {
			var p struct{ Row int }
			if json.Unmarshal(r.Value, &p) != nil {
				return
			}
			if w.copies[p.Row]++; w.copies[p.Row] == 1 {
				w.arrived[p.Row] = now
			}
		})
		w.mu.Unlock()
	}
}

// settled waits until everything that is committed now has a record, and returns how
// many rows that is.
func (w *flow) settled(t *testing.T) (rows int) {
	t.Helper()
	w.mu.Lock()
	rows = len(w.committed)
	w.mu.Unlock()
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		n := 0
		for row := range rows {
			if w.copies[row] > 0 {
				n++
			}
		}
		return n == rows, fmt.Sprintf("%d of %d rows have a record", n, rows)
	})
	return rows
}

// longest is how long a row committed since then waited for its record, and how many
// of these have more than one.
func (w *flow) longest(from, to int) (longest time.Duration, repeated int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for row := from; row < to; row++ {
		longest = max(longest, w.arrived[row].Sub(w.committed[row]))
		if w.copies[row] > 1 {
			repeated++
		}
	}
	return longest, repeated
}

func TestTakeOverOfAKilledRelay(t *testing.T) {
	t.Parallel()
	takeOver(t, 2)
}

// takeOver ends the active relay n times with each signal, and stops one for longer than
// its lease. The bounds are those of a busy machine; the figures are logged.
func takeOver(t *testing.T, n int) map[syscall.Signal][]time.Duration {
	f := newFleet(t, &Ledger{}, patient)
	f.start("dispatcher", "1") // it has the catalog put into the database
	relays := map[string]*role{}
	for _, x := range []string{"a", "b"} {
		relays["relay-"+x] = f.start("relay", x)
	}
	w, db := newFlow(t, f), connect(t, f.DB)
	w.settled(t)
	waits := map[syscall.Signal][]time.Duration{}
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		for i := range n {
			from := w.settled(t)
			owner := ownerOf(t, db)
			relays[owner].signal(signal)
			<-relays[owner].done
			testkit.Eventually(t, time.Minute, func() (bool, string) {
				return ownerOf(t, db) != owner, "nobody took over"
			})
			longest, repeated := w.longest(from, w.settled(t))
			waits[signal] = append(waits[signal], longest)
			t.Logf("%v %d: the longest wait %v, %d tasks repeated", signal, i, longest, repeated)
			relays[owner] = f.start("relay", owner[len("relay-"):])
		}
		slices.Sort(waits[signal])
		x := waits[signal]
		if x[n-1] > 20*time.Second { // a lease that nobody gave back ends after 5 s
			t.Errorf("%v: a task waited %v", signal, x[n-1])
		}
		t.Logf("%v: %d times, min %v, median %v, 19 of 20 %v, max %v", signal, n, x[0], x[n/2], x[(n*19+19)/20-1], x[n-1])
	}

	// Stopped for longer than its lease, it is replaced; when it wakes up it moves nothing.
	from := w.settled(t)
	owner := ownerOf(t, db)
	relays[owner].signal(syscall.SIGSTOP)
	testkit.Eventually(t, time.Minute, func() (bool, string) { return ownerOf(t, db) != owner, "nobody took over" })
	stopped := w.settled(t)
	longest, repeated := w.longest(from, stopped)
	t.Logf("SIGSTOP: the longest wait %v, %d tasks repeated", longest, repeated)
	var fence int64
	scan := func(sql string, to any) {
		t.Helper()
		if err := db.QueryRow(t.Context(), sql).Scan(to); err != nil {
			t.Fatal(err)
		}
	}
	scan(`select fence from perdure.relay_cursor`, &fence)
	relays[owner].signal(syscall.SIGCONT)
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		code, body := get(relays[owner].addr, "/readyz")
		return code == 200, fmt.Sprintf("the woken relay: %d %s", code, body)
	})
	end := w.settled(t)
	// What it had read before it was stopped may come again; nothing that was committed
	// after another had taken over.
	if _, repeated := w.longest(stopped, end); repeated > 0 {
		t.Errorf("%d tasks were repeated that were committed after another relay had taken over", repeated)
	}
	var after int64
	scan(`select fence from perdure.relay_cursor`, &after)
	if after != fence {
		t.Errorf("the woken relay took fence %d", after)
	}
	// Each is logged once: only the lease's holder logs.
	var tasks int
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		scan(`select coalesce(sum(tasks), 0)::int from perdure.relay_log`, &tasks)
		return tasks >= end, fmt.Sprintf("the log has %d tasks of %d", tasks, end)
	})
	var twice int
	scan(`select count(*)::int from perdure.relay_log a join perdure.relay_log b on a.batch < b.batch and int8range(a.first_id, a.last_id, '[]') && int8range(b.first_id, b.last_id, '[]')`, &twice)
	if twice > 0 {
		t.Errorf("%d rows of the relay log overlap", twice)
	}
	return waits
}
