package relay

// What the database says of the outbox, for `outbox status`, `why` and the metrics.

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/testkit"
)

// examine is Examine of the rig's source.
func (g *rig) examine() error {
	return Examine(context.Background(), Config{Source: testkit.MigratedSource},
		Deps{DB: g.db, Names: g.names, Kafka: []kgo.Opt{kgo.SeedBrokers(g.kafka.Brokers...)}})
}

// open begins a transaction under an application's name and runs sql in it.
func (g *rig) open(application, sql string) (pid uint32, end func()) {
	g.t.Helper()
	u, err := url.Parse(g.url)
	if err != nil {
		g.t.Fatal(err)
	}
	q := u.Query()
	q.Set("application_name", application)
	u.RawQuery = q.Encode()
	conn, err := pgx.Connect(g.t.Context(), u.String())
	if err != nil {
		g.t.Fatal(err)
	}
	end = func() { conn.Close(context.Background()) } //nolint:errcheck // what is open is rolled back
	g.t.Cleanup(end)
	for _, text := range []string{"begin", sql} {
		if _, err := conn.Exec(g.t.Context(), text); err != nil {
			g.t.Fatal(err)
		}
	}
	return conn.PgConn().PID(), end
}

// ours are the transactions of the two applications: other tests share the server.
func ours(list []Transaction) (out []Transaction) {
	for _, t := range list {
		if t.Application == "billing" || t.Application == "report" {
			out = append(out, t)
		}
	}
	return out
}

func TestAnOpenTransactionIsNamedByItsPidAndWhetherItWrites(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	bystander, _ := g.open("report", `create table other (n int)`) // an id, and nothing in the outbox
	g.open("report", `select count(*) from perdure.outbox`)        // no id: it holds nothing
	writer, end := g.open("billing", `insert into perdure.outbox (kind, queue, payload) values ('pay', 'payments', '{}')`)
	o, err := ReadOutbox(t.Context(), g.db, testkit.MigratedSource)
	if err != nil {
		t.Fatal(err)
	}
	list := ours(o.Open)
	if len(list) != 2 || list[0].PID != int32(bystander) || list[0].Writes || list[1].PID != int32(writer) || !list[1].Writes {
		t.Fatalf("want pid %d, which writes nothing, then %d, which does: %+v", bystander, writer, list)
	}
	if list[1].State != "idle in transaction" || list[1].Name() != fmt.Sprintf("pid %d (billing)", writer) {
		t.Errorf("%+v is named %s", list[1], list[1].Name())
	}
	if age := o.Now.Sub(list[1].Since); age < 0 || age > time.Minute {
		t.Errorf("it is %v old", age)
	}
	if o.Backlog != 0 {
		t.Errorf("%d rows count as waiting, and none is committed", o.Backlog)
	}
	end()
	testkit.Eventually(t, 10*time.Second, func() (bool, string) {
		list, err := ReadTransactions(t.Context(), g.db)
		return err == nil && len(ours(list)) == 1, fmt.Sprint(list, err)
	})
}

func TestTheActiveRelayMeasuresTheOutbox(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	r := g.relay("a", nil)
	reg := prometheus.NewRegistry()
	var err error
	if r.metrics, err = newMetrics(reg, g.cat.QueueNames()); err != nil {
		t.Fatal(err)
	}
	figures := func() string {
		all, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, f := range all {
			for _, m := range f.GetMetric() {
				label := ""
				for _, l := range m.GetLabel() {
					label += "{" + l.GetValue() + "}"
				}
				fmt.Fprintf(&b, "%s%s=%v\n", strings.TrimPrefix(f.GetName(), "perdure_relay_"), label, m.GetGauge().GetValue())
			}
		}
		return b.String()
	}
	g.enqueue("k", 1)
	g.enqueue("k", 2)
	g.exec(`insert into perdure.scheduled (id, due, generation, epoch, created_at, kind, queue, content_type, payload, checked)
  values (900, now() + interval '1 day', 1, 0, now(), 'pay', 'payments', 'application/json', '{}', true)`)
	g.exec(`insert into perdure.parked (id, why, generation, epoch, created_at, kind, queue, content_type, payload, checked)
  select n, case n when 901 then 'first' else 'later' end, 1, 0, now(), 'post', 'mail', 'application/json', '{}', true from generate_series(901, 903) n`)
	g.open("billing", `insert into perdure.outbox (kind, queue, payload) values ('pay', 'payments', '{}')`)
	time.Sleep(20 * time.Millisecond) // so that ages are above 0
	if err := r.measure(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := figures()
	for _, want := range []string{"backlog_tasks=2\n", "parked_tasks{mail}=3\n", "scheduled_tasks=1\n", "outbox_partitions=17\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is not among\n%s", want, got)
		}
	}
	for _, above := range []string{"backlog_seconds", "open_transaction_seconds", "outbox_bytes"} {
		if !strings.Contains(got, above+"=") || strings.Contains(got, above+"=0\n") {
			t.Errorf("%s is nothing in\n%s", above, got)
		}
	}
	o, err := ReadOutbox(t.Context(), g.db, testkit.MigratedSource)
	if err != nil || o.Whys["mail"] != "first" {
		t.Errorf("parked since %q: %v", o.Whys["mail"], err)
	}
	r.metrics.outbox.unmeasured()
	if got := figures(); !strings.Contains(got, "backlog_tasks=0\n") || strings.Contains(got, "parked_tasks{") {
		t.Errorf("a relay that is not active still says\n%s", got)
	}

	g.exec(`delete from perdure.parked`)
	run := g.run(r)
	testkit.Eventually(t, 30*time.Second, func() (bool, string) {
		got := figures()
		return strings.Contains(got, "outbox_partitions=17\n") || strings.Contains(got, "outbox_partitions=18\n"), got // it makes one ahead
	})
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	if got := figures(); !strings.Contains(got, "outbox_partitions=0\n") {
		t.Errorf("it has stopped, and still says\n%s", got)
	}
}
