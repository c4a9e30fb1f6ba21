package main

// The markdown file that keeps the tables.

import (
	"fmt"
	"os"
	"strings"
)

const (
	docBegin = "<!-- compare: begin -->\n"
	docEnd   = "<!-- compare: end -->"
)

// between returns what stands before and after the tables, markers included.
func between(path string) (before, after string, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", "", err
	}
	before, rest, ok := strings.Cut(string(b), docBegin)
	_, after, end := strings.Cut(rest, docEnd)
	if !ok || !end {
		return "", "", fmt.Errorf("%s: want a line %q and behind it a line %q", path, strings.TrimSpace(docBegin), docEnd)
	}
	return before + docBegin, docEnd + after, nil
}

// insert replaces the tables of the file at path.
func insert(path, tables string) error {
	before, after, err := between(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(before+tables+after), 0o644) //nolint:gosec // documentation is for all to read
}
