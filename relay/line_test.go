package relay

// on_dead: block: what the relay says to a key's line.

import (
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/perdure/perdure/schemas"
)

// A row that does not fit its schema dies where its key waits behind it: it is sent
// on, in its place, and says so. Words of a lift and places go through as they are.
func TestARowThatDoesNotFitItsSchemaDiesInItsTurn(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	const insert = `insert into perdure.outbox (kind, queue, key, payload, headers) values ('strict.line', 'payments', 'k', $1, $2)`
	g.exec(insert, `{"amount":1}`, nil)
	g.exec(insert, `{"amount":"much"}`, nil)
	g.exec(insert, `{"amount":"much"}`, `{"perdure_line":"from 7","perdure_place":"13"}`)
	g.exec(insert, `{"amount":2}`, `{"perdure_line":"from 7","perdure_place":"14"}`)
	g.exec(`select perdure.put_line('payments', 'k', 'main-1-1', 'lift 7 main-1-1@0')`)
	g.run(g.relay("a", nil))
	var got []string
	for _, r := range g.first(5, g.names.Tasks("payments")) {
		task, err := schemas.DecodeRecord(r.Key, r.Value, r.Headers)
		if err != nil {
			t.Fatal(err)
		}
		line, _ := schemas.ParseLine(task.Line)
		if strings.Contains(line.Why, "much") {
			t.Errorf("the payload stands in %q", task.Line)
		}
		got = append(got, fmt.Sprint(line.Verb, line.Lift, line.Letters, strings.Contains(line.Why, "#/payload/amount"), task.Place, task.Ordered))
	}
	want := []string{"0 [] false 0 true", "dead0 [] true 0 true", "dead7 [] true 13 true", "from7 [] false 14 true", "lift7 [main-1-1@0] false 0 false"}
	for i := range want {
		if strings.ReplaceAll(got[i], " ", "") != strings.ReplaceAll(want[i], " ", "") {
			t.Errorf("record %d is %s, want %s", i, got[i], want[i])
		}
	}
	ends, err := g.adm.ListEndOffsets(t.Context(), g.names.DLQ("payments"))
	if err != nil {
		t.Fatal(err)
	}
	n := int64(0)
	ends.Each(func(o kadm.ListedOffset) { n += o.Offset })
	if n > 0 {
		t.Errorf("%d letters", n)
	}
}
