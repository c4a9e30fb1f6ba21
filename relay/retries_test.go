package relay

// Delay topics: what is due goes back, what is not waits, garbage is seen.

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

// retry is a record as a worker leaves it: appended age ago, due in left.
func (g *rig) retry(tier, queue, id string, age, left time.Duration) *kgo.Record {
	now := time.Now()
	task := &schemas.Task{ID: id, Kind: "pay", Queue: queue, Payload: []byte(id), Attempt: 3, Run: 17, Due: now.Add(left)}
	return &kgo.Record{Topic: g.names.Retry(tier), Key: []byte(id), Value: task.Payload, Timestamp: now.Add(-age),
		Headers: schemas.AppendRetryHeaders([]kgo.RecordHeader(nil), task)}
}

// values are the values of records, in a set.
func values(recs []*kgo.Record) map[string]*kgo.Record {
	out := map[string]*kgo.Record{}
	for _, r := range recs {
		out[string(r.Value)] = r
	}
	return out
}

func TestDueRetriesGoBack(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.produce(
		g.retry("5s", "payments", "main-1-1", 6*time.Second, 0),              // its tier has passed
		g.retry("1h", "payments", "main-1-2", time.Second, -time.Second),     // due before its tier
		g.retry("5s", "payments", "main-1-3", 6*time.Second, 3*time.Second),  // the worker waits the rest
		g.retry("5s", "payments", "main-1-4", 6*time.Second, 40*time.Second), // to a longer tier
	)
	g.run(g.relay("a", nil))
	back := values(g.first(3, g.names.Tasks("payments")))
	for n := 1; n <= 3; n++ {
		id := fmt.Sprintf("main-1-%d", n)
		rec := back[id]
		if rec == nil {
			t.Fatalf("%s did not come back: %v", id, back)
		}
		if string(rec.Key) != id || header(rec, schemas.HeaderAttempt) != "3" || header(rec, schemas.HeaderRun) != "17" ||
			header(rec, schemas.HeaderDue) == "" || header(rec, schemas.HeaderQueue) != "" || header(rec, schemas.HeaderID) != id {
			t.Errorf("%s: key %q, headers %v", id, rec.Key, rec.Headers)
		}
	}
	on := g.first(1, g.names.Retry("30s"))[0]
	if string(on.Value) != "main-1-4" || header(on, schemas.HeaderQueue) != "payments" {
		t.Errorf("on retry.30s: %s, queue %q", on.Value, header(on, schemas.HeaderQueue))
	}
	testkit.Eventually(t, 10*time.Second, func() (bool, string) {
		o, err := g.adm.FetchOffsets(context.Background(), g.names.RetryGroup())
		if err != nil {
			return false, err.Error()
		}
		sum := int64(0)
		o.Each(func(r kadm.OffsetResponse) { sum += max(0, r.At) })
		return sum == 4, fmt.Sprintf("%d records are committed", sum)
	})
}

func TestRetryWaitsForItsTier(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	early := g.retry("5s", "payments", "main-1-1", 3500*time.Millisecond, 2*time.Second)
	g.produce(early)
	g.run(g.relay("a", nil))
	rec := g.first(1, g.names.Tasks("payments"))[0]
	if waited := rec.Timestamp.Sub(early.Timestamp); waited < 4900*time.Millisecond {
		t.Errorf("moved only %v after it was appended, its tier is 5s", waited)
	}
}

func TestGarbageOnADelayTopicIsSeenAndStallsNothing(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	old := time.Now().Add(-time.Hour)
	topic := g.names.Retry("5s")
	lost := g.retry("5s", "nowhere", "main-1-9", time.Minute, 0)
	g.produce(
		&kgo.Record{Topic: topic, Timestamp: old, Value: []byte("no headers")},
		&kgo.Record{Topic: topic, Timestamp: old, Key: []byte("tombstone")},
		&kgo.Record{Topic: topic, Timestamp: old, Value: []byte("bad queue"), Headers: []kgo.RecordHeader{{Key: schemas.HeaderQueue, Value: []byte("No/Queue")}}},
		&kgo.Record{Topic: topic, Timestamp: old, Value: []byte("bad due"), Headers: []kgo.RecordHeader{
			{Key: schemas.HeaderQueue, Value: []byte("mail")}, {Key: schemas.HeaderDue, Value: []byte("soon")}}},
		&kgo.Record{Topic: topic, Timestamp: time.Now().Add(time.Hour), Value: []byte("from the future"), Headers: []kgo.RecordHeader{
			{Key: schemas.HeaderQueue, Value: []byte("mail")}, {Key: schemas.HeaderDue, Value: strconv.AppendInt(nil, time.Now().Add(2*time.Hour).UnixMilli(), 10)}}},
		lost,
		g.retry("5s", "payments", "main-1-1", time.Minute, 0),
	)
	g.run(g.relay("a", nil))
	g.first(1, g.names.Tasks("payments"))
	for _, rec := range g.first(3, g.names.DLQ("mail")) { // the catalog's first queue
		l, _, err := dlq.Decode(rec)
		if err != nil || l.Reason != schemas.ReasonUndecodable || l.Origin.Topic != topic || l.Origin.Group != g.names.RetryGroup() {
			t.Errorf("letter %+v, %v", l, err)
		}
	}
	if rec := g.first(1, g.names.Tasks("mail"))[0]; string(rec.Value) != "bad due" {
		t.Errorf("on tasks.mail: %s", rec.Value)
	}
	// What has no topic to go back to waits on, visibly.
	g.records(40*time.Second, func(all []*kgo.Record) bool {
		rounds := 0
		for _, rec := range all {
			if string(rec.Value) == "main-1-9" && header(rec, schemas.HeaderQueue) == "nowhere" {
				rounds++
			}
		}
		return rounds >= 2
	}, topic)
	// A timestamp ahead of the clock waits as long as its tier, no longer.
	if rec := g.first(1, g.names.Retry("1h"))[0]; string(rec.Value) != "from the future" {
		t.Errorf("on retry.1h: %s", rec.Value)
	}
}

func TestTwoRelaysShareTheDelayTopics(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	const n = 400
	var recs []*kgo.Record
	for i := range n {
		recs = append(recs, g.retry("5s", "payments", fmt.Sprintf("main-1-%d", i+1), time.Duration(i*15)*time.Millisecond, 0))
	}
	g.produce(recs...)
	a := g.run(g.relay("a", nil))
	g.run(g.relay("b", nil))
	g.first(n/4, g.names.Tasks("payments"))
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	g.records(60*time.Second, func(r []*kgo.Record) bool { return len(values(r)) == n }, g.names.Tasks("payments"))
}

func TestOffsetOutOfRangeStopsAndAlarms(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	topic := g.names.Retry("30s")
	// A key's records share a partition: five that nobody moved, four of them deleted.
	for range 5 {
		g.produce(g.retry("30s", "payments", "main-1-1", time.Hour, 0))
	}
	ends, err := g.adm.ListEndOffsets(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	committed, deleted := kadm.Offsets{}, kadm.Offsets{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			committed.AddOffset(topic, o.Partition, 1, -1)
			deleted.AddOffset(topic, o.Partition, 4, -1)
		}
	})
	if _, err := g.adm.CommitOffsets(t.Context(), g.names.RetryGroup(), committed); err != nil {
		t.Fatal(err)
	}
	if d, err := g.adm.DeleteRecords(t.Context(), deleted); err != nil || d.Error() != nil {
		t.Fatal(err, d.Error())
	}
	g.produce(g.retry("5s", "payments", "main-1-2", time.Minute, 0))
	r := g.relay("a", nil)
	g.run(r)
	testkit.Eventually(t, 30*time.Second, func() (bool, string) {
		s := r.Status()
		return s.Retries != nil && s.Ready() != nil, "no alarm"
	})
	recs := g.first(1, g.names.Tasks("payments")) // the other tiers go on
	if string(recs[0].Value) != "main-1-2" {
		t.Errorf("%s was moved over the gap", recs[0].Value)
	}
}
