package run

import (
	"strings"
	"testing"
	"time"
)

func TestWrongOptionsAreNamed(t *testing.T) {
	tests := []struct {
		want   string
		change func(*Options)
	}{
		{"loop", func(o *Options) { o.Loop = "spiral" }},
		{"rate", func(o *Options) { o.Loop, o.Rate = Open, 0 }},
		{"duration", func(o *Options) { o.Loop, o.Duration = Open, time.Millisecond }},
		{"linger", func(o *Options) { o.Loop, o.Linger = Open, -1 }},
		{"tasks", func(o *Options) { o.Tasks = 0 }},
		{"in flight", func(o *Options) { o.InFlight = -1 }},
		{"payload", func(o *Options) { o.Payload = 10 }},
		{"entropy", func(o *Options) { o.Entropy = "some" }},
		{"mix", func(o *Options) { o.Mix = nil }},
		{"sleep", func(o *Options) { o.Sleep = time.Hour }},
		{"producers", func(o *Options) { o.Producers = 0 }},
		{"batches", func(o *Options) { o.Batch = 0 }},
		{"concurrency", func(o *Options) { o.Concurrency = 0 }},
		{"partitions", func(o *Options) { o.Partitions = 0 }},
		{"warm-up", func(o *Options) { o.Warmup = -1 }},
		{"patience", func(o *Options) { o.Patience = 0 }},
		{"baseline", func(o *Options) { o.Baseline = true }},
	}
	for _, tt := range tests {
		o := Defaults()
		tt.change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("want an error about %s, got %v", tt.want, err)
		}
	}
}

func TestMix(t *testing.T) {
	m, err := ParseMix("noop=8, sleep=1,http")
	if err != nil || m.String() != "noop=8,sleep=1,http=1" {
		t.Fatalf("%v, %v", m, err)
	}
	names := m.names()
	count := map[string]int{}
	for _, n := range names {
		count[n]++
	}
	if len(names) != 10 || count["load.noop"] != 8 || count["load.sleep"] != 1 || count["load.http"] != 1 {
		t.Errorf("names %v", names)
	}
	if names[0] == names[1] && names[1] == names[2] && names[2] == names[3] && names[3] == names[4] && names[5] != names[0] && names[6] != names[0] {
		t.Errorf("not spread: %v", names)
	}
	for _, bad := range []string{"", "x=1", "noop=-1", "noop=a", "noop=0", "noop=1,noop=2", "noop=1,"} {
		if m, err := ParseMix(bad); err == nil {
			t.Errorf("%q was read as %v", bad, m)
		}
	}
}
