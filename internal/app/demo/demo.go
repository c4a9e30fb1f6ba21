package demo

// The story, in order.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/perdure/perdure/examples/disputes"
	"github.com/perdure/perdure/internal/config"
)

// Options of one demo.
type Options struct {
	Config  config.Config // servers that are named here are used, the others embedded
	Version string
	Input   io.Reader // disputes, one JSON object a line; see ExampleInput
	Out     io.Writer // progress, one line each; a live line too if Live
	Live    bool      // Out is a terminal

	// Child starts a worker process: the program and arguments that run
	// [Worker], to which the bank's address is appended.
	Child []string

	Feed     time.Duration // over how long the input is fed; 0 = 8 s
	Workers  int           // worker processes; 0 = 2
	Patience time.Duration // without any progress, before it gives up; 0 = 45 s
}

// Result is the last line of a demo.
type Result struct {
	disputes.Ledger
	Replayed int `json:"replayed"` // letters replayed, whatever became of them
	Rejected int `json:"rejected"` // lines of input that were never accepted
}

// String is the last line, exactly.
func (r Result) String() string {
	return fmt.Sprintf("accepted=%d completed=%d dead=%d replayed=%d rejected=%d lost=%d duplicate_effects=%d",
		r.Accepted, r.Completed, r.Dead, r.Replayed, r.Rejected, r.Lost, r.Duplicates)
}

// Err is why the demo must not exit 0: nil only if the ledger balances.
func (r Result) Err() error { return r.Ledger.Err() }

// Run tells the whole story and cleans up after itself, also when ctx ends. The
// Result is the ledger's; an error says that there is none.
func Run(ctx context.Context, opts Options) (res Result, err error) {
	opts.defaults()
	say := newTeller(opts.Out, opts.Live)
	defer say.end()

	w, err := newWorld(ctx, opts, say)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, w.close()) }()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { cancel(w.nodeEnded(ctx)) }()

	res, err = w.tell(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return res, err
}

// tell is the story itself.
func (w *world) tell(ctx context.Context) (Result, error) {
	if err := w.workers.start(ctx, w.opts.Workers); err != nil {
		return Result{}, err
	}
	w.say.linef("%d worker processes run; feeding disputes, one line of the file each", w.opts.Workers)
	stopWatching := w.watch(ctx)
	fed, err := w.feed(ctx, w.drama())
	if err != nil {
		stopWatching()
		return Result{}, fmt.Errorf("feed the disputes: %w", err)
	}
	w.say.linef("all lines are fed: %d accepted, %d rejected", len(fed.accepted), fed.rejected)
	for _, why := range fed.reasons() {
		w.say.linef("  rejected: %s", why)
	}
	w.bank.SetOutage(false) // also where the input was too short to end it
	if err := w.settle(ctx, len(fed.accepted)); err != nil {
		stopWatching()
		return Result{}, err
	}
	replayed, err := w.awaitPolicy(ctx)
	if err == nil && replayed > 0 {
		err = w.settle(ctx, len(fed.accepted))
	}
	if err == nil {
		err = w.drained(ctx)
	}
	stopWatching()
	if err != nil {
		return Result{}, err
	}
	if err := w.workers.stop(); err != nil {
		return Result{}, err
	}
	if err := w.balance(ctx); err != nil {
		return Result{}, err
	}
	ledger, err := w.audit(ctx, fed.accepted)
	if err != nil {
		return Result{}, err
	}
	return Result{Ledger: ledger, Replayed: replayed, Rejected: fed.rejected}, nil
}

// drama is what happens when which share of the input is fed.
func (w *world) drama() []scene {
	asked := func(c disputes.BankCounts, _ int) bool { return c.Calls > 0 }
	// Of a few disputes none may get the wrong answer, however often they are tried.
	const few = 50
	failed := func(c disputes.BankCounts, accepted int) bool {
		return c.Unavailable > 0 && (c.Wrong > 0 || accepted < few)
	}
	return []scene{
		{0.20, asked, func() error {
			w.bank.SetOutage(true)
			w.say.linef("the bank fails: most calls get 503 and will wait, some a wrong 422 and will die")
			return nil
		}},
		{0.40, asked, func() error {
			pid, err := w.workers.killOne()
			if err == nil {
				w.say.linef("SIGKILL to worker process %d in the middle of its work; another one takes its place", pid)
			}
			return err
		}},
		{0.65, failed, func() error {
			w.bank.SetOutage(false)
			c := w.bank.Counts()
			w.say.linef("the bank is back: of %d calls it answered %d with 503 and %d with a wrong 422", c.Calls, c.Unavailable, c.Wrong)
			return nil
		}},
	}
}

func (o *Options) defaults() {
	if o.Feed <= 0 {
		o.Feed = 8 * time.Second
	}
	if o.Workers <= 0 {
		o.Workers = 2
	}
	if o.Patience <= 0 {
		o.Patience = 45 * time.Second
	}
}

// silent is for parts whose lines would only disturb the story.
var silent = slog.New(slog.DiscardHandler)
