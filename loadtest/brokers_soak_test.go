//go:build soak

package loadtest

// The whole path while Kafka itself breaks: producers notice nothing, people are
// told what is wrong, and what waited runs once. Checks I1 and I2.

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/testkit"
)

func TestSoakTheOnlyBrokerIsAway(t *testing.T) {
	b := newOnBrokers(t, 1)
	b.allAway(3 * time.Second)
	b.right()
}

func TestSoakBrokers(t *testing.T) {
	b := newOnBrokers(t, 3)
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.brokers.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	topic := b.Kafka.Prefix + "tasks.load"

	for i := range b.brokers.Brokers { // the controller, and every leader, in turn
		b.brokers.Kill(t, i)
		b.goesOn(500)
		b.caughtUp()
		b.brokers.Start(t, i)
		b.brokers.AwaitAll(t)
	}
	b.allAway(time.Minute)
	b.tooFewReplicas(adm, topic)
	b.right()
}

// onBrokers is a fleet on Kafka brokers of its own that is fed all the time, by SQL,
// with tasks of two queues.
type onBrokers struct {
	*fleet
	brokers *testkit.OwnedKafka
	relay   *role

	stop chan struct{}
	done sync.WaitGroup
	mu   sync.Mutex // held while tasks are enqueued
	fed  int        // tasks whose enqueueing was answered
}

// newOnBrokers starts one of each role. Topics stand on all brokers, and take a
// write that all but one of them have.
func newOnBrokers(t *testing.T, brokers int) *onBrokers {
	t.Helper()
	k := testkit.OwnKafka(t, brokers)
	b := &onBrokers{fleet: newFleet(t, &Ledger{}, patient), brokers: k, stop: make(chan struct{})}
	b.env = append(b.env, "PERDURE_KAFKA_BROKERS="+strings.Join(k.Brokers, ","))
	b.write("catalog.yaml", fmt.Sprintf(`version: 1
queues: {load: {partitions: 4, replication: %[1]d}, other: {partitions: 2, replication: %[1]d}}
kinds:
  load.step: {queue: load, timeout: 10s, effects: fenced, retry: {%[2]s}, executor: {http: {url: %[3]q}}}
  other.step: {queue: other, timeout: 10s, effects: fenced, retry: {%[2]s}, executor: {http: {url: %[3]q}}}
`, brokers, patient, b.Hook))
	for _, name := range []string{"dispatcher", "worker", "replayer"} {
		b.start(name, "1")
	}
	b.relay = b.start("relay", "1")
	db := connect(t, b.DB)
	b.done.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n += 10 {
			select {
			case <-b.stop:
				return
			case <-tick.C:
			}
			b.mu.Lock()
			began := time.Now()
			_, err := db.Exec(context.Background(), `select perdure.enqueue(kind => case when i % 2 = 0 then 'load.step' else 'other.step' end,
  payload => jsonb_build_object('row', i)) from generate_series($1::int, $1::int + 9) i`, n)
			took := time.Since(began)
			b.fed = n + 10
			b.mu.Unlock()
			if err != nil {
				t.Errorf("a producer noticed: %v", err)
				return
			}
			if took > 10*time.Second {
				t.Errorf("a producer waited %v", took)
			}
		}
	})
	t.Cleanup(b.end)
	b.goesOn(100)
	return b
}

func (b *onBrokers) end() {
	select {
	case <-b.stop:
	default:
		close(b.stop)
	}
	b.done.Wait()
}

// goesOn waits until so many more tasks have run.
func (b *onBrokers) goesOn(n int) {
	b.t.Helper()
	at := b.Ledger.Summary().Tasks
	testkit.Eventually(b.t, 2*time.Minute, func() (bool, string) {
		now := b.Ledger.Summary().Tasks
		return now >= at+n, fmt.Sprintf("%d tasks ran, %d before", now, at)
	})
}

// outbox is what `perdure outbox status` says.
func (b *onBrokers) outbox() (o struct {
	Backlog int64             `json:"backlog"`
	Parked  map[string]int64  `json:"parked"`
	Why     map[string]string `json:"parked_why"`
}) {
	b.t.Helper()
	if err := json.Unmarshal([]byte(b.run("outbox", "status", "-o", "json")), &o); err != nil {
		b.t.Fatal(err)
	}
	return o
}

// allAway kills every broker and starts them again after a while.
func (b *onBrokers) allAway(lasts time.Duration) {
	b.t.Helper()
	for i := range b.brokers.Brokers {
		b.brokers.Kill(b.t, i)
	}
	gone := time.After(lasts)
	testkit.Eventually(b.t, time.Minute, func() (bool, string) {
		code, body := get(b.relay.addr, "/readyz")
		return code == http.StatusServiceUnavailable && strings.Contains(strings.ToLower(body), "kafka"), fmt.Sprintf("the relay says %d %s", code, body)
	})
	<-gone
	if o := b.outbox(); o.Backlog == 0 || len(o.Parked) > 0 {
		b.t.Errorf("outbox status %+v, want a backlog and nothing parked: no topic is broken by itself", o)
	}
	for i := range b.brokers.Brokers {
		b.brokers.Start(b.t, i)
	}
	b.brokers.AwaitAll(b.t)
	back := time.Now()
	b.caughtUp()
	b.t.Logf("all brokers away for %v: caught up %v after they were back", lasts, time.Since(back).Round(time.Millisecond))
}

// caughtUp waits until all that was enqueued has run; nothing comes meanwhile.
func (b *onBrokers) caughtUp() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	testkit.Eventually(b.t, 3*time.Minute, func() (bool, string) {
		s := b.Ledger.Summary()
		return s.Tasks == b.fed, fmt.Sprintf("%d of %d tasks ran; %+v", s.Tasks, b.fed, b.outbox())
	})
	testkit.Eventually(b.t, time.Minute, func() (bool, string) {
		code, body := get(b.relay.addr, "/readyz")
		return code == http.StatusOK, fmt.Sprintf("the relay says %d %s", code, body)
	})
}

// right ends the feeding and sees that each task ran once.
func (b *onBrokers) right() {
	b.t.Helper()
	b.end()
	n := b.fed
	testkit.Eventually(b.t, 3*time.Minute, func() (bool, string) {
		x := b.balance()
		return x.Accepted == int64(n) && x.Completed == int64(n) && x.Lost == 0 && x.Dead == 0, fmt.Sprintf("%d enqueued, balance %+v", n, x)
	})
	if got, want := b.Ledger.Summary(), (Summary{Tasks: n, Deliveries: n, Applied: n, Bodies: n}); got != want {
		b.t.Errorf("ledger %+v, want %+v", got, want)
	}
}

// tooFewReplicas asks for all replicas and takes one broker away.
func (b *onBrokers) tooFewReplicas(adm *kadm.Client, topic string) {
	b.t.Helper()
	insync := func(n string) {
		b.t.Helper()
		res, err := adm.AlterTopicConfigs(b.t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "min.insync.replicas", Value: &n}}, topic)
		if err == nil {
			_, err = res.On(topic, func(r *kadm.AlterConfigsResponse) error { return r.Err })
		}
		if err != nil {
			b.t.Fatal(err)
		}
	}
	insync("3")
	b.brokers.Kill(b.t, 2)
	b.broken("2 of 3 required replicas")
	b.brokers.Start(b.t, 2)
	b.brokers.AwaitAll(b.t)
	b.caughtUp()
	insync("2")
}

// broken waits until load's tasks are parked for a reason that names the cause, and
// sees the other queue's go on.
func (b *onBrokers) broken(cause string) {
	b.t.Helper()
	began := time.Now()
	testkit.Eventually(b.t, 2*time.Minute, func() (bool, string) {
		o := b.outbox()
		return o.Parked["load"] > 0 && strings.Contains(o.Why["load"], cause), fmt.Sprintf("%+v", o)
	})
	b.t.Logf("parked after %v: %s", time.Since(began).Round(time.Millisecond), b.outbox().Why["load"])
	b.goesOn(200)
	if o := b.outbox(); o.Parked["other"] > 0 {
		b.t.Errorf("the other queue is parked too: %+v", o)
	}
}
