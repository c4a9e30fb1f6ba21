//go:build !race

package jqchild

const shadow = 1
