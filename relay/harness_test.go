package relay

// What the tests share: a database, a Kafka, relays that can be stopped, and a
// consumer that has read everything.

import (
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const testCatalog = `
version: 1
queues:
  payments: {partitions: 4, replication: 1}
  mail: {partitions: 2, replication: 1}
kinds:
  pay: {queue: payments, order: key}
  post: {queue: mail}
  strict: {queue: payments, schema: strict.json}
  strict.line: {queue: payments, schema: strict.json, order: key, on_dead: block}
`

const strictSchema = `{"type":"object","required":["amount"],"properties":{"amount":{"type":"integer"}}}`

// rig is one source: database, topics, options for its relays.
type rig struct {
	t     testing.TB
	url   string
	db    *pgxpool.Pool
	kafka testkit.KafkaServer
	names kafka.Names
	cat   *schemas.Catalog
	cl    *kgo.Client
	adm   *kadm.Client
	bin   string // where the server's own programs are, once asked
}

func newRig(t testing.TB) *rig {
	t.Helper()
	return newRigOn(t, testkit.MigratedPostgres(t).URL)
}

// newRigOn uses a database that is migrated already.
func newRigOn(t testing.TB, url string) *rig {
	t.Helper()
	return newRigOver(t, url, testkit.Kafka(t), testCatalog)
}

// newRigOver uses a Kafka and a catalog of the test's own, too.
func newRigOver(t testing.TB, url string, server testkit.KafkaServer, catalog string) *rig {
	t.Helper()
	g := &rig{t: t, url: url, kafka: server}
	g.names = kafka.Names{Prefix: g.kafka.Prefix}
	var err error
	g.cat, err = schemas.ParseCatalog("catalog.yaml", []byte(catalog), fstest.MapFS{"strict.json": {Data: []byte(strictSchema)}})
	if err != nil {
		t.Fatal(err)
	}
	g.db, err = pg.Pool(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.db.Close)
	cl, err := kgo.NewClient(kgo.SeedBrokers(g.kafka.Brokers...), kgo.UnknownTopicRetries(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	g.cl, g.adm = cl, kadm.NewClient(cl)
	_, err = kafka.Ensure(t.Context(), g.adm, g.cat, kafka.Settings{Names: g.names, History: time.Hour, MaxReplication: len(server.Brokers)}, false)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// relay makes a relay with quick settings; change alters them.
func (g *rig) relay(owner string, change func(*Config)) *Relay {
	g.t.Helper()
	cfg := Config{Source: testkit.MigratedSource, Owner: owner, LeaseTTL: 2 * time.Second, Idle: 5 * time.Millisecond,
		Standby: 20 * time.Millisecond, Probe: 100 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	r, err := New(cfg, Deps{
		DB: g.db, Names: g.names, Catalog: g.cat, Log: testkit.Logger(g.t),
		Kafka: []kgo.Opt{kgo.SeedBrokers(g.kafka.Brokers...), kgo.ClientID("perdure-relay-" + owner), kgo.MetadataMinAge(100 * time.Millisecond)},
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return r
}

// running is a relay under way.
type running struct {
	cancel context.CancelFunc
	done   chan error
}

// run starts a relay; the test's end stops it.
func (g *rig) run(r *Relay) *running {
	g.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	x := &running{cancel, make(chan error, 1)}
	go func() { x.done <- r.Run(ctx) }()
	g.t.Cleanup(func() { x.stop() }) //nolint:errcheck // the test looked at it, if it wanted to
	return x
}

// stop is Run's result. It may be called again.
func (x *running) stop() error {
	x.cancel()
	return x.wait()
}

func (x *running) wait() error {
	err := <-x.done
	x.done <- err
	return err
}

func (g *rig) exec(sql string, args ...any) {
	g.t.Helper()
	if _, err := g.db.Exec(context.Background(), sql, args...); err != nil {
		g.t.Fatalf("%s: %v", sql, err)
	}
}

func one[T any](g *rig, sql string, args ...any) T {
	g.t.Helper()
	var v T
	if err := g.db.QueryRow(context.Background(), sql, args...).Scan(&v); err != nil {
		g.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

const insertRow = `insert into perdure.outbox (kind, queue, key, payload) values ($1, $2, $3, $4) returning id`

type queryer interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// enqueue writes one row of kind pay with a key, and returns its id.
func enqueue(ctx context.Context, db queryer, key string, n int) (int64, error) {
	var id int64
	err := db.QueryRow(ctx, insertRow, "pay", "payments", key, fmt.Appendf(nil, `{"key":%q,"n":%d}`, key, n)).Scan(&id)
	return id, err
}

func (g *rig) enqueue(key string, n int) int64 {
	g.t.Helper()
	id, err := enqueue(context.Background(), g.db, key, n)
	if err != nil {
		g.t.Fatal(err)
	}
	return id
}

// records reads topics from the beginning until done says that what was read
// suffices, and returns all of it.
func (g *rig) records(timeout time.Duration, done func([]*kgo.Record) bool, topics ...string) []*kgo.Record {
	g.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(g.kafka.Brokers...), kgo.ConsumeTopics(topics...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.MetadataMinAge(50*time.Millisecond), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		g.t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var all []*kgo.Record
	for !done(all) {
		f := cl.PollFetches(ctx)
		f.EachRecord(func(r *kgo.Record) { all = append(all, r) })
		if ctx.Err() != nil {
			g.t.Fatalf("not within %v: %d records on %v", timeout, len(all), topics)
		}
	}
	return all
}

// first returns n records of topics.
func (g *rig) first(n int, topics ...string) []*kgo.Record {
	g.t.Helper()
	return g.records(time.Minute, func(r []*kgo.Record) bool { return len(r) >= n }, topics...)
}

// drained waits until the cursor has passed every row that is committed now.
func (g *rig) drained(timeout time.Duration) {
	g.t.Helper()
	testkit.Eventually(g.t, timeout, func() (bool, string) {
		o, err := ReadOutbox(context.Background(), g.db, testkit.MigratedSource)
		if err != nil {
			return false, err.Error()
		}
		return o.Backlog == 0, fmt.Sprintf("%d rows are not relayed", o.Backlog)
	})
}

// limit sets the largest record that a topic takes.
func (g *rig) limit(topic, bytes string) {
	g.t.Helper()
	testkit.SetTopicConfig(g.t, g.adm, topic, "max.message.bytes", bytes)
}

// incompressible is a payload that stays as large as it is on the wire.
func incompressible(n int) []byte {
	b := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(n)})
	rng.Read(b) //nolint:errcheck // it never fails
	return fmt.Appendf(nil, `"%s"`, base64.StdEncoding.EncodeToString(b)[:n-2])
}

func header(r *kgo.Record, name string) string { return headerOf(r, name) }
