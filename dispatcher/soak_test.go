//go:build soak

package dispatcher_test

import "testing"

func TestSoakTenThousandCallersOfAHundredKeys(t *testing.T) { callersOfFewKeys(t, 10_000, 100) }

func TestSoakAStreamOf500MBStaysSmall(t *testing.T) { streamStaysSmall(t, 500<<20, 64<<20) }
