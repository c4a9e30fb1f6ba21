package replayer

// The next slice of a replay that has no rate is read and weighed while one moves: Postgres
// reads in one session what others write.

import (
	"context"
	"slices"
	"time"

	"github.com/perdure/perdure/schemas"
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
// deadline may have passed.
const staleAhead = 5 * time.Second

// readAhead begins to read the n letters behind a place, unless another job's wait for their
// turn: jobs that take turns would read each slice twice.
func (r *Replayer) readAhead(ctx context.Context, j *job, after int64, n int) {
	if a := r.ahead; a != nil && a.job != j.id && !a.stale() {
		return
	}
	r.dropAhead()
	ctx, cancel := context.WithTimeout(ctx, staleAhead)
	a := &ahead{job: j.id, after: after, n: n, at: time.Now(), done: make(chan struct{})}
	r.ahead = a
	of := *j
	go func() {
		defer cancel()
		defer close(a.done)
		if list, err := r.next(ctx, &of, after, n); err == nil { // else it is read in its turn, which says why it cannot be
			a.list = list
		}
	}()
}

// readBefore returns the n letters behind a place if they were read ahead; nil: they were
// not, or one of them could not go then and may now.
func (r *Replayer) readBefore(j *job, after int64, n int) []letter {
	a := r.ahead
	if a == nil || a.job != j.id && !a.stale() {
		return nil // the other job's turn comes
	}
	r.dropAhead()
	if a.job != j.id || a.after != after || a.n != n || j.state != Running || a.stale() || slices.ContainsFunc(a.list, mayPass) {
		return nil
	}
	return a.list
}

// mayPass reports whether what speaks against a letter may be over in a moment: somebody
// releases it, its task ends, its row comes.
func mayPass(l letter) bool {
	if l.why == "" || l.why.doubt() {
		return false
	}
	return l.why.word() == runningWord || l.state != schemas.LetterOpen && l.state != schemas.LetterResolved // no state: no row
}

func (a *ahead) stale() bool { return time.Since(a.at) >= staleAhead }

// dropAhead forgets what is being read ahead. It waits for it while it is of use: Redis may
// answer much later, and a job's lease does not wait.
func (r *Replayer) dropAhead() {
	a := r.ahead
	if a == nil {
		return
	}
	r.ahead = nil
	late := time.NewTimer(staleAhead - time.Since(a.at))
	defer late.Stop()
	select {
	case <-a.done:
	case <-late.C:
	}
}
