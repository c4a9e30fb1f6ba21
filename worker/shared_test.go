package worker_test

// Queues with delivery: shared, in one process; shared_fleet_test.go kills some.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

const sharedCatalog = `
version: 1
queues:
  jobs: {partitions: 2, replication: 1, delivery: shared}
kinds:
  job.run:
    queue: jobs
    timeout: 60s
    retry: {max_attempts: 3, initial_delay: 20ms, max_delay: 50ms}
  job.one:
    queue: jobs
    timeout: 60s
    concurrency: 1
    retry: {max_attempts: 3, initial_delay: 20ms, max_delay: 50ms}
`

// setGroup makes a setting of the shared queue's group.
func (w *world) setGroup(name, value string) {
	w.Helper()
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	resource := kmsg.NewIncrementalAlterConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeGroupConfig, w.names.ShareGroup("jobs")
	set := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	set.Name, set.Value = name, &value
	resource.Configs = append(resource.Configs, set)
	req.Resources = append(req.Resources, resource)
	resp, err := req.RequestWith(w.Context(), w.cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.Resources[0].ErrorCode)
	}
	if err != nil {
		w.Fatalf("set %s=%s: %v", name, value, err)
	}
	w.knowsGroup(name, value)
}

// knowsGroup waits until the broker has a setting: the controller answers before that.
func (w *world) knowsGroup(name, value string) {
	w.Helper()
	testkit.Eventually(w, wait, func() (bool, string) {
		req := kmsg.NewPtrDescribeConfigsRequest()
		resource := kmsg.NewDescribeConfigsRequestResource()
		resource.ResourceType, resource.ResourceName, resource.ConfigNames = kmsg.ConfigResourceTypeGroupConfig, w.names.ShareGroup("jobs"), []string{name}
		req.Resources = append(req.Resources, resource)
		resp, err := req.RequestWith(w.Context(), w.cl)
		if err != nil || len(resp.Resources) != 1 || len(resp.Resources[0].Configs) != 1 || resp.Resources[0].Configs[0].Value == nil {
			return false, fmt.Sprint(resp, err)
		}
		got := *resp.Resources[0].Configs[0].Value
		return got == value, name + " is " + got
	})
}

// acceptedAll waits until no record of the shared queue is left. It does what the relay
// does beside it: without, Kafka may count finished records as left for ever.
func (w *world) acceptedAll() {
	w.Helper()
	adm := kadm.NewClient(w.cl)
	topic, group := w.names.Tasks("jobs"), w.names.ShareGroup("jobs")
	var nudger kafka.Nudger
	var looked time.Time
	hands := ""
	testkit.Eventually(w, wait, func() (bool, string) {
		if time.Since(looked) > 2*time.Second {
			looked, hands = time.Now(), w.inHand()
			if _, err := nudger.Look(w.Context(), w.cl, group, topic); err != nil {
				w.Fatal(err)
			}
		}
		ends, err := adm.ListEndOffsets(w.Context(), topic)
		if err != nil {
			w.Fatal(err)
		}
		progress, err := kafka.ShareProgress(w.Context(), adm, group, topic)
		if err != nil {
			w.Fatal(err)
		}
		for p, end := range ends[topic] {
			if end.Offset > 0 && progress[p].Below < end.Offset {
				return false, fmt.Sprintf("partition %d: %+v of %d\n%s", p, progress[p], end.Offset, hands)
			}
		}
		return true, ""
	})
}

// inHand says what each worker has of the shared queue.
func (w *world) inHand() string {
	var b strings.Builder
	for _, r := range w.workers {
		fmt.Fprintf(&b, "%s:", r.name)
		for _, name := range []string{"shared_locked", "running", "parked", "shared_answers_late_total", "shared_produced_again_total", "shared_set_aside_total"} {
			fmt.Fprintf(&b, " %s %v", name, r.count(w, "perdure_worker_"+name, ""))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// givenOut takes every record of the shared queue n times or more and gives each
// back, as workers do that are killed.
func (w *world) givenOut(records, n int) {
	w.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.kafka.Brokers...), kgo.ShareGroup(w.names.ShareGroup("jobs")), kgo.ConsumeTopics(w.names.Tasks("jobs")),
		kgo.ShareMaxRecords(100), kgo.ShareMaxRecordsStrict()) // nothing is given out beyond what is polled
	if err != nil {
		w.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(w.Context(), wait)
	defer cancel()
	for left := records; left > 0; {
		fetches := cl.PollRecords(ctx, 100)
		if ctx.Err() != nil {
			w.Fatalf("%d records were not given out %d times", left, n)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if int(r.DeliveryCount()) == n {
				left--
			}
			r.Ack(kgo.AckRelease)
		})
	}
	if err := cl.FlushAcks(ctx); err != nil {
		w.Fatal(err)
	}
}

func TestANudgeIsAcknowledgedAndNoTask(t *testing.T) {
	for _, delivery := range []string{"shared", "partitioned"} {
		t.Run(delivery, func(t *testing.T) {
			t.Parallel()
			// A partitioned queue has some from the time when it was shared.
			w := newWorld(t, strings.Replace(sharedCatalog, "delivery: shared", "delivery: "+delivery, 1),
				func(w *world) { w.opts = append(w.opts, kgo.ClientID("of-tests")) })
			l := newLedger()
			topic := w.names.Tasks("jobs")
			var recs []*kgo.Record
			for i := range 20 {
				recs = append(recs, &kgo.Record{Topic: topic, Key: fmt.Append(nil, i), Headers: []kgo.RecordHeader{{Key: schemas.HeaderNudge, Value: []byte("1")}}})
			}
			if err := w.cl.ProduceSync(t.Context(), recs...).FirstErr(); err != nil {
				t.Fatal(err)
			}
			ids := w.sendJobs(5)
			r := w.start("a", func(c *worker.Config) { c.Concurrency = 2 }, func(wk *worker.Worker) { // fewer slots than nudges
				worker.Handle(wk, "job.run", func(_ context.Context, task *worker.Task[job]) error {
					l.began(task.ID, task.Run)
					return l.applied(task.ID, task.Run)
				})
				worker.Handle(wk, "job.one", func(context.Context, *worker.Task[job]) error { return nil })
			})
			l.doneWithin(t, len(ids))
			if delivery == "shared" {
				group := w.names.ShareGroup("jobs")
				groups, err := kadm.NewClient(w.cl).DescribeShareGroups(t.Context(), group)
				if members := groups[group].Members; err != nil || len(members) != 1 || members[0].ClientID != kafka.Nudgeable("of-tests") {
					t.Errorf("the relay takes them for older: %+v %v", members, err)
				}
				w.acceptedAll()
			} else {
				w.committedAll("jobs")
			}
			if letters := w.letters("jobs"); len(letters) > 0 {
				t.Errorf("%d letters: %+v", len(letters), letters[0])
			}
			if n := r.count(t, "perdure_worker_claims_total", ""); n != float64(len(ids)) {
				t.Errorf("%v claims for %d tasks", n, len(ids))
			}
			if n := r.count(t, "perdure_worker_shared_locked", ""); n != 0 {
				t.Errorf("%v records are in hand", n)
			}
		})
	}
}

func TestWhatOnlyLooksLikeANudgeBecomesALetter(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sharedCatalog)
	nudge := kgo.RecordHeader{Key: schemas.HeaderNudge, Value: []byte("1")}
	id := kgo.RecordHeader{Key: schemas.HeaderID, Value: []byte("a-task")}
	topic := w.names.Tasks("jobs")
	if err := w.cl.ProduceSync(t.Context(),
		&kgo.Record{Topic: topic, Key: []byte("a"), Value: []byte("{}"), Headers: []kgo.RecordHeader{nudge}},
		&kgo.Record{Topic: topic, Key: []byte("b"), Headers: []kgo.RecordHeader{nudge, id}},
		&kgo.Record{Topic: topic, Key: []byte("c"), Headers: []kgo.RecordHeader{nudge}},
	).FirstErr(); err != nil {
		t.Fatal(err)
	}
	w.start("a", nil, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(context.Context, *worker.Task[job]) error { return nil })
		worker.Handle(wk, "job.one", func(context.Context, *worker.Task[job]) error { return nil })
	})
	w.lettersWithin("jobs", 2)
	w.acceptedAll()
	if letters := w.letters("jobs"); len(letters) != 2 {
		t.Errorf("%d letters", len(letters))
	}
}

func TestMoreWorkersThanPartitionsAllGetWork(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sharedCatalog)
	l := newLedger()
	var mu sync.Mutex
	by := map[string]int{}
	for i := range 6 {
		name := fmt.Sprintf("w%d", i)
		w.start(name, func(c *worker.Config) { c.Concurrency = 2 }, func(wk *worker.Worker) {
			worker.Handle(wk, "job.run", func(_ context.Context, task *worker.Task[job]) error {
				l.began(task.ID, task.Run)
				time.Sleep(20 * time.Millisecond)
				mu.Lock()
				by[name]++
				mu.Unlock()
				return l.applied(task.ID, task.Run)
			})
			worker.Handle(wk, "job.one", func(context.Context, *worker.Task[job]) error { return nil })
		})
	}
	const n = 300
	w.sendJobs(n)
	l.doneWithin(t, n)
	// Who joined late gets later work: all get some.
	testkit.Eventually(t, wait, func() (bool, string) {
		mu.Lock()
		idle := 6 - len(by)
		mu.Unlock()
		if idle > 0 {
			w.sendJobs(12)
		}
		return idle == 0, fmt.Sprintf("%d of 6 workers got nothing", idle)
	})
	w.acceptedAll()
	if _, _, twice := l.count(); twice > 0 {
		t.Errorf("%d tasks have two effects", twice)
	}
	for id, runs := range l.runs {
		if len(runs) != 1 {
			t.Errorf("task %s began %d times", id, len(runs))
		}
	}
}

func TestASharedTaskLongerThanItsLockRunsOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sharedCatalog)
	// A renewal waits for the fetch under way, half a second: a lock of one second, the
	// least that these brokers allow, leaves little on a busy machine.
	w.setGroup("share.record.lock.duration.ms", "2000")
	l := newLedger()
	handle := func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(_ context.Context, task *worker.Task[job]) error {
			l.began(task.ID, task.Run)
			time.Sleep(5 * time.Second)
			return l.applied(task.ID, task.Run)
		})
		worker.Handle(wk, "job.one", func(context.Context, *worker.Task[job]) error { return nil })
	}
	a, b := w.start("a", nil, handle), w.start("b", nil, handle)
	ids := w.sendJobs(4)
	l.doneWithin(t, 4)
	w.acceptedAll()
	for _, id := range ids {
		if n := l.runsOf(id); n != 1 {
			t.Errorf("task %s began %d times", id, n)
		}
	}
	for _, r := range []*runningWorker{a, b} {
		if n := r.count(t, "perdure_worker_shared_answers_late_total", ""); n != 0 {
			t.Errorf("%v answers came too late: the locks were not renewed", n)
		}
		if n := r.count(t, "perdure_worker_claims_total", "park"); n != 0 {
			t.Errorf("%v records were given out again while their task ran", n)
		}
	}
}

// A poll accepts what the one before brought, unless its handle is kept from it:
// then a worker that ends with tasks in hand loses them.
func TestWhatRunsIsNotAcceptedByTheNextPoll(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sharedCatalog)
	l := newLedger()
	stuck := make(chan struct{})
	defer close(stuck)
	first := w.start("first", func(c *worker.Config) { c.Concurrency, c.Grace = 4, 100*time.Millisecond }, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(_ context.Context, task *worker.Task[job]) error {
			l.began(task.ID, task.Run)
			if task.Payload.Mode == "stuck" {
				<-stuck // whatever its context says
			}
			return l.applied(task.ID, task.Run)
		})
		worker.Handle(wk, "job.one", func(context.Context, *worker.Task[job]) error { return nil })
	})
	held := w.task("job.run", job{Mode: "stuck"})
	w.send(held)
	testkit.Eventually(t, wait, func() (bool, string) { return l.runsOf(held.ID) == 1, "it has not begun" })
	w.sendJobs(40) // many polls later
	l.doneWithin(t, 40)
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	w.start("second", nil, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(_ context.Context, task *worker.Task[job]) error {
			l.began(task.ID, task.Run)
			return l.applied(task.ID, task.Run)
		})
		worker.Handle(wk, "job.one", func(context.Context, *worker.Task[job]) error { return nil })
	})
	l.doneWithin(t, 41)
	if n := l.runsOf(held.ID); n != 2 {
		t.Errorf("it began %d times", n)
	}
}

func TestASharedRetryIsARecordOfItsOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sharedCatalog)
	l := newLedger()
	r := w.start("a", nil, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(_ context.Context, task *worker.Task[job]) error {
			n := l.began(task.ID, task.Run)
			if task.Attempt != n {
				t.Errorf("attempt %d at start %d", task.Attempt, n)
			}
			if task.Payload.Mode == "dies" || n < 3 {
				return errors.New("not yet")
			}
			return l.applied(task.ID, task.Run)
		})
		worker.Handle(wk, "job.one", func(context.Context, *worker.Task[job]) error { return nil })
	})
	lives, dies := w.task("job.run", job{}), w.task("job.run", job{Mode: "dies"})
	w.send(lives, dies)
	l.doneWithin(t, 1)
	letters := w.lettersWithin("jobs", 1)
	w.acceptedAll()
	if len(letters) != 1 || letters[0].Reason != schemas.ReasonExhausted || len(letters[0].Attempts) != 3 {
		t.Errorf("letters: %+v", letters)
	}
	if got := len(w.read(w.names.Tasks("jobs"))); got != 6 {
		t.Errorf("%d records for two tasks of three attempts", got)
	}
	if n := r.count(t, "perdure_worker_retries_produced_total", ""); n != 4 {
		t.Errorf("%v retries produced", n)
	}
	// Nothing is in hand any more: a stop waits for nothing.
	began := time.Now()
	if err := r.Stop(); err != nil || time.Since(began) > 4*time.Second {
		t.Errorf("stopped after %v, %v; with a grace period of 5 s", time.Since(began), err)
	}
}

func TestARecordThatWasGivenOutOftenIsProducedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sharedCatalog)
	// Room for more than is asked of givenOut: while it waits for one record, others
	// come again, and Kafka drops without a word what it gave out too often.
	w.setGroup("share.delivery.count.limit", "10")
	l := newLedger()
	ids := w.sendJobs(5)
	w.givenOut(len(ids), 2)
	r := w.start("a", nil, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(_ context.Context, task *worker.Task[job]) error {
			l.began(task.ID, task.Run)
			return l.applied(task.ID, task.Run)
		})
		worker.Handle(wk, "job.one", func(context.Context, *worker.Task[job]) error { return nil })
	})
	l.doneWithin(t, len(ids))
	w.acceptedAll()
	if n := r.count(t, "perdure_worker_shared_produced_again_total", ""); n != float64(len(ids)) {
		t.Errorf("%v produced again", n)
	}
	for _, id := range ids {
		if n := l.runsOf(id); n != 1 {
			t.Errorf("task %s began %d times", id, n)
		}
	}
}

// At whatever limit the group has: on its last delivery but one a record becomes a
// new one of the same task, and is accepted. Kafka drops it after the last.
func TestARecordIsProducedAgainBeforeKafkaDropsIt(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{3, 4, 5, 10} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, strings.Replace(sharedCatalog, "partitions: 2", "partitions: 1", 1))
			w.setGroup("share.delivery.count.limit", fmt.Sprint(limit))
			l := newLedger()
			id := w.sendJobs(1)[0]
			w.givenOut(1, limit-2)
			r := w.start("a", nil, func(wk *worker.Worker) {
				worker.Handle(wk, "job.run", func(_ context.Context, task *worker.Task[job]) error {
					l.began(task.ID, task.Run)
					return l.applied(task.ID, task.Run)
				})
				worker.Handle(wk, "job.one", func(context.Context, *worker.Task[job]) error { return nil })
			})
			l.doneWithin(t, 1)
			w.acceptedAll()
			recs := w.read(w.names.Tasks("jobs"))
			tasks := 0
			for _, rec := range recs {
				if headerOf(rec, schemas.HeaderID) == id {
					tasks++
				}
			}
			if n := r.count(t, "perdure_worker_shared_produced_again_total", ""); n != 1 || tasks != 2 || l.runsOf(id) != 1 {
				t.Errorf("produced again %v times, %d records of the task, it began %d times; want 1, 2, 1", n, tasks, l.runsOf(id))
			}
		})
	}
}

func TestAKindAtItsLimitLeavesRoomForOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sharedCatalog)
	l := newLedger()
	release := make(chan struct{})
	w.start("a", func(c *worker.Config) { c.Concurrency = 4 }, func(wk *worker.Worker) {
		worker.Handle(wk, "job.one", func(context.Context, *worker.Task[job]) error { <-release; return nil })
		worker.Handle(wk, "job.run", func(_ context.Context, task *worker.Task[job]) error {
			l.began(task.ID, task.Run)
			return l.applied(task.ID, task.Run)
		})
	})
	defer close(release)
	var flood []schemas.Task
	for i := range 16 {
		flood = append(flood, w.task("job.one", job{N: i}))
	}
	w.send(flood...)
	w.sendJobs(10)
	l.doneWithin(t, 10)
}

func TestAWorkerJoinsNoShareGroupThatBeginsAtTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sharedCatalog)
	w.knowsGroup("share.auto.offset.reset", "earliest") // else what is known below may be Kafka's default, which is latest too
	w.setGroup("share.auto.offset.reset", "latest")
	wk, _ := w.make("a", nil, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(context.Context, *worker.Task[job]) error { return nil })
		worker.Handle(wk, "job.one", func(context.Context, *worker.Task[job]) error { return nil })
	})
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	err := wk.Run(ctx)
	if err == nil || !strings.Contains(err.Error(), "share.auto.offset.reset") {
		t.Errorf("got %v", err)
	}
}
