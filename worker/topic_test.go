package worker_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/internal/testkit"
)

// A topic is deleted and made anew: the worker ends, to be started again, and leaves
// no offset of the old one behind.
func TestAWorkerWhoseTopicWasDeletedEndsToBeStartedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalogText)
	l := newLedger()
	r := w.start("a", nil, ledgered(l))
	w.sendJobs(20)
	l.doneWithin(t, 20)
	w.committedAll("jobs")
	w.makeAnew("jobs")
	w.sendJobs(5)
	r.endsToBeStartedAgain(t)
	w.start("b", nil, ledgered(l))
	l.doneWithin(t, 25)
}

// An offset of the old topic comes to stand for the new one: a broker that knows
// topics by their names only takes it as long as the worker has not noticed. The
// next worker runs all of the new topic nevertheless.
func TestAnOffsetOfADeletedTopicSkipsNothingOfTheNextOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t, strings.ReplaceAll(onePartition, "2s", "10m"))
	w.opts = []kgo.Opt{kgo.MaxVersions(kversion.V4_0_0()), kgo.MetadataMinAge(time.Minute)}
	l, release := newLedger(), make(chan struct{})
	r := w.start("a", nil, l.holding(release, func(job, int) bool { return true }))
	w.sendJobs(10)
	testkit.Eventually(t, wait, func() (bool, string) {
		began, _, _ := l.count()
		return began == 10, fmt.Sprintf("%d began", began)
	})
	w.makeAnew("jobs")
	close(release)
	testkit.Eventually(t, wait, func() (bool, string) {
		got, err := kadm.NewClient(w.cl).FetchOffsets(t.Context(), w.names.WorkerGroup("jobs"))
		if err != nil {
			return false, err.Error()
		}
		at, _ := got.Lookup(w.names.Tasks("jobs"), 0)
		return at.At == 10, fmt.Sprintf("the old topic's offset does not stand for the new one, but %d", at.At)
	})
	ids := w.sendJobs(20)
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	w.start("b", nil, ledgered(l))
	testkit.Eventually(t, wait, func() (bool, string) {
		for _, id := range ids {
			if l.runsOf(id) == 0 {
				return false, id + " did not run"
			}
		}
		return true, ""
	})
	w.committedAll("jobs")
	l.doneWithin(t, 30)
	if _, _, twice := l.count(); twice > 0 {
		t.Errorf("%d ran twice", twice)
	}
}

// makeAnew deletes a queue's topic and makes another of its name.
func (w *world) makeAnew(queue string) {
	w.Helper()
	adm := kadm.NewClient(w.cl)
	if _, err := adm.DeleteTopic(w.Context(), w.names.Tasks(queue)); err != nil {
		w.Fatal(err)
	}
	testkit.Eventually(w, wait, func() (bool, string) {
		topics, err := adm.ListTopics(w.Context(), w.names.Tasks(queue))
		return err == nil && len(topics.Names()) == 0 || topics.Error() != nil, "the topic is still there"
	})
	w.ensureTopics()
	w.cl.PurgeTopicsFromProducing(w.names.Tasks(queue))
}

// endsToBeStartedAgain waits for a worker's end.
func (r *runningWorker) endsToBeStartedAgain(t testing.TB) {
	t.Helper()
	select {
	case <-r.done:
		if exit.Code(r.err) != exit.Again {
			t.Fatalf("it ended with %v", r.err)
		}
		r.err = nil // looked at
	case <-time.After(wait):
		t.Fatal("it goes on")
	}
}
