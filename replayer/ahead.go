package replayer

// The next slice of a replay that has no rate is read and weighed while one moves: Postgres
// reads in one session what others write.

import (
	"context"
	"slices"
	"time"
)

// ahead is a slice that was read before its turn.
type ahead struct {
	job   string
	after int64
	n     int
	at    time.Time
	done  chan struct{} // closed once list is there, or nothing is
	list  []letter
}

// staleAhead is how old a slice may be that was read ahead. What changed of a letter since
// is seen when it moves; a task that was completed since absorbs its replay (judge); but a
// deadline may have passed. Letters that could not go then are read again: somebody may have
// released one, or its task was about to end.
const staleAhead = 5 * time.Second

// readAhead begins to read the n letters behind a place.
func (r *Replayer) readAhead(ctx context.Context, j *job, after int64, n int) {
	r.dropAhead()
	a := &ahead{job: j.id, after: after, n: n, at: time.Now(), done: make(chan struct{})}
	r.ahead = a
	of := *j
	go func() {
		defer close(a.done)
		if list, err := r.next(ctx, &of, after, n); err == nil { // else it is read in its turn, which says why it cannot be
			a.list = list
		}
	}()
}

// readBefore returns the n letters behind a place if they were read ahead; nil: they were not.
func (r *Replayer) readBefore(j *job, after int64, n int) []letter {
	a := r.ahead
	r.dropAhead()
	if a == nil || a.job != j.id || a.after != after || a.n != n || j.state != Running || time.Since(a.at) > staleAhead {
		return nil
	}
	if slices.ContainsFunc(a.list, func(l letter) bool { return l.why != "" && !l.why.doubt() }) {
		return nil
	}
	return a.list
}

// dropAhead waits for what is being read ahead, and forgets it.
func (r *Replayer) dropAhead() {
	if r.ahead != nil {
		<-r.ahead.done
		r.ahead = nil
	}
}
