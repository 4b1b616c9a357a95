package namespaces

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"moss/internal/kerneltest"
)

// fullMap is the map of a user with subordinate ids, or of root.
func fullMap(t *testing.T) IDMap {
	t.Helper()
	if os.Geteuid() != 0 {
		kerneltest.Require(t, "userns", "newuidmap")
	}
	m, err := Detect()
	if err != nil {
		t.Skip(err)
	}
	return m
}

// keeperOf reads keeper.json.
func keeperOf(t *testing.T, runroot string) (k keeperFile) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(runroot, "keeper.json"))
	if err == nil {
		err = json.Unmarshal(b, &k)
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// inside starts a container in u and returns what it says of its ids.
func inside(t *testing.T, u *UserNS, m IDMap) string {
	t.Helper()
	out, ws, err := run(t, func(s *Spec) {
		sh("/bin/busybox id -u; /bin/busybox cat /proc/self/uid_map | /bin/busybox wc -l")(s)
		base, err := os.Open(s.Base)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { base.Close() })
		s.UserNS, s.Map, s.BaseFD, s.NoNewPrivs = u, m, int(base.Fd()), false
		if m.Mode == RootMap { // what the container's root may use must be its own
			os.Chmod(filepath.Dir(s.Base), 0o755)
			for _, d := range []string{"upper", "work"} {
				uid, gid, _ := m.Owner(0, 0)
				os.Chown(filepath.Join(s.Base, d), uid, gid)
			}
		}
	})
	if err != nil || ws != 0 {
		t.Fatalf("in the keeper's namespace: status %#x, %v", ws, err)
	}
	return out
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait(pid)
}

func TestKeeperKernel(t *testing.T) {
	m := fullMap(t)
	dir := t.TempDir()
	join := func() *UserNS {
		t.Helper()
		u, err := JoinOrCreate(dir, m)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(u.Close)
		return u
	}
	want := fmt.Sprintf("0\n%d\n", len(m.UIDs))
	first := join()
	if got := inside(t, first, m); got != want {
		t.Errorf("said %q, want %q", got, want)
	}
	k := keeperOf(t, dir)
	if second := join(); inside(t, second, m) != want || fmt.Sprint(keeperOf(t, dir)) != fmt.Sprint(k) {
		t.Error("the second start made a keeper of its own")
	}

	// A keeper ends when its time has come; a start that has joined goes on.
	late := join()
	kill(t, k.Pid)
	if got := inside(t, late, m); got != want {
		t.Errorf("after the keeper's end: said %q, want %q", got, want)
	}
	if u := join(); inside(t, u, m) != want {
		t.Error("no new keeper after the end of the first")
	}
	next := keeperOf(t, dir)
	if next.Pid == k.Pid && next.StartTime == k.StartTime {
		t.Error("keeper.json still names the one that is gone")
	}

	path := filepath.Join(dir, "keeper.json")
	own, err := StartTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	other := m
	other.UIDs = append([]Range(nil), m.UIDs...)
	other.UIDs[len(other.UIDs)-1].Count--
	for name, content := range map[string]any{
		"empty": "", "garbage": "{\"pid\": ", "a list": "[]", "pid 0": keeperFile{0, 1, m}, "negative pid": keeperFile{-1, 1, m},
		"pid used again":  keeperFile{os.Getpid(), own + 1, m},
		"another map":     keeperFile{next.Pid, next.StartTime, other},
		"no such process": keeperFile{1 << 22, 1, m},
		"not our process": keeperFile{1, 1, m},
	} {
		b, isText := content.(string)
		if !isText {
			j, _ := json.Marshal(content)
			b = string(j)
		}
		if err := os.WriteFile(path, []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := inside(t, join(), m); got != want {
			t.Errorf("%s: said %q, want %q", name, got, want)
		}
		now := keeperOf(t, dir)
		if now.Pid == next.Pid {
			t.Errorf("%s: joined what keeper.json named", name)
		}
		kill(t, now.Pid)
	}

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil { // cannot be written: it still serves this start
		t.Fatal(err)
	}
	if got := inside(t, join(), m); got != want {
		t.Errorf("without a file: said %q, want %q", got, want)
	}
}
