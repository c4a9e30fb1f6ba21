package main

import (
	"runtime/debug"
	"testing"
)

func TestARelayCollectsOftenUnlessTold(t *testing.T) {
	was := debug.SetGCPercent(100)
	defer debug.SetGCPercent(was)
	collectOften(func(string) (string, bool) { return "100", true })
	if got := debug.SetGCPercent(100); got != 100 {
		t.Errorf("GOGC was set, and it took %d", got)
	}
	collectOften(func(string) (string, bool) { return "", false })
	if got := debug.SetGCPercent(100); got != 50 {
		t.Errorf("it took %d", got)
	}
}
