package dispatcher

// The answer to an NDJSON post, while the post is still being read. A client
// may read the answer as it comes, or only after it has sent everything: for
// the second kind, what it does not take yet waits in memory, then in a
// temporary file, and never holds up the reading.

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync"
)

const (
	resultsInMemory = 1 << 20 // bytes of answer kept in memory
	resultsOnDisk   = 4 << 30 // and in the file; beyond, reading waits after all
	resultsChunk    = 64 << 10
)

// results is a queue of bytes between one writer and one reader.
type results struct {
	mu      sync.Mutex
	changed sync.Cond
	memory  bytes.Buffer // older than what is in the file
	file    *os.File     // nil while everything fits in memory
	written int64        // end of the file's queue
	read    int64        // its beginning
	spill   int          // bytes kept in memory before the file is used
	closed  bool         // no more writes
	broken  error        // the reader gave up: writes fail
}

func newResults(inMemory int) *results {
	r := &results{spill: inMemory}
	r.changed.L = &r.mu
	return r
}

// Write appends p. It waits only when the file is full.
func (r *results) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.broken == nil && r.written-r.read > resultsOnDisk {
		r.changed.Wait()
	}
	if r.broken != nil {
		return 0, r.broken
	}
	defer r.changed.Broadcast()
	if r.written == r.read && r.memory.Len()+len(p) <= r.spill {
		return r.memory.Write(p)
	}
	if r.file == nil {
		f, err := os.CreateTemp("", "perdure-results-*")
		if err != nil {
			return 0, err
		}
		if err := os.Remove(f.Name()); err != nil { // gone with the process, whatever ends it
			return 0, errors.Join(err, f.Close())
		}
		r.file = f
	}
	n, err := r.file.WriteAt(p, r.written)
	r.written += int64(n)
	return n, err
}

// Close says that nothing more will be written.
func (r *results) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.changed.Broadcast()
}

// take waits for the next bytes; io.EOF after the last. buf is for the file.
func (r *results) take(buf []byte) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.memory.Len() == 0 && r.read == r.written {
		if r.closed {
			return nil, io.EOF
		}
		r.changed.Wait()
	}
	defer r.changed.Broadcast()
	if r.memory.Len() > 0 {
		out := bytes.Clone(r.memory.Bytes())
		r.memory.Reset()
		return out, nil
	}
	n, err := r.file.ReadAt(buf[:min(int64(len(buf)), r.written-r.read)], r.read)
	r.read += int64(n)
	if r.read == r.written { // the file is used again from its beginning
		r.read, r.written = 0, 0
	}
	if n > 0 {
		err = nil
	}
	return buf[:n], err
}

// pump sends everything to w until Close, and flushes after each piece. Its
// error also fails the writes that follow.
func (r *results) pump(w io.Writer, flush func() error) error {
	err := r.pumpAll(w, flush)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.broken = err
		r.changed.Broadcast()
	}
	if r.file != nil {
		err = errors.Join(err, r.file.Close())
		r.file = nil
		if r.broken == nil {
			r.broken = os.ErrClosed
		}
	}
	return err
}

func (r *results) pumpAll(w io.Writer, flush func() error) error {
	buf := make([]byte, resultsChunk)
	for {
		part, err := r.take(buf)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := w.Write(part); err != nil {
			return err
		}
		if err := flush(); err != nil {
			return err
		}
	}
}
