// Who runs Postgres: it refuses root, so root lends it an unprivileged user.

package embedded

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// serverUser is the user that root runs Postgres as.
type serverUser struct {
	name     string
	uid, gid uint32
}

// unprivilegedUser picks whom to run Postgres as: nil (ourselves) for a user,
// for root the machine's postgres user or else nobody. initdb insists on a
// name in the user database, so a bare number does not do.
func unprivilegedUser() (*serverUser, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		return newServerUser(u)
	}
	return nil, fmt.Errorf("embedded postgres: it refuses to run as root, and this machine has neither a user postgres nor nobody: run as a user, or set PERDURE_POSTGRES_URL")
}

func newServerUser(u *user.User) (*serverUser, error) {
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("embedded postgres: uid of %s: %w", u.Username, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("embedded postgres: gid of %s: %w", u.Username, err)
	}
	return &serverUser{name: u.Username, uid: uint32(uid), gid: uint32(gid)}, nil
}

// credential is what a child is started with; nil for our own user.
func (u *serverUser) credential() *syscall.Credential {
	if u == nil {
		return nil
	}
	return &syscall.Credential{Uid: u.uid, Gid: u.gid}
}

// give makes the user the owner of a path; nothing to do for our own.
func (u *serverUser) give(path string) error {
	if u == nil {
		return nil
	}
	if err := os.Chown(path, int(u.uid), int(u.gid)); err != nil {
		return fmt.Errorf("embedded postgres: give %s to user %s: %w", path, u.name, err)
	}
	return nil
}

// canReach says whether the user may pass through every folder of the
// absolute path, as far as mode bits tell.
func (u *serverUser) canReach(path string) (bool, error) {
	if u == nil {
		return true, nil
	}
	for _, dir := range ancestors(path) {
		info, err := os.Stat(dir)
		if os.IsNotExist(err) {
			continue // to be created by us, passable
		}
		if err != nil {
			return false, fmt.Errorf("embedded postgres: look at %s: %w", dir, err)
		}
		if !u.mayPass(info) {
			return false, nil
		}
	}
	return true, nil
}

func (u *serverUser) mayPass(info os.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	mode := info.Mode().Perm()
	switch {
	case stat.Uid == u.uid:
		return mode&0o100 != 0
	case stat.Gid == u.gid:
		return mode&0o010 != 0
	default:
		return mode&0o001 != 0
	}
}
