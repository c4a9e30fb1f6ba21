package embedded

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
)

func TestSecondLockIsRefusedAndNamesTheHolder(t *testing.T) {
	dir := t.TempDir()
	holder := startChild(t, "lock", dir)
	_, err := LockDir(dir)
	var busy *DirInUseError
	if !errors.As(err, &busy) {
		t.Fatalf("a second lock gives %v", err)
	}
	pid := strconv.Itoa(holder.cmd.Process.Pid)
	for _, want := range []string{dir, pid, "PERDURE_DATA_DIR"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("message does not say %q: %v", want, err)
		}
	}
}

func TestLockOfAKilledProcessIsFree(t *testing.T) {
	dir := t.TempDir()
	startChild(t, "lock", dir).kill()
	lock, err := LockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if lock.Dir() != dir {
		t.Errorf("lock is on %s", lock.Dir())
	}
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	again, err := LockDir(dir)
	if err != nil {
		t.Fatalf("a released directory is refused: %v", err)
	}
	if err := again.Release(); err != nil {
		t.Fatal(err)
	}
}

func TestLockFileWithoutAPIDIsNoHolderName(t *testing.T) {
	for _, content := range []string{"", "x\n", "-1\n", "0"} {
		path := t.TempDir() + "/pid"
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if pid := readPID(path); pid != 0 {
			t.Errorf("%q gives pid %d", content, pid)
		}
	}
	if msg := (&DirInUseError{Dir: "/d"}).Error(); !strings.Contains(msg, "another process") {
		t.Error(msg)
	}
}
