// Postgres binaries for a machine that has none, by embedded-postgres.

package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// brought are the versions that the library can bring, by major version.
var brought = map[string]embeddedpostgres.PostgresVersion{
	"15": embeddedpostgres.V15,
	"16": embeddedpostgres.V16,
	"17": embeddedpostgres.V17,
	"18": embeddedpostgres.V18,
}

// newestBrought is used when any version will do.
const newestBrought = "18"

// fetchBinaries downloads and unpacks a version once; later calls find it.
func fetchBinaries(ctx context.Context, major string, owner *serverUser, log *slog.Logger) (postgresBinaries, error) {
	if major == "" {
		major = newestBrought
	}
	version, ok := brought[major]
	if !ok {
		return postgresBinaries{}, fmt.Errorf("no download of version %q: 15, 16, 17 and 18 exist", major)
	}
	cache, err := binariesCache(owner)
	if err != nil {
		return postgresBinaries{}, err
	}
	unlock, err := lockCache(cache)
	if err != nil {
		return postgresBinaries{}, err
	}
	defer unlock()
	home := filepath.Join(cache, string(version))
	bin := filepath.Join(home, "bin")
	if _, err := inspectBinaries(ctx, bin, owner); err != nil {
		log.Info("downloading postgres; this happens once", "version", string(version), "to", home)
		if err := unpack(version, cache, home); err != nil {
			return postgresBinaries{}, err
		}
	}
	b, err := inspectBinaries(ctx, bin, owner)
	if err != nil {
		return b, fmt.Errorf("the downloaded binaries in %s do not run here: %w", bin, err)
	}
	b.source = "downloaded, " + b.dir
	return b, nil
}

// unpack has the library bring its binaries. The library has no call that only
// brings them: it goes on to start a server. It is therefore given a data
// directory that looks initialized but is not: the binaries are in place by
// the time that pg_ctl refuses it (or refuses root). Our own start follows.
func unpack(version embeddedpostgres.PostgresVersion, cache, home string) error {
	part := home + ".part"
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	decoy := filepath.Join(part, "decoy")
	if err := os.MkdirAll(decoy, 0o700); err != nil {
		return err
	}
	major, _, _ := strings.Cut(string(version), ".")
	if err := os.WriteFile(filepath.Join(decoy, "PG_VERSION"), []byte(major+"\n"), 0o600); err != nil {
		return err
	}
	port, err := FreePort(0)
	if err != nil {
		return err
	}
	unpacked := filepath.Join(part, "unpacked")
	library := embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
		Version(version).
		Port(uint32(port)).
		CachePath(cache).
		RuntimePath(filepath.Join(part, "runtime")).
		BinariesPath(unpacked).
		DataPath(decoy).
		Logger(io.Discard))
	startErr := library.Start()
	http.DefaultClient.CloseIdleConnections() // the library's, of the download
	if startErr == nil {
		startErr = library.Stop()
	}
	if _, err := os.Stat(filepath.Join(unpacked, "bin", "postgres")); err != nil {
		return errors.Join(startErr, os.RemoveAll(part))
	}
	if err := openToAll(unpacked); err != nil {
		return err
	}
	if err := os.RemoveAll(home); err != nil {
		return err
	}
	return errors.Join(os.Rename(unpacked, home), os.RemoveAll(part))
}

// openToAll lets every user read the folder and run what is in it, whatever
// the umask was while it was unpacked.
func openToAll(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm() | 0o444
		if mode&0o100 != 0 {
			mode |= 0o111
		}
		return os.Chmod(path, mode)
	})
}

// binariesCache is a folder that both we and the server's user can enter.
func binariesCache(owner *serverUser) (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache directory: %w", err)
	}
	dir := filepath.Join(base, "perdure", "postgres")
	ok, err := owner.canReach(dir)
	if err != nil {
		return "", err
	}
	if !ok {
		dir = filepath.Join(rootDataDir, "binaries")
		if err := makePassable(rootDataDir, 0o711); err != nil {
			return "", fmt.Errorf("create cache for binaries: %w", err)
		}
	}
	if err := makePassable(dir, 0o755); err != nil {
		return "", fmt.Errorf("create cache for binaries: %w", err)
	}
	return dir, nil
}

// lockCache waits until no other process unpacks into the cache.
func lockCache(cache string) (func(), error) {
	f, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock cache for binaries: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock cache for binaries: %w", err), f.Close())
	}
	return func() { f.Close() }, nil //nolint:errcheck // closing is the unlock
}
