//go:build !linux

// Children of a test; only Linux can tie their life to ours.

package testkit

import "syscall"

func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
