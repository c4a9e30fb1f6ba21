package relay

// A topic that is there and takes nothing: it delays nobody else.

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/perdure/perdure/internal/testkit"
)

const threeBrokers = `
version: 1
queues:
  payments: {partitions: 4, replication: 3}
  mail: {partitions: 1, replication: 2}
kinds:
  pay: {queue: payments, order: key}
  post: {queue: mail}
`

// short is three brokers, of which one is killed that mail cannot do without:
// everything else has enough that live. mended brings it back.
func (g *rig) short(k *testkit.OwnedKafka) (mended func()) {
	g.t.Helper()
	mail, two := g.names.Tasks("mail"), "2"
	res, err := g.adm.AlterTopicConfigs(context.Background(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "min.insync.replicas", Value: &two}}, mail)
	if err == nil {
		_, err = res.On(mail, func(r *kadm.AlterConfigsResponse) error { return r.Err })
	}
	if err != nil {
		g.t.Fatal(err)
	}
	topics := func() kadm.TopicDetails {
		d, err := g.adm.ListTopics(context.Background(), mail, g.names.Tasks("payments"), g.names.Control())
		if err != nil {
			g.t.Fatal(err)
		}
		return d
	}
	p := topics()[mail].Partitions[0]
	killed := p.Replicas[0]
	if killed == p.Leader {
		killed = p.Replicas[1]
	}
	k.Kill(g.t, int(killed)-1)
	testkit.Eventually(g.t, time.Minute, func() (bool, string) {
		for name, d := range topics() {
			for _, p := range d.Partitions {
				if p.Leader < 0 || p.Leader == killed || slices.Contains(p.ISR, killed) {
					return false, fmt.Sprintf("%s: %+v", name, p)
				}
			}
		}
		return true, ""
	})
	return func() { k.Start(g.t, int(killed)-1) }
}

// stopwatch reads payments as they come: their commits lie between the calls.
type stopwatch struct {
	g    *rig
	cl   *kgo.Client
	n    int
	most time.Duration
}

func (g *rig) stopwatch() *stopwatch {
	g.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(g.kafka.Brokers...), kgo.ConsumeTopics(g.names.Tasks("payments")),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.MetadataMinAge(50*time.Millisecond), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(cl.Close)
	return &stopwatch{g: g, cl: cl}
}

// pay commits a task and waits for its record. One that waited for a new leader may come again.
func (w *stopwatch) pay(bound time.Duration) {
	w.g.t.Helper()
	w.n++
	w.g.enqueue("k", w.n)
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for seen := false; !seen; {
		f := w.cl.PollFetches(ctx)
		f.EachRecord(func(r *kgo.Record) {
			var n int
			if _, err := fmt.Sscanf(string(r.Value), `{"key":"k","n":%d}`, &n); err != nil || n > w.n {
				w.g.t.Fatalf("record %s before task %d", r.Value, w.n)
			}
			seen = seen || n == w.n
		})
		if ctx.Err() != nil {
			w.g.t.Fatalf("task %d is not there after %v", w.n, time.Since(began))
		}
	}
	took := time.Since(began)
	w.most = max(w.most, took)
	if took > bound {
		w.g.t.Errorf("task %d took %v from its commit to its record, want %v at most", w.n, took, bound)
	}
}

func (g *rig) post(n int) {
	g.t.Helper()
	g.exec(`insert into perdure.outbox (kind, queue, key, payload) values ('post', 'mail', 'k', $1)`, fmt.Sprintf(`{"n":%d}`, n))
}

// posted wants the first records of mail's n tasks in their order. Some may come again.
func (g *rig) posted(n int) {
	g.t.Helper()
	next := map[string]int{}
	all := g.records(2*time.Minute, func(recs []*kgo.Record) bool {
		clear(next)
		for _, r := range recs {
			next[string(r.Value)]++
		}
		return len(next) == n
	}, g.names.Tasks("mail"))
	seen := 0
	for _, r := range all {
		var i int
		if _, err := fmt.Sscanf(string(r.Value), `{"n":%d}`, &i); err != nil || i > seen+1 {
			g.t.Fatalf("%s comes before %d: parking broke the order", r.Value, seen+1)
		}
		seen = max(seen, i)
	}
	g.t.Logf("mail: %d tasks in %d records", n, len(all))
}

// parkedFor waits until the queue is parked for a reason with this in it.
func (g *rig) parkedFor(r *Relay, why string) {
	g.t.Helper()
	testkit.Eventually(g.t, time.Minute, func() (bool, string) {
		o, err := ReadOutbox(g.t.Context(), g.db, "main")
		return err == nil && o.Parked["mail"] > 0 && strings.Contains(o.Whys["mail"], why) && strings.Contains(r.Status().Parked["mail"], why),
			fmt.Sprintf("parked %v, %v; the relay says %v; want %q", o.Whys, err, r.Status().Parked, why)
	})
}

// paymentBound is generous: the first task may wait out Config.Patience, on a busy machine.
// Where all wait for one it is 28 s.
const paymentBound = 10 * time.Second

func TestATopicWithoutEnoughReplicasDelaysNoOther(t *testing.T) {
	t.Parallel()
	withoutReplicas(t, 5*time.Second)
}

// withoutReplicas commits tasks for so long while mail's topic takes nothing.
func withoutReplicas(t *testing.T, length time.Duration) {
	k := testkit.OwnKafka(t, 3)
	g := newRigOver(t, testkit.MigratedPostgres(t).URL, testkit.KafkaServer{Brokers: k.Brokers, Prefix: "own-", Real: true}, threeBrokers)
	r := g.relay("a", nil)
	run := g.run(r)
	w := g.stopwatch()
	w.pay(time.Minute) // whatever has to start
	mended := g.short(k)
	w.pay(time.Minute) // clients learn who leads now
	mail := 0
	for began := time.Now(); time.Since(began) < length; {
		mail++
		g.post(mail)
		w.pay(paymentBound)
	}
	g.parkedFor(r, "partition 0 has 1 of 2 required replicas in sync")
	if err := run.stop(); err != nil { // what is under way is left, and is another's
		t.Fatal(err)
	}
	g.run(g.relay("b", nil))
	mail++
	g.post(mail)
	w.pay(time.Minute)
	mended()
	g.posted(mail)
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		n := one[int](g, `select count(*) from perdure.parked`)
		return n == 0, fmt.Sprintf("%d rows are parked", n)
	})
	mail++
	g.post(mail)
	g.posted(mail)
	t.Logf("payments: %d tasks, %v at most", w.n, w.most)
}

// The client has produced to it before, and knows it.
func TestATopicThatIsDeletedUnderWayIsSaidToBeGone(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	r := g.relay("a", nil)
	g.run(r)
	mail := func(n int) {
		g.exec(`insert into perdure.outbox (kind, queue, key, payload) values ('post', 'mail', 'k', $1)`, fmt.Sprintf(`{"n":%d}`, n))
	}
	mail(1)
	g.first(1, g.names.Tasks("mail"))
	testkit.DeleteTopic(t, g.cl, g.names.Tasks("mail"))
	mail(2)
	g.enqueue("k", 1)
	g.first(1, g.names.Tasks("payments"))
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		s := r.Status()
		return strings.Contains(s.Parked["mail"], "does not exist"), fmt.Sprintf("%+v", s)
	})
}

// Kafka appends and says that it is not sure: the client never gives such a record up,
// and nothing else tells that anything is well.
func TestARecordThatIsNeverAnsweredForEndsItsPass(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	var mended atomic.Bool
	cluster.ControlKey(int16(kmsg.Produce), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if mended.Load() {
			return nil, nil, false
		}
		req := kreq.(*kmsg.ProduceRequest)
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		for _, rt := range req.Topics {
			st := kmsg.NewProduceResponseTopic()
			st.Topic, st.TopicID = rt.Topic, rt.TopicID
			for _, rp := range rt.Partitions {
				sp := kmsg.NewProduceResponseTopicPartition()
				sp.Partition, sp.ErrorCode = rp.Partition, kerr.NotEnoughReplicasAfterAppend.Code
				st.Partitions = append(st.Partitions, sp)
			}
			resp.Topics = append(resp.Topics, st)
		}
		return resp, nil, true
	})
	g := newRigOver(t, testkit.MigratedPostgres(t).URL, testkit.KafkaServer{Brokers: cluster.ListenAddrs(), Prefix: "t-"}, testCatalog)
	r := g.relay("a", func(c *Config) { c.Delivery, c.Patience = time.Second, 400*time.Millisecond })
	g.run(r)
	g.enqueue("k", 1)
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		s := r.Status()
		return s.State == StateWaiting && strings.Contains(s.Err.Error(), errUnsure.Error()), fmt.Sprintf("%+v", s)
	})
	mended.Store(true)
	g.first(1, g.names.Tasks("payments"))
	g.drained(time.Minute)
}
