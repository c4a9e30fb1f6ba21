// Package jsondiff shows what changed between two payloads, for people. JSON is
// compared as values: the order of names and white space are no change, numbers
// are shown as they are written.
package jsondiff

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/aymanbagabas/go-udiff"
)

// Limits of what is compared and of what is told.
const (
	maxCompared = 256 << 10 // bytes of either payload
	maxLines    = 200
	maxLine     = 500 // bytes
)

// Lines is a unified diff of two payloads, "" where they are the same. It can
// hold what a terminal would obey, and is at most 200 lines of 500 bytes.
func Lines(before, after []byte) string {
	if len(before) > maxCompared || len(after) > maxCompared {
		return fmt.Sprintf("%d bytes became %d bytes: too large to compare\n", len(before), len(after))
	}
	diff := udiff.Unified("before", "after", text(before), text(after))
	lines := strings.SplitAfter(diff, "\n")
	left := len(lines) - maxLines
	if left > 0 {
		lines = lines[:maxLines]
	}
	for i, l := range lines {
		if len(l) > maxLine {
			lines[i] = strings.ToValidUTF8(l[:maxLine], "") + "…\n"
		}
	}
	diff = strings.Join(lines, "")
	if left > 0 {
		diff += fmt.Sprintf("… %d more lines\n", left)
	}
	return diff
}

// text is a payload as lines.
func text(b []byte) string {
	if v, err := decode(b); err == nil {
		var out bytes.Buffer
		e := json.NewEncoder(&out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		if e.Encode(v) == nil {
			return out.String()
		}
	}
	if utf8.Valid(b) {
		return string(b) + "\n"
	}
	return hex.Dump(b)
}

func decode(b []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one value")
	}
	return v, nil
}
