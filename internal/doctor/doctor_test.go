package doctor_test

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/doctor"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func parse(t *testing.T, text string) *schemas.Catalog {
	t.Helper()
	cat, err := schemas.ParseCatalog("catalog.yaml", []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	return cat
}

const small = "version: 1\nqueues:\n  mail: {partitions: 2}\nkinds:\n  mail.send: {queue: mail}\n"

// found returns the first finding of part at level whose text has all words.
func found(list []doctor.Finding, level doctor.Level, part string, words ...string) bool {
	for _, f := range list {
		all := f.Level == level && f.Part == part
		for _, w := range words {
			all = all && strings.Contains(f.What, w)
		}
		if all && (level == doctor.OK || f.Mend != "") {
			return true
		}
	}
	return false
}

func TestNothingThereIsAFindingEach(t *testing.T) {
	list := doctor.Examine(t.Context(), doctor.Patient{
		Config: config.Config{PostgresURL: "postgres://x@127.0.0.1:1/x?connect_timeout=1", RedisAddrs: []string{"127.0.0.1:1"}},
		CatalogErr: func() error {
			_, err := schemas.LoadCatalog("/does/not/exist.yaml")
			return err
		}(),
	})
	for _, want := range [][]string{{"catalog", "is not there"}, {"postgres", "cannot connect"}, {"redis", "cannot connect"}, {"kafka", "PERDURE_KAFKA_BROKERS"}} {
		if !found(list, doctor.Fail, want[0], want[1]) {
			t.Errorf("no failure of %s saying %q in %+v", want[0], want[1], list)
		}
	}
	if doctor.Worst(list) != doctor.Fail {
		t.Error("worst is not fail")
	}
}

func TestPostgresSettingsAndSchema(t *testing.T) {
	empty := testkit.Postgres(t)
	list := doctor.Examine(t.Context(), doctor.Patient{Config: config.Config{PostgresURL: empty.URL}, Catalog: parse(t, small)})
	if !found(list, doctor.Fail, "postgres", "schema perdure is not there") {
		t.Errorf("an empty database: %+v", list)
	}
	db := testkit.MigratedPostgres(t)
	conn, err := pgx.Connect(t.Context(), db.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context()) //nolint:errcheck // end of test
	if _, err := conn.Exec(t.Context(), `do $$ begin execute format('alter database %I set synchronous_commit = off', current_database()); end $$`); err != nil {
		t.Fatal(err)
	}
	list = doctor.Examine(t.Context(), doctor.Patient{Config: config.Config{PostgresURL: db.URL, Source: "other"}, Catalog: parse(t, small)})
	for _, tt := range []struct {
		level doctor.Level
		word  string
	}{{doctor.Warn, "synchronous_commit is off"}, {doctor.Fail, `source "main"`}, {doctor.OK, "migrations are current"}, {doctor.OK, "agree within a second"}} {
		if !found(list, tt.level, "postgres", tt.word) {
			t.Errorf("no %s saying %q in %+v", tt.level, tt.word, list)
		}
	}
}

func TestRedisThatEvictsIsAFailure(t *testing.T) {
	own := testkit.OwnRedis(t)
	rdb := redis.NewClient(&redis.Options{Addr: own.Addr})
	defer rdb.Close() //nolint:errcheck // end of test
	for _, kv := range [][2]string{{"maxmemory", "100mb"}, {"maxmemory-policy", "allkeys-lru"}, {"save", ""}, {"appendonly", "no"}} {
		if err := rdb.ConfigSet(t.Context(), kv[0], kv[1]).Err(); err != nil {
			t.Skipf("this Redis takes no CONFIG SET: %v", err)
		}
	}
	examine := func() []doctor.Finding {
		return doctor.Examine(t.Context(), doctor.Patient{Config: config.Config{RedisAddrs: []string{own.Addr}}, Catalog: parse(t, small)})
	}
	list := examine()
	if !found(list, doctor.Fail, "redis", "allkeys-lru") || !found(list, doctor.Warn, "redis", "nothing is kept on disk") {
		t.Errorf("got %+v", list)
	}
	if err := rdb.ConfigSet(t.Context(), "maxmemory-policy", "noeviction").Err(); err != nil {
		t.Fatal(err)
	}
	if list := examine(); !found(list, doctor.OK, "redis", "noeviction") {
		t.Errorf("got %+v", list)
	}
}

func TestKafkaTopicsAgainstTheCatalog(t *testing.T) {
	k := testkit.Kafka(t)
	cfg := config.Config{KafkaBrokers: k.Brokers, KafkaTopicPrefix: k.Prefix, History: time.Hour}
	cat := parse(t, strings.Replace(small, "partitions: 2", "partitions: 2, dlq_retention: 2000h", 1))
	list := doctor.Examine(t.Context(), doctor.Patient{Config: cfg, Catalog: cat})
	if !found(list, doctor.Warn, "kafka", "tasks.mail", "is not there") || !found(list, doctor.Warn, "kafka", "queue mail keeps records for 2000h") {
		t.Errorf("before the topics are made: %+v", list)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	settings := kafka.Settings{Names: kafka.Names{Prefix: k.Prefix}, History: time.Hour}
	if _, err := kafka.Ensure(t.Context(), kadm.NewClient(cl), cat, settings, false); err != nil {
		t.Fatal(err)
	}
	list = doctor.Examine(t.Context(), doctor.Patient{Config: cfg, Catalog: cat})
	if !found(list, doctor.OK, "kafka", "topics are as the catalog asks") || !found(list, doctor.Warn, "kafka", "tasks.mail", "one replica") {
		t.Errorf("after: %+v", list)
	}
}

func TestAShareGroupAsKafkaMakesItIsRefused(t *testing.T) {
	k := testkit.Kafka(t)
	cfg := config.Config{KafkaBrokers: k.Brokers, KafkaTopicPrefix: k.Prefix, History: time.Hour}
	cat := parse(t, strings.Replace(small, "partitions: 2", "partitions: 2, delivery: shared", 1))
	list := doctor.Examine(t.Context(), doctor.Patient{Config: cfg, Catalog: cat})
	if !found(list, doctor.Fail, "kafka", "share group "+k.Prefix+"perdure.mail.shared", "share.auto.offset.reset") {
		t.Errorf("before it is set: %+v", list)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	settings := kafka.Settings{Names: kafka.Names{Prefix: k.Prefix}, History: time.Hour, Requests: cl}
	if _, err := kafka.Ensure(t.Context(), kadm.NewClient(cl), cat, settings, false); err != nil {
		t.Fatal(err)
	}
	list = doctor.Examine(t.Context(), doctor.Patient{Config: cfg, Catalog: cat})
	if !found(list, doctor.OK, "kafka", "begins at the beginning", "up to 10 times") {
		t.Errorf("after: %+v", list)
	}
}
