package worker_test

// The world of an end-to-end test: a Kafka, a Redis, a catalog, and hands to
// produce, to run workers, and to read what came of it.

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/embedded"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

func TestMain(m *testing.M) {
	if runAsVictim() || runAsCrew() || runAsMeasured() {
		return
	}
	testkit.Main(m)
}

// wait is the bound of every wait in these tests.
const wait = 2 * time.Minute

const catalogText = `
version: 1
queues:
  jobs: {partitions: 4, replication: 1}
kinds:
  job.run:
    queue: jobs
    timeout: 2s
    retry: {max_attempts: 3, initial_delay: 20ms, max_delay: 50ms}
`

type world struct {
	testing.TB
	kafka testkit.KafkaServer
	redis string // address
	keys  string // Redis key prefix
	names kafka.Names
	cat   *schemas.Catalog
	cl    *kgo.Client
	seq   atomic.Int64
	ttl   time.Duration
	most  int          // replicas of topics
	log   *slog.Logger // nil = silent
	opts  []kgo.Opt    // of workers' clients, beside the brokers

	claimsOf worker.Claims // of the workers that are started; nil = each has a store of its own

	workers []*runningWorker // by start, in the order of their starts

	endedMu sync.Mutex
	ended   []string // tasks that serveReports was told are completed
}

type option func(*world)

// onBrokers takes a cluster of the test's own, with all its brokers as replicas.
func onBrokers(k *testkit.OwnedKafka) option {
	return func(w *world) {
		w.kafka, w.most = testkit.KafkaServer{Brokers: k.Brokers, Prefix: "own-", Real: true}, len(k.Brokers)
	}
}

func withRedis(addr string) option { return func(w *world) { w.redis, w.keys = addr, "" } }

// withFakeKafka takes kfake where the test writes what a real broker refuses.
func withFakeKafka() option {
	return func(w *world) {
		k, err := embedded.StartKafka(w.Context(), embedded.KafkaConfig{})
		if err != nil {
			w.Fatal(err)
		}
		w.Cleanup(func() {
			if err := k.Close(); err != nil {
				w.Error(err)
			}
		})
		w.kafka = testkit.KafkaServer{Brokers: k.Brokers(), Version: "kfake"}
	}
}

// onControlled takes a kfake of the test's own, which can be told how to answer.
func onControlled(t *testing.T) (*kfake.Cluster, option) {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return cluster, func(w *world) {
		w.kafka = testkit.KafkaServer{Brokers: cluster.ListenAddrs(), Version: "kfake"}
	}
}

func newWorld(t testing.TB, catalog string, opts ...option) *world {
	t.Helper()
	w := &world{TB: t, ttl: 3 * time.Second, most: 1}
	for _, o := range opts {
		o(w)
	}
	if w.kafka.Brokers == nil {
		w.kafka = testkit.Kafka(t)
	}
	if w.redis == "" {
		r := testkit.Redis(t)
		w.redis, w.keys = r.Addr, r.Prefix
	}
	w.names = kafka.Names{Prefix: w.kafka.Prefix}
	var err error
	if w.cat, err = schemas.ParseCatalog("catalog.yaml", []byte(catalog), nil); err != nil {
		t.Fatal(err)
	}
	if w.cl, err = kgo.NewClient(kgo.SeedBrokers(w.kafka.Brokers...), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.cl.Close)
	w.ensureTopics()
	return w
}

func (w *world) ensureTopics() {
	w.Helper()
	_, err := kafka.Ensure(w.Context(), kadm.NewClient(w.cl), w.cat, kafka.Settings{Names: w.names, History: time.Hour, MaxReplication: w.most, Requests: w.cl}, false)
	if err != nil {
		w.Fatal(err)
	}
}

// store returns a claim store of a process of its own.
func (w *world) store() *claims.Store {
	w.Helper()
	s, err := newStore(w.redis, w.keys, w.names, w.kafka.Brokers, w.ttl, w.Cleanup)
	if err != nil {
		w.Fatal(err)
	}
	return s
}

// claims reads the claims of tasks.
func (w *world) claims(ids ...string) []claims.Claim {
	w.Helper()
	got, err := w.store().Get(w.Context(), ids...)
	if err != nil {
		w.Fatal(err)
	}
	return got
}

func newStore(addr, prefix string, names kafka.Names, brokers []string, ttl time.Duration, cleanup func(func())) (*claims.Store, error) {
	ledger, err := claims.NewKafkaLedger(names.Control(), kgo.SeedBrokers(brokers...))
	if err != nil {
		return nil, err
	}
	return newStoreOver(ledger, addr, prefix, ttl, cleanup)
}

func newStoreOver(ledger claims.Ledger, addr, prefix string, ttl time.Duration, cleanup func(func())) (*claims.Store, error) {
	rdb := redis.NewClient(&redis.Options{Addr: addr, DialTimeout: time.Second, ReadTimeout: 2 * time.Second, MaxRetries: -1})
	cleanup(func() { _ = rdb.Close() })
	return claims.New(rdb, claims.Config{Prefix: prefix, BeatTTL: ttl, Ledger: ledger})
}

// runningWorker is a Worker in this process.
type runningWorker struct {
	*worker.Worker
	name    string
	metrics *prometheus.Registry
	stop    context.CancelFunc
	done    chan struct{}
	err     error
}

// Stop ends it and waits.
func (r *runningWorker) Stop() error {
	r.stop()
	<-r.done
	return r.err
}

// make makes a worker; setup registers handlers.
func (w *world) make(instance string, change func(*worker.Config), setup func(*worker.Worker)) (*worker.Worker, *prometheus.Registry) {
	w.Helper()
	cfg := worker.Config{
		Instance: instance, Concurrency: 16, Grace: 5 * time.Second, AbandonAfter: 300 * time.Millisecond,
		SessionTimeout: 6 * time.Second, CommitInterval: 50 * time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	deps := worker.Deps{Catalog: w.cat, Names: w.names, Kafka: append([]kgo.Opt{kgo.SeedBrokers(w.kafka.Brokers...)}, w.opts...), Claims: w.store(), Log: w.log}
	if w.claimsOf != nil {
		deps.Claims = w.claimsOf
	}
	reg := prometheus.NewRegistry()
	deps.Registry = reg
	wk, err := worker.New(cfg, deps)
	if err != nil {
		w.Fatal(err)
	}
	if setup != nil {
		setup(wk)
	}
	return wk, reg
}

// count adds up a counter's series whose labels have the value; "" = all.
func (r *runningWorker) count(t testing.TB, name, label string) (n float64) {
	t.Helper()
	families, err := r.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			has := func(l *dto.LabelPair) bool { return l.GetValue() == label }
			if label == "" || slices.ContainsFunc(m.GetLabel(), has) {
				n += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return n
}

// start makes and runs a worker until the test ends.
func (w *world) start(instance string, change func(*worker.Config), setup func(*worker.Worker)) *runningWorker {
	w.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	wk, reg := w.make(instance, change, setup)
	r := &runningWorker{Worker: wk, name: instance, metrics: reg, stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.err = r.Run(ctx)
	}()
	w.workers = append(w.workers, r)
	w.Cleanup(func() {
		if err := r.Stop(); err != nil {
			w.Errorf("worker %s: %v", instance, err)
		}
	})
	return r
}

// job is the payload of most tests.
type job struct {
	N    int    `json:"n"`
	Mode string `json:"mode,omitempty"`
}

// task makes a task of kind with the next id.
func (w *world) task(kind string, payload any) schemas.Task {
	b, err := json.Marshal(payload)
	if err != nil {
		w.Fatal(err)
	}
	return schemas.Task{
		ID: fmt.Sprintf("main-1-%d", w.seq.Add(1)), Kind: kind, Queue: w.cat.Kinds[kind].Queue,
		Payload: b, ContentType: "application/json", Time: time.Now().UTC(), Attempt: 1,
	}
}

// send produces tasks as the relay does.
func (w *world) send(tasks ...schemas.Task) {
	w.Helper()
	recs := make([]*kgo.Record, len(tasks))
	for i := range tasks {
		t := &tasks[i]
		recs[i] = &kgo.Record{
			Topic: w.names.Tasks(t.Queue), Key: []byte(t.RecordKey()), Value: t.Payload,
			Headers: schemas.AppendRecordHeaders[kgo.RecordHeader](nil, t),
		}
	}
	w.sendRaw(recs...)
}

func (w *world) sendRaw(recs ...*kgo.Record) {
	w.Helper()
	if err := w.cl.ProduceSync(w.Context(), recs...).FirstErr(); err != nil {
		w.Fatal(err)
	}
}

// sendJobs produces n jobs and returns their ids.
func (w *world) sendJobs(n int) []string {
	w.Helper()
	tasks := make([]schemas.Task, n)
	ids := make([]string, n)
	for i := range tasks {
		tasks[i] = w.task("job.run", job{N: i})
		ids[i] = tasks[i].ID
	}
	w.send(tasks...)
	return ids
}

// read returns every record of a topic from its beginning to its present end.
func (w *world) read(topic string) (recs []*kgo.Record) {
	w.Helper()
	ends, err := kadm.NewClient(w.cl).ListEndOffsets(w.Context(), topic)
	if err != nil {
		w.Fatal(err)
	}
	left := map[int32]int64{}
	assign := map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) {
		assign[o.Partition] = kgo.NewOffset().AtStart()
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.kafka.Brokers...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: assign}))
	if err != nil {
		w.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(w.Context(), wait)
	defer cancel()
	for len(left) > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			w.Fatalf("read %s: %v", topic, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			recs = append(recs, r)
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		})
	}
	return recs
}

// letters returns the dead letters of a queue.
func (w *world) letters(queue string) (out []*dlq.Letter) {
	w.Helper()
	for _, r := range w.read(w.names.DLQ(queue)) {
		if got := headerOf(r, schemas.HeaderRecord); got != "letter" {
			continue
		}
		l, _, err := dlq.Decode(r)
		if err != nil {
			w.Fatalf("decode letter: %v", err)
		}
		out = append(out, l)
	}
	return out
}

// limitLetters sets the largest record that the dead-letter topic of jobs takes.
func (w *world) limitLetters(bytes int) {
	w.Helper()
	topic := w.names.DLQ("jobs")
	testkit.SetTopicConfig(w, kadm.NewClient(w.cl), topic, "max.message.bytes", strconv.Itoa(bytes))
	large := make([]byte, bytes)
	rand.Read(large) // it compresses to no less
	// A broker heeds it a little later than it tells; what it takes until then is no letter.
	testkit.Eventually(w, wait, func() (bool, string) {
		err := w.cl.ProduceSync(w.Context(), &kgo.Record{Topic: topic, Value: large}).FirstErr()
		return errors.Is(err, kerr.MessageTooLarge), fmt.Sprint("the broker takes more than its topic's limit: ", err)
	})
}

// lettersWithin waits until a queue has n letters.
func (w *world) lettersWithin(queue string, n int) (out []*dlq.Letter) {
	w.Helper()
	testkit.Eventually(w, wait, func() (bool, string) {
		out = w.letters(queue)
		return len(out) >= n, fmt.Sprintf("%d letters of %d", len(out), n)
	})
	return out
}

func headerOf(r *kgo.Record, name string) string {
	for i := len(r.Headers) - 1; i >= 0; i-- {
		if r.Headers[i].Key == name {
			return string(r.Headers[i].Value)
		}
	}
	return ""
}

// committedAll waits until the queue's group has nothing left to do.
func (w *world) committedAll(queue string) {
	w.Helper()
	adm := kadm.NewClient(w.cl)
	testkit.Eventually(w, wait, func() (bool, string) {
		ends, err := adm.ListEndOffsets(w.Context(), w.names.Tasks(queue))
		if err != nil {
			return false, err.Error()
		}
		got, err := adm.FetchOffsets(w.Context(), w.names.WorkerGroup(queue))
		if err != nil {
			return false, err.Error()
		}
		var behind []string
		ends.Each(func(o kadm.ListedOffset) {
			c, _ := got.Lookup(o.Topic, o.Partition)
			if o.Offset > 0 && c.At != o.Offset {
				behind = append(behind, fmt.Sprintf("partition %d at %d of %d", o.Partition, c.At, o.Offset))
			}
		})
		return len(behind) == 0, strings.Join(behind, ", ")
	})
}

// ledger counts what handlers did, independently of everything they are told.
type ledger struct {
	mu   sync.Mutex
	runs map[string][]int64 // task id → the runs that came, in order
	done map[string]int
}

func newLedger() *ledger { return &ledger{runs: map[string][]int64{}, done: map[string]int{}} }

func (l *ledger) began(id string, run int64) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.runs[id] = append(l.runs[id], run)
	return len(l.runs[id])
}

// holding is a handler of job.run that applies each task's effect, and waits before it
// for release, where which says so of a payload and the task's how-manieth start.
func (l *ledger) holding(release <-chan struct{}, which func(j job, start int) bool) func(*worker.Worker) {
	return func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(ctx context.Context, task *worker.Task[job]) error {
			if which(task.Payload, l.began(task.ID, task.Run)) {
				select {
				case <-release:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return l.applied(task.ID, task.Run)
		})
	}
}

func isLong(j job, _ int) bool { return j.Mode == "long" }

// applied is an effect behind a fence: it refuses a run lower than the highest
// that it has seen, and a second application.
var errStale = errors.New("a higher run was seen")

func (l *ledger) applied(id string, run int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.runs[id] {
		if r > run {
			return errStale
		}
	}
	l.done[id]++
	return nil
}

func (l *ledger) count() (started, done, twice int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.done {
		if n > 1 {
			twice++
		}
	}
	return len(l.runs), len(l.done), twice
}

func (l *ledger) runsOf(id string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.runs[id])
}

// doneWithin waits until n tasks are done.
func (l *ledger) doneWithin(t testing.TB, n int) {
	t.Helper()
	testkit.Eventually(t, wait, func() (bool, string) {
		_, done, _ := l.count()
		return done >= n, fmt.Sprintf("%d of %d done", done, n)
	})
}
