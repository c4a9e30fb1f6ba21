package worker_test

// What is done to a fleet and its servers, one fault a function. The history
// notes what concerns a process, because only that may let a task run again.

import (
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
)

// session is longer than Kafka's session timeout and the beat's expiry.
const session = 7500 * time.Millisecond

// battered is a fleet on servers of its own, and who is in it.
type battered struct {
	*fleet
	brokers *testkit.OwnedKafka
	pair    *testkit.RedisPair
	men     []*man
	random  *rand.Rand
}

// fault is one thing that happens, to its end: afterwards everything is as
// before, but for what the workers make of it.
type fault struct {
	name string
	do   func(*battered)
}

// workerFaults may come while anything else is broken.
var workerFaults = []fault{
	{"a worker killed, back at once", func(b *battered) { b.killed(1, 0) }},
	{"a worker killed, back later", func(b *battered) { b.killed(1, 2*time.Second) }},
	{"two workers killed at once, back later", func(b *battered) { b.killed(2, 3*time.Second) }},
	{"a worker stopped", func(b *battered) {
		i := b.any()
		b.men[i].signal(syscall.SIGTERM)
		<-b.men[i].died
		b.men[i] = b.hire(b.men[i].name, true)
	}},
	{"a worker paused for a moment", func(b *battered) { b.paused(time.Duration(200+b.random.IntN(2500)) * time.Millisecond) }},
	{"a worker paused for longer than its session", func(b *battered) { b.paused(session) }},
}

// serverFaults stand between times at which everything is committed: a Redis that
// is lost together with a worker takes with it what only these two knew, and the
// documents say so.
var serverFaults = []fault{
	{"Redis killed, back and empty", func(b *battered) {
		b.pair.Kill(b)
		b.pause(time.Duration(b.random.IntN(3000)) * time.Millisecond)
		b.pair.Restart(b)
	}},
	{"Redis flushed", func(b *battered) { b.pair.Flush(b) }},
	{"Redis failed over to its replica", func(b *battered) { b.pair.Failover(b) }},
	{"a broker killed, two faults of workers, back", func(b *battered) {
		b.brokers.AwaitAll(b) // since it last happened: two at once would stop Kafka, rightly
		i := b.random.IntN(len(b.brokers.Brokers))
		b.brokers.Kill(b, i)
		for _, j := range b.random.Perm(len(workerFaults))[:2] {
			b.suffer(workerFaults[j])
		}
		b.brokers.Start(b, i)
	}},
}

func (b *battered) any() int { return b.random.IntN(len(b.men)) }

// suffer lets a fault happen, and a moment pass.
func (b *battered) suffer(f fault) {
	b.Helper()
	began := time.Now()
	b.ledger.add(note{What: faultOther, Worker: f.name})
	f.do(b)
	b.pause(time.Duration(300+b.random.IntN(700)) * time.Millisecond)
	b.Logf("%s: %v", f.name, time.Since(began).Round(time.Millisecond))
}

// killed kills n workers, all before any is back.
func (b *battered) killed(n int, later time.Duration) {
	b.Helper()
	whom := b.random.Perm(len(b.men))[:n]
	for _, i := range whom {
		b.men[i].signal(syscall.SIGKILL)
	}
	for _, i := range whom {
		<-b.men[i].died
	}
	b.pause(later)
	for _, i := range whom {
		b.men[i] = b.hire(b.men[i].name, true)
	}
}

func (b *battered) paused(d time.Duration) {
	b.Helper()
	m := b.men[b.any()]
	m.signal(syscall.SIGSTOP)
	b.pause(d)
	m.signal(syscall.SIGCONT)
}

// newBattered starts workers on three brokers and a Redis with a replica.
func newBattered(t *testing.T, workers int, seed uint64) *battered {
	t.Helper()
	b := &battered{brokers: testkit.OwnKafka(t, 3), pair: testkit.OwnRedisPair(t), random: rand.New(rand.NewPCG(seed, 0))}
	b.fleet = newFleet(t, onBrokers(b.brokers), withRedis(b.pair.Addr))
	for i := range workers {
		b.men = append(b.men, b.hire([]string{"ann", "ben", "cid", "dan", "eve"}[i], true))
	}
	return b
}
