package worker_test

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/internal/testkit"
)

// A topic is deleted and made anew: the worker ends, to be started again, and leaves
// no offset of the old one behind.
func TestAWorkerWhoseTopicWasDeletedEndsToBeStartedAgain(t *testing.T) {
	w := newWorld(t, catalogText)
	l := newLedger()
	r := w.start("a", nil, ledgered(l))
	w.sendJobs(20)
	l.doneWithin(t, 20)
	w.committedAll("jobs")
	adm := kadm.NewClient(w.cl)
	if _, err := adm.DeleteTopic(t.Context(), w.names.Tasks("jobs")); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		topics, err := adm.ListTopics(t.Context(), w.names.Tasks("jobs"))
		return err == nil && len(topics.Names()) == 0 || topics.Error() != nil, "the topic is still there"
	})
	w.ensureTopics()
	w.cl.PurgeTopicsFromProducing(w.names.Tasks("jobs"))
	w.sendJobs(5)
	select {
	case <-r.done:
		if exit.Code(r.err) != exit.Again {
			t.Fatalf("it ended with %v", r.err)
		}
		r.err = nil // looked at
	case <-time.After(time.Minute):
		t.Fatal("it goes on")
	}
	w.start("b", nil, ledgered(l))
	l.doneWithin(t, 25)
}
