//go:build race

package testkit

// Race is whether the tests were built with -race: frames and runs are larger.
const Race = true
