package workertest

// Program: the handlers of a whole worker, as its setup registers them.

import (
	"testing"

	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

// Program is a worker that is connected to nothing.
type Program struct {
	catalog   *schemas.Catalog
	rehearsal *worker.Rehearsal
}

// New runs setup, the function that the program gives to worker.Main, with the
// catalog in a file. It fails the test where the worker would refuse to start:
// a kind of its queues without a handler, a handler for a kind that is not there.
func New(t testing.TB, catalogFile string, setup func(*worker.Worker) error) *Program {
	t.Helper()
	cat, err := schemas.LoadCatalog(catalogFile)
	if err != nil {
		t.Fatalf("workertest: %v", err)
	}
	r, err := worker.Rehearse(cat, setup)
	if err != nil {
		t.Fatalf("workertest: %v", err)
	}
	return &Program{cat, r}
}

// Run runs one attempt of a kind's handler, inside the program's middleware.
// See the function Run.
func (p *Program) Run(t testing.TB, kind string, payload any, options ...Option) worker.Outcome {
	t.Helper()
	return p.setup(t, kind, payload, options).once(t, p)
}

// RunRaw is Run with a payload as it stands on the wire, which no schema looks at.
func (p *Program) RunRaw(t testing.TB, kind string, payload []byte, options ...Option) worker.Outcome {
	t.Helper()
	s := p.begin(t, kind, options)
	s.task.Payload = payload
	return s.once(t, p)
}

// Play runs a task of a kind to its end. See the function Play.
func (p *Program) Play(t testing.TB, kind string, payload any, options ...Option) *Story {
	t.Helper()
	s := p.setup(t, kind, payload, options)
	return s.play(t, func() worker.Outcome { return s.once(t, p) })
}

func (p *Program) setup(t testing.TB, kind string, payload any, options []Option) *setup {
	t.Helper()
	s := p.begin(t, kind, options)
	s.accept(t, encode(t, payload))
	return s
}

func (p *Program) begin(t testing.TB, kind string, options []Option) *setup {
	t.Helper()
	k := p.catalog.Kind(kind)
	if k == nil {
		t.Fatalf("workertest: the catalog has no kind %s", kind)
	}
	s := newSetup(t, append([]Option{Kind(k)}, options...))
	s.hook = func() (worker.Verdict, bool, error) { return p.rehearsal.Reconcile(s.ctx, s.trial()) }
	return s
}

func (s *setup) once(t testing.TB, p *Program) worker.Outcome {
	t.Helper()
	o, err := p.rehearsal.Try(s.ctx, s.trial())
	if err != nil {
		t.Fatalf("workertest: %v", err)
	}
	return o
}
