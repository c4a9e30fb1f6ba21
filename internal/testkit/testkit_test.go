// The kit itself: shares are apart, cleanup cleans, owned servers die and return.

package testkit_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestKafkaSharesAreApartAndCleanedUp(t *testing.T) {
	mine := testkit.Kafka(t)
	cl, err := kgo.NewClient(kgo.SeedBrokers(mine.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	var topic string
	t.Run("a test makes a topic", func(t *testing.T) {
		k := testkit.Kafka(t)
		if k.Prefix == mine.Prefix {
			t.Fatalf("two tests share the prefix %s", k.Prefix)
		}
		topic = k.Prefix + "tasks.x"
		if _, err := adm.CreateTopic(t.Context(), 1, 1, nil, topic); err != nil {
			t.Fatal(err)
		}
	})
	testkit.Eventually(t, 10*time.Second, func() (bool, string) {
		topics, err := adm.ListTopics(t.Context())
		if err != nil {
			return false, err.Error()
		}
		return !topics.Has(topic), "topic " + topic + " is still there"
	})
}

func TestKafkaNeverMakesTopicsByAsking(t *testing.T) {
	k := testkit.Kafka(t)
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.Brokers...), kgo.AllowAutoTopicCreation(),
		kgo.UnknownTopicRetries(0), kgo.RecordDeliveryTimeout(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	err = cl.ProduceSync(t.Context(), &kgo.Record{Topic: k.Prefix + "never", Value: []byte("x")}).FirstErr()
	if err == nil {
		t.Fatal("a record was accepted for a topic that nobody created")
	}
}

func TestRedisKeysAreRemoved(t *testing.T) {
	var s testkit.RedisServer
	t.Run("a test writes a key", func(t *testing.T) {
		s = testkit.Redis(t)
		c := redis.NewClient(&redis.Options{Addr: s.Addr})
		defer c.Close()
		if err := c.Set(t.Context(), s.Prefix+"k", "v", 0).Err(); err != nil {
			t.Fatal(err)
		}
	})
	c := redis.NewClient(&redis.Options{Addr: s.Addr})
	defer c.Close()
	if n, err := c.Exists(t.Context(), s.Prefix+"k").Result(); err != nil || n != 0 {
		t.Fatalf("key is still there (n=%d, err=%v)", n, err)
	}
}

func TestPostgresIsEmptyAndDroppedWithPreparedTransactions(t *testing.T) {
	var name string
	t.Run("a test leaves a prepared transaction", func(t *testing.T) {
		conn := connect(t, testkit.Postgres(t).URL)
		name = conn.Config().Database
		exec(t, conn, `create table x (i int)`)
		exec(t, conn, `begin; insert into x values (1); prepare transaction 'left over'`)
	})
	conn := connect(t, testkit.Postgres(t).URL)
	var there bool
	if err := conn.QueryRow(t.Context(), `select exists (select from pg_database where datname = $1)`, name).Scan(&there); err != nil {
		t.Fatal(err)
	}
	if there {
		t.Fatalf("database %s outlived its test", name)
	}
}

func TestOwnRedisForgetsWhenKilled(t *testing.T) {
	r := testkit.OwnRedis(t)
	c := redis.NewClient(&redis.Options{Addr: r.Addr, MaxRetries: -1})
	defer c.Close()
	set := func() {
		t.Helper()
		if err := c.Set(t.Context(), "k", "v", 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	gone := func() {
		t.Helper()
		if n, err := c.Exists(t.Context(), "k").Result(); err != nil || n != 0 {
			t.Fatalf("the key is still there (n=%d, err=%v)", n, err)
		}
	}
	set()
	r.Flush(t)
	gone()
	set()
	r.Kill(t)
	if err := c.Ping(t.Context()).Err(); err == nil {
		t.Fatal("a killed Redis answers")
	}
	r.Restart(t)
	c.Close()
	c = redis.NewClient(&redis.Options{Addr: r.Addr})
	gone()
}

func TestOwnPostgresOfEachVersionSurvivesKill(t *testing.T) {
	for _, version := range []string{"15", "18"} {
		t.Run(version, func(t *testing.T) {
			p := testkit.OwnPostgres(t, version)
			if !strings.HasPrefix(p.Version(), version+".") {
				t.Fatalf("asked for %s, got %s", version, p.Version())
			}
			exec(t, connect(t, p.URL()), `create table x as select 42 as i`)
			if err := p.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := p.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			var i int
			if err := connect(t, p.URL()).QueryRow(t.Context(), `select i from x`).Scan(&i); err != nil || i != 42 {
				t.Fatalf("committed row is %d, %v", i, err)
			}
		})
	}
}

func TestReportNamesWhatWasUsed(t *testing.T) {
	testkit.Postgres(t)
	var b strings.Builder
	testkit.Report(&b)
	if !strings.Contains(b.String(), "postgres  1") {
		t.Fatalf("no Postgres with its version in the report:\n%s", b.String())
	}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func exec(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func TestMigratedPostgresIsCloned(t *testing.T) {
	for range 2 {
		conn := connect(t, testkit.MigratedPostgres(t).URL)
		var rows int
		if err := conn.QueryRow(t.Context(), `select count(*) from perdure.outbox`).Scan(&rows); err != nil || rows != 0 {
			t.Fatalf("want an empty outbox: %d rows, %v", rows, err)
		}
		exec(t, conn, `create table mine (i int)`)
	}
}

func TestAFailedOverRedisIsAnotherServerWithTheData(t *testing.T) {
	p := testkit.OwnRedisPair(t)
	c := redis.NewClient(&redis.Options{Addr: p.Addr})
	defer c.Close()
	runID := func() string {
		_, rest, _ := strings.Cut(c.Info(t.Context(), "server").Val(), "run_id:")
		id, _, _ := strings.Cut(rest, "\r\n")
		return id
	}
	was := runID()
	for round := range 2 { // and back
		key := fmt.Sprint("k", round)
		if err := c.Set(t.Context(), key, "v", 0).Err(); err != nil {
			t.Fatal(err)
		}
		if err := c.Wait(t.Context(), 1, 10*time.Second).Err(); err != nil {
			t.Fatal(err)
		}
		p.Failover(t)
		if n, err := c.Exists(t.Context(), key).Result(); err != nil || n != 1 {
			t.Fatalf("round %d: the replica has no %s (n=%d, err=%v)", round, key, n, err)
		}
		now := runID()
		if now == was || now == "" {
			t.Errorf("round %d: run_id %q after %q: the address leads to the same server", round, now, was)
		}
		was = now
	}
	p.Kill(t)
	if err := c.Ping(t.Context()).Err(); err == nil {
		t.Error("a killed Redis answers")
	}
	p.Restart(t)
	if n, err := c.DBSize(t.Context()).Result(); err != nil || n != 0 {
		t.Errorf("a restarted Redis has %d keys (err=%v)", n, err)
	}
}
