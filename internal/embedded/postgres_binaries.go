// Which Postgres binaries to run: the machine's own, else brought ones.

package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// oldestPostgres is the oldest major version that Perdure is tested on.
const oldestPostgres = 15

// postgresBinaries is a folder with initdb and postgres of one version.
type postgresBinaries struct {
	dir     string
	version string // "15.14"
	major   int
	source  string // for a person: where they come from
}

func (b postgresBinaries) path(name string) string { return filepath.Join(b.dir, name) }

// findBinaries takes the machine's own binaries of the major version (the
// newest if it is ""), else has the library bring them.
func findBinaries(ctx context.Context, major string, owner *serverUser, log *slog.Logger) (postgresBinaries, error) {
	found := machineBinaries(ctx, owner)
	for _, b := range found {
		if major == "" || strconv.Itoa(b.major) == major {
			return b, nil
		}
	}
	if err := ctx.Err(); err != nil {
		return postgresBinaries{}, fmt.Errorf("embedded postgres: look for its binaries: %w", err)
	}
	b, err := fetchBinaries(ctx, major, owner, log)
	if err != nil {
		wanted := "PostgreSQL " + major
		if major == "" {
			wanted = fmt.Sprintf("PostgreSQL %d or newer", oldestPostgres)
		}
		return b, fmt.Errorf("embedded postgres: this machine has no %s, and it could not be downloaded: install it (Debian: apt-get install postgresql; macOS: brew install postgresql), or set PERDURE_POSTGRES_URL: %w", wanted, err)
	}
	return b, nil
}

// machineBinaries lists usable installations, newest first.
func machineBinaries(ctx context.Context, owner *serverUser) []postgresBinaries {
	var dirs []string
	if path, err := exec.LookPath("postgres"); err == nil {
		dirs = append(dirs, filepath.Dir(path))
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin",         // Debian
		"/usr/pgsql-*/bin",                  // PGDG on Red Hat
		"/opt/homebrew/opt/postgresql*/bin", // brew, Apple silicon
		"/usr/local/opt/postgresql*/bin",    // brew, Intel
		"/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
		"/Applications/Postgres.app/Contents/Versions/*/bin",
	} {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			continue // only for a malformed pattern
		}
		dirs = append(dirs, matches...)
	}
	var found []postgresBinaries
	seen := map[string]bool{}
	for _, dir := range dirs {
		b, err := inspectBinaries(ctx, dir, owner)
		if err != nil || seen[b.dir] || b.major < oldestPostgres {
			continue
		}
		seen[b.dir] = true
		b.source = "this machine's, " + b.dir
		found = append(found, b)
	}
	slices.SortStableFunc(found, func(a, b postgresBinaries) int { return b.major - a.major })
	return found
}

// inspectBinaries asks the folder's binaries for their version, as the user
// who will run them. The folder behind symlinks is what counts: Postgres
// finds its libraries from there.
func inspectBinaries(ctx context.Context, dir string, owner *serverUser) (postgresBinaries, error) {
	server, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
	if err != nil {
		return postgresBinaries{}, err
	}
	b := postgresBinaries{dir: filepath.Dir(server)}
	if _, err := os.Stat(b.path("initdb")); err != nil {
		return b, err
	}
	cmd := exec.CommandContext(ctx, server, "--version")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner.credential()}
	out, err := cmd.Output()
	if err != nil {
		return b, fmt.Errorf("%s --version: %w", server, err)
	}
	b.version, b.major, err = parseVersion(string(out))
	return b, err
}

// parseVersion reads "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)".
func parseVersion(line string) (string, int, error) {
	_, rest, ok := strings.Cut(line, "(PostgreSQL) ")
	fields := strings.Fields(rest)
	if !ok || len(fields) == 0 {
		return "", 0, fmt.Errorf("not a PostgreSQL version: %q", line)
	}
	digits := fields[0] // 15.14, 19beta1
	if end := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
		digits = digits[:end]
	}
	major, err := strconv.Atoi(digits)
	if err != nil {
		return "", 0, errors.Join(fmt.Errorf("not a PostgreSQL version: %q", line), err)
	}
	return fields[0], major, nil
}
