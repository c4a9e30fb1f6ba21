package doctor

// This host: room on the disk, and a folder that can be written.

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// lowDisk is where the disk gets too full for embedded servers, in bytes.
const lowDisk = 1 << 30

func host(_ context.Context, p Patient, r *report) {
	dir := p.Config.DataDir
	if dir == "" {
		r.warn("there is no data directory: no home, no PERDURE_DATA_DIR", "a role cannot take a name of its own", "set PERDURE_INSTANCE or PERDURE_DATA_DIR")
		return
	}
	at := dir
	for {
		if _, err := os.Stat(at); err == nil || at == filepath.Dir(at) {
			break
		}
		at = filepath.Dir(at)
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(at, &fs); err != nil {
		r.warn("cannot look at "+at+": "+err.Error(), "", "set PERDURE_DATA_DIR to a folder that can be read")
		return
	}
	free := fs.Bavail * uint64(fs.Bsize)
	if free < lowDisk {
		r.warn(fmt.Sprintf("%d MiB free under %s", free>>20, at), "embedded Kafka and Postgres stop when the disk is full", "make room, or set PERDURE_DATA_DIR to another disk")
		return
	}
	r.ok(fmt.Sprintf("%d GiB free under %s", free>>30, at))
}
