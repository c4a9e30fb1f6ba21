package enqueuefile

// The rejects file: there only if something was rejected.

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"unicode/utf8"

	"github.com/perdure/perdure/internal/api"
)

// MaxInput is how much of a refused line its reject holds, in bytes.
const MaxInput = 64 << 10

// Reject is a refused line, as it stands in the rejects.
type Reject struct {
	Line    int          `json:"line"` // of the file, from 1
	Problem *api.Problem `json:"problem"`

	// Input is the line itself, without its line end; InputBase64 is it where it
	// is no UTF-8. Cut marks that only its first MaxInput bytes are here.
	Input       string `json:"input,omitempty"`
	InputBase64 []byte `json:"input_base64,omitempty"`
	Cut         bool   `json:"input_cut,omitempty"`
}

// newReject copies at most MaxInput bytes of input; cut says that the reader
// has cut it already.
func newReject(number int, input []byte, cut bool, p *api.Problem) Reject {
	if len(input) > MaxInput {
		input, cut = input[:MaxInput], true
	}
	r := Reject{Line: number, Problem: p, Cut: cut}
	whole := input
	for n := 1; cut && n < utf8.UTFMax && n < len(input) && !utf8.Valid(whole); n++ {
		whole = input[:len(input)-n] // not half a character
	}
	if utf8.Valid(whole) {
		r.Input = string(whole)
	} else {
		r.InputBase64 = input
	}
	return r
}

// RejectsFile is a file that is created by its first write.
type RejectsFile struct {
	path string
	f    *os.File
}

// NewRejectsFile removes what an earlier run left at path. The usual path is
// the file's name with ".rejects.ndjson" behind it.
func NewRejectsFile(path string) (*RejectsFile, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return &RejectsFile{path: path}, nil
}

// Write implements io.Writer.
func (r *RejectsFile) Write(p []byte) (int, error) {
	if r.f == nil {
		f, err := os.OpenFile(r.path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		if err != nil {
			return 0, fmt.Errorf("%w: name another place with --rejects; what was accepted stays so", err)
		}
		r.f = f
	}
	return r.f.Write(p)
}

// Path is the file's name, "" if nothing was rejected.
func (r *RejectsFile) Path() string {
	if r.f == nil {
		return ""
	}
	return r.path
}

// Close implements io.Closer.
func (r *RejectsFile) Close() error {
	if r.f == nil {
		return nil
	}
	return r.f.Close()
}
