package worker

// A delivery: one record of a task in this worker's hands.

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/tracker"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
)

// assignment is one partition for as long as it is ours: one generation. What
// is below the line belongs to the pipeline's loop.
type assignment struct {
	intake    *intake
	partition int32
	owner     string           // of its claims: <instance>/<boot nonce>/<generation>
	tracker   *tracker.Tracker // nil until the first fetch
	topicID   [16]byte
	position  int64 // of the next fetch, as far as records tell; the poller's own

	blocksKnown bool        // blocks of earlier owners were read
	unready     []*delivery // their turn has come, and they wait for that

	draining bool // it goes away: nothing of it starts any more
	busy     int  // deliveries between their claim and their last word
	drained  chan struct{}
	oldest   oldest
}

// delivery belongs to the pipeline's loop, except while an executor runs it.
type delivery struct {
	task schemas.Task
	kind *kind // nil: this worker's catalog does not have it
	asg  *assignment
	rec  *kgo.Record
	size int
	line *keyLine // order: key; nil = none

	due       time.Time     // in the waiting heap: when to go on
	parked    time.Time     // shared: since when another owner runs it; zero = not
	seen      time.Time     // of an unknown kind: since when it waits here
	heapAt    int           // index there, -1 = not in it
	elsewhere time.Duration // its work goes on elsewhere, and may be silent for so long; 0 = it does not
	condemn   schemas.Reason
	why       execution.Result // of the condemnation, or of the last attempt
	attempt   int              // to ask for, then the one granted
	run       int64
	crashes   int
	lease     *claims.Lease // of its grant; goes back with its outcome
	try       *tryOut       // under way; nil = none, or it has ended
	holder    int           // its place among the pipeline's claimed, from one; 0 = it is not there
	history   []dlq.Attempt
	started   time.Time
	asks      int // of the reconcile hook that gave no answer

	word      schemas.Line    // to its key's line; zero = it says nothing
	blockedBy string          // the letter that it waits for
	resume    func(time.Time) // what it does when its wait is over, before anything else

	hop []*kgo.Record // what Kafka must have before the acknowledgement

	// Together, for a worker holds thousands.
	lent      bool // shared: it waits, and its room is another's
	local     bool // its claim waits here (W): re-asserted if Redis is lost
	timer     bool // its record sees after work that goes on elsewhere
	inDoubt   bool
	first     bool // its run is the first that the task was ever granted, as far as is known
	known     bool // it was asked about before, and has a claim
	cancelled bool // somebody asked, and its context was ended
	alone     bool // a suspect that runs while nothing else does
	probe     bool // its kind's breaker is open and waits for what comes of it
	blocked   bool // its own block stands
	rehop     bool // Kafka refused the hop: try that again, not the claim
}

func (d *delivery) coord() claims.Coord {
	return claims.Coord{Topic: d.rec.Topic, Partition: d.rec.Partition, Offset: d.rec.Offset}
}

func (d *delivery) record() claims.Record {
	return claims.Record{
		TaskID: d.task.ID, Epoch: d.task.Epoch, Attempt: d.attempt, Run: max(d.task.Run, d.run), Coord: d.coord(),
		Once: d.kind != nil && d.kind.Effects == schemas.EffectsOnce, Alone: d.alone, Known: d.known,
		Shared: d.shared(), Timer: d.timer || d.elsewhere > 0, Ends: d.condemn != "",
	}
}

// letterID is the letter of its death.
func (d *delivery) letterID() string { return dlq.LetterID(d.task.ID, d.task.Epoch) }

// ordered reports whether tasks of its key must not overlap.
func (d *delivery) ordered() bool {
	return d.task.Key != "" && (d.task.Ordered || d.word.Verb != "" || d.kind != nil && d.kind.Ordered)
}

// remember adds the attempt that just failed to the history.
func (d *delivery) remember(r execution.Result, instance string, now time.Time) {
	d.why = r
	d.history = append(d.history, dlq.Attempt{
		N: d.attempt, Run: d.run, Start: d.started.UTC(), End: now.UTC(), Worker: instance,
		ErrorClass: r.Class, Message: r.Message, Stack: r.Stack, Fingerprint: r.Fingerprint,
	})
}

// holders are deliveries that hold a claim R, in no order.
type holders struct{ list []*delivery }

func (h *holders) add(d *delivery) {
	if d.holder == 0 {
		h.list = append(h.list, d)
		d.holder = len(h.list)
	}
}

// remove takes a delivery out, if it is there.
func (h *holders) remove(d *delivery) {
	if d.holder == 0 {
		return
	}
	end := len(h.list) - 1
	last := h.list[end]
	h.list[d.holder-1], last.holder = last, d.holder
	h.list[end], h.list = nil, h.list[:end]
	d.holder, d.try = 0, nil
}
