package foreign

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// rig is a topic of its own on the test's Kafka.
type rig struct {
	t       *testing.T
	c       *Cluster
	cl      *kgo.Client
	brokers []string
	topic   string
}

func newRig(t *testing.T, partitions int32) *rig {
	t.Helper()
	k := testkit.Kafka(t)
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.Brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	r := &rig{t: t, cl: cl, brokers: k.Brokers, topic: k.Prefix + "orders-dlt"}
	made, err := kadm.NewClient(cl).CreateTopic(t.Context(), partitions, 1, nil, r.topic)
	if err != nil || made.Err != nil {
		t.Fatal(err, made.Err)
	}
	if r.c, err = Connect([]kgo.Opt{kgo.SeedBrokers(k.Brokers...)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.c.Close)
	return r
}

func (r *rig) letters(partition int32, n int, message string, at time.Time) []*kgo.Record {
	recs := make([]*kgo.Record, n)
	for i := range recs {
		recs[i] = &kgo.Record{Topic: r.topic, Partition: partition, Timestamp: at.Add(time.Duration(i) * time.Second), Key: fmt.Append(nil, i), Value: []byte(`{"n":1}`),
			Headers: h("kafka_dlt-original-topic", "orders", "kafka_dlt-original-partition", be32(0), "kafka_dlt-original-offset", be64(uint64(i)),
				"kafka_dlt-exception-fqcn", "com.acme.Refused", "kafka_dlt-exception-message", fmt.Sprintf("%s, order %d", message, i*7919))}
	}
	return recs
}

func (r *rig) produce(recs []*kgo.Record) {
	r.t.Helper()
	if err := r.cl.ProduceSync(r.t.Context(), recs...).FirstErr(); err != nil {
		r.t.Fatal(err)
	}
}

// transaction produces records and leaves the transaction open; end ends it.
func (r *rig) transaction(id string, recs []*kgo.Record) (end func(kgo.TransactionEndTry)) {
	r.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(r.brokers...), kgo.TransactionalID(r.topic+id), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(cl.Close)
	if err := cl.BeginTransaction(); err != nil {
		r.t.Fatal(err)
	}
	if err := cl.ProduceSync(r.t.Context(), recs...).FirstErr(); err != nil {
		r.t.Fatal(err)
	}
	return func(how kgo.TransactionEndTry) {
		if err := cl.EndTransaction(context.Background(), how); err != nil {
			r.t.Error(err)
		}
	}
}

// decided waits until no transaction is open any more: the coordinator answers
// before its markers are everywhere.
func (r *rig) decided() {
	r.t.Helper()
	adm := kadm.NewClient(r.cl)
	testkit.Eventually(r.t, time.Minute, func() (bool, string) {
		ends, err := adm.ListEndOffsets(r.t.Context(), r.topic)
		if err != nil {
			return false, err.Error()
		}
		stable, err := adm.ListCommittedOffsets(r.t.Context(), r.topic)
		if err != nil {
			return false, err.Error()
		}
		for p, end := range ends[r.topic] {
			if stable[r.topic][p].Offset != end.Offset {
				return false, fmt.Sprintf("partition %d: %d of %d are decided", p, stable[r.topic][p].Offset, end.Offset)
			}
		}
		return true, ""
	})
}

// read reads the topic; it must end by itself.
func (r *rig) read(since time.Time) (*Groups, Extent, *Progress) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	g, p := &Groups{}, &Progress{}
	x, err := r.c.Topic(ctx, r.topic, since, p, nil, g.Add)
	if err != nil {
		r.t.Fatal(err)
	}
	return g, x, p
}

// Aborted records are no letters, although they are the last that lie there; what
// an open transaction holds back is told; markers end no reading early.
func TestOnlyWhatIsCommittedIsCounted(t *testing.T) {
	r := newRig(t, 3)
	t0 := time.Now().Add(-time.Hour).Truncate(time.Second)
	r.produce(append(r.letters(0, 20, "no stock", t0), r.letters(1, 7, "no shop", t0)...))
	r.transaction("committed", r.letters(0, 5, "no stock", t0))(kgo.TryCommit)
	r.transaction("aborted", append(r.letters(0, 9, "never", t0), r.letters(2, 9, "never", t0)...))(kgo.TryAbort)
	r.decided()
	g, x, p := r.read(time.Time{})
	s := g.Summary(0)
	if s.Letters != 32 || len(s.Groups) != 2 || s.Groups[0].Letters != 25 || s.Groups[1].Letters != 7 || x.Undecided != 0 {
		t.Errorf("%+v, %+v", s, x)
	}
	// Two markers of the committed and the aborted one lie in partition 0, one in 2.
	if want := int64(20 + 5 + 1 + 9 + 1 + 7 + 9 + 1); x.Offsets != want || p.Offsets.Load() != want || p.Records.Load() != 32 {
		t.Errorf("offsets %d, passed %d, records %d; want %d, %d, 32", x.Offsets, p.Offsets.Load(), p.Records.Load(), want, want)
	}
	if x := s.Groups[0]; !x.FirstSeen.Equal(t0) || !x.LastSeen.Equal(t0.Add(19*time.Second)) || len(x.Samples) != MaxSamples || fmt.Sprint(x.Origins) != "[orders]" {
		t.Errorf("%+v", x)
	}

	open := r.transaction("open", r.letters(1, 4, "perhaps", t0))
	r.produce(r.letters(1, 3, "no shop", t0)) // behind it
	g, x, _ = r.read(time.Time{})
	if s := g.Summary(0); s.Letters != 32 || x.Undecided != 7 {
		t.Errorf("with an open transaction: %d letters, %d undecided; want 32, 7", s.Letters, x.Undecided)
	}
	open(kgo.TryAbort)
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		g, x, _ := r.read(time.Time{})
		s := g.Summary(0)
		return s.Letters == 35 && x.Undecided == 0, fmt.Sprintf("%d letters, %d undecided", s.Letters, x.Undecided)
	})
}

// A topic that grows as fast as it is read must end all the same.
func TestReadingEndsWhereTheTopicEndedAtFirst(t *testing.T) {
	r := newRig(t, 1)
	r.produce(r.letters(0, 50, "no stock", time.Now()))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var n atomic.Int64
	if _, err := r.c.Topic(ctx, r.topic, time.Time{}, &Progress{}, func(Extent) { r.produce(r.letters(0, 50, "late", time.Now())) }, func(*kgo.Record) { n.Add(1) }); err != nil {
		t.Fatal(err)
	}
	if n.Load() != 50 {
		t.Errorf("%d records, want the 50 that were there", n.Load())
	}
}

func TestSinceLeavesOutWhatIsOlder(t *testing.T) {
	r := newRig(t, 2)
	t0 := time.Now().Add(-time.Hour).Truncate(time.Second)
	r.produce(append(r.letters(0, 60, "no stock", t0), r.letters(1, 60, "no stock", t0.Add(-time.Hour))...))
	r.produce(r.letters(0, 10, "no stock", t0.Add(-time.Minute))) // out of order, and too old
	g, _, _ := r.read(t0.Add(50 * time.Second))
	if s := g.Summary(0); s.Letters != 10 {
		t.Errorf("%d letters, want the 10 that are young enough", s.Letters)
	}
}

func TestARecordIsReadFromItsOriginOrSaidToBeGone(t *testing.T) {
	r := newRig(t, 2)
	r.produce(r.letters(1, 5, "x", time.Now()))
	origin := func(p int32, o int64) *Letter {
		l := &Letter{}
		l.Origin.Topic, l.Origin.Partition, l.Origin.Offset = r.topic, p, o
		return l
	}
	got, err := r.c.Original(t.Context(), origin(1, 3))
	if err != nil || got.Offset != 3 || string(got.Key) != "3" || string(got.Value) != `{"n":1}` || len(got.Headers) != 5 {
		t.Fatalf("%+v, %v", got, err)
	}
	below := kadm.Offsets{}
	below.AddOffset(r.topic, 1, 4, -1)
	if done, err := kadm.NewClient(r.cl).DeleteRecords(t.Context(), below); err != nil || done.Error() != nil {
		t.Fatal(err, done.Error())
	}
	nowhere := origin(0, 0)
	nowhere.Origin.Topic += "-that-is-not-there"
	for name, tt := range map[string]struct {
		l    *Letter
		want error
	}{
		"deleted":      {origin(1, 3), ErrGone},
		"not yet":      {origin(1, 99), ErrGone},
		"no partition": {origin(9, 0), ErrGone},
		"no topic":     {nowhere, ErrNoTopic},
		"not told":     {&Letter{}, ErrUnknown},
	} {
		if _, err := r.c.Original(t.Context(), tt.l); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	if got, err := r.c.Original(t.Context(), origin(1, 4)); err != nil || got.Offset != 4 {
		t.Errorf("its neighbour: %v, %v", got, err)
	}
	if _, err := r.c.Topic(t.Context(), nowhere.Origin.Topic, time.Time{}, &Progress{}, nil, nil); !errors.Is(err, ErrNoTopic) {
		t.Errorf("%v, want ErrNoTopic", err)
	}
	g, _, _ := r.read(time.Time{})
	if s := g.Summary(0); s.Letters != 1 {
		t.Errorf("%d letters after the others were deleted, want 1", s.Letters)
	}
}

// Retention takes what is about to be read.
func TestWhatIsDeletedMeanwhileIsPassed(t *testing.T) {
	r := newRig(t, 1)
	recs := r.letters(0, 60, "no stock", time.Now())
	noise := rand.NewChaCha8([32]byte{})
	for _, rec := range recs { // more than one answer holds, also compressed
		rec.Value = make([]byte, 60_000)
		_, _ = noise.Read(rec.Value)
	}
	r.produce(recs)
	var offsets []int64
	p := &Progress{}
	err := r.c.InOrder(t.Context(), r.topic, time.Time{}, p, func(Extent) error { return nil }, func(recs []*kgo.Record) error {
		if len(offsets) == 0 {
			below := kadm.Offsets{}
			below.AddOffset(r.topic, 0, 55, -1)
			if done, err := kadm.NewClient(r.cl).DeleteRecords(t.Context(), below); err != nil || done.Error() != nil {
				t.Fatal(err, done.Error())
			}
		}
		for _, rec := range recs {
			offsets = append(offsets, rec.Offset)
		}
		return nil
	})
	if n := len(offsets); err != nil || n < 6 || n > 50 || offsets[n-1] != 59 || !slices.Contains(offsets, 55) || p.Offsets.Load() != 60 {
		t.Errorf("%v, %v, passed %d", offsets, err, p.Offsets.Load())
	}
	stop := errors.New("enough of it")
	err = r.c.InOrder(t.Context(), r.topic, time.Time{}, p, func(Extent) error { return nil }, func([]*kgo.Record) error { return stop })
	if !errors.Is(err, stop) {
		t.Errorf("%v, want the reader's own error", err)
	}
}

// The end of a partition, for whoever looks for a record of its own.
func TestATailSaysWhetherItIsWhole(t *testing.T) {
	r := newRig(t, 2)
	r.produce(r.letters(0, 10, "x", time.Now()))
	open := r.transaction("open", r.letters(0, 3, "perhaps", time.Now()))
	info, err := r.c.topic(t.Context(), r.topic)
	id := idOf(info)
	if err != nil || id == "" {
		t.Fatalf("%q, %v", id, err)
	}
	tail := func(partition int32, from int64, enough int) (n int, whole bool) {
		t.Helper()
		whole, err := r.c.Tail(t.Context(), Part{Topic: r.topic, ID: id, Partition: partition, From: from, Wait: time.Minute}, func(*kgo.Record) bool { n++; return n == enough })
		if err != nil {
			t.Error(err)
		}
		return n, whole
	}
	for name, tt := range map[string]struct {
		partition int32
		from      int64
		enough    int
		n         int
		whole     bool
	}{
		"all, also what is not committed": {0, 4, -1, 9, true},
		"enough":                          {0, 4, 2, 2, true},
		"nothing came":                    {1, 0, -1, 0, true},
		"it ends before":                  {1, 5, -1, 0, false},
		"no partition":                    {7, 0, -1, 0, false},
	} {
		if n, whole := tail(tt.partition, tt.from, tt.enough); n != tt.n || whole != tt.whole {
			t.Errorf("%s: %d, %v; want %d, %v", name, n, whole, tt.n, tt.whole)
		}
	}
	open(kgo.TryAbort)
	below := kadm.Offsets{}
	below.AddOffset(r.topic, 0, 5, -1)
	if done, err := kadm.NewClient(r.cl).DeleteRecords(t.Context(), below); err != nil || done.Error() != nil {
		t.Fatal(err, done.Error())
	}
	if n, whole := tail(0, 4, -1); n != 8 || whole {
		t.Errorf("its beginning is deleted: %d, %v", n, whole)
	}
	if n, whole := tail(0, 5, -1); n != 8 || !whole {
		t.Errorf("from its beginning: %d, %v", n, whole)
	}
	id = "of the topic before"
	if n, whole := tail(0, 5, -1); n != 0 || whole {
		t.Errorf("of another topic of this name: %d, %v", n, whole)
	}
	if whole, err := r.c.Tail(t.Context(), Part{Topic: r.topic + "-none"}, nil); whole || err != nil {
		t.Errorf("of no topic: %v, %v", whole, err)
	}
}
