package worker

// The Worker: made, run, stopped.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/blocks"
	"github.com/perdure/perdure/internal/reconcile"
	"github.com/perdure/perdure/internal/webhook"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
	"github.com/perdure/perdure/worker/internal/httpexec"
)

// Worker runs the tasks of its queues. Make one with New, give it handlers with
// Handle, then Run it once.
type Worker struct {
	cfg  Config
	deps Deps
	log  *slog.Logger
	met  *metrics

	kinds     map[string]*kind // those of its queues, by name
	unknown   *kind            // for tasks that die because nobody knows their kind
	handlers  map[string]execution.Executor
	around    around // the handlers' middleware
	hooks     map[string]reconcile.Hook
	mistakes  []error // of Handle, Reconcile and Use
	transport *http.Transport

	boot       atomic.Pointer[string] // tells this process from its earlier lives; a new one after it was removed
	watch      *watch                 // of the others; beatLoop's own
	errands    chan errand
	generation atomic.Int64
	intakes    []*intake
	producer   *kgo.Client  // hops; and questions to brokers
	events     *kgo.Client  // what is for people, so that a topic of events that takes nothing fills no room of hops
	blocks     *blocks.View // keys that wait behind a letter; nil = no kind of its has on_dead: block
	p          *pipeline
	pool       *pool

	bareCommits sync.Once // said that the broker takes no metadata of ours

	workCtx     context.Context // of attempts
	produceCtx  context.Context // of calls to Kafka and Redis
	claimCalls  chan claimCall
	cancelLooks chan []*tryOut
	settleWake  chan struct{}
	commitDue   chan struct{}
	lost        chan struct{}
	loopEnded   chan struct{}
	executors   sync.WaitGroup // those that are not abandoned

	redisDown atomic.Pointer[string] // why; nil = Redis answers
	worn      atomic.Pointer[error]  // too many handlers were abandoned; nil = not
	wornOut   chan error             // the same, once
	started   atomic.Bool
	connected atomic.Bool // intakes may be read
}

// kind is a kind of the catalog with what runs it.
type kind struct {
	*schemas.Kind
	exec    execution.Executor
	breaker *breaker
	hook    reconcile.Hook // asked about effects in doubt; nil = nothing is
	ready   []*delivery

	share      float64 // of the worker's slots
	own        limit
	dependency *limit // shared by the kinds that call it; nil = none
	passed     bool   // its breaker refused in this round
}

// New checks cfg and deps and makes a Worker. It connects to nothing.
func New(cfg Config, deps Deps) (*Worker, error) {
	if err := errors.Join(cfg.fill(), deps.fill()); err != nil {
		return nil, err
	}
	met, err := newMetrics(deps.Registry)
	if err != nil {
		return nil, fmt.Errorf("worker: register metrics: %w", err)
	}
	w := &Worker{
		cfg: cfg, deps: deps, log: deps.Log, met: met,
		kinds: map[string]*kind{}, handlers: map[string]execution.Executor{},
		watch:       newWatch(cfg.beatEvery(), cfg.Silence),
		errands:     make(chan errand, 1),
		transport:   webhook.NewTransport(cfg.Concurrency),
		claimCalls:  make(chan claimCall, 1),
		cancelLooks: make(chan []*tryOut, 1),
		settleWake:  make(chan struct{}, 1),
		commitDue:   make(chan struct{}, 1),
		lost:        make(chan struct{}, 1),
		loopEnded:   make(chan struct{}),
		wornOut:     make(chan error, 1),
	}
	w.newBoot()
	w.unknown = &kind{Kind: &schemas.Kind{Name: "unknown", Retry: schemas.Retry{
		MaxAttempts: 1, InitialDelay: schemas.DefaultInitialDelay, MaxDelay: schemas.DefaultMaxDelay,
	}}}
	return w, nil
}

// register files a Go handler; mistakes come out in Run.
func (w *Worker) register(name string, exec execution.Executor) {
	k := w.deps.Catalog.Kinds[name]
	switch {
	case w.started.Load():
		w.mistakes = append(w.mistakes, fmt.Errorf("handler for %s: registered after Run", name))
	case k == nil:
		w.mistakes = append(w.mistakes, fmt.Errorf("handler for %s: the catalog has no such kind", name))
	case k.HTTP != nil:
		w.mistakes = append(w.mistakes, fmt.Errorf("handler for %s: the catalog gives this kind an HTTP executor", name))
	case w.handlers[name] != nil:
		w.mistakes = append(w.mistakes, fmt.Errorf("handler for %s: registered twice", name))
	default:
		w.handlers[name] = exec
	}
}

// Queues returns the queues that Run will serve: those configured, else every
// queue with a kind that a registered handler runs, else, with no handler at
// all, every queue with a kind that has an executor of its own.
func (w *Worker) Queues() []string {
	if len(w.cfg.Queues) > 0 {
		return w.cfg.Queues
	}
	var queues []string
	for name, k := range w.deps.Catalog.Kinds {
		mine := w.handlers[name] != nil || len(w.handlers) == 0 && k.HTTP != nil
		if mine && !slices.Contains(queues, k.Queue) {
			queues = append(queues, k.Queue)
		}
	}
	slices.Sort(queues)
	return queues
}

// prepare decides what runs each kind of the worker's queues, or says what is
// missing.
func (w *Worker) prepare() error {
	errs := w.mistakes
	queues := w.Queues()
	if len(queues) == 0 {
		errs = append(errs, errors.New("there is nothing to run: no handler is registered and no kind of the catalog has an executor"))
	}
	for _, q := range queues {
		if w.deps.Catalog.Queues[q] == nil {
			errs = append(errs, fmt.Errorf("queue %s: the catalog has no such queue", q))
		}
	}
	dependencies := map[string]*limit{}
	errs = append(errs, missingHandlers(w.unhandled(queues)))
	for name, k := range w.deps.Catalog.Kinds {
		if !slices.Contains(queues, k.Queue) {
			continue
		}
		run := &kind{Kind: k, exec: w.handlers[name], own: limit{most: k.Concurrency}}
		if dep := w.deps.Catalog.Dependencies[k.Dependency]; dep != nil {
			if dependencies[dep.Name] == nil {
				dependencies[dep.Name] = &limit{most: dep.Concurrency}
			}
			run.dependency = dependencies[dep.Name]
		}
		hook, err := w.hookOf(k)
		if err != nil {
			errs = append(errs, err)
		}
		run.hook = hook
		switch {
		case k.HTTP != nil:
			x, err := httpexec.New(k, w.transport, w.deps.Getenv)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			run.exec, run.breaker = x, &breaker{endpoint: x.URL()}
		}
		w.kinds[name] = run
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	return nil
}

// unhandled lists the kinds of queues that nothing runs.
func (w *Worker) unhandled(queues []string) (missing []string) {
	for name, k := range w.deps.Catalog.Kinds {
		if slices.Contains(queues, k.Queue) && k.HTTP == nil && w.handlers[name] == nil {
			missing = append(missing, name+" (queue "+k.Queue+")")
		}
	}
	slices.Sort(missing)
	return missing
}

func missingHandlers(missing []string) error {
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("no handler and no executor for %s: register a handler with worker.Handle, give the kind an executor in the catalog, or serve other queues", strings.Join(missing, ", "))
}

// Ready says why the worker cannot do its work now; nil = it can.
func (w *Worker) Ready(context.Context) error {
	var errs []error
	if why := w.redisDown.Load(); why != nil {
		errs = append(errs, fmt.Errorf("redis does not answer, so nothing starts: %s", *why))
	}
	if worn := w.worn.Load(); worn != nil {
		errs = append(errs, *worn)
	}
	if !w.connected.Load() {
		return errors.Join(append(errs, errors.New("the worker has not started"))...)
	}
	for _, in := range w.intakes {
		in.mu.Lock()
		for partition, why := range in.halted {
			errs = append(errs, fmt.Errorf("queue %s partition %d is halted: %s", in.queue, partition, why))
		}
		in.mu.Unlock()
	}
	return errors.Join(errs...)
}

// Run serves the worker's queues until ctx ends, then stops in order: nothing
// new starts, what was not started is handed back, what runs may end within the
// grace period, offsets are committed, the consumer groups are left. It returns
// nil after such a stop, else why the worker could not go on. Where too many
// handlers ignore their contexts, or a topic was deleted, it stops by itself in the same
// order: the error names them, and is to end the process, with exit code 4 as Main does.
func (w *Worker) Run(ctx context.Context) error {
	if w.started.Swap(true) {
		return errors.New("worker: Run was called before")
	}
	if err := w.prepare(); err != nil {
		return err
	}
	if err := w.connect(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // stopped before there was anything to stop
		}
		return err
	}
	defer w.transport.CloseIdleConnections()
	return w.serve(ctx)
}

// What of events waits for Kafka, and for how long; what is more is dropped and counted.
const (
	eventsBuffered      = 10_000
	eventsBufferedBytes = 16 << 20
	eventsKept          = 2 * time.Minute // a broker that restarts costs no events
)

// connect opens the claims and makes the Kafka clients.
func (w *Worker) connect(ctx context.Context) (err error) {
	if err := w.openClaims(ctx); err != nil {
		return err
	}
	w.p = newPipeline(w)
	if w.producer, err = kgo.NewClient(append(append([]kgo.Opt(nil), w.deps.Kafka...),
		kgo.ProducerLinger(0), kgo.MaxBufferedRecords(100_000))...); err != nil {
		return fmt.Errorf("worker: kafka producer: %w", err)
	}
	if w.hasBlocks() {
		w.blocks = blocks.NewView(w.deps.Names.Control(), w.Queues(), w.log, w.producer, w.deps.Kafka...)
	}
	if w.events, err = kgo.NewClient(append(append([]kgo.Opt(nil), w.deps.Kafka...), kgo.ProducerLinger(0),
		kgo.MaxBufferedRecords(eventsBuffered), kgo.MaxBufferedBytes(eventsBufferedBytes), kgo.RecordDeliveryTimeout(eventsKept))...); err != nil {
		w.producer.Close()
		return fmt.Errorf("worker: kafka producer of events: %w", err)
	}
	successor := w.successor(ctx)
	for _, q := range w.Queues() {
		in := &intake{
			queue: q, topic: w.deps.Names.Tasks(q), group: w.deps.Names.WorkerGroup(q),
			gate:     gate{maxRecords: max(w.cfg.MaxHeld/len(w.Queues()), 1), maxBytes: max(w.cfg.MaxHeldBytes/len(w.Queues()), 1)},
			assigned: map[int32]*assignment{}, found: map[int32]committed{}, halted: map[int32]string{},
		}
		in.successor = successor(in.group)
		if w.deps.Catalog.Queues[q].Shared {
			if err := w.openShared(ctx, in); err != nil {
				w.closeClients()
				return fmt.Errorf("worker: %w", err)
			}
		}
		if in.cl, err = kgo.NewClient(w.clientOpts(in)...); err != nil {
			w.closeClients()
			return fmt.Errorf("worker: kafka consumer of queue %s: %w", q, err)
		}
		w.intakes = append(w.intakes, in)
	}
	w.connected.Store(true)
	return nil
}

// openClaims waits until Redis lets this worker in, and until its name is free:
// nothing runs unclaimed.
func (w *Worker) openClaims(ctx context.Context) error {
	for {
		err := w.deps.Claims.Open(ctx)
		if err == nil {
			err = w.takeName(ctx)
		}
		if err == nil {
			_, err = w.deps.Claims.BeatAndLook(ctx, w.process(), w.line(), false)
		}
		if err == nil {
			w.redisFine()
			return nil
		}
		if errors.Is(err, errNameTaken) {
			return fmt.Errorf("worker: %w", err)
		}
		w.redisTrouble(err)
		select {
		case <-time.After(redisPauses):
		case <-ctx.Done():
			return fmt.Errorf("worker: stopped while waiting for Redis: %w", err)
		}
	}
}

func (w *Worker) closeClients() {
	for _, in := range w.intakes {
		in.cl.CloseAllowingRebalance()
	}
	w.events.Close()
	w.producer.Close()
}

func newPipeline(w *Worker) *pipeline {
	wake := make(chan struct{}, 1)
	p := &pipeline{
		Worker: w, wake: wake, slots: w.cfg.Concurrency, looks: 1,
		lines: map[string]*keyLine{}, away: map[*delivery]string{},
		strays: strays{byKind: map[string]int{}},
	}
	p.arrived.wake, p.answers.wake, p.finished.wake = wake, wake, wake
	p.settled.wake, p.hopped.wake, p.orders.wake, p.cancelled.wake = wake, wake, wake, wake
	p.toSettle.wake = w.settleWake
	for _, k := range w.kinds {
		p.ready.kinds = append(p.ready.kinds, k)
	}
	p.ready.kinds = append(p.ready.kinds, w.unknown)
	slices.SortFunc(p.ready.kinds, func(a, b *kind) int { return strings.Compare(a.Name, b.Name) })
	weights := map[string]int{}
	for _, q := range w.Queues() {
		weights[q] = w.deps.Catalog.Queues[q].Weight
	}
	p.ready.divide(w.cfg.Concurrency, weights)
	return p
}
