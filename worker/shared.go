package worker

// The other way in: a queue with delivery: shared. Kafka gives any record to any
// worker, under a lock that it must be told to renew, and takes no offsets but
// an answer for each record (share groups, KIP-932).
//
// What a lock is worth: nothing is decided by it. It runs out unseen, and ends
// with the connection; then somebody else is given the same record while this
// worker has it in hand. Claims decide who runs, as everywhere, and no row of
// theirs leans on where such a record lies (claims.Record.Shared). So a record may be
// accepted as soon as what it stands for is durable elsewhere, by whoever has it.

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/kafka"
)

const (
	// sharedFetch is the most that one fetch of a broker locks for this worker, and
	// half of its slots if that is less: what it has no slot for is kept from
	// workers that have, and a fetch costs the broker as much as many records.
	sharedFetch = 64
	// sharedSweep is how often what a fetch brought after its poll is looked for.
	sharedSweep = time.Second
)

// shareGroup is what an intake has where its queue is shared. What is below the
// line belongs to the pipeline's loop.
type shareGroup struct {
	asg      atomic.Pointer[assignment] // stands for the process: who has the claims
	often    int32                      // deliveries of a record from which on it is produced once more
	unpolled atomic.Int64               // fetched, locked, and not handed over by a poll yet
	lock     atomic.Int64               // the shortest lock seen, a time.Duration; 0 = none yet

	held  map[*delivery]struct{}
	renew time.Time // when the locks are next renewed
	aside time.Time // when who cannot start is next looked at
}

// shared reports whether d came by a share group.
func (d *delivery) shared() bool { return d.asg.intake.share != nil }

// openShared makes in the intake of a shared queue: the group must begin at the
// beginning of the topic, or nothing begins.
func (w *Worker) openShared(ctx context.Context, in *intake) error {
	in.group = w.deps.Names.ShareGroup(in.queue)
	in.share = &shareGroup{held: map[*delivery]struct{}{}}
	deliveries, err := kafka.CheckShareGroup(ctx, kadm.NewClient(w.producer), w.producer, in.group)
	if err != nil {
		return fmt.Errorf("queue %s: %w", in.queue, err)
	}
	in.share.often = int32(produceAgainFrom(deliveries))
	in.gate.maxRecords = w.cfg.Concurrency
	w.enterShared(in)
	return nil
}

// produceAgainFrom is the delivery from which on a record is produced once more
// before anything else: early, because those that are left are what a worker has
// to do it in, should the first that tries be killed.
func produceAgainFrom(limit int) int { return max(min(3, limit-1), 2) }

// enterShared gives an intake's records to this life of the process.
func (w *Worker) enterShared(in *intake) (before *assignment) {
	return in.share.asg.Swap(&assignment{
		intake: in, partition: -1, drained: make(chan struct{}), position: -1,
		owner: fmt.Sprintf("%s/%s/%d", w.cfg.Instance, *w.boot.Load(), w.generation.Add(1)),
	})
}

// reenterShared follows a removal: what did not start goes back to Kafka.
func (w *Worker) reenterShared() {
	for _, in := range w.intakes {
		if in.share == nil {
			continue
		}
		before := w.enterShared(in)
		w.p.orders.put(func(now time.Time) { w.p.drain([]*assignment{before}, now) })
	}
}

// sharedOpts are those of a share group's consumer.
func (w *Worker) sharedOpts(in *intake) []kgo.Opt {
	id, _ := w.producer.OptValue(kgo.ClientID).(string)
	return append(append([]kgo.Opt(nil), w.deps.Kafka...),
		kgo.ClientID(kafka.Nudgeable(id)),
		kgo.ShareGroup(in.group),
		kgo.ConsumeTopics(in.topic),
		kgo.ShareMaxRecords(int32(min(sharedFetch, max(w.cfg.Concurrency/2, 1)))),
		kgo.ShareMaxRecordsStrict(), // and nothing is fetched but while it polls
		kgo.FetchMaxWait(500*time.Millisecond),
		kgo.FetchMaxBytes(16<<20),
		kgo.FetchMaxPartitionBytes(4<<20),
		kgo.WithHooks(keepUnanswered{in.share}),
		kgo.ShareAckCallback(func(_ *kgo.Client, results kgo.ShareAckResults) { w.sharedAnswered(in, results) }),
	)
}

// keepUnanswered takes each record's handle away from the client's poll. A poll
// accepts every record of the one before that has no answer yet, and a renewed
// one too: it is made for consumers that finish a batch before the next. Here a
// record is in hand for as long as its task runs, beside later ones; accepted
// by a poll it would be lost with its worker.
type keepUnanswered struct{ group *shareGroup }

// OnFetchRecordBuffered implements kgo.HookFetchRecordBuffered.
func (h keepUnanswered) OnFetchRecordBuffered(r *kgo.Record) {
	h.group.unpolled.Add(1)
	r.Context = withheld{context.Background(), r.Context}
}

// withheld hides a record's context, in which the client looks for the handle.
type withheld struct {
	context.Context
	handle context.Context
}

// handle gives a polled record its handle back, so that it can be answered.
func handle(r *kgo.Record) {
	if c, ok := r.Context.(withheld); ok {
		r.Context = c.handle
	}
}

// pollShared fetches until ctx ends or the client can go on no more.
func (w *Worker) pollShared(ctx context.Context, in *intake) error {
	for {
		if err := in.roomOrLeftovers(ctx); err != nil {
			return nil // asked to stop
		}
		fetches := in.cl.PollRecords(ctx, perPoll)
		if ctx.Err() != nil {
			return nil // what came is locked until the group is left, in a moment
		}
		if err := w.handOverShared(ctx, in, fetches); err != nil {
			return err
		}
	}
}

// roomOrLeftovers waits until a record can be taken, or was fetched already.
func (in *intake) roomOrLeftovers(ctx context.Context) error {
	for in.share.unpolled.Load() == 0 {
		sweep, cancel := context.WithTimeout(ctx, sharedSweep)
		_, err := in.gate.wait(sweep)
		cancel()
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

func (w *Worker) handOverShared(ctx context.Context, in *intake, fetches kgo.Fetches) error {
	var fatal error
	asg := in.share.asg.Load()
	for _, f := range fetches {
		for _, t := range f.Topics {
			for _, fp := range t.Partitions {
				in.takeIn(w.p, asg, fp.Records)
				if fp.Err != nil {
					fatal = errors.Join(fatal, w.sharedFetchError(ctx, in, t.TopicID, fp.Partition, fp.Err))
				}
			}
		}
	}
	return fatal
}

// takeIn hands a poll's records to the pipeline.
func (in *intake) takeIn(p *pipeline, asg *assignment, recs []*kgo.Record) {
	if len(recs) == 0 {
		return
	}
	lock := time.Hour
	bytes := 0
	for _, r := range recs {
		handle(r)
		lock = min(lock, time.Until(r.AcquisitionDeadline()))
		bytes += recordSize(r)
	}
	if had := in.share.lock.Load(); lock > 0 && (had == 0 || int64(lock) < had) {
		in.share.lock.Store(int64(lock))
	}
	in.share.unpolled.Add(-int64(len(recs)))
	in.gate.add(len(recs), bytes)
	p.arrived.put(arrival{asg: asg, recs: recs})
}

// sharedFetchError decides what an error means; those that pass by themselves
// never come here.
func (w *Worker) sharedFetchError(ctx context.Context, in *intake, topicID [16]byte, partition int32, err error) error {
	switch {
	case errors.Is(err, kgo.ErrClientClosed), errors.Is(err, context.Canceled):
		return nil
	case errors.Is(err, kerr.GroupAuthorizationFailed), errors.Is(err, kerr.TopicAuthorizationFailed):
		return fmt.Errorf("queue %s: this user may not read topic %s in share group %s: %w", in.queue, in.topic, in.group, err)
	case partition >= 0 && isUnreadable(err):
		if err := w.burySharedUnreadable(ctx, in, topicID, partition, err); err != nil {
			w.log.Error("cannot make a dead letter of an unreadable batch, trying again", "queue", in.queue, "partition", partition, "err", err)
		}
		return nil
	}
	w.log.Warn("fetch failed, trying again", "queue", in.queue, "partition", partition, "err", err)
	return nil
}

// sharedAnswered notes answers that Kafka did not take: those records come again,
// to whoever, and their claims say what of them.
func (w *Worker) sharedAnswered(in *intake, results kgo.ShareAckResults) {
	for _, r := range results {
		if r.Err == nil {
			continue
		}
		w.met.shareErrors.WithLabelValues(in.queue).Inc()
		w.log.Info("answers for records of a shared queue came too late: Kafka gives those records out again", "queue", in.queue, "partition", r.Partition, "err", r.Err)
	}
}

// leaveShared sends the last answers and leaves: what has none goes to the others.
func (w *Worker) leaveShared(in *intake) {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	err := in.cl.FlushAcks(ctx)
	if err == nil {
		err = in.cl.LeaveGroupContext(ctx)
	}
	if err != nil {
		w.log.Warn("could not leave the share group: its records move when their locks run out", "group", in.group, "err", err)
	}
}
