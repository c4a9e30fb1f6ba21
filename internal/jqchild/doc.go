// Package jqchild runs a jq program over payloads in a process of its own, so
// that one which loops, or fills memory faster than anything could look at it,
// ends that process and not its caller's. The child has no environment, reads
// no file, and ends itself at its limits; who started it also waits for it.
package jqchild
