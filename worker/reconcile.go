package worker

// Reconcile: before a task of effects: once becomes a letter because nobody can
// say whether its effect happened, its hook is asked.
//
// While it is asked, the claim is dead with reason unknown and the record is not
// acknowledged: nothing can run the task meanwhile, and whoever gets the record
// after a crash asks again.
//
//	happened        done, resolved, acknowledged: no run
//	did not happen  a retry at epoch + 1, as a replay would write it; acknowledged once Kafka has it
//	cannot tell     the letter
//	no answer       asked again as the kind's retry policy says, then the letter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/reconcile"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
)

// Verdict is what a reconcile hook answers.
type Verdict = reconcile.Verdict

// The verdicts. The zero Verdict is CannotTell.
const (
	CannotTell   = reconcile.CannotTell   // the task becomes a dead letter with reason unknown, for a person
	Happened     = reconcile.Happened     // the task is completed and is not run again
	DidNotHappen = reconcile.DidNotHappen // nor will it: the task is tried again
)

// Reconcile registers the hook of a kind with effects: once; call it before Run.
// It is asked when nobody can say whether an attempt's effect happened: the
// worker died, the attempt was cut off, or its error was marked Unknown. t is the
// task with the attempt and the run in doubt.
//
// The one who answers DidNotHappen answers for the future too: a worker that was
// suspended, not dead, may still send what it was about to. Look where the
// effect would be recorded, and close the door there (void the key, cancel the
// order) before giving that answer. It uses an attempt up, and the task goes on
// at the next epoch.
//
// An error is no answer: it is asked again as the kind's retry policy says, and
// once that is used up the task becomes a letter that says so. ctx ends after
// the kind's timeout. A payload that is not the JSON of a T gets CannotTell.
func Reconcile[T any](w *Worker, kind string, fn func(ctx context.Context, t *Task[T]) (Verdict, error)) {
	w.registerHook(kind, goHook[T]{fn})
}

func (w *Worker) registerHook(name string, h reconcile.Hook) {
	k := w.deps.Catalog.Kinds[name]
	wrong := ""
	switch {
	case w.started.Load():
		wrong = "registered after Run"
	case k == nil:
		wrong = "the catalog has no such kind"
	case k.Effects != schemas.EffectsOnce:
		wrong = "only kinds with effects: once are reconciled, this one is run again"
	case k.Reconcile != nil:
		wrong = "the catalog gives this kind a reconcile URL"
	case w.hooks[name] != nil:
		wrong = "registered twice"
	default:
		if w.hooks == nil {
			w.hooks = map[string]reconcile.Hook{}
		}
		w.hooks[name] = h
		return
	}
	w.mistakes = append(w.mistakes, fmt.Errorf("reconcile hook for %s: %s", name, wrong))
}

// hookOf returns what is asked about a kind; nil = nothing.
func (w *Worker) hookOf(k *schemas.Kind) (reconcile.Hook, error) {
	if h := w.hooks[k.Name]; h != nil {
		return h, nil
	}
	return reconcile.NewHTTP(k, w.transport, w.deps.Getenv)
}

// goHook is a Go function as a Hook.
type goHook[T any] struct {
	fn func(context.Context, *Task[T]) (Verdict, error)
}

// Ask implements reconcile.Hook.
func (h goHook[T]) Ask(ctx context.Context, q *reconcile.Question) (v Verdict, err error) {
	defer func() {
		if p := recover(); p != nil {
			v, err = CannotTell, &PanicError{Value: p, Stack: stack()}
		}
	}()
	t := newTask[T](&execution.Attempt{Task: q.Task, N: q.Attempt, Run: q.Run, InDoubt: true})
	if err := decodePayload(q.Task.Payload, &t.Payload); err != nil {
		return CannotTell, nil // it will decode no better next time
	}
	v, err = h.fn(ctx, &t)
	if err == nil && v > DidNotHappen {
		err = fmt.Errorf("the verdict %d does not exist", v)
	}
	return v, err
}

// consults are the deliveries about which a hook is asked; the loop's own.
type consults struct {
	doubts     []*delivery // held, not asked yet
	consulting int         // asked now, at most Concurrency
}

// died goes on with a task whose claim is dead: to its letter, or, if nobody
// knows whether its effect happened, to its hook.
func (p *pipeline) died(d *delivery, reason schemas.Reason, now time.Time) {
	if reason != schemas.ReasonUnknown || d.kind.hook == nil || d.abandoned() {
		p.hopLetter(d, reason, now)
		return
	}
	d.local = false
	p.isolated(d, now) // others need not wait for a hook
	p.doubts = append(p.doubts, d)
	p.consultNext(now)
}

// abandoned reports whether the last attempt's handler may be running still:
// then no answer would hold.
func (d *delivery) abandoned() bool {
	n := len(d.history)
	return n > 0 && d.history[n-1].ErrorClass == classAbandoned
}

// consultNext asks about as many as may be asked at once.
func (p *pipeline) consultNext(now time.Time) {
	for len(p.doubts) > 0 && p.consulting < p.cfg.Concurrency {
		d := p.doubts[0]
		p.doubts[0] = nil
		p.doubts = p.doubts[1:]
		if p.stopping || d.asg.draining {
			p.letGo(d)
			p.release(d, now) // its next owner asks
			continue
		}
		p.consulting++
		p.away[d] = "its reconcile hook is asked"
		p.executors.Add(1)
		t := d.task // a hook that ignores its context may read it for longer
		go p.consult(d, &reconcile.Question{Task: &t, Attempt: d.attempt, Run: d.run})
	}
}

// consult asks one question, and does not wait for a hook that ignores its context.
func (p *pipeline) consult(d *delivery, q *reconcile.Question) {
	defer p.executors.Done()
	ctx, cancel := context.WithTimeout(p.workCtx, d.kind.Timeout)
	defer cancel()
	type answer struct {
		verdict Verdict
		err     error
	}
	got := make(chan answer, 1)
	go func() {
		v, err := d.kind.hook.Ask(ctx, q)
		got <- answer{v, err}
	}()
	var a answer
	select {
	case a = <-got:
	case <-ctx.Done():
		timer := time.NewTimer(p.cfg.AbandonAfter)
		defer timer.Stop()
		select {
		case a = <-got:
		case <-timer.C:
			a.err = errors.New("the hook did not return after its context ended")
		}
	}
	p.orders.put(func(now time.Time) { p.answered(d, a.verdict, a.err, now) })
}

// answered acts on a hook's answer.
func (p *pipeline) answered(d *delivery, v Verdict, err error, now time.Time) {
	p.consulting--
	defer p.consultNext(now)
	name := v.String()
	if err != nil {
		name = "error"
	}
	p.met.reconciled.WithLabelValues(d.kind.Name, name).Inc()
	switch {
	case err != nil:
		p.unanswered(d, err, now)
	case v == Happened:
		p.log.Info("an effect in doubt happened, says its hook: the task is completed", "task_id", d.task.ID, "kind", d.task.Kind, "run", d.run)
		p.settle(settlement{op: opDone, d: d})
	case v == DidNotHappen:
		p.replay(d, now)
	default:
		p.stillUnknown(d, "the reconcile hook cannot tell whether it happened", now)
	}
}

// unanswered asks again later, or gives up.
func (p *pipeline) unanswered(d *delivery, err error, now time.Time) {
	if p.stopping || d.asg.draining {
		p.letGo(d)
		p.release(d, now)
		return
	}
	d.asks++
	if d.asks >= d.kind.Retry.MaxAttempts {
		p.stillUnknown(d, "the reconcile hook gave no answer: "+err.Error(), now)
		return
	}
	p.log.Warn("a reconcile hook gave no answer: asking again later", "task_id", d.task.ID, "kind", d.task.Kind, "asked", d.asks, "err", err)
	p.park(d, now.Add(backoff(d.kind.Retry, d.asks, 0)))
}

// replay tries a task again whose effect did not happen: the claim of its death
// gives way to a record of the next epoch, and to nothing else.
func (p *pipeline) replay(d *delivery, now time.Time) {
	due := now.Add(backoff(d.kind.Retry, d.attempt, 0))
	switch {
	case d.attempt >= d.kind.Retry.MaxAttempts:
		p.hopLetter(d, schemas.ReasonExhausted, now)
		return
	case d.task.Expired(due):
		p.hopLetter(d, schemas.ReasonExpired, now)
		return
	}
	next := d.record()
	next.Epoch++
	next.Attempt++
	if err := next.Check(); err != nil {
		p.stillUnknown(d, "it did not happen, but cannot be replayed: "+err.Error(), now)
		return
	}
	p.tell(d, dlq.EventFailed, d.why, map[string]any{"next_at": due.UTC(), "reconciled": DidNotHappen.String()})
	d.task.Epoch, d.attempt = next.Epoch, next.Attempt
	p.hopRetry(d, due, now)
}

// stillUnknown writes the letter, with what was asked.
func (p *pipeline) stillUnknown(d *delivery, what string, now time.Time) {
	if d.why.Message != "" {
		what = d.why.Message + "; " + what
	}
	d.why.Message = what
	p.hopLetter(d, schemas.ReasonUnknown, now)
}

// dropDoubts lets go of what is not asked yet and will not be here.
func (p *pipeline) dropDoubts(match func(*delivery) bool, now time.Time) {
	kept := p.doubts[:0]
	for _, d := range p.doubts {
		if match(d) {
			p.letGo(d)
			p.release(d, now)
		} else {
			kept = append(kept, d)
		}
	}
	clear(p.doubts[len(kept):])
	p.doubts = kept
}
