package embedded

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestCanReachFollowsModeBits(t *testing.T) {
	dir := openDir(t)
	inner := filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	me := uint32(os.Getuid())
	stranger := &serverUser{name: "stranger", uid: me + 4242, gid: uint32(os.Getgid()) + 4242}
	group := &serverUser{name: "colleague", uid: me + 4242, gid: uint32(os.Getgid())}
	self := &serverUser{name: "self", uid: me, gid: uint32(os.Getgid())}
	for _, tc := range []struct {
		mode os.FileMode
		who  *serverUser
		want bool
	}{
		{0o700, nil, true}, // our own user asks nobody
		{0o701, stranger, true},
		{0o710, stranger, false},
		{0o710, group, true},
		{0o701, group, false}, // the group's bits decide for its members
		{0o100, self, true},
		{0o011, self, false},
	} {
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, "a"), tc.mode); err != nil {
			t.Fatal(err)
		}
		got, err := tc.who.canReach(filepath.Join(dir, "a"))
		if err != nil || got != tc.want {
			t.Errorf("mode %o, %+v: %v, %v", tc.mode, tc.who, got, err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "a"), 0o755); err != nil { // for the clean-up
		t.Fatal(err)
	}
}

func TestClusterOfSomebodyElseIsRefused(t *testing.T) {
	data := filepath.Join(openDir(t), "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	h := &postgresHome{data: data}
	if os.Geteuid() == 0 {
		_, err := h.ownerOfData(&serverUser{name: "postgres", uid: 4242, gid: 4242})
		if err == nil || !strings.Contains(err.Error(), "chown") {
			t.Fatalf("a cluster of root's: %v", err)
		}
		if err := os.Chown(data, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		owner, err := h.ownerOfData(&serverUser{name: "postgres", uid: 4242, gid: 4242})
		if err != nil || owner.uid != 65534 {
			t.Fatalf("the cluster's own user is not kept: %+v, %v", owner, err)
		}
		_, err = h.ownerOfData(nil) // as if we were an ordinary user
		if err == nil || !strings.Contains(err.Error(), "PERDURE_DATA_DIR") {
			t.Fatalf("a cluster of another user's: %v", err)
		}
		return
	}
	if owner, err := h.ownerOfData(nil); owner != nil || err != nil {
		t.Fatalf("our own cluster: %+v, %v", owner, err)
	}
}

func TestFreePortSkipsATakenOne(t *testing.T) {
	l, err := net.Listen("tcp", loopback+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().(*net.TCPAddr).Port
	got, err := FreePort(taken)
	if err != nil || got <= taken {
		t.Fatalf("next to %d: %d, %v", taken, got, err)
	}
	again, err := net.Listen("tcp", net.JoinHostPort(loopback, strconv.Itoa(got)))
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestMakePassableOnlyAdds(t *testing.T) {
	dir := filepath.Join(openDir(t), "d")
	for _, tc := range []struct{ before, after os.FileMode }{
		{0o700, 0o711},
		{0o755, 0o755},
		{0o777 | os.ModeSticky, 0o777 | os.ModeSticky},
		{0o700 | os.ModeSticky, 0o711 | os.ModeSticky},
	} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, tc.before); err != nil {
			t.Fatal(err)
		}
		if err := makePassable(dir, 0o711); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(dir)
		if err != nil || info.Mode()&^os.ModeDir != tc.after {
			t.Errorf("%v became %v (%v), want %v", tc.before, info.Mode(), err, tc.after)
		}
	}
	if err := makePassable(filepath.Join(dir, "x", "\x00"), 0o711); err == nil {
		t.Error("an impossible folder was made")
	}
}
