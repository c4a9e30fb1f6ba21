package worker

// The worker's beat in Redis, and what is done when Redis lost its memory.

import (
	"context"
	"errors"
	"time"

	"github.com/perdure/perdure/internal/claims"
)

const (
	// doneMemory is how long completed tasks are remembered here for a Redis
	// that loses its newest seconds, and maxDoneMemory how many.
	doneMemory    = 10 * time.Second
	maxDoneMemory = 100_000
)

// beatEvery is the time between two beats: six must be missing before anybody
// calls it silence.
func (c *Config) beatEvery() time.Duration { return c.Silence / 6 }

// beatLoop keeps the process's beat until ctx ends.
func (w *Worker) beatLoop(ctx context.Context) {
	tick := time.NewTicker(min(w.cfg.beatEvery(), w.deps.Claims.Config().Interval()))
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-w.lost:
		case <-ctx.Done():
			return
		}
		if err := w.beat(ctx, n%w.watch.every() == 0); err != nil && ctx.Err() == nil {
			w.watch.blind(time.Now())
			w.redisTrouble(err)
		}
	}
}

// beat shows that this process lives, and looks who else does. Where Redis lost
// its memory, it first says again what this worker holds; where this worker was
// removed while it was away, it goes on under a new name.
func (w *Worker) beat(ctx context.Context, look bool) error {
	asked := time.Now()
	peers, err := w.deps.Claims.BeatAndLook(ctx, w.process(), w.line(), look)
	answered := time.Now()
	w.met.beatSeconds.Observe(answered.Sub(asked).Seconds())
	switch {
	case errors.Is(err, claims.ErrGone):
		return w.comeBack(ctx)
	case errors.Is(err, claims.ErrLost):
		w.watch.blind(answered)
		return w.reopen(ctx)
	case err != nil:
		return err
	}
	e := errand{stale: w.staleOwners()}
	if look {
		if dead, several := w.watch.look(asked, answered, peers); dead != nil {
			e.dead, e.pause = *dead, w.cfg.Silence
			if several { // they were watched for longer; a beat of theirs still saves the next
				e.pause = 2 * w.cfg.beatEvery()
			}
		}
	}
	w.send(e)
	return nil
}

// reopen follows a Redis that lost its memory or was replaced.
func (w *Worker) reopen(ctx context.Context) error {
	w.log.Error("Redis lost its claims or was replaced: claiming pauses, and this worker says again what it holds")
	w.met.redisLost.Inc()
	if err := w.deps.Claims.Open(ctx); err != nil {
		return err
	}
	if _, err := w.deps.Claims.BeatAndLook(ctx, w.process(), w.line(), false); err != nil {
		return err
	}
	return w.reassert(ctx)
}

// process is an owner of which only the process part counts.
func (w *Worker) process() string { return w.name() + "/0" }

// name is what beats: <instance>/<boot nonce>.
func (w *Worker) name() string { return w.cfg.Instance + "/" + *w.boot.Load() }

// reassert tells Redis of every run and wait that this worker holds, and of what
// it completed in the last seconds.
func (w *Worker) reassert(ctx context.Context) error {
	type kept struct {
		held []claims.Held
		done []claims.Outcome
	}
	answer := make(chan map[string]*kept, 1)
	w.p.orders.put(func(now time.Time) {
		byOwner := map[string]*kept{}
		of := func(owner string) *kept {
			if byOwner[owner] == nil {
				byOwner[owner] = &kept{}
			}
			return byOwner[owner]
		}
		for _, d := range w.p.claimed.list {
			k := of(d.asg.owner)
			k.held = append(k.held, claims.Held{Record: d.record(), Run: d.run, Crashes: d.crashes})
		}
		waits := func(d *delivery) {
			if d.local && d.run > 0 {
				k := of(d.asg.owner)
				k.held = append(k.held, claims.Held{Record: d.record(), Run: d.run, Crashes: d.crashes, Waiting: true, Due: d.due, Elsewhere: d.elsewhere})
			}
		}
		// Also those whose wait is over for a moment: to look after work elsewhere.
		for _, list := range append(w.p.ready.lists(), w.p.waiting, w.p.asked, w.p.suspects) {
			for _, d := range list {
				waits(d)
			}
		}
		for _, m := range w.p.recent {
			if m.age(now) <= doneMemory {
				k := of(m.owner)
				k.done = append(k.done, claims.Outcome{TaskID: m.taskID, Epoch: m.epoch, Run: m.run})
			}
		}
		answer <- byOwner
	})
	var all map[string]*kept
	select {
	case all = <-answer:
	case <-w.loopEnded:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	for owner, k := range all {
		// What no longer stands fails its compare-and-set later, or asks again.
		if _, err := w.deps.Claims.Reassert(ctx, owner, k.held, k.done); err != nil {
			return err
		}
		w.log.Info("said again what this worker holds", "owner", owner, "held", len(k.held), "completed", len(k.done))
	}
	return nil
}

func (m *doneMark) age(now time.Time) time.Duration { return time.Duration(now.UnixNano() - m.at) }

// recall remembers a completed task for reassert.
func (p *pipeline) recall(d *delivery, now time.Time) {
	p.recent = append(p.recent, doneMark{owner: d.asg.owner, taskID: d.task.ID, epoch: d.task.Epoch, run: d.run, at: now.UnixNano()})
	// Drop the old half by half: amortized, one comparison a task.
	if half := len(p.recent) / 2; half >= 1024 && (p.recent[half].age(now) > doneMemory || len(p.recent) > maxDoneMemory) {
		p.recent = append(p.recent[:0], p.recent[half:]...)
	}
}

// redisTrouble notes that Redis did not do what was asked; the first time of an
// outage is said aloud.
func (w *Worker) redisTrouble(err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	if errors.Is(err, claims.ErrLost) || errors.Is(err, claims.ErrNotOpen) || errors.Is(err, claims.ErrGone) {
		select {
		case w.lost <- struct{}{}: // beat at once
		default:
		}
	}
	if errors.Is(err, claims.ErrGone) {
		return // Redis answers; the next beat sees to it
	}
	text := err.Error()
	if w.redisDown.Swap(&text) == nil {
		w.met.redisUp.Set(0)
		w.log.Error("no use of Redis now (the error says why): nothing starts until it is back; what runs goes on", "err", err)
	}
}

func (w *Worker) redisFine() {
	if w.redisDown.Load() == nil {
		return
	}
	if w.redisDown.Swap(nil) != nil {
		w.met.redisUp.Set(1)
		w.log.Info("Redis answers again")
	}
}
