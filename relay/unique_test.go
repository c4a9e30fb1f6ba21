package relay

// A task that holds a unique key until it is completed says so on its record,
// however it came there.

import (
	"fmt"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

func TestARecordSaysThatItsTaskHoldsAKey(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	testkit.DeleteTopic(t, g.cl, g.names.Tasks("mail"))
	const insert = `insert into perdure.outbox (kind, queue, key, run_at, payload, headers, task_id, epoch) values ($1, $2, 'k', now() + $3::interval, '{}', $4, $5, $6) returning id`
	marked := `{"tenant": "blue", "perdure_unique": "completed"}`
	put := func(kind, queue, after, headers string, replayOf *string, epoch int) string {
		t.Helper()
		seq := one[int64](g, insert, kind, queue, after, headers, replayOf, epoch)
		if replayOf != nil {
			return *replayOf
		}
		return fmt.Sprintf("main-1-%d", seq)
	}
	replay := "main-1-9000"
	want := map[string]bool{
		put("pay", "payments", "0", marked, nil, 0):                                     true,
		put("pay", "payments", "0", `{"tenant": "blue"}`, nil, 0):                       false,
		put("pay", "payments", "0", `{"tenant": "blue", "perdure_unique": ""}`, nil, 0): false,
		put("pay", "payments", "500 ms", marked, nil, 0):                                true,
		put("pay", "payments", "0", marked, &replay, 3):                                 true,
		put("post", "mail", "0", marked, nil, 0):                                        true,
	}
	g.run(g.relay("a", nil))
	testkit.Eventually(t, 20*time.Second, func() (bool, string) {
		n := one[int](g, `select count(*) from perdure.parked`)
		return n == 1, fmt.Sprint(n, " are parked")
	})
	if _, err := g.adm.CreateTopic(t.Context(), 1, 1, nil, g.names.Tasks("mail")); err != nil {
		t.Fatal(err)
	}
	for _, r := range append(g.first(5, g.names.Tasks("payments")), g.first(1, g.names.Tasks("mail"))...) {
		task, err := schemas.DecodeRecord(r.Key, r.Value, r.Headers)
		if err != nil {
			t.Fatal(err)
		}
		holds, known := want[task.ID]
		if !known || task.Unique != holds || len(task.Headers) != 1 || task.Headers["tenant"] != "blue" {
			t.Errorf("%s holds a key: %v, want %v; headers %v", task.ID, task.Unique, holds, task.Headers)
		}
		delete(want, task.ID)
	}
	if len(want) > 0 {
		t.Errorf("no record of %v", want)
	}
}

// A held task that is released under a new id takes its key with it.
func TestAKeyGoesWithItsTaskToANewID(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	hold := func(seq int64, replayOf *string) {
		t.Helper()
		g.exec(`insert into perdure.held (id, was, generation, epoch, created_at, kind, queue, content_type, payload, checked, task_id)
values ($1, 'outbox', 1, 0, now(), 'pay', 'payments', 'application/json', '{}', true, $2)`, seq, replayOf)
		g.exec(`insert into perdure.unique_keys (scope, key, seq, generation, hash, expires) values
  ('unique', $1::bigint::text, $1, 1, '', 'infinity'), ('idempotent', $1::bigint::text, $1, 1, '', now() + interval '1 hour')`, seq)
	}
	g.exec(`select setval('perdure.outbox_id_seq', 100)`)
	hold(1, nil)
	hold(2, nil)
	hold(3, nil)
	replay := "main-1-7"
	hold(4, &replay)
	renamed, err := Release(t.Context(), g.db, 1, true, "test")
	if err != nil || renamed <= 100 {
		t.Fatal(renamed, err)
	}
	if _, err := Release(t.Context(), g.db, 2, false, "test"); err != nil {
		t.Fatal(err)
	}
	if err := Discard(t.Context(), g.db, 3, "test", "Kafka has it"); err != nil { // and may run it yet
		t.Fatal(err)
	}
	if _, err := Release(t.Context(), g.db, 4, true, "test"); err != nil {
		t.Fatal(err)
	}
	got := one[string](g, `select string_agg(key || '>' || seq, ' ' order by key) from perdure.unique_keys where scope = 'unique'`)
	if want := fmt.Sprintf("1>%d 2>2 3>3 4>4", renamed); got != want {
		t.Errorf("keys are held by %s, want %s", got, want)
	}
	if n := one[int](g, `select count(*) from perdure.unique_keys where scope = 'idempotent' and key = seq::text`); n != 4 {
		t.Errorf("%d idempotency keys answer as before, want 4", n)
	}
}
