package relay

// Rows that cannot simply be produced: wrong payloads, records too large, broken
// topics, tasks that are not due.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/relaylog"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

func TestWrongRowsBecomeLetters(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.run(g.relay("a", func(c *Config) { c.Release = "r7" }))
	const insert = `insert into perdure.outbox (kind, queue, key, payload, headers, checked) values ($1, 'payments', 'k', $2, $3, $4) returning id`
	schema := one[int64](g, insert, "strict", `{"amount":"much"}`, nil, false)
	g.exec(insert, "strict", `{"amount":"much, but checked before"}`, nil, true)
	headers := one[int64](g, insert, "pay", `{}`, `[1]`, false)
	large := one[int64](g, insert, "pay", strings.Repeat("x", 1_600_000), nil, false)
	g.exec(insert, "pay", `{"fine":true}`, nil, false)
	g.exec(insert, "unknown.kind", `{}`, nil, false)

	letters := map[int64]*dlq.Letter{}
	for _, rec := range g.first(3, g.names.DLQ("payments")) {
		l, _, err := dlq.Decode(rec)
		if err != nil {
			t.Fatal(err)
		}
		letters[l.Origin.Offset] = l
	}
	for id, want := range map[int64]struct {
		reason schemas.Reason
		in     string
	}{
		schema:  {schemas.ReasonSchema, "#/payload/amount"},
		headers: {schemas.ReasonUndecodable, "headers"},
		large:   {schemas.ReasonTooLarge, "bytes"},
	} {
		l := letters[id]
		if l == nil || l.Reason != want.reason || !strings.Contains(l.Message, want.in) {
			t.Errorf("id %d: got %+v, want reason %s", id, l, want.reason)
			continue
		}
		if l.TaskID != fmt.Sprintf("main-1-%d", id) || l.Run != 0 || l.Release != "r7" || l.Origin.Topic != g.names.Tasks("payments") {
			t.Errorf("id %d: letter is %+v", id, l)
		}
		if strings.Contains(l.Message, "much") {
			t.Errorf("the message holds the payload: %s", l.Message)
		}
		// The log commits after Kafka's acknowledgement, which is what we saw.
		testkit.Eventually(t, 30*time.Second, func() (bool, string) {
			hop, _, ok, err := relaylog.Find(t.Context(), g.db, id)
			return err == nil && ok && hop.Topic == g.names.DLQ("payments"), fmt.Sprintf("id %d: the relay log says %+v, %v, %v", id, hop, ok, err)
		})
	}
	var got []string
	for _, rec := range g.first(3, g.names.Tasks("payments")) {
		got = append(got, header(rec, schemas.HeaderType))
	}
	if fmt.Sprint(got) != "[strict pay unknown.kind]" {
		t.Errorf("on the task topic: %v", got)
	}
}

func TestBrokenTopicStallsNoOther(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	testkit.DeleteTopic(t, g.cl, g.names.Tasks("mail"))
	r := g.relay("a", nil)
	run := g.run(r)
	mail := func(n int) {
		g.exec(`insert into perdure.outbox (kind, queue, key, payload) values ('post', 'mail', 'k', $1)`, fmt.Sprintf(`{"n":%d}`, n))
	}
	mail(1)
	g.enqueue("k", 1)
	g.first(1, g.names.Tasks("payments"))
	for n := 2; n < 30; n++ {
		mail(n)
	}
	g.exec(`insert into perdure.outbox (kind, queue, run_at, payload) values ('post', 'mail', now() + interval '1 hour', '{}')`)
	g.drained(10 * time.Second)
	testkit.Eventually(t, 10*time.Second, func() (bool, string) {
		o, err := ReadOutbox(t.Context(), g.db, "main")
		return err == nil && o.Parked["mail"] == 29 && o.Scheduled == 1, fmt.Sprintf("%+v, %v", o, err)
	})
	testkit.Eventually(t, 5*time.Second, func() (bool, string) {
		s := r.Status()
		return strings.Contains(s.Parked["mail"], "does not exist"), fmt.Sprintf("%+v", s)
	})

	// Another relay, later, finds them and sends them when the topic is there.
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	g.run(g.relay("b", func(c *Config) { c.Chunk = 10 }))
	mail(30)
	if _, err := g.adm.CreateTopic(t.Context(), 1, 1, nil, g.names.Tasks("mail")); err != nil {
		t.Fatal(err)
	}
	for i, rec := range g.first(30, g.names.Tasks("mail")) {
		if want := fmt.Sprintf(`{"n":%d}`, i+1); string(rec.Value) != want {
			t.Fatalf("record %d is %s, want %s: parking broke the order", i, rec.Value, want)
		}
	}
	testkit.Eventually(t, 10*time.Second, func() (bool, string) {
		n := one[int](g, `select count(*) from perdure.parked`)
		return n == 0, fmt.Sprintf("%d rows are parked", n)
	})
	mail(31)
	g.first(31, g.names.Tasks("mail"))
	testkit.Eventually(t, 10*time.Second, func() (bool, string) {
		n := one[int](g, `select sum(tasks) from perdure.relay_log`)
		return n == 32, fmt.Sprintf("the relay log counts %d tasks, want 32", n)
	})
}

func TestScheduledTaskGoesOutWhenDue(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	run := g.run(g.relay("a", nil))
	const insert = `insert into perdure.outbox (kind, queue, key, run_at, payload) values ('pay', 'payments', 'k', now() + $1::interval, $2) returning id`
	g.exec(insert, "1 hour", `{"n":3}`)
	g.exec(insert, "-1 hour", `{"n":0}`)
	// The later one first, in one transaction: what counts is when they are due.
	tx := g.begin()
	var ids [2]int64
	for i, x := range [][2]string{{"4 s", `{"n":2}`}, {"3500 ms", `{"n":1}`}} {
		if err := tx.QueryRow(t.Context(), insert, x[0], x[1]).Scan(&ids[i]); err != nil {
			t.Fatal(err)
		}
	}
	g.commit(tx)
	g.drained(5 * time.Second)
	if n := one[int](g, `select count(*) from perdure.scheduled`); n < 1 || n > 3 { // some are due by now, on a slow machine
		t.Errorf("%d rows are scheduled, want that of the next hour, and the two soon", n)
	}
	recs := g.first(3, g.names.Tasks("payments"))
	for i, rec := range recs {
		if want := fmt.Sprintf(`{"n":%d}`, i); string(rec.Value) != want {
			t.Fatalf("record %d is %s, want %s", i, rec.Value, want)
		}
	}
	for _, id := range ids {
		testkit.Eventually(t, 5*time.Second, func() (bool, string) {
			_, b, ok, err := relaylog.Find(t.Context(), g.db, id)
			if !ok || err != nil {
				return false, fmt.Sprintf("the relay log has no hop of %d: %v", id, err)
			}
			due := one[bool](g, `select $1::timestamptz >= run_at from perdure.outbox where id = $2`, b.RelayedAt, id)
			return due, "it went out before it was due"
		})
	}
	if err := run.stop(); err != nil { // what is scheduled outlives its relay
		t.Fatal(err)
	}
	g.exec(`update perdure.scheduled set due = now()`)
	g.run(g.relay("b", nil))
	g.first(4, g.names.Tasks("payments"))
	testkit.Eventually(t, 5*time.Second, func() (bool, string) {
		n := one[int](g, `select count(*) from perdure.scheduled`)
		return n == 0, fmt.Sprintf("%d rows are scheduled", n)
	})
}

// TestARecordSaysWhenItsTaskWasDue: filed or not; and nothing where that is when it
// was enqueued.
func TestARecordSaysWhenItsTaskWasDue(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	const insert = `insert into perdure.outbox (kind, queue, key, created_at, run_at, payload) values ('pay', 'payments', 'k', now() - interval '1 hour', now() + $1::interval, '{}') returning coalesce(floor(extract(epoch from run_at) * 1000)::bigint::text, '')`
	passed := one[string](g, insert, "-1 minute") // fell due before the relay came
	one[string](g, insert, "-2 hours")
	one[string](g, insert, nil)
	soon := one[string](g, insert, "2 s")
	g.run(g.relay("a", nil))
	recs := g.first(4, g.names.Tasks("payments"))
	for i, want := range []string{passed, "", "", soon} {
		if got := headerOf(recs[i], schemas.HeaderDue); got != want {
			t.Errorf("record %d: due %q, want %q", i, got, want)
		}
	}
}

func TestScheduledTaskOfABrokenQueueIsParkedWhenDue(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	run := g.run(g.relay("a", nil))
	g.exec(`insert into perdure.outbox (kind, queue, run_at, payload) values ('post', 'mail', now() + interval '1 h', '{}')`)
	g.drained(5 * time.Second)
	if err := run.stop(); err != nil { // how long a topic's end takes is Kafka's
		t.Fatal(err)
	}
	testkit.DeleteTopic(t, g.cl, g.names.Tasks("mail"))
	g.exec(`update perdure.scheduled set due = now()`)
	g.run(g.relay("b", nil))
	testkit.Eventually(t, 60*time.Second, func() (bool, string) {
		o, err := ReadOutbox(t.Context(), g.db, "main")
		return err == nil && o.Parked["mail"] == 1 && o.Scheduled == 0, fmt.Sprintf("%+v, %v", o, err)
	})
}

// Both ways into perdure.parked keep when a task was due.
func TestAParkedTaskKeepsWhenItWasDue(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	testkit.DeleteTopic(t, g.cl, g.names.Tasks("mail"))
	const insert = `insert into perdure.outbox (kind, queue, created_at, run_at, payload) values ('post', 'mail', now() - interval '1 hour', now() + $1::interval, '{}') returning floor(extract(epoch from run_at) * 1000)::bigint::text`
	passed := one[string](g, insert, "-1 minute")
	soon := one[string](g, insert, "1 s")
	g.run(g.relay("a", nil))
	testkit.Eventually(t, 60*time.Second, func() (bool, string) {
		o, err := ReadOutbox(t.Context(), g.db, "main")
		return err == nil && o.Parked["mail"] == 2, fmt.Sprintf("%+v, %v", o, err)
	})
	if _, err := g.adm.CreateTopic(t.Context(), 1, 1, nil, g.names.Tasks("mail")); err != nil {
		t.Fatal(err)
	}
	recs := g.first(2, g.names.Tasks("mail"))
	for i, want := range []string{passed, soon} {
		if got := headerOf(recs[i], schemas.HeaderDue); got != want {
			t.Errorf("record %d: due %q, want %q", i, got, want)
		}
	}
}

// A topic whose limit was lowered while the relay runs: what no longer fits dies,
// the rest goes through.
func TestTopicLimitThatIsLowered(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	if !g.kafka.Real {
		t.Skip("kfake takes records of any size")
	}
	r := g.relay("a", nil)
	g.run(r)
	g.enqueue("k", 1)
	g.drained(10 * time.Second)
	g.limit(g.names.Tasks("payments"), "20000")
	g.exec(`insert into perdure.outbox (kind, queue, key, payload) values ('pay', 'payments', 'k', $1), ('pay', 'payments', 'k', $2), ('pay', 'payments', 'k', $2)`,
		incompressible(60_000), incompressible(12_000))
	rec := g.first(1, g.names.DLQ("payments"))[0]
	l, _, err := dlq.Decode(rec)
	if err != nil {
		t.Fatal(err)
	}
	if l.Reason != schemas.ReasonTooLarge {
		t.Errorf("letter %+v", l)
	}
	g.first(3, g.names.Tasks("payments"))
	g.drained(10 * time.Second)
}

// A letter that does not fit the dead-letter topic is cut, and stalls nobody.
func TestLetterThatDoesNotFitIsCut(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.limit(g.names.DLQ("payments"), "100000")
	g.run(g.relay("a", nil))
	id := one[int64](g, `insert into perdure.outbox (kind, queue, payload) values ('strict', 'payments', $1) returning id`, incompressible(300_000))
	l, _, err := dlq.Decode(g.first(1, g.names.DLQ("payments"))[0])
	if err != nil {
		t.Fatal(err)
	}
	if l.Origin.Offset != id || l.Reason != schemas.ReasonSchema || len(l.Value) > 100_000 || len(l.Value) < 90_000 || !strings.Contains(l.Message, "is cut") {
		t.Errorf("letter of %d bytes: %+v", len(l.Value), l.Message)
	}
	g.enqueue("k", 1)
	g.first(1, g.names.Tasks("payments"))
}

func TestErrorsAreClassified(t *testing.T) {
	for err, want := range map[error]string{
		kerr.MessageTooLarge:            classTooLarge,
		kerr.UnknownTopicOrPartition:    classQueue,
		kerr.TopicAuthorizationFailed:   classQueue,
		kerr.InvalidTopicException:      classQueue,
		kgo.ErrRecordTimeout:            classSlow,
		kerr.ClusterAuthorizationFailed: classRetry,
		kerr.OutOfOrderSequenceNumber:   classRetry,
		context.Canceled:                classRetry,
		errors.New("anything else"):     classRetry,
	} {
		if got := classify(fmt.Errorf("wrapped: %w", err)); got != want {
			t.Errorf("%v is %s, want %s", err, got, want)
		}
	}
}

// A topic that takes nothing is broken only if others take something; else Kafka is.
func TestStuckTopicIsParkedOnlyWhereOthersTakeRecords(t *testing.T) {
	const patience = 2 * time.Second
	for _, c := range []struct {
		name   string
		topics map[string][2]int // records: given, left
		failed string
		alive  bool
		waited time.Duration
		want   string
	}{
		{"all are stuck", map[string][2]int{"a": {5, 5}, "b": {5, 5}}, "", false, time.Minute, "[]"},
		{"one of two is stuck", map[string][2]int{"a": {5, 5}, "b": {5, 0}}, "", false, patience, "[a]"},
		{"one of two is stuck, with a part of its records", map[string][2]int{"a": {5, 1}, "b": {5, 0}}, "", false, patience, "[a]"},
		{"not for long", map[string][2]int{"a": {5, 5}, "b": {5, 0}}, "", false, patience - 1, "[]"},
		{"the other refuses its records", map[string][2]int{"a": {5, 5}, "b": {5, 0}}, "b", false, time.Minute, "[]"},
		{"one alone, and Kafka says nothing else", map[string][2]int{"a": {5, 5}}, "", false, time.Minute, "[]"},
		{"one alone, and Kafka takes others", map[string][2]int{"a": {5, 5}}, "", true, patience, "[a]"},
		{"most are stuck", map[string][2]int{"a": {5, 5}, "b": {5, 5}, "c": {5, 0}}, "", false, 4 * patience, "[]"},
		{"most are stuck for long", map[string][2]int{"a": {5, 5}, "b": {5, 5}, "c": {5, 0}}, "", false, longPatience * patience, "[a b]"},
		{"all are stuck for long, and Kafka takes others", map[string][2]int{"a": {5, 5}, "b": {5, 5}}, "", true, longPatience * patience, "[a b]"},
	} {
		s, now := &sending{topics: map[string]*tally{}}, time.Now()
		for name, n := range c.topics {
			s.topics[name] = &tally{left: n[1], failed: name == c.failed}
		}
		alive := func() bool { return c.alive }
		if got := s.stuck(now, patience, alive); got != nil {
			t.Errorf("%s: at once %v", c.name, got)
		}
		if got := fmt.Sprint(s.stuck(now.Add(c.waited), patience, alive)); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
		for _, y := range s.topics {
			y.left = max(0, y.left-1)
		}
		if got := s.stuck(now.Add(c.waited), patience, alive); got != nil {
			t.Errorf("%s, and then one is taken: %v", c.name, got)
		}
	}
}
