// Package lines reads text of any length line by line in bounded memory. A line
// over the limit is reported and skipped; the lines after it are read as usual.
package lines

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// chunk is read at once, in bytes.
const chunk = 64 << 10

// Reader reads lines. Not safe for concurrent use.
type Reader struct {
	r      *bufio.Reader
	limit  int
	buf    []byte
	number int
}

// Line is one line without its line end.
type Line struct {
	Number  int    // from 1; blank lines count
	Text    []byte // valid until the next call; cut off where TooLong
	TooLong bool
}

// NewReader reads from r; limit is the longest line, in bytes.
func NewReader(r io.Reader, limit int) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, chunk), limit: limit}
}

// Next returns the next line that is not blank, or io.EOF after the last. A
// last line without a line end counts, unless the reader failed; an error comes
// with the number of the line that it broke.
func (r *Reader) Next() (Line, error) {
	for {
		line, err := r.next()
		if err != nil || line.TooLong || len(bytes.TrimSpace(line.Text)) > 0 {
			return line, err
		}
	}
}

// Await reads until n bytes are here, or no more come; Ready then tells of all
// their lines. A failure is told by Next, behind the lines before it.
func (r *Reader) Await(n int) {
	r.r = bufio.NewReaderSize(&sticky{r: r.r}, n)
	_, _ = r.r.Peek(n) // sticky keeps the error
}

// sticky does not go on after an error.
type sticky struct {
	r   io.Reader
	err error
}

func (s *sticky) Read(p []byte) (n int, err error) {
	if s.err == nil {
		n, s.err = s.r.Read(p)
	}
	return n, s.err
}

// Ready reports whether Next can return a line without reading more.
func (r *Reader) Ready() bool {
	b, err := r.r.Peek(r.r.Buffered()) // never reads: it is buffered
	return err == nil && bytes.IndexByte(b, '\n') >= 0
}

func (r *Reader) next() (Line, error) {
	part, err := r.r.ReadSlice('\n')
	if err == nil { // the common case: no copy
		r.number++
		text := trimEnd(part)
		return Line{Number: r.number, Text: text[:min(len(text), r.limit)], TooLong: len(text) > r.limit}, nil
	}
	r.buf = r.buf[:0]
	size := 0
	for {
		size += len(part)
		if len(r.buf) <= r.limit {
			r.buf = append(r.buf, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			break
		}
		part, err = r.r.ReadSlice('\n')
	}
	if err != nil && (!errors.Is(err, io.EOF) || size == 0) {
		return Line{Number: r.number + 1}, err
	}
	r.number++
	text := trimEnd(r.buf)
	if size > len(r.buf) || len(text) > r.limit {
		return Line{Number: r.number, Text: text[:min(len(text), r.limit)], TooLong: true}, nil
	}
	return Line{Number: r.number, Text: text}, nil
}

func trimEnd(b []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
}
