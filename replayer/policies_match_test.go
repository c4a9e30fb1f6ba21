package replayer

import (
	"testing"

	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

// A pattern may be about what a fingerprint leaves out, as a quoted name.
func TestAPolicyFindsItsGroupBehindLettersOfAnotherText(t *testing.T) {
	db, err := pg.Pool(t.Context(), testkit.MigratedPostgres(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(t.Context(), `insert into perdure.dead_letters (letter, task_id, kind, queue, reason, error_class, message, fingerprint,
  origin_topic, origin_partition, origin_offset, dlq_topic, dlq_partition, dlq_offset, died_at)
select 'main-1-' || i || '@0', 'main-1-' || i, 'k', 'payments', 'exhausted', 'HTTP 503', 'host "bank-' || case when i <= 300 then 'a' else 'b' end || '" is down',
  'fp1:1', 't', 0, i, 'd', 0, i, now() - interval '1 day' + i * interval '1 second' from generate_series(1, 700) i`); err != nil {
		t.Fatal(err)
	}
	list, err := matching(t.Context(), db, &schemas.Policy{Name: "p", When: schemas.PolicyMatch{Message: `*bank-a*`}, MaxReplays: 3}, 0)
	if err != nil || len(list) != 1 || list[0].Letters != 300 || list[0].Sample != "main-1-1@0" {
		t.Errorf("%+v %v", list, err)
	}
}
