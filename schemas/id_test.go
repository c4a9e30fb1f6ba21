package schemas_test

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/perdure/perdure/schemas"
)

func TestParseIDReadsOnlyTheCanonicalForm(t *testing.T) {
	for s, want := range map[string]schemas.ID{
		"main-1-1":                         {Source: "main", Generation: 1, Seq: 1},
		"a-2147483647-9223372036854775807": {Source: "a", Generation: 1<<31 - 1, Seq: 1<<63 - 1},
		"orders-eu-2-1-3":                  {Source: "orders-eu-2", Generation: 1, Seq: 3},
	} {
		got, err := schemas.ParseID(s)
		if err != nil || got != want || got.String() != s {
			t.Errorf("%s: %+v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "-", "--", "main", "main-1", "-1-1", "main-1-", "main--1", "main-0-1", "main-1-0", "main-01-1",
		"main-1-01", "main-+1-1", "main-1--1", "Main-1-1", "ma_in-1-1", "main-2147483648-1", "main-1-9223372036854775808",
		"main-1-1 ", "-main-1-1", strings.Repeat("a", 33) + "-1-1", strings.Repeat("a", 61) + "-1-1", "main-1-1\x00", "mäin-1-1"} {
		if id, err := schemas.ParseID(s); !errors.Is(err, schemas.ErrBadID) {
			t.Errorf("%q was read as %+v, %v", s, id, err)
		}
	}
}

func TestLongestIDIsReadable(t *testing.T) {
	id := schemas.ID{Source: strings.Repeat("a", 32), Generation: 1<<31 - 1, Seq: 1<<63 - 1}
	if s := id.String(); len(s) > schemas.MaxIDLen {
		t.Fatalf("%s has %d bytes", s, len(s))
	} else if got, err := schemas.ParseID(s); err != nil || got != id {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestIDRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := schemas.ID{
			Source:     rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?`).Draw(t, "source"),
			Generation: rapid.IntRange(1, 1<<31-1).Draw(t, "generation"),
			Seq:        rapid.Int64Min(1).Draw(t, "seq"),
		}
		if got, err := schemas.ParseID(id.String()); err != nil || got != id {
			t.Fatalf("%+v became %+v, %v", id, got, err)
		}
	})
}

func FuzzParseID(f *testing.F) {
	f.Add("main-1-42")
	f.Add("a-b-1-2")
	f.Add("-1-1")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := schemas.ParseID(s)
		if err == nil && id.String() != s {
			t.Fatalf("%q and %q are one id", s, id.String())
		}
		if err != nil && id != (schemas.ID{}) {
			t.Fatalf("an error, and yet %+v", id)
		}
	})
}

func BenchmarkParseID(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := schemas.ParseID("main-1-123456789"); err != nil {
			b.Fatal(err)
		}
	}
}
