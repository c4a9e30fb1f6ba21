//go:build !linux

package jqchild

// The child's memory elsewhere: it looks at itself. One step that asks for much
// at once can go beyond the limit for a moment.

import (
	"os"
	"runtime/metrics"
	"time"
)

// spent is how long this process runs: a busy machine counts against a program.
func spent() time.Duration { return time.Since(began) }

func limitMemory() error {
	go func() {
		total := []metrics.Sample{{Name: "/memory/classes/total:bytes"}}
		for range time.Tick(5 * time.Millisecond) {
			if metrics.Read(total); total[0].Value.Uint64() > Memory*shadow {
				os.Exit(exitMemory)
			}
		}
	}()
	return nil
}
