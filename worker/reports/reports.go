// Package reports takes what is said about tasks from outside the workers: signs
// of life of a run, and how work that went on elsewhere has ended.
//
// It decides nothing that needs a task's policy. A success is written into the
// claims at once. A failure is noted there, and the task's record is produced
// once more, so that a worker acts on it: another attempt, or a letter. If that
// record is lost, the timer that the worker left in Kafka finds the note, later.
// See docs/decisions/0180-work-elsewhere.md.
package reports

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
)

const (
	readsAtOnce = 16               // records that are read back from Kafka at once
	hopTimeout  = 10 * time.Second // to read a record and to produce one
	endTimeout  = 2 * time.Second  // for Deps.Ended
)

// Claims is what this package asks of the claim store; *claims.Store has it.
type Claims interface {
	Get(ctx context.Context, ids ...string) ([]claims.Claim, error)
	Hear(ctx context.Context, g claims.Sign) (claims.Heard, error)
	Report(ctx context.Context, taskID string, run int64, failure []byte) (claims.ReportAnswer, bool, claims.Claim, error)
}

// Deps are what a Desk talks to. All but Log are required.
type Deps struct {
	Claims   Claims
	Producer *kgo.Client // acks=all
	Kafka    []kgo.Opt   // how to connect, for reading a record back
	Names    kafka.Names
	Source   string       // PERDURE_SOURCE: tasks of others are not known here
	Log      *slog.Logger // nil = silent

	// Ended is told of tasks that are completed, for what they held until then: a
	// unique key. nil = nobody.
	Ended func(ctx context.Context, taskID string) error
}

// Desk takes reports. Safe for concurrent use.
type Desk struct {
	deps  Deps
	reads chan struct{}
}

// New returns a Desk.
func New(deps Deps) (*Desk, error) {
	if deps.Claims == nil || deps.Producer == nil || len(deps.Kafka) == 0 || deps.Source == "" {
		return nil, errors.New("reports: they need claims, Kafka and the source's name")
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	return &Desk{deps: deps, reads: make(chan struct{}, readsAtOnce)}, nil
}

// refusal says why a run has nothing to say (any more).
type refusal struct {
	id    string
	run   int64
	claim claims.Claim
}

func (r *refusal) Error() string {
	said := fmt.Sprintf("run %d of task %s is not waited for: ", r.run, r.id)
	switch c := r.claim; c.State {
	case claims.Done:
		return said + "the task is completed"
	case claims.Cancelled:
		return said + "the task is cancelled"
	case claims.Dead:
		return said + "the task is dead (" + c.Reason + ")"
	case claims.None:
		return said + "no run of the task is known"
	default:
		if c.Run != r.run {
			return said + fmt.Sprintf("run %d has taken its place", c.Run)
		}
		if c.Report != nil {
			return said + "its end has been reported"
		}
		if c.State == claims.Running {
			return said + "a worker has it; it is reported from elsewhere only after 202 or worker.Pending"
		}
		return said + "its attempt has ended"
	}
}

// early reports whether the run is its task's present one, and a worker still has
// it: whoever does the work may end before the worker has written that it is theirs.
func (r *refusal) early() bool { return r.claim.State == claims.Running && r.claim.Run == r.run }

// Report is how work elsewhere ended.
type Report struct {
	TaskID  string
	Run     int64
	Outcome schemas.Outcome // completed, retry, dead, unknown
	Result  json.RawMessage // completed; nil = none
	Class   string          // the others: what the error is, without values
	Message string
	After   time.Duration // retry: not sooner
	By      string        // who says so
}

// take files a report. again: it was said before, and stood already.
func (d *Desk) take(ctx context.Context, r *Report) (again bool, err error) {
	if r.Outcome == schemas.OutcomeCompleted {
		return d.completed(ctx, r)
	}
	note, err := json.Marshal(&execution.Failure{Outcome: r.Outcome, Class: r.Class, Message: r.Message, After: r.After, By: r.By})
	if err != nil {
		return false, err
	}
	answer, _, c, err := d.deps.Claims.Report(ctx, r.TaskID, r.Run, note)
	switch {
	case err != nil:
		return false, err
	case answer == claims.ReportRefused:
		return false, &refusal{r.TaskID, r.Run, c}
	}
	if !wakes(&c) {
		return answer == claims.ReportKnown, nil
	}
	if err := d.wake(ctx, &c); err != nil {
		d.deps.Log.WarnContext(ctx, "a report is noted, but the worker that acts on it could not be told: it will be when its timer is due",
			"task_id", r.TaskID, "run", r.Run, "due", c.Due, "error", err)
	}
	return answer == claims.ReportKnown, nil
}

// wakes reports whether a record has to be produced: where the task waits at its
// own record, its worker looks by itself, and a second record of the same attempt
// would be one too many.
func wakes(c *claims.Claim) bool {
	return c.Coord.Topic != "" && c.State == claims.Waiting && !c.AtRecord
}

// completed says that the effect has happened. Kafka has the result before the
// task is done, so that whoever sees it done can have it.
func (d *Desk) completed(ctx context.Context, r *Report) (again bool, err error) {
	if r.Result != nil {
		now, err := d.deps.Claims.Get(ctx, r.TaskID)
		if err != nil {
			return false, err
		}
		if err := d.keep(ctx, r, &now[0]); err != nil {
			return false, err
		}
	}
	answer, resolve, c, err := d.deps.Claims.Report(ctx, r.TaskID, r.Run, nil)
	switch {
	case err != nil:
		return false, err
	case answer == claims.ReportRefused:
		return false, &refusal{r.TaskID, r.Run, c}
	}
	d.ended(ctx, r.TaskID)
	if resolve {
		return answer == claims.ReportKnown, d.resolve(ctx, r.TaskID, &c)
	}
	return answer == claims.ReportKnown, nil
}

// ended says so; if that fails, the timer that the worker left says it later.
func (d *Desk) ended(ctx context.Context, id string) {
	if d.deps.Ended == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	if err := d.deps.Ended(ctx, id); err != nil {
		d.deps.Log.WarnContext(ctx, "a task is completed; a unique key that it held is given back later", "task_id", id, "error", err)
	}
}

// keep writes a result, also of a run that was given up: its success counts.
func (d *Desk) keep(ctx context.Context, r *Report, c *claims.Claim) error {
	if c.State == claims.Done || c.State == claims.Cancelled || c.Run != 0 && r.Run > c.Run {
		return nil // said before, or refused in a moment
	}
	queue, ok := d.queueOf(c)
	if !ok {
		d.deps.Log.WarnContext(ctx, "a result is lost: Redis does not know any more whose it is", "task_id", r.TaskID, "run", r.Run)
		return nil
	}
	attempt := 0 // that of an earlier run is not known
	switch {
	case c.Run != r.Run:
	case c.State == claims.Waiting: // for the one after it
		attempt = max(c.Attempt-1, 1)
	default:
		attempt = c.Attempt
	}
	rec := dlq.EncodeEvent(&dlq.Event{
		TaskID: r.TaskID, Epoch: int(r.Run >> schemas.RunEpochShift), Attempt: attempt, Run: r.Run, Type: dlq.EventResult,
		At: time.Now().UTC(), Worker: r.By, Data: r.Result,
	})
	rec.Topic = d.deps.Names.Events(queue)
	return d.produce(ctx, rec)
}

// resolve tells the letters that a task which was dead, or replayed, is completed.
func (d *Desk) resolve(ctx context.Context, id string, c *claims.Claim) error {
	queue, ok := d.queueOf(c)
	if !ok {
		return nil // a replay finds it done, and says so then
	}
	key := id
	if rec, err := d.read(ctx, c.Coord); err == nil {
		key = string(rec.Key)
	} else {
		d.deps.Log.DebugContext(ctx, "the record of a completed task is gone: its letter is told under the task's id", "task_id", id, "error", err)
	}
	rec := dlq.Resolved(key, id, c.Epoch, time.Now())
	rec.Topic = d.deps.Names.DLQ(queue)
	return d.produce(ctx, rec)
}

// wake produces a task's record once more, for the attempt that it waits for.
func (d *Desk) wake(ctx context.Context, c *claims.Claim) error {
	queue, ok := d.queueOf(c)
	if !ok {
		return fmt.Errorf("%s is no queue's topic", c.Coord.Topic)
	}
	old, err := d.read(ctx, c.Coord)
	if err != nil {
		return err
	}
	t, err := schemas.DecodeRecord(old.Key, old.Value, old.Headers)
	if err != nil {
		return fmt.Errorf("record %s/%d at %d: %w", old.Topic, old.Partition, old.Offset, err)
	}
	t.Queue, t.Epoch, t.Attempt, t.Run, t.Due = queue, c.Epoch, c.Attempt, c.Run, time.Time{}
	headers := schemas.AppendRecordHeaders(make([]kgo.RecordHeader, 0, 20), &t)
	return d.produce(ctx, &kgo.Record{
		Topic: d.deps.Names.Tasks(queue), Key: old.Key, Value: old.Value,
		Headers: append(headers, kgo.RecordHeader{Key: schemas.HeaderTimer, Value: []byte(schemas.TimerElsewhere)}),
	})
}

func (d *Desk) queueOf(c *claims.Claim) (string, bool) {
	queue, ok := strings.CutPrefix(c.Coord.Topic, d.deps.Names.Tasks(""))
	return queue, ok && queue != ""
}

func (d *Desk) produce(ctx context.Context, rec *kgo.Record) error {
	ctx, cancel := context.WithTimeout(ctx, hopTimeout)
	defer cancel()
	if err := d.deps.Producer.ProduceSync(ctx, rec).FirstErr(); err != nil {
		return &awayError{fmt.Errorf("write to %s: %w", rec.Topic, err)}
	}
	return nil
}

// awayError is Kafka's.
type awayError struct{ error }

func (e *awayError) Unwrap() error { return e.error }

// read reads one record back.
func (d *Desk) read(ctx context.Context, at claims.Coord) (*kgo.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, hopTimeout)
	defer cancel()
	select {
	case d.reads <- struct{}{}:
		defer func() { <-d.reads }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	cl, err := kgo.NewClient(append(append([]kgo.Opt(nil), d.deps.Kafka...),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{at.Topic: {at.Partition: kgo.NewOffset().At(at.Offset)}}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.FetchMaxBytes(4<<20), kgo.FetchMaxPartitionBytes(2<<20))...)
	if err != nil {
		return nil, fmt.Errorf("read record %d of %s/%d: %w", at.Offset, at.Topic, at.Partition, err)
	}
	defer cl.Close()
	fetches := cl.PollRecords(ctx, 1)
	for it := fetches.RecordIter(); !it.Done(); {
		if rec := it.Next(); rec.Offset == at.Offset {
			return rec, nil
		}
	}
	err = fetches.Err()
	if err == nil {
		err = errors.New("it is not there any more")
	}
	return nil, fmt.Errorf("read record %d of %s/%d: %w", at.Offset, at.Topic, at.Partition, err)
}
