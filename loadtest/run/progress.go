package run

// How a run goes on, while it does.

import (
	"fmt"
	"io"
	"sync"
	"time"
)

const showEvery = 200 * time.Millisecond

// show calls Options.Progress until the returned function is called.
func (l *Loader) show() (stop func()) {
	if l.opts.Progress == nil {
		return func() {}
	}
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(showEvery)
		defer tick.Stop()
		last, at := int64(0), time.Now()
		for {
			select {
			case <-end:
				return
			case now := <-tick.C:
				begun := l.Tally.distinct.Load()
				l.opts.Progress(Progress{
					Phase: *l.phase.Load(), Tasks: len(l.Tally.due), Accepted: int(l.Tally.sent.Load()), Begun: int(begun),
					Elapsed: time.Since(l.Tally.began), BegunPerSecond: float64(begun-last) / now.Sub(at).Seconds(),
				})
				last, at = begun, now
			}
		}
	})
	return func() {
		close(end)
		wg.Wait()
	}
}

// Line shows a Progress on one line of a terminal, always the same; done wipes
// it.
func Line(w io.Writer) (show func(Progress), done func()) {
	const wipe = "\r\x1b[2K"
	return func(p Progress) {
			share := 100 * float64(p.Begun) / float64(max(1, p.Tasks))
			fmt.Fprintf(w, "%s%5.1fs  %s: accepted %d, begun %d of %d (%.0f%%), %.0f/s",
				wipe, p.Elapsed.Seconds(), p.Phase, p.Accepted, p.Begun, p.Tasks, share, p.BegunPerSecond)
		}, func() {
			fmt.Fprint(w, wipe)
		}
}
