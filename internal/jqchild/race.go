//go:build race

package jqchild

// The race detector's shadow of memory counts as memory too.
const shadow = 8
