package enqueuefile

// The rejects file: there only if something was rejected.

import (
	"errors"
	"io/fs"
	"os"
)

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
			return 0, err
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
