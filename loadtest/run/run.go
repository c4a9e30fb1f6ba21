package run

// A run, from the warm-up to the report.

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/perdure/perdure/loadtest/run/usage"
)

// Loader is one run. Make it with New, give its Tally to the system's worker,
// then Run it once.
type Loader struct {
	Tally *Tally
	opts  Options
	phase atomic.Pointer[string]
}

// New checks o and makes a Loader. Every error is about o.
func New(o Options) (*Loader, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	l := &Loader{Tally: newTally(o.Warmup+o.Tasks, o.InFlight), opts: o}
	l.enter("start")
	return l, nil
}

func (l *Loader) enter(phase string) { l.phase.Store(&phase) }

// Options are those of the run, as checked.
func (l *Loader) Options() Options { return l.opts }

// Run loads sys until every task is done, and reports. An error says that there
// is no result: tasks that could not be sent, or that did not come through.
func (l *Loader) Run(ctx context.Context, sys System) (*Report, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case err := <-sys.Failed():
			cancel(err)
		case <-stop:
		}
	}()
	rep, err := l.run(ctx, sys)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return rep, err
}

func (l *Loader) run(ctx context.Context, sys System) (*Report, error) {
	meter, err := usage.New(targets(sys.Servers())...)
	if err != nil {
		return nil, err
	}
	gen := &generator{
		Tally: l.Tally, opts: l.opts, enqueue: sys.Enqueue,
		payloads: NewPayloads(l.opts.Payload, l.opts.Entropy), kinds: l.opts.Mix.names(),
	}
	stopShowing := l.show()
	defer stopShowing()

	warm := l.opts.Warmup
	l.enter("warm-up")
	if err := gen.phase(ctx, 0, warm, gen.closed); err != nil {
		return nil, err
	}
	if err := l.settle(ctx, sys, warm); err != nil {
		return nil, err
	}
	alone := newHistogram()
	half := func(phase string) error {
		if !l.opts.Baseline {
			return nil
		}
		l.enter("Kafka alone, " + phase)
		return sys.Kafka().measure(ctx, phase, l.opts, l.opts.Duration/2, gen.payloads, alone)
	}
	if err := half("before"); err != nil {
		return nil, err
	}
	before, err := meter.Read()
	if err != nil {
		return nil, err
	}
	beside := newHistogram()
	var probe errgroup.Group
	probing, stopProbe := context.WithCancel(ctx)
	defer func() {
		stopProbe()
		_ = probe.Wait() // it said so before, or the load failed first
	}()
	if l.opts.Baseline {
		few := l.opts
		few.Rate = min(few.Rate/20, besideRate)
		probe.Go(func() error {
			return sys.Kafka().measure(probing, "beside", few, l.opts.Duration, gen.payloads, beside)
		})
	}
	l.enter("load")
	began, take := l.Tally.now(), gen.closed
	if l.opts.Loop == Open {
		take = gen.open(warm)
	}
	if err := gen.phase(ctx, warm, warm+l.opts.Tasks, take); err != nil {
		return nil, err
	}
	accepted := l.Tally.now()
	if err := l.settle(ctx, sys, warm+l.opts.Tasks); err != nil {
		return nil, err
	}
	after, err := meter.Read()
	if err != nil {
		return nil, err
	}
	failedProbe := probe.Wait() // costs one figure, not the others
	if err := half("after"); err != nil {
		return nil, err
	}
	rep := l.report(sys.Servers(), began, accepted)
	rep.addCPU(after.Since(before), meter.Missing())
	if l.opts.Baseline {
		a, b := summary(alone), summary(beside)
		rep.KafkaAlone, rep.KafkaBeside = &a, &b
		if failedProbe != nil {
			rep.KafkaBeside, rep.KafkaBesideError = nil, failedProbe.Error()
		}
	}
	return rep, nil
}

// settle waits until n tasks have begun, are done, and are committed. It notes
// in the tally when they were done.
func (l *Loader) settle(ctx context.Context, sys System, n int) error {
	t := l.Tally
	err := l.await(ctx, time.Millisecond, "begun", n, func() (int, error) { return int(t.distinct.Load()), nil })
	if err != nil {
		return err
	}
	if err := l.await(ctx, 4*time.Millisecond, "completed", n, func() (int, error) { return sys.Done(ctx) }); err != nil {
		return err
	}
	t.done = t.now()
	return l.await(ctx, 50*time.Millisecond, "committed", n, func() (int, error) {
		lag, err := sys.Lag(ctx)
		return n - int(lag), err
	})
}

// await polls until got is n. It gives up when got stands still for too long,
// and says what is missing.
func (l *Loader) await(ctx context.Context, every time.Duration, what string, n int, got func() (int, error)) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	last, moved := -1, time.Now()
	for {
		have, err := got()
		if err != nil {
			return err
		}
		if have >= n {
			return nil
		}
		if have != last {
			last, moved = have, time.Now()
		}
		if time.Since(moved) > l.opts.Patience {
			return fmt.Errorf("given up: of %d accepted tasks %d are %s, and none more for %s", n, have, what, l.opts.Patience)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("stopped when %d of %d tasks were %s: %w", have, n, what, ctx.Err())
		}
	}
}

// report is what the tally tells.
func (l *Loader) report(servers []Server, began, accepted int64) *Report {
	t, from := l.Tally, l.opts.Warmup
	seconds := func(from, to int64) float64 { return float64(to-from) / 1e9 }
	r := &Report{
		At: time.Now().UTC(), Go: runtime.Version(), OS: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(),
		Options: l.opts, Servers: servers,
		Begun: t.distinct.Load() - int64(from), Repeats: t.repeats.Load(), Foreign: t.foreign.Load(),
		EnqueueSeconds: seconds(began, accepted), Seconds: seconds(began, t.done),
		Series: t.series(from),
	}
	r.TasksPerSecond = float64(l.opts.Tasks) / r.Seconds
	r.EnqueuePerSecond = float64(l.opts.Tasks) / r.EnqueueSeconds
	r.FromDue, r.FromCommit = t.latencies(from)
	return r
}
