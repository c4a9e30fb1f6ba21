package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/perdure/perdure/loadtest/run"
)

// TestSameBytes: River's arguments are, byte for byte, Perdure's payload.
func TestSameBytes(t *testing.T) {
	p := run.NewPayloads(1024, run.Random)
	for _, n := range []int{0, 42, 49_999} {
		want := p.Append(nil, n)
		got, err := json.Marshal(jobArgs{N: string(want[6:16]), D: string(p.Filler(n))})
		if err != nil || string(got) != string(want) {
			t.Errorf("task %d: %v\n%s\n%s", n, err, got, want)
		}
	}
}

func TestSpread(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		want   spread
	}{
		{[]float64{3, 1, 2}, spread{2, 1, 3}},
		{[]float64{4, 1, 2, 3}, spread{2.5, 1, 4}},
		{nil, spread{}},
	} {
		if got := spreadOf(tt.values); got != tt.want {
			t.Errorf("%v: %v, want %v", tt.values, got, tt.want)
		}
	}
}

// TestRatiosAreOfPairs: run by run, ours against theirs of the same round.
func TestRatiosAreOfPairs(t *testing.T) {
	r := func(seconds, cpu float64) *result {
		return &result{Tasks: 100, Seconds: seconds, CPU: map[string]float64{"go": cpu}}
	}
	c := comparison{pairs: 2, systems: []string{ours, "river"}, results: map[string][]*result{
		ours: {r(1, 10), r(2, 20)}, "river": {r(5, 60), r(6, 60)},
	}}
	table := c.table()
	for _, want := range []string{"| perdure | 75 (50–100) | 15.0 (10.0–20.0) |", "| river | 4.0 (3.0–5.0) | 4.5 (3.0–6.0) | 5.0, 3.0 | 6.0, 3.0 |"} {
		if !strings.Contains(table, want) {
			t.Errorf("the table lacks %q:\n%s", want, table)
		}
	}
}

func TestTablesGoBetweenTheMarkers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doc.md")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	docBegin, docEnd := markers("compare")
	write("before\n" + docBegin + "old\n" + docEnd + "\nafter\n")
	if err := insert(path, "compare", "new\n"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "before\n"+docBegin+"new\n"+docEnd+"\nafter\n" {
		t.Errorf("%v: %s", err, b)
	}
	write("no markers")
	if err := insert(path, "compare", "new"); err == nil || !strings.Contains(err.Error(), "compare: begin") {
		t.Errorf("got %v", err)
	}
}

func TestWrongUse(t *testing.T) {
	for _, name := range []string{"PERDURE_POSTGRES_URL", "PERDURE_REDIS_ADDRS", "PERDURE_KAFKA_BROKERS"} {
		t.Setenv(name, "")
	}
	for _, args := range []string{"", "contrast", "compare -pairs 0", "compare -systems us", "compare -tasks 0", "compare", "compare -doc /no/such", "one", "one ours", "one river -payload 1"} {
		var use *usageError
		if err := command(context.Background(), strings.Fields(args)); !errors.As(err, &use) {
			t.Errorf("peers %s: %v", args, err)
		}
	}
}

// TestATaskThatRanTwiceIsSeen, and one that nobody sent.
func TestATaskThatRanTwiceIsSeen(t *testing.T) {
	s := newSeen(work{Tasks: 2})
	for _, n := range []string{"0000000000", "0000000001", "0000000001"} {
		if err := s.ran(n); err != nil {
			t.Fatal(err)
		}
	}
	if s.distinct.Load() != 2 || s.again.Load() != 1 {
		t.Errorf("%d distinct, %d again", s.distinct.Load(), s.again.Load())
	}
	if s.ran("2") == nil || s.ran("x") == nil {
		t.Error("a task that nobody sent was taken")
	}
}
