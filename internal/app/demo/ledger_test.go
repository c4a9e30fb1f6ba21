package demo_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/examples/disputes"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
)

// book is a database with three accepted disputes: 1 is paid, 2 is dead, 3 is
// paid. Each test breaks it in one way.
func book(t *testing.T, breakIt ...string) (disputes.Ledger, error) {
	t.Helper()
	db := testkit.MigratedPostgres(t)
	pool, err := pg.Pool(t.Context(), db.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if err := disputes.CreateTables(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	const refund = `insert into disputes.refunds (dispute_id, amount_cents, currency, task_id, run) values ('%s', %d, 'EUR', 'main-1-9', 1)`
	const letter = `insert into perdure.dead_letters (letter, task_id, kind, queue, key, state, reason, fingerprint, origin_topic, origin_partition, origin_offset, dlq_topic, dlq_partition, dlq_offset, died_at)
		values ('main-1-2@0', 'main-1-2', 'dispute.investigate', 'disputes', 'dp_2', 'open', 'permanent', 'f', 't', 0, 0, 'd', 0, 0, now())`
	steps := append([]string{fmt.Sprintf(refund, "dp_1", 100), letter, fmt.Sprintf(refund, "dp_3", 300)}, breakIt...)
	for _, sql := range steps {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	conn, err := pgx.Connect(t.Context(), db.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context()) //nolint:errcheck // end of test
	return disputes.Audit(t.Context(), conn, []disputes.Accepted{
		{DisputeID: "dp_1", AmountCents: 100, Currency: "EUR"},
		{DisputeID: "dp_2", AmountCents: 200, Currency: "EUR"},
		{DisputeID: "dp_3", AmountCents: 300, Currency: "EUR"},
	})
}

func TestLedgerSeesWhatIsWrong(t *testing.T) {
	const again = `insert into disputes.refunds (dispute_id, amount_cents, currency, task_id, run) values `
	tests := []struct {
		name    string
		breakIt []string
		want    disputes.Ledger
	}{
		{"it balances", nil, disputes.Ledger{Accepted: 3, Completed: 2, Dead: 1}},
		{"a lost dispute", []string{`delete from disputes.refunds where dispute_id = 'dp_1'`},
			disputes.Ledger{Accepted: 3, Completed: 1, Dead: 1, Lost: 1}},
		{"a letter that was replayed and went nowhere", []string{`update perdure.dead_letters set state = 'replaying'`},
			disputes.Ledger{Accepted: 3, Completed: 2, Lost: 1}},
		{"a refund paid three times", []string{again + `('dp_3', 300, 'EUR', 'main-1-9', 2), ('dp_3', 300, 'EUR', 'main-1-9', 3)`},
			disputes.Ledger{Accepted: 3, Completed: 2, Dead: 1, Duplicates: 2}},
		{"a refund for nobody", []string{again + `('dp_4', 1, 'EUR', 'main-1-9', 2)`},
			disputes.Ledger{Accepted: 3, Completed: 2, Dead: 1, Duplicates: 1}},
		{"a wrong amount", []string{`update disputes.refunds set amount_cents = 1 where dispute_id = 'dp_1'`},
			disputes.Ledger{Accepted: 3, Completed: 2, Dead: 1, Wrong: 1}},
		{"paid, and still open", []string{again + `('dp_2', 200, 'EUR', 'main-1-9', 2)`},
			disputes.Ledger{Accepted: 3, Completed: 3, PaidAndOpen: 1}},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := book(t, tt.breakIt...)
			if err != nil || got != tt.want {
				t.Fatalf("got %+v, %v\nwant %+v", got, err, tt.want)
			}
			if got.Accepted != got.Completed+got.Dead+got.Lost {
				t.Errorf("the identity does not hold: %+v", got)
			}
			if bad := got.Err() != nil; bad != (i > 0) {
				t.Errorf("Err() = %v", got.Err())
			}
		})
	}
}
