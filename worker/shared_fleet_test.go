package worker_test

// Workers of a shared queue, killed again and again, and then the ledger.

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

const sharedFleetCatalog = `
version: 1
queues:
  jobs: {partitions: 2, replication: 1, delivery: shared}
kinds:
  job.run:
    queue: jobs
    timeout: 60s
    effects: fenced
    retry: {max_attempts: 20, initial_delay: 20ms, max_delay: 50ms}
  job.keyed:
    queue: jobs
    timeout: 60s
    effects: fenced
`

func TestSharedRollingKillsLoseNothing(t *testing.T) { sharedKills(t, 3, 600, 300) }

// sharedKills puts n tasks of ms and up onto a shared queue of two partitions and kills the
// workers of a fleet of six, one after the other, while they run them.
func sharedKills(t *testing.T, kills, n, ms int) {
	t.Parallel()
	f := newFleetOf(t, sharedFleetCatalog)
	recs := make([]*kgo.Record, n)
	for i := range recs {
		task := f.task("job.run", duty{N: i, Partition: int32(i % 2), MS: ms + 10*(i%100)})
		f.sent[task.ID] = duty{N: i}
		recs[i] = &kgo.Record{
			Topic: f.names.Tasks("jobs"), Partition: int32(i % 2), Key: []byte(task.RecordKey()), Value: task.Payload,
			Headers: schemas.AppendRecordHeaders[kgo.RecordHeader](nil, &task),
		}
	}
	if err := f.load.ProduceSync(t.Context(), recs...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	men := make([]*man, 6)
	for i := range men {
		men[i] = f.hire(fmt.Sprintf("w%d", i), true)
	}
	killed := 0
	for ; killed < kills && f.ledger.appliedCount() < n; killed++ {
		m := men[killed%len(men)]
		m.runs()
		m.signal(syscall.SIGKILL)
		<-m.died
		men[killed%len(men)] = f.hire(m.name, true)
	}
	// A task whose workers were killed three times while it ran alone is poison by
	// the rules: dead, with a letter, and not lost.
	poison := map[string]bool{}
	testkit.Eventually(t, 8*time.Minute, func() (bool, string) {
		for _, r := range f.read(f.names.DLQ("jobs")) {
			if headerOf(r, schemas.HeaderReason) == string(schemas.ReasonPoison) {
				poison[headerOf(r, schemas.HeaderID)] = true
			}
		}
		done := f.ledger.appliedCount()
		return done+len(poison) >= n, fmt.Sprintf("%d of %d applied, %d poison", done, n, len(poison))
	})
	for id := range poison {
		delete(f.sent, id)
	}
	if len(poison) > killed/3 {
		t.Errorf("%d tasks condemned by %d kills", len(poison), killed)
	}
	f.sayUnfinished()
	for _, tier := range kafka.Tiers {
		if n := len(f.read(f.names.Retry(tier.Name))); n > 0 {
			t.Errorf("%d records went to a delay topic, which nobody moves here", n)
		}
	}
	f.acceptedAll()
	c := check(f.sent, slices.DeleteFunc(f.ledger.since(0), func(n note) bool { return poison[n.ID] }))
	t.Logf("%d tasks, %d SIGKILLs, %d starts, %d re-runs, %d poison, %d effects refused by the fence", n, killed, c.starts, c.reruns, len(poison), c.refused)
	for _, bad := range c.violations {
		t.Error(bad)
	}
	if killed < kills {
		t.Errorf("all was done after %d of %d kills: the test is too short to say anything", killed, kills)
	}
	// What runs twice was in a killed worker's hands.
	if c.reruns > killed*32 {
		t.Errorf("%d re-runs of %d kills of at most 32 each", c.reruns, killed)
	}
}

// sayUnfinished tells where the tasks without an effect stand.
func (f *fleet) sayUnfinished() {
	f.Helper()
	f.ledger.mu.Lock()
	var ids []string
	for id := range f.sent {
		if !f.ledger.applied[id] && len(ids) < 10 {
			ids = append(ids, id)
		}
	}
	f.ledger.mu.Unlock()
	if len(ids) == 0 {
		return
	}
	for i, c := range f.claims(ids...) {
		f.Logf("%s: %+v", ids[i], c)
	}
}
