package dlq

import (
	"fmt"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/schemas"
)

// A page of a key within a group, or within the groups of a text, has what is both
// of the key and of one of them, and nothing where no group is meant.
func TestAPageOfAKeyOfSomeGroups(t *testing.T) {
	r := newRig(t)
	x, err := NewIndex(Config{}, r.deps)
	if err != nil {
		t.Fatal(err)
	}
	var recs []*kgo.Record
	var groups []string
	for i := range 12 {
		l := letterOf(fmt.Sprintf("main-1-%d", i+1), 0)
		l.Headers = slices.DeleteFunc(l.Headers, func(h kgo.RecordHeader) bool { return h.Key == schemas.HeaderPartitionKey })
		l.Headers = append(l.Headers, kgo.RecordHeader{Key: schemas.HeaderPartitionKey, Value: []byte([]string{"a", "b"}[i%2])})
		l.Message = []string{"the card is blocked", "the bank is away", "the ledger is closed"}[i%3]
		l.Fingerprint = Fingerprint(l.Kind, l.ErrorClass, l.Message, "")
		groups = append(groups, l.Fingerprint)
		recs = append(recs, Encode(l))
		recs[i].Topic = r.names.DLQ("payments")
	}
	if err := x.store(t.Context(), x.rows(recs)); err != nil {
		t.Fatal(err)
	}
	letters := NewLetters(r.db)
	for _, tt := range []struct {
		name string
		f    Filter
		want []string
	}{
		{"a key of a group", Filter{Key: "a", Group: groups[0]}, []string{"main-1-1@0", "main-1-7@0"}},
		{"a key of a text's groups", Filter{Key: "b", Text: "bank"}, []string{"main-1-2@0", "main-1-8@0"}},
		{"a key of no group", Filter{Key: "a", Text: "nobody says this"}, nil},
		{"a key that the group has not", Filter{Key: "c", Group: groups[0]}, nil},
	} {
		var got []string
		for cursor := ""; ; {
			list, next, err := letters.List(t.Context(), tt.f, cursor, 1)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range list {
				got = append(got, e.Letter)
			}
			if cursor = next; next == "" {
				break
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
