//go:build soak

package worker_test

// The long runs: `make soak`.

import (
	"testing"
	"time"
)

func TestSoakFaults(t *testing.T) { chaos(t, 10*time.Minute) }

func TestSoakRebalanceStorm(t *testing.T) { rebalanceStorm(t, 20, time.Minute, time.Second) }

func TestSoakABacklogDoesNotGrowTheWorker(t *testing.T) { backlogMemory(t, 1_000_000) }

func TestSoakSharedRollingKills(t *testing.T) { sharedKills(t, 20, 6000, 1500) }
