package main

// The markdown file that keeps the tables.

import (
	"fmt"
	"os"
	"strings"
)

// markers stand around the tables of the command name.
func markers(name string) (begin, end string) {
	return "<!-- " + name + ": begin -->\n", "<!-- " + name + ": end -->"
}

// between returns what stands before and after the tables of the command name,
// markers included.
func between(path, name string) (before, after string, err error) {
	docBegin, docEnd := markers(name)
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

// insert replaces the tables of the command name in the file at path.
func insert(path, name, tables string) error {
	before, after, err := between(path, name)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(before+tables+after), 0o644) //nolint:gosec // documentation is for all to read
}
