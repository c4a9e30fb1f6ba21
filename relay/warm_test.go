package relay

import (
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// What a standby does to be ready changes nothing of what the active relay has, and
// leaves nothing to be planned or asked for.
func TestAStandbyWarmsUpAndTouchesNothing(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.enqueue("k", 1)
	run := g.run(g.relay("a", nil))
	g.drained(10 * time.Second)
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	g.enqueue("k", 2) // nobody has moved it
	state := func() (s string) {
		t.Helper()
		err := g.db.QueryRow(t.Context(), `select concat_ws('|', (select c::text from perdure.relay_cursor c), (select l::text from perdure.relay_lease l),
  (select string_agg(l::text, ',') from perdure.relay_log l), (select count(*) from perdure.scheduled))`).Scan(&s)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	before := state()

	b := g.relay("b", nil)
	x := &term{r: b}
	var err error
	if x.conn, err = b.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer closeConn(x.conn)
	if err := x.open(); err != nil {
		t.Fatal(err)
	}
	defer x.close()
	x.rehearse(t.Context())
	if err := warm(t.Context(), x.out, x.side); err != nil {
		t.Fatal(err)
	}
	if after := state(); after != before {
		t.Errorf("it has changed\n%s\ninto\n%s", before, after)
	}
	for _, sql := range []string{b.sql.window, b.sql.behind, moveBeyond, logBatch} {
		var planned bool
		if err := x.conn.QueryRow(t.Context(), `select exists (select from pg_prepared_statements where statement = $1)`, sql).Scan(&planned); err != nil || !planned {
			t.Errorf("%v: not planned: %s", err, sql)
		}
	}
	for _, q := range g.cat.QueueNames() {
		for _, name := range []string{g.names.Tasks(q), g.names.DLQ(q)} {
			if k, fresh := x.out.topics.get(name); !fresh || k.err != nil || k.limit == 0 {
				t.Errorf("of topic %s it knows %+v", name, k)
			}
		}
	}
}

// A standby that waits for a Kafka which never answers stops that when its term begins.
func TestAStandbyThatCannotWarmUpTakesOver(t *testing.T) {
	g := newRig(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	b := g.relay("b", nil)
	b.deps.Kafka = []kgo.Opt{kgo.SeedBrokers(silent.Addr().String())}
	x := &term{r: b}
	if err := x.open(); err != nil {
		t.Fatal(err)
	}
	defer x.close()
	waiting := x.out
	stop := x.keepWarm(t.Context())
	asks, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer asks.Close()
	if _, err := asks.Read(make([]byte, 1)); err != nil { // it has asked, and gets no answer
		t.Fatal(err)
	}
	began := time.Now()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 5*time.Second { // a question to Kafka has ten
		t.Errorf("it waited %v for what is not needed", took)
	}
	if x.out == nil || x.out == waiting || x.side == nil {
		t.Error("it has no new clients")
	}
}
