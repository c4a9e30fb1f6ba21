package worker_test

// That the checks of a history see what they are for: processes of the fleet
// with one rule broken, and the violation that the history must then show.
// Rules of the claims' own are broken in membership_test.go.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

// The mutations, in crew.Broken.
const (
	forgotten = "the incarnation is forgotten with Redis" // → fence
	doneAgain = "a task that is done runs again"          // → repeated
	gaveUp    = "a crash counts as the task's failure"    // → dead
	beside    = "tasks of a key run beside each other"    // → order
)

// brokenStore is the claims of a process, broken as it says.
func brokenStore(c crew, names kafka.Names) (worker.Claims, error) {
	if c.Broken == forgotten {
		return newStoreOver(besideClaims{redis.NewClient(&redis.Options{Addr: c.Redis})}, c.Redis, c.Keys, claims.DefaultBeatTTL, func(func()) {})
	}
	store, err := newStore(c.Redis, c.Keys, names, c.Brokers, claims.DefaultBeatTTL, func(func()) {})
	if c.Broken != doneAgain || err != nil {
		return store, err
	}
	var mu sync.Mutex
	granted := map[string]int64{}
	return broken{store, func(recs []claims.Record, grants []claims.Grant) {
		mu.Lock()
		defer mu.Unlock()
		for i := range grants {
			was, ran := granted[recs[i].TaskID]
			switch {
			case grants[i].Verdict == claims.VerdictRun:
				granted[recs[i].TaskID] = grants[i].Run
			case grants[i].Verdict == claims.VerdictAck && ran:
				grants[i] = claims.Grant{Verdict: claims.VerdictRun, Run: was + 1, Attempt: recs[i].Attempt}
				delete(granted, recs[i].TaskID) // once is enough
			}
		}
	}}, nil
}

// besideClaims keeps the incarnation in the very Redis whose loss it must outlive.
type besideClaims struct{ rdb *redis.Client }

func (l besideClaims) Last(ctx context.Context) (int64, error) {
	n, err := l.rdb.Get(ctx, "incarnation").Int64()
	if errors.Is(err, redis.Nil) {
		return 0, nil
	}
	return n, err
}

func (l besideClaims) Raise(ctx context.Context, n int64) error {
	return l.rdb.Set(ctx, "incarnation", n, 0).Err()
}

// onDutyOnce gives wk handlers that run nothing for a second time.
func onDutyOnce(wk *worker.Worker, instance, url string) {
	run := dutyHandler(instance, url)
	handle := func(ctx context.Context, t *worker.Task[duty]) error {
		if t.InDoubt {
			return worker.Permanent(errors.New("its worker crashed"))
		}
		return run(ctx, t)
	}
	worker.Handle(wk, "job.run", handle)
	worker.Handle(wk, "job.keyed", handle)
}

// put produces one task and returns its record. Only its kind says that its key
// has an order.
func (f *fleet) put(d duty) *kgo.Record {
	f.Helper()
	kind := "job.run"
	if d.Key != "" {
		kind = "job.keyed"
	}
	t := f.task(kind, d)
	t.Key = d.Key
	f.sentMu.Lock()
	f.sent[t.ID] = d
	f.sentMu.Unlock()
	r := &kgo.Record{
		Topic: f.names.Tasks("jobs"), Partition: d.Partition, Key: []byte(t.RecordKey()), Value: t.Payload,
		Headers: schemas.AppendRecordHeaders[kgo.RecordHeader](nil, &t),
	}
	f.produce(r)
	return r
}

func (f *fleet) produce(r *kgo.Record) {
	f.Helper()
	if err := f.load.ProduceSync(f.Context(), r).FirstErr(); err != nil {
		f.Fatal(err)
	}
}

// died kills a process while it runs something.
func (f *fleet) died(m *man) {
	f.Helper()
	m.runs()
	m.signal(syscall.SIGKILL)
	<-m.died
}

// noteDead puts the dead letters into the history.
func (f *fleet) noteDead() {
	f.Helper()
	for _, l := range f.letters("jobs") {
		f.ledger.add(note{What: noteDead, ID: l.TaskID, Worker: fmt.Sprintf("%s: %s", l.Reason, l.Message)})
	}
}

func TestBrokenFleetsAreSeenInTheHistory(t *testing.T) {
	t.Parallel()
	// Each scenario leaves a correct fleet without a violation.
	scenarios := map[string]func(f *fleet, r *testkit.OwnedRedis){
		forgotten: func(f *fleet, r *testkit.OwnedRedis) {
			a := f.hire("a", true)
			f.put(duty{N: 1, MS: 60_000})
			f.died(a)
			r.Flush(f)
			f.hire("b", true).runs()
		},
		doneAgain: func(f *fleet, _ *testkit.OwnedRedis) {
			f.hire("a", true)
			r := f.put(duty{N: 1})
			f.caughtUp()
			f.produce(&kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers})
			f.caughtUp()
		},
		gaveUp: func(f *fleet, _ *testkit.OwnedRedis) {
			a := f.hire("a", true)
			f.put(duty{N: 1, MS: 500})
			f.died(a)
			f.hire("a", true)
			f.caughtUp()
			f.noteDead()
		},
		beside: func(f *fleet, _ *testkit.OwnedRedis) {
			f.put(duty{N: 1, Key: "k", MS: 500})
			f.put(duty{N: 2, Key: "k"})
			f.hire("a", true)
			f.caughtUp()
		},
	}
	for mutation, want := range map[string]string{forgotten: "fence", doneAgain: "repeated", gaveUp: "dead", beside: "order"} {
		for _, broken := range []string{mutation, ""} {
			t.Run(fmt.Sprintf("%s=%t", mutation, broken != ""), func(t *testing.T) {
				t.Parallel()
				r := testkit.OwnRedis(t)
				f := newFleet(t, withRedis(r.Addr))
				f.broken = broken
				scenarios[mutation](f, r)
				var seen []string
				for _, v := range check(f.sent, f.ledger.since(0)).violations {
					if !strings.HasPrefix(v, "lost") { // nobody waited for the end
						seen = append(seen, v)
					}
				}
				ok := len(seen) == 0
				if broken != "" {
					ok = len(seen) > 0 && strings.HasPrefix(seen[0], want)
				}
				if !ok {
					t.Errorf("mutation %q: %q, want %s", broken, seen, want)
				}
			})
		}
	}
}
