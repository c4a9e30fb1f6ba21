package imports

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq/foreign"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

func TestMain(m *testing.M) {
	if where := os.Getenv("IMPORTS_TEST_CHILD"); where != "" {
		child(strings.Split(where, " "))
		return
	}
	testkit.Main(m)
}

// rig is a topic of dead letters, and the topic that they came from.
type rig struct {
	t       testing.TB
	cl      *kgo.Client
	adm     *kadm.Client
	db      *pgxpool.Pool
	brokers []string
	opts    []kgo.Opt
	url     string
	prefix  string
	dlt     string // 2 partitions
	orders  string // 3 partitions
	imp     *Importer
}

func newRig(t testing.TB) *rig {
	t.Helper()
	k := testkit.Kafka(t)
	return newRigAt(t, k.Prefix, k.Brokers)
}

// newRigAt is a rig on other brokers; opts are those of its own clients.
func newRigAt(t testing.TB, prefix string, brokers []string, opts ...kgo.Opt) *rig {
	t.Helper()
	opts = append(opts, kgo.SeedBrokers(brokers...))
	r := &rig{t: t, brokers: brokers, opts: opts, prefix: prefix, dlt: prefix + "orders-dlt", orders: prefix + "orders", url: testkit.MigratedPostgres(t).URL}
	var err error
	if r.cl, err = kgo.NewClient(append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(4<<20))...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.cl.Close)
	r.adm = kadm.NewClient(r.cl)
	r.topic(r.dlt, 2, "max.message.bytes", "4194304")
	r.topic(r.orders, 3)
	r.imp, r.db = newImporter(t, r.url, opts, Config{Settle: 20 * time.Millisecond, Names: kafka.Names{Prefix: prefix}})
	return r
}

func newImporter(t testing.TB, url string, opts []kgo.Opt, cfg Config) (*Importer, *pgxpool.Pool) {
	t.Helper()
	db, err := pg.Pool(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	c, err := foreign.Connect(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return New(cfg, Deps{DB: db, Cluster: c, ID: "test", Kafka: opts}), db
}

func (r *rig) topic(name string, partitions int32, config ...string) {
	r.t.Helper()
	settings := map[string]*string{}
	for i := 0; i < len(config); i += 2 {
		settings[config[i]] = &config[i+1]
	}
	if made, err := r.adm.CreateTopic(r.t.Context(), partitions, 1, settings, name); err != nil || made.Err != nil {
		r.t.Fatal(err, made.Err)
	}
	testkit.AwaitTopics(r.t, r.cl, name)
}

func (r *rig) produce(recs ...*kgo.Record) {
	r.t.Helper()
	if err := r.cl.ProduceSync(r.t.Context(), recs...).FirstErr(); err != nil {
		r.t.Fatal(err)
	}
}

func h(pairs ...string) (hs []kgo.RecordHeader) {
	for i := 0; i < len(pairs); i += 2 {
		hs = append(hs, kgo.RecordHeader{Key: pairs[i], Value: []byte(pairs[i+1])})
	}
	return hs
}

func be32(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }
func be64(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }

// spring is what Spring Kafka adds to a record that failed.
func spring(topic string, partition, offset int) []kgo.RecordHeader {
	return h("kafka_dlt-original-topic", topic, "kafka_dlt-original-partition", be32(uint32(partition)), "kafka_dlt-original-offset", be64(uint64(offset)),
		"kafka_dlt-exception-fqcn", "com.acme.Refused", "kafka_dlt-exception-message", "no stock")
}

// letters puts n letters of orders into a partition of the topic; their values
// are their numbers, from first.
func (r *rig) letters(partition int32, first, n int) {
	r.t.Helper()
	recs := make([]*kgo.Record, n)
	for i := range recs {
		recs[i] = &kgo.Record{Topic: r.dlt, Partition: partition, Key: fmt.Append(nil, "k", first+i), Value: fmt.Append(nil, first+i),
			Headers: append(h("x-tenant", "acme"), spring(r.orders, (first+i)%3, first+i)...)}
	}
	r.produce(recs...)
}

// order is an import of all, that is meant.
func (r *rig) order() Order { return Order{Topic: r.dlt, Who: "ann", Why: "the shop is back"} }

// run imports; it must succeed.
func (r *rig) run(o Order) *Report {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	rep, err := r.imp.Run(ctx, o)
	if err != nil {
		r.t.Fatal(err)
	}
	return rep
}

// read is all that lies in a topic, by partition.
func (r *rig) read(topic string) (recs []*kgo.Record) {
	r.t.Helper()
	c, err := foreign.Connect(r.opts)
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	err = c.InOrder(r.t.Context(), topic, time.Time{}, &foreign.Progress{}, func(foreign.Extent) error { return nil },
		func(some []*kgo.Record) error { recs = append(recs, some...); return nil })
	if err != nil {
		r.t.Fatal(err)
	}
	return recs
}

// each is how often each number from 0 to n-1 lies in a topic.
func (r *rig) each(topic string, n int) []int {
	r.t.Helper()
	times := make([]int, n)
	for _, rec := range r.read(topic) {
		i, err := strconv.Atoi(string(rec.Value))
		if err != nil || i >= n {
			r.t.Fatalf("%q lies in %s", rec.Value, topic)
		}
		times[i]++
	}
	return times
}

func (r *rig) wantOnce(n int) {
	r.t.Helper()
	if got := r.each(r.orders, n); slices.Max(got) != 1 || slices.Min(got) != 1 {
		r.t.Errorf("how often each letter was sent: %v", got)
	}
}

func (r *rig) count(sql string, args ...any) (n int) {
	r.t.Helper()
	if err := r.db.QueryRow(r.t.Context(), sql, args...).Scan(&n); err != nil {
		r.t.Fatal(err)
	}
	return n
}

func (r *rig) inState(state string) int {
	r.t.Helper()
	return r.count(`select count(*) from perdure.imported where state = $1`, state)
}

// refused is a report's reasons.
func refused(rep *Report) map[Why]int64 {
	m := map[Why]int64{}
	for _, x := range rep.Refused {
		m[x.Why] = x.Letters
	}
	return m
}

func imported(rec *kgo.Record) string {
	for _, h := range rec.Headers {
		if h.Key == schemas.HeaderImported {
			return string(h.Value)
		}
	}
	return ""
}

// deleteTo deletes the records of a partition below an offset.
func (r *rig) deleteTo(topic string, partition int32, offset int64) {
	r.t.Helper()
	below := kadm.Offsets{}
	below.AddOffset(topic, partition, offset, -1)
	if done, err := r.adm.DeleteRecords(r.t.Context(), below); err != nil || done.Error() != nil {
		r.t.Fatal(err, done.Error())
	}
}
