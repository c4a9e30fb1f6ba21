package dispatcher

// The scaling signal. What waits is counted where it waits (outbox, scheduled
// and due, parked, uncommitted in Kafka), so that it is right with no worker
// running. How many workers that needs is learned from the rates between two
// signals:
//
//	desired = ceil((arrivals a second + backlog / drainIn) / what one worker does a second)
//
// at least 1 while anything waits, at most the partitions; more could not work.
// Before a rate is known it is the workers there are, or 1.

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/schemas"
)

const (
	drainIn      = 30 * time.Second       // a backlog should be gone after this
	saturated    = 5 * time.Second        // a longer backlog: the workers do all they can
	sampleApart  = 2 * time.Second        // rates are over at least this
	signalMaxAge = 500 * time.Millisecond // asked again sooner: the same answer
)

// sample is what was seen of a queue at one moment.
type sample struct {
	at        time.Time
	tasks     int64   // that wait
	oldest    float64 // seconds
	workers   int
	produced  int64 // sum of end offsets
	committed int64 // sum of committed offsets
}

// rates are learned from samples of one queue.
type rates struct {
	mu        sync.Mutex // one signal of a queue at a time
	last      sample     // of the rates
	arrivals  float64    // a second
	finished  float64    // a second
	perWorker float64    // a second; 0: not known
	answer    Scaling
	answered  time.Time
}

type scaling struct {
	db     DB
	cat    *schemas.Catalog
	kafka  *kadm.Client // nil: none
	names  kafka.Names
	queues map[string]*rates
}

func newScaling(db DB, cat *schemas.Catalog, adm *kadm.Client, names kafka.Names) *scaling {
	s := &scaling{db: db, cat: cat, kafka: adm, names: names, queues: map[string]*rates{}}
	for _, q := range cat.QueueNames() {
		s.queues[q] = &rates{}
	}
	return s
}

// mostSharing is how many members Kafka lets into a share group by default
// (group.share.max.size).
const mostSharing = 200

// signal asks Postgres and Kafka. away names the one that failed.
func (s *scaling) signal(ctx context.Context, queue string) (out Scaling, away string, err error) {
	r := s.queues[queue]
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.answered) < signalMaxAge {
		return r.answer, "", nil
	}
	if s.kafka == nil {
		return out, "Kafka", errors.New("dispatcher: no Kafka client")
	}
	now := sample{at: time.Now()}
	if err := s.waitingInPostgres(ctx, queue, &now); err != nil {
		return out, "Postgres", err
	}
	if err := s.waitingInKafka(ctx, queue, &now); err != nil {
		return out, "Kafka", err
	}
	most := s.cat.Queues[queue].Partitions // a worker more has nothing to do
	if s.cat.Queues[queue].Shared {
		most = mostSharing
	}
	r.answer, r.answered = r.next(now, most), time.Now()
	return r.answer, "", nil
}

// next learns from a sample and gives the signal.
func (r *rates) next(now sample, most int) Scaling {
	if r.last.at.IsZero() {
		r.last = now
	} else if dt := now.at.Sub(r.last.at).Seconds(); dt >= sampleApart.Seconds() {
		r.arrivals = max(0, float64(now.produced-r.last.produced)/dt)
		r.finished = max(0, float64(now.committed-r.last.committed)/dt)
		r.learn(now, r.last.workers)
		r.last = now
	}
	out := Scaling{BacklogTasks: now.tasks, OldestSeconds: now.oldest, Running: now.workers}
	if r.finished > 0 {
		out.BacklogSeconds = float64(now.tasks) / r.finished
	}
	switch {
	case now.tasks == 0 && r.arrivals == 0:
		out.DesiredWorkers = 0
	case r.perWorker == 0 || r.finished == 0 && now.workers > 0:
		// Not known, or nothing gets done: a breaker is open, a dependency away.
		// More workers would not mend that.
		out.DesiredWorkers = max(1, now.workers)
	default:
		need := (r.arrivals + float64(now.tasks)/drainIn.Seconds()) / r.perWorker
		out.DesiredWorkers = max(1, int(math.Ceil(need)))
	}
	out.DesiredWorkers = min(out.DesiredWorkers, most)
	return out
}

// learn notes what one worker does: all it can while there is a backlog, else
// at least what it did.
func (r *rates) learn(now sample, before int) {
	if now.workers == 0 || now.workers != before || r.finished == 0 {
		return
	}
	did := r.finished / float64(now.workers)
	if float64(now.tasks)/r.finished > saturated.Seconds() {
		if r.perWorker == 0 {
			r.perWorker = did
		}
		r.perWorker += (did - r.perWorker) / 2
		return
	}
	r.perWorker = max(r.perWorker, did)
}
