package schemas

// What is wrong with a catalog, said so that an editor can jump there.

import (
	"fmt"
	"strings"
)

// CatalogError is one mistake in a catalog.
type CatalogError struct {
	File    string
	Line    int    // from 1; 0 where no line can be named
	Column  int    // from 1, in characters
	Path    string // such as kinds.refund.issue.timeout; "" for the whole file
	Detail  string
	Excerpt string // the line with a caret under the column; "" where there is none, or it may hold a secret
}

// Error is "file:line:column: path: detail" and the excerpt.
func (e *CatalogError) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	b.WriteString(": ")
	if e.Path != "" {
		b.WriteString(e.Path)
		b.WriteString(": ")
	}
	b.WriteString(e.Detail)
	if e.Excerpt != "" {
		b.WriteByte('\n')
		b.WriteString(e.Excerpt)
	}
	return b.String()
}

// CatalogErrors is every mistake found, in the order of the file. ParseCatalog
// and LoadCatalog return no other error type.
type CatalogErrors []*CatalogError

// Error is one mistake after another, with a blank line between.
func (e CatalogErrors) Error() string {
	parts := make([]string, len(e))
	for i, one := range e {
		parts[i] = one.Error()
	}
	return strings.Join(parts, "\n\n")
}

// Unwrap lets errors.As find a *CatalogError.
func (e CatalogErrors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, one := range e {
		errs[i] = one
	}
	return errs
}

// excerpt shows a line of source with a caret under the column.
func excerpt(lines []string, line, column int) string {
	if line < 1 || line > len(lines) {
		return ""
	}
	const most = 120
	text := []rune(strings.ToValidUTF8(lines[line-1], "�"))
	column = min(max(column, 1), len(text)+1)
	if len(text) > most {
		from := max(0, min(column-1-most/2, len(text)-most))
		text, column = text[from:from+most], column-from
	}
	for i, r := range text {
		if r < 0x20 || r == 0x7f {
			text[i] = ' ' // a tab would move the caret
		}
	}
	number := fmt.Sprintf("%5d", line)
	return number + " | " + string(text) + "\n" +
		strings.Repeat(" ", len(number)) + " | " + strings.Repeat(" ", column-1) + "^"
}
