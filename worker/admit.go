package worker

// Stage admit: what a record is, and whether its turn has come.

import (
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
)

const (
	// headerUnknownSince is when a worker first met the kind and did not know
	// it, Unix milliseconds: on the records of its tour through the delay tiers.
	headerUnknownSince = "perdure_unknown_since"

	unknownKindPatience = time.Hour
	unknownKindRecheck  = 30 * time.Second // where it waits in the worker
)

// stepAdmit lets go on what has waited long enough.
func (p *pipeline) stepAdmit(now time.Time) {
	for len(p.waiting) > 0 && !p.waiting[0].due.After(now) && !p.stopping {
		d := p.waiting.next()
		d.due = time.Time{}
		p.enter(d, now)
	}
}

// admitNew takes a record that nobody has looked at yet.
func (p *pipeline) admitNew(asg *assignment, r *kgo.Record) {
	now := time.Now()
	d := &delivery{asg: asg, rec: r, size: recordSize(r), heapAt: -1}
	if isNudge(r) {
		p.hold(d)
		p.ack(d, now)
		return
	}
	var err error
	d.task, err = schemas.DecodeRecord(r.Key, r.Value, r.Headers)
	d.task.Queue = asg.intake.queue
	if err == nil {
		d.attempt, d.due = d.task.Attempt, d.task.Due
		d.timer = d.attempt > 1 && isTimer(r)
		if d.task.Line != "" {
			d.word, _ = schemas.ParseLine(d.task.Line) // it was decoded, so it is one
		}
		rec := d.record()
		err = rec.Check()
	}
	if err != nil {
		p.buryUndecodable(d, err, now)
		return
	}
	d.kind = p.kinds[d.task.Kind]
	if d.word.Mark() && d.task.Key != "" && !d.shared() {
		if p.joinLine(d) {
			p.enter(d, now)
		}
		return
	}
	if d.kind != nil && d.kind.Queue != d.task.Queue {
		d.kind = nil // a kind of another queue: this queue's catalog does not have it
	}
	if d.shared() {
		asg.intake.share.held[d] = struct{}{}
		if p.produceAgain(d) {
			return
		}
	}
	if d.kind == nil && (!d.ordered() || d.shared()) && p.tourUnknownKind(d, now) {
		return
	}
	if d.ordered() && !p.joinLine(d) {
		return // behind another of its key
	}
	p.enter(d, now)
}

// isNudge reports whether a record is no task, but there to be acknowledged: of a
// shared queue, and maybe left from the time when the queue was one. What has more than
// the header is not, whoever wrote it: nothing is acknowledged without a trace.
func isNudge(r *kgo.Record) bool {
	has := func(name string) bool {
		return slices.ContainsFunc(r.Headers, func(h kgo.RecordHeader) bool { return h.Key == name })
	}
	return len(r.Value) == 0 && has(schemas.HeaderNudge) && !has(schemas.HeaderID)
}

// enter sends a delivery whose key's turn it is to where it belongs now.
func (p *pipeline) enter(d *delivery, now time.Time) {
	p.takeBack(d)
	switch {
	case d.due.After(now):
		p.wait(d, d.due)
	case d.resume != nil:
		again := d.resume
		d.resume = nil
		again(now)
	case d.rehop:
		d.rehop = false
		p.hold(d)
		p.produce(d)
	case d.condemn != "":
		p.ready.push(d, false)
	case !d.asg.blocksKnown && d.line != nil && (d.word.Mark() || d.blocking()):
		d.asg.unready = append(d.asg.unready, d)
	case d.word.Mark() && d.line != nil:
		p.toldLine(d, now)
	case p.behind(d) != "":
		p.waitsFor(d, p.behind(d))
	case d.word.Verb == schemas.LineDead:
		p.condemn(d, schemas.ReasonSchema, execution.Result{Class: "schema", Message: d.word.Why})
	case d.task.Expired(now):
		p.condemn(d, schemas.ReasonExpired, execution.Result{
			Class: "expired", Message: "the deadline " + d.task.Deadline.UTC().Format(time.RFC3339) + " passed before the task could run",
		})
	case d.kind != nil:
		p.ready.push(d, false)
	case now.Sub(unknownSince(d.rec, now)) >= unknownKindPatience || now.Sub(d.firstSeen(now)) >= unknownKindPatience:
		p.condemn(d, schemas.ReasonUnknownKind, execution.Result{
			Class: "unknown kind", Message: "no worker of this queue knew the kind for " + unknownKindPatience.String(),
		})
	default:
		// Ordered, so it waits here with its key parked.
		p.met.waiting.WithLabelValues(d.task.Queue, string(schemas.WaitUnknownKind)).Inc()
		p.wait(d, now.Add(unknownKindRecheck))
	}
}

func (p *pipeline) wait(d *delivery, until time.Time) {
	d.due = until
	p.lend(d)
	p.waiting.add(d)
}

// condemn lets a task die without running it. The claims have the last word: a
// duplicate of a task that runs or is done must not become a dead letter.
func (p *pipeline) condemn(d *delivery, reason schemas.Reason, why execution.Result) {
	d.condemn, d.why = reason, why
	if d.kind == nil {
		d.kind = p.unknown
	}
	p.ready.push(d, false)
}

// tourUnknownKind sends a record whose kind is not in this worker's catalog (a
// deploy that is still rolling out) through the short delay tiers, where another
// worker may meet it next. It reports false when the patience has ended.
func (p *pipeline) tourUnknownKind(d *delivery, now time.Time) bool {
	since := unknownSince(d.rec, now)
	waited := now.Sub(since)
	if waited >= unknownKindPatience {
		return false
	}
	delay := min(max(waited/4, kafka.Tiers[0].Delay), 2*time.Minute)
	tier, ok := kafka.TierFor(delay)
	if !ok {
		tier = kafka.Tiers[0]
	}
	t := d.task
	t.Due = now.Add(tier.Delay)
	rec := &kgo.Record{
		Topic: p.deps.Names.Retry(tier.Name), Key: d.rec.Key, Value: d.rec.Value,
		Headers: append(schemas.AppendRetryHeaders(make([]kgo.RecordHeader, 0, 20), &t),
			kgo.RecordHeader{Key: headerUnknownSince, Value: strconv.AppendInt(nil, since.UnixMilli(), 10)}),
	}
	if d.timer {
		rec.Headers = append(rec.Headers, timerHeader)
	}
	p.met.waiting.WithLabelValues(d.task.Queue, string(schemas.WaitUnknownKind)).Inc()
	if waited == 0 {
		p.log.Warn("a task of a kind that this worker's catalog does not have waits for a worker that does",
			"task_id", t.ID, "kind", t.Kind, "queue", t.Queue)
		p.tell(d, dlq.EventWaiting, execution.Result{}, map[string]any{"reason": schemas.WaitUnknownKind})
	}
	p.hold(d)
	d.hop = []*kgo.Record{rec}
	p.produce(d)
	return true
}

// unknownSince reads how long a record is on tour; now if it is not.
func unknownSince(r *kgo.Record, now time.Time) time.Time {
	for _, h := range r.Headers {
		if h.Key == headerUnknownSince && len(h.Value) < 20 {
			if ms, err := strconv.ParseInt(string(h.Value), 10, 64); err == nil && ms > 0 {
				return time.UnixMilli(ms)
			}
		}
	}
	return now
}

// firstSeen is when this worker first held a delivery that waits here.
func (d *delivery) firstSeen(now time.Time) time.Time {
	if d.seen.IsZero() {
		d.seen = now
	}
	return d.seen
}

// buryUndecodable makes a dead letter of a record that is no task: raw bytes and
// headers as they came, known by where it lay. Nothing ever held a claim on it.
func (p *pipeline) buryUndecodable(d *delivery, err error, now time.Time) {
	reason := schemas.ReasonUndecodable
	var de *schemas.DecodeError
	if errors.As(err, &de) {
		reason = de.Reason()
	}
	p.hold(d)
	d.condemn, d.why = reason, execution.Result{Class: "undecodable", Message: err.Error()}
	d.hop = []*kgo.Record{p.letter(d, reason, nil, now)}
	p.produce(d)
	p.log.Warn("an undecodable record becomes a dead letter", "topic", d.rec.Topic, "partition", d.rec.Partition, "offset", d.rec.Offset, "err", err)
}
