package usage

import (
	"slices"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	line := "42 (a) b (c) S 7 1 1 0 -1 4194560 9 9 0 0 10 20 30 40 20 0 1 0 5 0 0"
	pid, parent, used, err := parseStat([]byte(line))
	if err != nil || pid != 42 || parent != 7 || used != time.Second {
		t.Errorf("got %d, %d, %s, %v; want 42, 7, 1s", pid, parent, used, err)
	}
	for _, bad := range []string{"", "42 S 7", "42 (x) S 7", "x (x) S 7 1 1 0 -1 4194560 9 9 0 0 10 20 30 40"} {
		if _, _, _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

// TestAHolderThatEndedIsNoServer: a backend inherits the socket for a moment, and
// may be gone when the processes are listed.
func TestAHolderThatEndedIsNoServer(t *testing.T) {
	tab := &table{times: map[int]time.Duration{1: 0, 10: 0, 11: 0}, children: map[int][]int{1: {10}, 10: {11}}}
	if got := eldest(map[int]bool{10: true, 11: true, 12: true}, tab); !slices.Equal(got, []int{10}) {
		t.Errorf("got %v, want 10 alone", got)
	}
}
