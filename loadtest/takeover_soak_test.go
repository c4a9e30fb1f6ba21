//go:build soak

package loadtest

import (
	"syscall"
	"testing"
	"time"
)

func TestSoakTakeOverOfAKilledRelay(t *testing.T) {
	waits := takeOver(t, 20)[syscall.SIGKILL]
	if at := waits[len(waits)*19/20-1]; at > 2*time.Second {
		t.Errorf("of 20 take-overs 19 took up to %v, want 2 s at most", at)
	}
}
