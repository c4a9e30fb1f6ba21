package foreign

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func failure(message string) *kgo.Record {
	return &kgo.Record{Topic: "dlt", Timestamp: time.Unix(1, 0), Value: make([]byte, 100), Headers: h("dead-letter-reason", message)}
}

// word is a word without a digit, another for each n: Normalize keeps it.
func word(n int) string {
	var b strings.Builder
	for ; n > 0; n /= 26 {
		b.WriteByte(byte('g' + n%20))
		b.WriteByte(byte('g' + n/20%20))
	}
	return b.String()
}

// Whatever the topic holds, so many groups are kept, and no letter is uncounted.
func TestMoreCausesThanFitAreCountedTogether(t *testing.T) {
	g := &Groups{}
	const more = 500
	distinct := map[string]bool{}
	for n := 1; len(distinct) < MaxGroups+more; n++ {
		m := "the " + word(n) + " broke"
		if l, _ := Read(failure(m)); !distinct[l.Fingerprint] {
			distinct[l.Fingerprint] = true
			g.Add(failure(m))
		}
	}
	l, _ := Read(failure("the last"))
	g.Want = l.Fingerprint // what was asked for is kept however late it comes
	g.Add(failure("the last"))
	s := g.Summary(100)
	if s.Letters != MaxGroups+more+1 || len(g.groups) != MaxGroups+1 || g.other != more || len(s.Groups) != 100 || s.Other != more+MaxGroups+1-100 {
		t.Errorf("%d letters, %d groups, %d others; shown %d, others %d", s.Letters, len(g.groups), g.other, len(s.Groups), s.Other)
	}
	if got, ok := g.Find(l.Fingerprint); !ok || got.Letters != 1 || got.Samples[0].Record == nil {
		t.Errorf("%v %+v", ok, got)
	}
}

func TestNothingOfALetterIsKeptButWhatIsShown(t *testing.T) {
	g := &Groups{}
	for i := range 1000 {
		r := failure("no stock " + strings.Repeat("x", 4000))
		r.Offset = int64(i)
		r.Headers = append(r.Headers, h("dead-letter-topic", fmt.Sprintf("orders-%s", word(i+1)))...)
		g.Add(r)
	}
	for _, x := range g.groups {
		if len(x.Samples) > MaxSamples || len(x.Origins) > maxOrigins || len(x.Message) > maxShown {
			t.Fatalf("%+v", x)
		}
		for _, s := range x.Samples {
			if s.Record != nil || s.Letter.Headers != nil || s.Letter.Message != "" {
				t.Fatalf("a sample of a group that nobody asked for keeps its record: %+v", s)
			}
		}
	}
}

func TestWhatIsMissingIsTold(t *testing.T) {
	g := &Groups{}
	g.Add(&kgo.Record{Topic: "dlt", Value: []byte("x")})
	g.Add(&kgo.Record{Topic: "dlt", Headers: h("__dlq.errors.topic", "t", "__dlq.errors.message", "m")})
	s := g.Summary(0)
	if want := (Without{Error: 1, Stack: 2, Origin: 1, Record: 1}); s.Without != want || s.Formats[Unknown] != 1 || s.Formats[ShareGroup] != 1 {
		t.Errorf("%+v", s)
	}
}
