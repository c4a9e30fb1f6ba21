// Files that must be whole after a crash, and the folders above a path.

package embedded

import (
	"fmt"
	"os"
	"path/filepath"
)

// writeFileSync puts a private (0600) file in place at once: it is there
// whole, on disk, or not at all.
func writeFileSync(path, content string) error {
	part := path + ".part"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("embedded: write %s: %w", path, err)
	}
	_, err = f.WriteString(content)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(part, path)
	}
	if err != nil {
		return fmt.Errorf("embedded: write %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes renames inside a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("embedded: %w", err)
	}
	err = d.Sync()
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("embedded: sync %s: %w", dir, err)
	}
	return nil
}

// makePassable creates a folder with at least this mode, whatever the umask
// says: a closed one would shut out the unprivileged server. It takes nothing
// from the mode of a folder that is there.
func makePassable(dir string, mode os.FileMode) error {
	if err := os.MkdirAll(dir, mode); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	have := info.Mode() & (os.ModePerm | os.ModeSticky | os.ModeSetuid | os.ModeSetgid)
	if have|mode == have {
		return nil
	}
	return os.Chmod(dir, have|mode)
}

// ancestors are the folders from / to the absolute path itself.
func ancestors(path string) []string {
	dirs := []string{path}
	for parent := filepath.Dir(path); parent != path; parent = filepath.Dir(path) {
		dirs = append(dirs, parent)
		path = parent
	}
	return dirs
}
