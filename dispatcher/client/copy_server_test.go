package client_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/internal/testkit"
)

// A batch ends its transaction with its rows: where either fails, none of it is there,
// no connection is left in a transaction, and the next batch goes.
func TestABatchThatIsNotWrittenLeavesNothing(t *testing.T) {
	t.Parallel()
	pool := database(t)
	c := newClient(t, pool)
	batch := make([]client.Task, 50)
	for i := range batch {
		batch[i] = client.Task{Kind: "brief", Payload: i}
	}
	run := func(sql string) {
		t.Helper()
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	run(`create function public.refuse() returns trigger language plpgsql as $$ begin raise 'refused at %', tg_argv[0]; end $$`)
	made := pool.Stat().NewConnsCount()
	for when, trigger := range map[string]string{
		"its rows": `create trigger refuse before insert on perdure.outbox for each row execute function public.refuse('its rows')`,
		"its end":  `create constraint trigger refuse after insert on perdure.outbox deferrable initially deferred for each row execute function public.refuse('its end')`,
	} {
		run(trigger)
		if refs, err := c.EnqueueMany(t.Context(), batch); err == nil || !strings.Contains(err.Error(), "refused at "+when) {
			t.Errorf("refused at %s: %d tasks accepted, %v", when, len(refs), err)
		}
		run(`drop trigger refuse on perdure.outbox`)
		testkit.Eventually(t, time.Minute, func() (bool, string) { // a session ends a moment after its connection
			var rows, open int
			if err := pool.QueryRow(t.Context(), `select (select count(*) from perdure.outbox),
(select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in transaction%')`).Scan(&rows, &open); err != nil {
				t.Fatal(err)
			}
			return rows == 0 && open == 0, fmt.Sprintf("refused at %s: %d rows are there, %d sessions are in a transaction", when, rows, open)
		})
	}
	if n := pool.Stat().NewConnsCount() - made; n > 0 {
		t.Errorf("%d connections were made: those of refused batches were closed", n)
	}
	refs, err := c.EnqueueMany(t.Context(), batch)
	if err != nil || len(refs) != len(batch) {
		t.Fatalf("after it: %d tasks, %v", len(refs), err)
	}
	var tasks int
	if err := pool.QueryRow(t.Context(), `select count(*) from perdure.outbox_tasks where id = any($1)`, seqs(refs)).Scan(&tasks); err != nil || tasks != len(batch) {
		t.Errorf("%d of its tasks are there, %v", tasks, err)
	}
}

func seqs(refs []client.Ref) (out []int64) {
	for _, r := range refs {
		out = append(out, r.Seq)
	}
	return out
}
