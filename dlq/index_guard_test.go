package dlq

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/testkit"
)

// A value that Postgres refuses is found among many; its record stays visible,
// and so do all others of the batch.
func TestARefusedValueStallsNobody(t *testing.T) {
	r := newRig(t)
	if _, err := r.db.Exec(t.Context(), `alter table perdure.letters add check (message <> 'refused by the database');
alter table perdure.events add check (type <> 'refused')`); err != nil {
		t.Fatal(err)
	}
	r.start()
	var recs []*kgo.Record
	for i := range 40 {
		l := letterOf(fmt.Sprintf("main-1-%d", i+1), 0)
		if i == 13 || i == 27 {
			l.Message = "refused by the database"
		}
		recs = append(recs, Encode(l))
	}
	r.produce(r.names.DLQ("payments"), recs...)
	r.eventually(38, `select count(*) from perdure.dead_letters where letter like 'main-%'`)
	r.eventually(2, `select count(*) from perdure.dead_letters where error_class = 'dlq.stray' and payload = '{"a":1}' and state = 'open'`)
	bad := EncodeEvent(&Event{TaskID: "main-1-1", Type: "refused", At: time.Now()})
	good := EncodeEvent(&Event{TaskID: "main-1-1", Type: EventFailed, At: time.Now()})
	r.produce(r.names.Events("payments"), bad, good)
	r.eventually(1, `select count(*) from perdure.events`)
}

// Retention overtook the index while no replayer ran: it says how much is gone,
// and goes on from what is left.
func TestLettersDeletedUnreadAreTold(t *testing.T) {
	r := newRig(t)
	reg := prometheus.NewRegistry()
	var log lines
	r.deps.Registry, r.deps.Log = reg, slog.New(slog.NewTextHandler(&log, nil))
	recs := make([]*kgo.Record, 10)
	for i := range recs {
		recs[i] = Encode(letterOf(fmt.Sprintf("main-1-%d", i+1), 0))
		recs[i].Key = []byte("one partition")
	}
	r.produce(r.names.DLQ("payments"), recs...)
	p := recs[0].Partition
	adm := kadm.NewClient(r.cl)
	var offs kadm.Offsets
	offs.Add(kadm.Offset{Topic: recs[0].Topic, Partition: p, At: 2, LeaderEpoch: -1})
	testkit.Eventually(t, 10*time.Second, func() (bool, string) {
		err := adm.CommitAllOffsets(t.Context(), r.names.IndexGroup("main"), offs)
		return err == nil, fmt.Sprint(err)
	})
	below := kadm.Offsets{}
	below.AddOffset(recs[0].Topic, p, 7, -1)
	if done, err := adm.DeleteRecords(t.Context(), below); err != nil || done.Error() != nil {
		t.Fatal(err, done.Error())
	}
	r.start()
	r.eventually(3, `select count(*) from perdure.dead_letters`)
	if !strings.Contains(log.String(), "records=5") || !strings.Contains(log.String(), "dlq_retention") {
		t.Errorf("it does not say that five records are gone:\n%s", log.String())
	}
	if n := lostRecords(t, reg); n != 5 {
		t.Errorf("perdure_dlq_lost_records_total is %v, want 5", n)
	}
}

// lostRecords reads the counter of letters that were deleted unread.
func lostRecords(t *testing.T, reg *prometheus.Registry) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "perdure_dlq_lost_records_total" {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatal("there is no perdure_dlq_lost_records_total")
	return 0
}

// fetched counts the records that a client holds, polled or not.
type fetched struct{ n atomic.Int64 }

// OnFetchRecordBuffered implements kgo.HookFetchRecordBuffered.
func (f *fetched) OnFetchRecordBuffered(*kgo.Record) { f.n.Add(1) }

// Postgres is away for longer than letters are kept, and the index runs all the while.
func TestLettersDeletedWhileTheIndexWaitsAreTold(t *testing.T) {
	r := newRig(t)
	reg := prometheus.NewRegistry()
	var log lines
	var held fetched
	r.deps.Registry, r.deps.Log = reg, slog.New(slog.NewTextHandler(&log, nil))
	r.deps.Kafka = append(r.deps.Kafka, kgo.WithHooks(&held))
	topic, made := r.names.DLQ("payments"), 0
	produce := func(n int) (p int32) {
		recs := make([]*kgo.Record, n)
		for i := range recs {
			made++
			recs[i] = Encode(letterOf(fmt.Sprintf("main-1-%d", made), 0))
			recs[i].Key = []byte("one partition")
		}
		r.produce(topic, recs...)
		return recs[0].Partition
	}
	tx, err := r.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background()) //nolint:errcheck // it is over by then, or the test is
	if _, err := tx.Exec(t.Context(), `lock table perdure.letters in access exclusive mode`); err != nil {
		t.Fatal(err)
	}
	r.start()
	// The first is being written, the second fetched beside it; no more is fetched then.
	for n := range 2 {
		produce(1)
		testkit.Eventually(t, time.Minute, func() (bool, string) {
			got := held.n.Load()
			return got == int64(n+1), fmt.Sprintf("%d records are fetched, want %d", got, n+1)
		})
	}
	p := produce(6)
	below := kadm.Offsets{}
	below.AddOffset(topic, p, 6, -1)
	if done, err := kadm.NewClient(r.cl).DeleteRecords(t.Context(), below); err != nil || done.Error() != nil {
		t.Fatal(err, done.Error())
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.eventually(4, `select count(*) from perdure.dead_letters`)
	if n := lostRecords(t, reg); n != 4 || !strings.Contains(log.String(), "records=4") {
		t.Errorf("perdure_dlq_lost_records_total is %v, want 4:\n%s", n, log.String())
	}
}

// lines is a log that may be read while it is written.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestHeadersInTheIndexAreUnchanged(t *testing.T) {
	hs := []kgo.RecordHeader{{Key: "a", Value: []byte{0, 255}}, {Key: "", Value: nil}, {Key: "\xff\x00", Value: []byte{}}, {Key: "é", Value: []byte("x")}}
	got, err := DecodeHeaders(encodeHeaders(hs))
	if err != nil || !reflect.DeepEqual(got, hs) {
		t.Errorf("%q %v", got, err)
	}
	// Plain ones are read in another way; jsonb writes them with spaces.
	plain := []kgo.RecordHeader{{Key: "ce_id", Value: []byte("main-1-1")}, {Key: "x", Value: []byte{}}, {Key: "", Value: []byte{0, 1, 2, 255}}}
	encoded := string(encodeHeaders(plain))
	for _, form := range []string{encoded, strings.ReplaceAll(encoded, ",", ", ") + " "} {
		if _, ok := plainHeaders([]byte(form)); !ok {
			t.Errorf("%s is not plain", form)
		}
		if got, err := DecodeHeaders([]byte(form)); err != nil || !reflect.DeepEqual(got, plain) {
			t.Errorf("%s: %q %v", form, got, err)
		}
	}
	for _, bad := range []string{"{", "[1]", `[["a","YQ=="]`, `[["a","YQ=="]]]`, `[["a","Y"]]`, `[["a","YQ=="],]`, "[[\"a\",\"Y\nQ==\"]]", `[["a"]]`, `[["a","b","c","d"]]`, `[[1,""]]`, `[["a",1]]`, `[["a","",1]]`} {
		if _, err := DecodeHeaders([]byte(bad)); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}
