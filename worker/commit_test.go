package worker_test

// A commit that the broker does not take as it is.

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/worker"
)

// TestABrokerThatTakesNoMetadataGetsTheOffset: its offset.metadata.max.bytes may
// be lower than what a commit needs here.
func TestABrokerThatTakesNoMetadataGetsTheOffset(t *testing.T) {
	t.Parallel()
	cluster, onCluster := onControlled(t)
	var refused, bare atomic.Int64 // bare: those that came without metadata after they were refused with it
	last := int64(-1)              // the offset refused last
	cluster.ControlKey(int16(kmsg.OffsetCommit), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		req := kreq.(*kmsg.OffsetCommitRequest)
		resp := req.ResponseKind().(*kmsg.OffsetCommitResponse)
		for _, rt := range req.Topics {
			st := kmsg.NewOffsetCommitResponseTopic()
			st.Topic, st.TopicID = rt.Topic, rt.TopicID
			for _, rp := range rt.Partitions {
				if rp.Metadata == nil || *rp.Metadata == "" {
					if rp.Offset == last {
						bare.Add(1)
					}
					return nil, nil, false // one partition: this is the whole commit
				}
				last = rp.Offset
				sp := kmsg.NewOffsetCommitResponseTopicPartition()
				sp.Partition, sp.ErrorCode = rp.Partition, kerr.OffsetMetadataTooLarge.Code
				st.Partitions = append(st.Partitions, sp)
			}
			resp.Topics = append(resp.Topics, st)
		}
		refused.Add(1)
		return resp, nil, true
	})
	w := newWorld(t, onePartition, onCluster)
	var log lockedBuffer
	w.log = slog.New(slog.NewTextHandler(&log, nil))
	l, release := newLedger(), make(chan struct{})
	a := w.start("a", nil, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(_ context.Context, task *worker.Task[job]) error {
			l.began(task.ID, task.Run)
			if task.Payload.Mode == "long" {
				<-release
			}
			return l.applied(task.ID, task.Run)
		})
	})
	w.send(w.task("job.run", job{Mode: "long"})) // what is complete behind it goes into metadata
	for round := range int64(2) {
		w.sendJobs(20)
		l.doneWithin(t, 20*int(round+1))
		testkit.Eventually(t, wait, func() (bool, string) {
			return refused.Load() > round && bare.Load() > round, fmt.Sprintf("%d commits were refused, %d came without metadata", refused.Load(), bare.Load())
		})
	}
	close(release)
	w.committedAll("jobs")
	if n := a.count(t, "perdure_worker_commit_errors_total", ""); n != 0 {
		t.Errorf("%v commits are counted as failed", n)
	}
	if lines := log.lines("offset.metadata.max.bytes"); len(lines) != 1 {
		t.Errorf("said %d times, want once: %s", len(lines), lines)
	}
}
