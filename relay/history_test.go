package relay

// The history checker: what the database has committed against what Kafka has.
// It knows nothing of how the relay works.

import (
	"context"
	"encoding/json"
	"fmt"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/relaylog"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

// accepted is a row that is in the database at the end, the truth, and not filed
// as scheduled or parked.
type accepted struct {
	id      int64
	payload string
}

// sent is a record, in the order of its partition.
type sent struct {
	id        int64
	payload   string
	key       string
	partition int32
	offset    int64
}

// check returns what is wrong: rows that Kafka lacks, records that the database
// does not know (or knows otherwise), keys out of order. Keys that begin with
// "k" promise order: their payloads' n grows with every enqueue. Repeats are well.
func check(rows []accepted, records []sent) []string {
	var wrong []string
	want := make(map[int64]string, len(rows))
	for _, r := range rows {
		want[r.id] = r.payload
	}
	seen := map[int64]bool{}
	last := map[string]int{}
	sort.SliceStable(records, func(i, j int) bool {
		a, b := records[i], records[j]
		return a.partition < b.partition || a.partition == b.partition && a.offset < b.offset
	})
	for _, r := range records {
		switch payload, ok := want[r.id]; {
		case !ok:
			wrong = append(wrong, fmt.Sprintf("phantom: id %d is on Kafka, not in the database", r.id))
			continue
		case payload != r.payload:
			wrong = append(wrong, fmt.Sprintf("id %d is used twice: %s and %s", r.id, payload, r.payload))
			continue
		}
		if seen[r.id] {
			continue
		}
		seen[r.id] = true
		if !strings.HasPrefix(r.key, "k") {
			continue
		}
		var body struct{ N int }
		if err := json.Unmarshal([]byte(r.payload), &body); err != nil {
			wrong = append(wrong, err.Error())
		}
		if n, ok := last[r.key]; ok && body.N <= n {
			wrong = append(wrong, fmt.Sprintf("key %s: %d comes after %d", r.key, body.N, n))
		}
		last[r.key] = body.N
	}
	for _, r := range rows {
		if !seen[r.id] {
			wrong = append(wrong, fmt.Sprintf("lost: id %d is committed, not on Kafka", r.id))
		}
	}
	return wrong
}

func TestCheckerSeesEachFault(t *testing.T) {
	rows := []accepted{{1, `{"n":1}`}, {2, `{"n":2}`}}
	a, b := sent{1, `{"n":1}`, "k", 0, 0}, sent{2, `{"n":2}`, "k", 0, 1}
	again := a
	again.offset = 2
	if wrong := check(rows, []sent{a, b, again}); wrong != nil {
		t.Errorf("a right history is called wrong: %v", wrong)
	}
	swapped, foreign, other := a, sent{9, `{}`, "k", 0, 5}, b
	swapped.offset, other.payload = 7, `{"n":8}`
	for name, records := range map[string][]sent{
		"lost": {a}, "phantom": {a, b, foreign}, "comes after": {b, swapped}, "used twice": {a, b, other},
	} {
		if wrong := check(rows, records); len(wrong) != 1 || !strings.Contains(wrong[0], name) {
			t.Errorf("%s: got %v", name, wrong)
		}
	}
}

// verdict settles the system and checks its whole history: it enqueues a last
// row and waits until the relay log has it, or timeout; what was committed before
// it must have been relayed by then.
func (g *rig) verdict(timeout time.Duration) []string {
	g.t.Helper()
	var wrong []string
	if err := g.settle(timeout); err != nil {
		wrong = append(wrong, err.Error())
	}
	return append(wrong, check(g.accepted(), g.sent())...)
}

func (g *rig) settle(timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	id, err := enqueue(ctx, g.db, "x-last", 0)
	if err != nil {
		return fmt.Errorf("enqueue the last row: %w", err)
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if _, _, ok, err := relaylog.Find(ctx, g.db, id); ok && err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the last row, id %d, is not relayed within %v", id, timeout)
		case <-time.After(pause):
		}
	}
	for ctx.Err() == nil {
		if o, err := ReadOutbox(ctx, g.db, testkit.MigratedSource); err == nil && o.Backlog == 0 {
			return nil
		}
	}
	return fmt.Errorf("rows are not relayed within %v", timeout)
}

func (g *rig) accepted() []accepted {
	g.t.Helper()
	rows, err := g.db.Query(context.Background(), `select id, convert_from(payload, 'UTF8') from perdure.outbox_tasks
		where id not in (select id from perdure.scheduled union all select id from perdure.parked)`)
	if err != nil {
		g.t.Fatal(err)
	}
	out, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (a accepted, err error) {
		return a, r.Scan(&a.id, &a.payload)
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return out
}

// sent reads payments' topic to its present end.
func (g *rig) sent() []sent {
	g.t.Helper()
	name := g.names.Tasks("payments")
	ends, err := g.adm.ListEndOffsets(context.Background(), name)
	if err != nil {
		g.t.Fatal(err)
	}
	total := int64(0)
	for _, p := range ends[name] {
		total += p.Offset
	}
	var out []sent
	for _, r := range g.records(time.Minute, func(all []*kgo.Record) bool { return int64(len(all)) >= total }, name) {
		id, err := schemas.ParseID(header(r, schemas.HeaderID))
		if err != nil {
			g.t.Fatal(err)
		}
		out = append(out, sent{id.Seq, string(r.Value), string(r.Key), r.Partition, r.Offset})
	}
	return out
}

// right fails the test unless the history is.
func (g *rig) right() {
	g.t.Helper()
	if wrong := g.verdict(2 * time.Minute); len(wrong) > 0 {
		g.t.Fatalf("%d faults, the first: %s", len(wrong), strings.Join(wrong[:min(5, len(wrong))], "; "))
	}
}
