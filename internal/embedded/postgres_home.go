// Where an embedded Postgres lives: its folder, password and cluster.
//
//	DIR/password   the superuser's, 0600
//	DIR/server.log the server's own lines of this run (server.log.1: the run before)
//	DIR/data       the cluster, 0700, owned by whoever runs the server
//	DIR/elsewhere  as root only, where DIR cannot be reached: where data is

package embedded

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// rootDataDir is where root's clusters go whose directory the unprivileged
// server cannot reach; /root, for one, is closed on every distribution.
const rootDataDir = "/var/lib/perdure"

// postgresHome is the set of paths of one embedded server.
type postgresHome struct {
	dir       string // the caller's
	data      string // PGDATA
	log       string
	temporary bool // the caller gave no directory: discard removes it
}

// openPostgresHome creates the folders, and decides where the cluster goes.
func openPostgresHome(dir string, owner *serverUser) (*postgresHome, error) {
	h := &postgresHome{dir: dir}
	if dir == "" {
		tmp, err := os.MkdirTemp("", "perdure-postgres-")
		if err != nil {
			return nil, fmt.Errorf("embedded postgres: temporary directory: %w", err)
		}
		h.dir, h.temporary = tmp, true
	}
	abs, err := filepath.Abs(h.dir)
	if err != nil {
		return nil, fmt.Errorf("embedded postgres: %w", err)
	}
	h.dir = abs
	// Passable for the server, readable only for us.
	if err := makePassable(h.dir, 0o711); err != nil {
		return nil, fmt.Errorf("embedded postgres: create directory: %w", err)
	}
	// Symlinks are resolved once: processes are recognised by this path.
	if h.dir, err = filepath.EvalSymlinks(h.dir); err != nil {
		return nil, fmt.Errorf("embedded postgres: %w", err)
	}
	h.log = filepath.Join(h.dir, "server.log")
	if h.data, err = h.place(owner); err != nil {
		return nil, err
	}
	return h, nil
}

// place gives the cluster's path: under dir if its owner can get there.
func (h *postgresHome) place(owner *serverUser) (string, error) {
	pointer := filepath.Join(h.dir, "elsewhere")
	if b, err := os.ReadFile(pointer); err == nil {
		return strings.TrimSpace(string(b)), nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("embedded postgres: %w", err)
	}
	here := filepath.Join(h.dir, "data")
	ok, err := owner.canReach(h.dir)
	if err != nil || ok {
		return here, err
	}
	parent := filepath.Join(rootDataDir, "postgres-"+strings.ToLower(rand.Text()))
	if err := errors.Join(makePassable(rootDataDir, 0o711), makePassable(parent, 0o711)); err != nil {
		return "", fmt.Errorf("embedded postgres: user %s, who must run it, cannot reach %s, and there is no place elsewhere: set PERDURE_DATA_DIR to a directory whose parents all can be entered, or PERDURE_POSTGRES_URL: %w", owner.name, h.dir, err)
	}
	there := filepath.Join(parent, "data")
	if err := writeFileSync(pointer, there+"\n"); err != nil {
		return "", errors.Join(err, os.Remove(parent))
	}
	return there, nil
}

// ownerOfData keeps a cluster with the user that made it, whoever the machine
// would offer today.
func (h *postgresHome) ownerOfData(owner *serverUser) (*serverUser, error) {
	info, err := os.Stat(h.data)
	if errors.Is(err, os.ErrNotExist) {
		return owner, nil
	}
	if err != nil {
		return nil, fmt.Errorf("embedded postgres: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return owner, nil
	}
	if owner == nil {
		if int(stat.Uid) != os.Geteuid() {
			return nil, fmt.Errorf("embedded postgres: %s belongs to user %d, this process is user %d: run as that user, or choose another PERDURE_DATA_DIR", h.data, stat.Uid, os.Geteuid())
		}
		return nil, nil
	}
	if stat.Uid == owner.uid {
		return owner, nil
	}
	u, err := user.LookupId(strconv.FormatUint(uint64(stat.Uid), 10))
	if err != nil || stat.Uid == 0 {
		return nil, fmt.Errorf("embedded postgres: %s belongs to user %d, as whom it cannot be run: chown it to %s", h.data, stat.Uid, owner.name)
	}
	return newServerUser(u)
}

// wantedVersion is the major version to look for; "" for any.
func (h *postgresHome) wantedVersion(asked string) (string, error) {
	b, err := os.ReadFile(filepath.Join(h.data, "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		return asked, nil
	}
	if err != nil {
		return "", fmt.Errorf("embedded postgres: %w", err)
	}
	have := strings.TrimSpace(string(b))
	if asked != "" && asked != have {
		return "", fmt.Errorf("embedded postgres: the data in %s are of version %s, not %s: choose another PERDURE_DATA_DIR, or pg_upgrade them", h.data, have, asked)
	}
	return have, nil
}

// ensureCluster runs initdb if there is no cluster yet, and gives the password.
// A kill at any point leaves either no cluster or a whole one with its password.
func (h *postgresHome) ensureCluster(ctx context.Context, bin postgresBinaries, owner *serverUser) (string, error) {
	password, err := h.ensurePassword()
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(h.data, "PG_VERSION")); err == nil {
		return password, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("embedded postgres: %w", err)
	}
	// initdb works in a folder that its user owns, and leaves it by rename.
	work := h.data + ".part"
	if err := os.RemoveAll(work); err != nil {
		return "", fmt.Errorf("embedded postgres: clear an unfinished initdb: %w", err)
	}
	if err := os.Mkdir(work, 0o700); err != nil {
		return "", fmt.Errorf("embedded postgres: %w", err)
	}
	pwfile := filepath.Join(work, "pwfile")
	if err := os.WriteFile(pwfile, []byte(password), 0o600); err != nil {
		return "", fmt.Errorf("embedded postgres: %w", err)
	}
	if err := errors.Join(owner.give(work), owner.give(pwfile)); err != nil {
		return "", err
	}
	if err := h.initdb(ctx, bin, owner, work, pwfile); err != nil {
		return "", err
	}
	if err := os.Rename(filepath.Join(work, "data"), h.data); err != nil {
		return "", fmt.Errorf("embedded postgres: move the new cluster into place: %w", err)
	}
	if err := os.RemoveAll(work); err != nil {
		return "", fmt.Errorf("embedded postgres: %w", err)
	}
	return password, syncDir(filepath.Dir(h.data))
}

func (h *postgresHome) initdb(ctx context.Context, bin postgresBinaries, owner *serverUser, work, pwfile string) error {
	args := []string{
		"-D", filepath.Join(work, "data"), "-U", postgresUser, "--pwfile", pwfile,
		"--auth-host=scram-sha-256", "--auth-local=scram-sha-256",
		"--encoding=UTF8", "--locale=C",
	}
	if h.temporary {
		args = append(args, "--no-sync") // a crash of the machine loses it anyway
	}
	cmd := exec.CommandContext(ctx, bin.path("initdb"), args...)
	cmd.Dir = work
	cmd.Env = serverEnv(work)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner.credential()}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("embedded postgres: initdb (%s): %w: %s", bin.source, err, bytes.TrimSpace(out))
	}
	return nil
}

// ensurePassword reads the generated password, or makes one.
func (h *postgresHome) ensurePassword() (string, error) {
	path := filepath.Join(h.dir, "password")
	b, err := os.ReadFile(path)
	if err == nil && len(bytes.TrimSpace(b)) > 0 {
		return string(bytes.TrimSpace(b)), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("embedded postgres: %w", err)
	}
	if _, err := os.Stat(filepath.Join(h.data, "PG_VERSION")); err == nil {
		return "", fmt.Errorf("embedded postgres: there is a cluster in %s but its password file %s is gone: put it back, or remove the cluster to begin anew", h.data, path)
	}
	password := rand.Text()
	return password, writeFileSync(path, password+"\n")
}

// discard removes a temporary home; others stay.
func (h *postgresHome) discard() error {
	if !h.temporary {
		return nil
	}
	var err error
	if filepath.Dir(h.data) != h.dir {
		err = os.RemoveAll(filepath.Dir(h.data))
	}
	return errors.Join(err, os.RemoveAll(h.dir))
}
