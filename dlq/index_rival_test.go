package dlq

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/testkit"
)

// Two indexes write the same letter at the same moment, as around a rebalance: it is
// there once, and so are the letters beside it.
func TestALetterThatTwoIndexesWriteAtOnceIsThereOnce(t *testing.T) {
	r, x := storeRig(t)
	records := make([]*kgo.Record, 5)
	for i := range records {
		records[i] = Encode(letterOf(fmt.Sprintf("main-1-%d", i+1), 0))
		records[i].Topic, records[i].Offset = r.deps.Names.DLQ("payments"), int64(i)
	}
	records = append(records, records[1]) // and one of them twice
	rival, err := r.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer rival.Rollback(context.Background()) //nolint:errcheck // it is committed, or the test has failed
	if err := x.rows(records[2:3]).copyLetters(t.Context(), rival); err != nil {
		t.Fatal(err)
	}
	stored := make(chan bool, 1)
	go func() { stored <- x.storeAll(t.Context(), records) }()
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		n := r.count(`select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like 'copy%letters%'`)
		return n > 0 || len(stored) > 0, "the second writer neither waits nor ends"
	})
	if err := rival.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !<-stored {
		t.Fatal("not stored")
	}
	if n := r.count(`select count(*) from perdure.dead_letters where message not like '%refuses%'`); n != 5 {
		t.Errorf("%d letters, want 5", n)
	}
	if n := r.count(`select count(*) from perdure.dead_letters`); n != 5 {
		t.Errorf("%d letters and strays, want 5", n)
	}
}
