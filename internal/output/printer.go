package output

// Printer: one result, or a list of them, in the format that was asked for.

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Format is the value of -o. It is a pflag.Value, so that a wrong one is a
// usage error.
type Format string

// The formats.
const (
	Text  Format = "text"
	JSON  Format = "json"
	JSONL Format = "jsonl"
)

// String is for pflag.
func (f *Format) String() string { return string(*f) }

// Type is for pflag.
func (f *Format) Type() string { return "format" }

// Set is for pflag.
func (f *Format) Set(s string) error {
	switch Format(s) {
	case Text, JSON, JSONL:
		*f = Format(s)
		return nil
	}
	return fmt.Errorf("%q is none of text, json, jsonl", s)
}

// Printer writes results to W in a Format.
type Printer struct {
	Format Format
	W      io.Writer
}

// One prints a single result: text by the function, else as JSON.
func (p Printer) One(v any, text func(w io.Writer)) error {
	if p.Format == Text {
		var b strings.Builder
		text(&b)
		return p.write([]byte(b.String()))
	}
	return p.encode(v, p.Format == JSON)
}

// Table prints rows: a header and lines of cells, a JSON array, or a line of
// JSON each. An empty table prints none, so that a person sees that it is.
func Table[T any](p Printer, rows []T, none string, header []string, cells func(T) []string) error {
	switch p.Format {
	case JSON:
		if rows == nil {
			rows = []T{}
		}
		return p.encode(rows, true)
	case JSONL:
		for _, r := range rows {
			if err := p.encode(r, false); err != nil {
				return err
			}
		}
		return nil
	}
	var b strings.Builder
	if len(rows) == 0 {
		b.WriteString(none + "\n")
		return p.write([]byte(b.String()))
	}
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	line := func(cols []string) {
		for i, c := range cols {
			if i > 0 {
				fmt.Fprint(tw, "\t")
			}
			fmt.Fprint(tw, Safe(c))
		}
		fmt.Fprintln(tw)
	}
	line(header)
	for _, r := range rows {
		line(cells(r))
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return p.write([]byte(b.String()))
}

// Fields writes name and value lines, aligned; pairs with an empty value are
// left out.
func Fields(w io.Writer, pairs ...[2]string) {
	width := 0
	for _, p := range pairs {
		if p[1] != "" {
			width = max(width, len(p[0]))
		}
	}
	for _, p := range pairs {
		if p[1] != "" {
			fmt.Fprintf(w, "%-*s  %s\n", width, p[0], Safe(p[1]))
		}
	}
}

func (p Printer) encode(v any, indent bool) error {
	var (
		b   []byte
		err error
	)
	if indent {
		b, err = json.MarshalIndent(v, "", "  ")
	} else {
		b, err = json.Marshal(v)
	}
	if err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return p.write(append(SafeJSON(b), '\n'))
}

func (p Printer) write(b []byte) error {
	if _, err := p.W.Write(b); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}
