package service

// Group: parts started in order, stopped in reverse, each waited for.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// ErrEnded is wrapped by Group.Run's error when a part returned nil although
// nobody had asked it to stop.
var ErrEnded = errors.New("ended although nobody stopped it")

// slowStop is how long a part may take to stop before the log says who is slow.
const slowStop = 5 * time.Second

// Group runs the parts of a process. Add and Close it before Run, in the order
// of dependence: what comes later may use what came before, so the last one
// stops first, and no part outlives what it uses. It is not safe for
// concurrent use; Run is called once.
type Group struct {
	log   *slog.Logger
	parts []part
}

type part struct {
	name  string
	run   func(context.Context) error // nil: only closed
	close func() error

	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// NewGroup returns an empty Group. A nil log is silent.
func NewGroup(log *slog.Logger) *Group {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Group{log: log}
}

// Add appends a part that runs until its context ends.
func (g *Group) Add(name string, run func(context.Context) error) {
	g.parts = append(g.parts, part{name: name, run: run})
}

// Close appends something to close in its turn: a pool, a client, a lock.
func (g *Group) Close(name string, closeFn func() error) {
	g.parts = append(g.parts, part{name: name, close: closeFn})
}

// Run starts every part and blocks until ctx ends or a part returns; then it
// stops all of them, last first, waiting for each before the next. It returns
// nil after a stop that was asked for and went well, else the first cause,
// joined by what went wrong while stopping. Everything is closed either way.
func (g *Group) Run(ctx context.Context) error {
	ended := make(chan *part, len(g.parts))
	// Parts do not see ctx end: they are cancelled one by one, in order.
	base := context.WithoutCancel(ctx)
	for i := range g.parts {
		if g.parts[i].run != nil {
			g.parts[i].start(base, ended)
		}
	}
	var cause error
	select {
	case <-ctx.Done():
	case p := <-ended:
		cause = p.failure()
		g.log.Warn("a part ended: stopping the others", "part", p.name)
	}
	return errors.Join(append([]error{cause}, g.stop(cause)...)...)
}

// Abandon closes what was added when Run will not be called, because something
// after it could not be made. It returns err joined by what closing gave.
func (g *Group) Abandon(err error) error {
	return errors.Join(append([]error{err}, g.stop(err)...)...)
}

func (p *part) start(base context.Context, ended chan<- *part) {
	ctx, cancel := context.WithCancel(base)
	p.cancel, p.done = cancel, make(chan struct{})
	go func() {
		defer close(p.done)
		p.err = p.run(ctx)
		ended <- p
	}()
}

// failure is why the part's ending ends the group.
func (p *part) failure() error {
	if p.err == nil {
		return fmt.Errorf("%s %w", p.name, ErrEnded)
	}
	return fmt.Errorf("%s: %w", p.name, p.err)
}

// stop ends the parts in reverse and returns what went wrong, the part that is
// already the cause excepted.
func (g *Group) stop(cause error) []error {
	var errs []error
	for i := len(g.parts) - 1; i >= 0; i-- {
		p := &g.parts[i]
		if p.cancel != nil {
			p.cancel()
			g.await(p)
			if p.err != nil && !errors.Is(p.err, context.Canceled) && !errors.Is(cause, p.err) {
				errs = append(errs, fmt.Errorf("stop %s: %w", p.name, p.err))
			}
		}
		if p.close != nil {
			if err := p.close(); err != nil {
				errs = append(errs, fmt.Errorf("close %s: %w", p.name, err))
			}
		}
	}
	g.parts = nil
	return errs
}

// await waits for the part, and says so when it takes long.
func (g *Group) await(p *part) {
	tick := time.NewTicker(slowStop)
	defer tick.Stop()
	for since := time.Now(); ; {
		select {
		case <-p.done:
			return
		case <-tick.C:
			g.log.Warn("still stopping; a second signal ends it at once", "part", p.name, "waited", time.Since(since).Round(time.Second).String())
		}
	}
}
