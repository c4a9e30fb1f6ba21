package jqchild

// The child's memory on Linux: the kernel refuses more, whatever one step asks for.

import (
	"os"
	"syscall"
	"time"
)

// spent is the processor time that this process has used.
func spent() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return time.Since(began)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func limitMemory() error {
	// If the machine itself runs out of memory, it is this process that goes. It
	// may be forbidden to say so; then the limit below is all there is.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)
	return syscall.Setrlimit(syscall.RLIMIT_DATA, &syscall.Rlimit{Cur: Memory * shadow, Max: Memory * shadow})
}
