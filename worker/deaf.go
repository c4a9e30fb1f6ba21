package worker

// Deaf handlers: those that ignore the end of their context. One is abandoned and
// its slot given back, but its goroutine, and whatever it holds, are lost to this
// process. At half as many as the worker has slots that is a leak which only a new
// process mends: nothing starts any more, what runs may end, and Run returns. So is
// one beside which a suspect waits to run alone, for as long as HeldAlarm.

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// errDeaf is wrapped by Run's error when too many handlers were abandoned.
var errDeaf = errors.New("they ignore the end of their context, so that only a new process frees what they hold; start it again, and see to them")

// mostStrays is how many abandoned handlers a worker bears.
func (c *Config) mostStrays() int { return max(c.Concurrency/2, 1) }

// strays are the abandoned handlers that have not returned; the loop's own.
type strays struct {
	total  int
	byKind map[string]int
}

func (s *strays) add(kind string, n int) {
	s.total += n
	if s.byKind[kind] += n; s.byKind[kind] == 0 {
		delete(s.byKind, kind)
	}
}

// String names those to blame, the most first.
func (s *strays) String() string {
	kinds := slices.SortedFunc(maps.Keys(s.byKind), func(a, b string) int {
		if d := s.byKind[b] - s.byKind[a]; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	for i, k := range kinds {
		kinds[i] = fmt.Sprintf("%d of %s", s.byKind[k], k)
	}
	return strings.Join(kinds, ", ")
}

// stray counts one more, and ends the worker with the last that it bears.
func (p *pipeline) stray(kind string) {
	p.strays.add(kind, 1)
	if p.strays.total < p.cfg.mostStrays() || p.stopping {
		return
	}
	p.wearOut(fmt.Errorf("%d handlers were abandoned and still run (%s): %w", p.strays.total, &p.strays, errDeaf))
}

// wearOut ends the worker, to be started again.
func (p *pipeline) wearOut(err error) {
	p.stopping = true // from now on, and not from when serve has heard of it
	p.worn.Store(&err)
	p.log.Error("handlers ignore the end of their context: nothing starts any more, and this process ends", "handlers", p.strays.String(), "err", err)
	p.wornOut <- err // capacity one, and stopping is never taken back
}
