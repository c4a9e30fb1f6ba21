package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/dispatcher"
)

func TestATimelineIsShort(t *testing.T) {
	hop := func(minute int, what, detail string) dispatcher.Hop {
		return dispatcher.Hop{At: time.Date(2026, 11, 30, 23, minute, 0, 0, time.Local), What: what, Detail: detail}
	}
	hops := []dispatcher.Hop{hop(0, "accepted", ""), hop(1, "waiting", "breaker"), hop(2, "waiting", "breaker")}
	for m := range 100 {
		hops = append(hops, hop(10+m, "waiting", "paused"))
	}
	hops = append(hops, hop(300, "attempt", "on a"), dispatcher.Hop{What: "completed"})
	var b bytes.Buffer
	showTimeline(&b, hops)
	lines := strings.Split(strings.TrimRight(b.String(), "\n"), "\n")
	for i, want := range []string{"11-30 23:00:00.000  accepted", "breaker", "11-30 23:02:00.000  waiting    breaker", "11-30 23:10:00.000  waiting    paused",
		"waiting    … 98 more times", "12-01 00:49:00.000  waiting    paused", "12-01 04:00:00.000  attempt    on a", "completed"} {
		if i >= len(lines) || !strings.Contains(lines[i], want) {
			t.Fatalf("line %d wants %q:\n%s", i, want, b.String())
		}
	}
	if len(lines) != 8 {
		t.Errorf("%d lines:\n%s", len(lines), b.String())
	}
}
