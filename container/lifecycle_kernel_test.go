package container

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"moss/internal/kerneltest"
	"moss/internal/testimage"
	"moss/oci"
)

func TestExitStatusKernel(t *testing.T) {
	m := ownMachine(t)
	notExec := testimage.NewBuilder().File("plain", 0o644, "x").File("garbage", 0o755, "x\x00y").File("script", 0o755, "#!/no/interpreter\n").Dir("dir", 0o755).Tar()
	img := m.image(t, oci.Config{}, notExec)
	bare := &[]string{}
	for _, test := range []struct {
		o      Options
		status int
		stderr string
	}{
		{Options{Args: []string{"exit 0"}}, 0, ""},
		{Options{Args: []string{"exit 3"}}, 3, ""},
		{Options{Args: []string{"exit 255"}}, 255, ""},
		{Options{Args: []string{"exit 3"}, Init: true}, 3, ""},
		{Options{Args: []string{"die 15"}, Init: true}, 143, ""},
		{Options{Args: []string{"die 9"}, Init: true}, 137, ""},
		{Options{Args: []string{"child exit 4", "exit 5"}}, 5, ""},
		{Options{Entrypoint: bare, Args: []string{"/nowhere"}}, 127, "no such file"},
		{Options{Entrypoint: bare, Args: []string{"nowhere"}}, 127, "not found in $PATH"},
		{Options{Entrypoint: bare, Args: []string{"nowhere"}, Init: true}, 127, ""},
		{Options{Entrypoint: bare, Args: []string{"/plain"}}, 126, "0644"},
		{Options{Entrypoint: bare, Args: []string{"/dir"}}, 126, "directory"},
		{Options{Entrypoint: bare, Args: []string{"/garbage"}}, 126, ""},
		{Options{Entrypoint: bare, Args: []string{"/script"}}, 127, "/no/interpreter"},
		{Options{WorkingDir: "/plain"}, 126, "is a file"},
		{Options{Entrypoint: bare}, 125, "command"},
		{Options{CapAdd: []string{"NO_SUCH"}}, 125, "NO_SUCH"},
		{Options{SecurityOpt: []string{"nonsense"}}, 125, "nonsense"},
		{Options{SecurityOpt: []string{"seccomp=/no/such/file"}}, 125, "/no/such/file"},
		{Options{User: "nobody-here"}, 125, "nobody-here"},
		{Options{GroupAdd: []string{"nogroup-here"}}, 125, "nogroup-here"},
		{Options{Mounts: []Mount{{Type: "bind", Source: "/no/such", Target: "/x"}}}, 125, "/no/such"},
		{Options{Mounts: []Mount{{Type: "bind", Source: "/etc", Target: "/plain"}}}, 125, "/plain"},
		{Options{Mounts: []Mount{{Type: "bind", Source: "/etc", Target: "/proc/x"}}}, 125, "/proc"},
		{Options{Mounts: []Mount{{Type: "tmpfs", Target: "/x", TmpfsOptions: []string{"nonsense"}}}}, 125, "nonsense"},
		{Options{Mounts: []Mount{{Type: "tmpfs", Target: "/x", TmpfsOptions: []string{"size=what"}}}}, 125, "/x"},
		{Options{Mounts: []Mount{{Type: "volume", Source: "a/b", Target: "/x"}}}, 125, "a/b"},
		{Options{AddHosts: []string{"nonsense"}}, 125, "nonsense"},
		{Options{DNS: []string{"nonsense"}}, 125, "nonsense"},
		{Options{Ulimits: []Ulimit{{"nonsense", 1, 1}}}, 125, "nonsense"},
		{Options{Ulimits: []Ulimit{{"nofile", 1 << 40, 1 << 40}}}, 125, "nofile"},
		{Options{Name: "-"}, 125, "name"},
		{Options{CIDFile: "/no/such/dir/file"}, 125, "/no/such"},
		{Options{Hostname: strings.Repeat("x", 65)}, 125, ""},
		{Options{TTY: true, Interactive: true}, 125, "TTY"},
	} {
		for _, remove := range []bool{true, false} {
			o := test.o
			o.Image, o.Remove = img, remove
			if o.Network == "" {
				o.Network = "none"
			}
			r := m.run(t, o)
			if r.status != test.status || !strings.Contains(r.stderr, test.stderr) || strings.Contains(r.stderr, "goroutine") {
				t.Errorf("%+v: status %d, want %d\n%s", test.o, r.status, test.status, r.stderr)
			}
			if r.status >= 125 && r.status <= 127 && r.stderr == "" {
				t.Errorf("%+v: status %d without a word", test.o, r.status)
			}
			all, err := m.List()
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range all {
				if remove {
					t.Errorf("%+v: left after --rm: %+v", test.o, c)
				}
				if c.Status == Running || c.Pid != 0 || c.ExitCode != test.status {
					t.Errorf("%+v: recorded %s, pid %d, exit code %d, want %d", test.o, c.Status, c.Pid, c.ExitCode, test.status)
				}
				if err := m.Remove(c, false); err != nil {
					t.Errorf("%+v: removing: %v", test.o, err)
				}
			}
			m.empty(t)
			if t.Failed() {
				t.FailNow()
			}
		}
	}
}

func TestStdioKernel(t *testing.T) {
	m := theMachine(t)
	every := make([]byte, 1<<20)
	for i := range every {
		every[i] = byte(i * 7)
	}
	for _, init := range []bool{false, true} {
		cmd := m.command(Options{Image: m.plain(t), Network: "none", Remove: true, Interactive: true, Init: init, Args: []string{"copy"}})
		cmd.Stdin = bytes.NewReader(every)
		if r := finish(t, cmd); r.stdout != string(every) || r.stderr != "" {
			t.Errorf("init %t: %d bytes came back of %d; %s", init, len(r.stdout), len(every), r.stderr)
		}
	}
	cmd := m.command(Options{Image: m.plain(t), Network: "none", Remove: true, Args: []string{"copy"}})
	cmd.Stdin = strings.NewReader("not for the container")
	if r := finish(t, cmd); r.stdout != "" || r.status != 0 {
		t.Errorf("without -i: %+v", r)
	}
	r := m.run(t, Options{Image: m.plain(t), Network: "none", Remove: true, Args: []string{"stderr a", "echo b"}})
	if r.stderr != "a" || r.stdout != "ok"+answerEnd+"b"+answerEnd {
		t.Errorf("%+v", r)
	}
}

func TestSignalsKernel(t *testing.T) {
	m := theMachine(t)
	img := m.plain(t)
	for _, init := range []bool{false, true} {
		for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGQUIT} {
			cmd := m.command(Options{Image: img, Network: "none", Remove: true, Init: init, Args: []string{fmt.Sprintf("trap %d", sig), "exit 9"}})
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 6)
			out.Read(b)
			cmd.Process.Signal(sig)
			rest := make([]byte, 64)
			n, _ := out.Read(rest)
			for {
				k, err := out.Read(rest[n:])
				if n += k; err != nil {
					break
				}
			}
			cmd.Wait()
			if got := strings.Trim(string(rest[:n]), answerEnd); got != sig.String() || cmd.ProcessState.ExitCode() != 9 {
				t.Errorf("init %t, %v: the payload got %q, status %d", init, sig, got, cmd.ProcessState.ExitCode())
			}
		}
	}
	// PID 1 without a handler ignores SIGTERM; somebody who insists is obeyed.
	cmd := m.background(t, Options{Image: img, Network: "none", Remove: true, Entrypoint: &[]string{}, Args: []string{payloadPath, "ready", "sleep 30000"}})
	for range 4 {
		time.Sleep(20 * time.Millisecond)
		cmd.Process.Signal(unix.SIGTERM)
	}
	cmd.Wait()
	if s := cmd.ProcessState.ExitCode(); s != 137 && s != 143 && s != 2 {
		t.Errorf("after SIGTERM for the fourth time: status %d", s)
	}
}

func TestNamesKernel(t *testing.T) {
	m := ownMachine(t)
	img := m.plain(t)
	dir := t.TempDir()
	first := Options{Image: img, Network: "none", Name: "one", CIDFile: dir + "/cid", Args: []string{"exit 3"}}
	if r := m.run(t, first); r.status != 3 {
		t.Fatalf("%+v", r)
	}
	id, err := os.ReadFile(dir + "/cid")
	c, findErr := m.Find("one")
	if err != nil || findErr != nil || string(id) != c.ID || c.ExitCode != 3 || c.Status != Exited || c.FinishedAt.Before(c.StartedAt) {
		t.Fatalf("cidfile %q, %v; container %+v, %v", id, err, c, findErr)
	}
	if r := m.run(t, first); r.status != 125 || !strings.Contains(r.stderr, "in use") {
		t.Errorf("the name again: %+v", r)
	}
	other := first
	other.Name = "two"
	if r := m.run(t, other); r.status != 125 || !strings.Contains(r.stderr, "cid") {
		t.Errorf("the cidfile again: %+v", r)
	}
	if _, err := m.Find("two"); err == nil {
		t.Error("a container is left whose cidfile could not be written")
	}
	for _, name := range []string{"one", c.ID, c.ID[:12], c.ID[:3]} {
		if f, err := m.Find(name); err != nil || f.ID != c.ID {
			t.Errorf("Find(%q): %v", name, err)
		}
	}
	if used, err := m.InUse(); err != nil || !used(m.base.Digest) {
		t.Error("the layers of an ended container are not in use:", err)
	}
	if err := m.Remove(c, false); err != nil {
		t.Fatal(err)
	}
	m.empty(t)

	// Many at once want the same name, which a killed moss has left: one has it.
	if err := os.Symlink(strings.Repeat("a", linkLength), filepath.Join(m.containers, "names", "wanted")); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	statuses := map[int]int{}
	for range 8 {
		wg.Go(func() {
			r := m.run(t, Options{Image: img, Network: "none", Name: "wanted", Args: []string{"exit 0"}})
			mu.Lock()
			defer mu.Unlock()
			statuses[r.status]++
			if r.status != 0 && !strings.Contains(r.stderr, "in use") {
				t.Errorf("%+v", r)
			}
		})
	}
	wg.Wait()
	if statuses[0] != 1 || statuses[125] != 7 {
		t.Errorf("statuses %v, want one 0 and seven 125", statuses)
	}
	if c, err = m.Find("wanted"); err != nil {
		t.Fatal(err)
	}
	if err := m.Remove(c, false); err != nil {
		t.Error(err)
	}
	m.empty(t)
}

// TestCrowdKernel starts fifty containers at once.
func TestCrowdKernel(t *testing.T) {
	m := ownMachine(t)
	img := m.plain(t)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			r := m.run(t, Options{Image: img, Network: "none", Remove: i%5 != 0, Init: i%7 == 0, Args: []string{"pids", fmt.Sprintf("create /tmp/%d", i), "ls /tmp", fmt.Sprintf("exit %d", i)}})
			if r.status != i || !strings.HasSuffix(r.stdout, fmt.Sprintf("ok%s%d%s", answerEnd, i, answerEnd)) {
				t.Errorf("container %d: %+v", i, r)
			}
		})
	}
	wg.Wait()
	all, err := m.List()
	if err != nil || len(all) != 10 {
		t.Errorf("%d containers left of the 10 without --rm: %v", len(all), err)
	}
	for _, c := range all {
		if err := m.Remove(c, false); err != nil {
			t.Error(err)
		}
	}
	m.empty(t)
}

// TestKilledKernel kills moss at fifty instants of a run. The next command
// finds a store it can work with, and cleans up.
func TestKilledKernel(t *testing.T) {
	m := ownMachine(t)
	img := m.image(t, oci.Config{Volumes: map[string]struct{}{"/data": {}}}, testimage.NewBuilder().Owned("data/x", 0o600, 33, 33, "x").Tar())
	m.run(t, Options{Image: img, Network: "none", Remove: true, Args: []string{"exit 0"}}) // what only the first does is done
	rng := rand.New(rand.NewSource(1))
	for i := range 50 {
		o := Options{Image: img, Network: "none", Name: "victim", Remove: i%2 == 0, Args: []string{"mkdir /tmp/a", "chmod /tmp/a 0", "sleep 50"}}
		cmd := m.command(o)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rng.Intn(40000)) * time.Microsecond)
		cmd.Process.Kill()
		cmd.Wait()
		var c *Record
		for range 100 { // the kernel takes a moment to end the payload
			all, err := m.List()
			if err != nil {
				t.Fatalf("round %d: %v", i, err)
			}
			if c = nil; len(all) == 0 {
				break
			}
			if c = all[0]; c.Status != Running {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		if c != nil {
			if c.Status == Running || o.Remove {
				t.Errorf("round %d, rm %t: %s, pid %d", i, o.Remove, c.Status, c.Pid)
			}
			if err := m.Remove(c, true); err != nil {
				t.Errorf("round %d: %v", i, err)
			}
		}
		// A child that was still putting the container together holds it until it
		// notices that moss is gone.
		again := m.run(t, Options{Image: img, Network: "none", Name: "victim", Remove: true, Args: []string{"exit 7"}})
		for n := 0; n < 100 && strings.Contains(again.stderr, "in use"); n++ {
			time.Sleep(10 * time.Millisecond)
			again = m.run(t, Options{Image: img, Network: "none", Name: "victim", Remove: true, Args: []string{"exit 7"}})
		}
		if again.status != 7 {
			t.Fatalf("round %d: the name cannot be used again: %+v", i, again)
		}
	}
	m.empty(t)
	if left, _ := filepath.Glob(m.root + "/.*"); len(left) > 0 {
		t.Errorf("left in the store: %v", left)
	}
}

// TestStoreKeptApartKernel: a container sees its root and nothing else of the
// store, although all of it belongs to the same user.
func TestStoreKeptApartKernel(t *testing.T) {
	m := theMachine(t)
	said := m.ask(t, Options{Image: m.plain(t), Network: "none"}, "ls "+m.root, "ls "+m.containers, "ls /..", "ls /../..", "handle "+m.root)
	for i, s := range said[:2] {
		if s != "ENOENT" {
			t.Errorf("answer %d: %q", i, s)
		}
	}
	for _, s := range said[2:4] {
		if s != "bin dev etc proc sys tmp" {
			t.Errorf("above the root: %q", s)
		}
	}
}

// TestDiskFullKernel has the store on a file system that is full.
func TestDiskFullKernel(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("inside, root's own map cannot be written; an ordinary user sees the same")
	}
	if !kerneltest.Inside(t) {
		return
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	root := dir + "/store"
	os.Mkdir(root, 0o711)
	if err := os.WriteFile(root+"/idmap.json", []byte(`{"mode":"single","uids":[{"container":0,"host":0,"count":1}],"gids":[{"container":0,"host":0,"count":1}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := machineAt(root)
	if err != nil {
		t.Fatal(err)
	}
	img := m.plain(t)
	m.want(t, Options{Image: img, Network: "none"}, "fill /full", "ENOSPC")
	f, err := os.Create(dir + "/filler")
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			break
		}
	}
	f.Close()
	r := m.run(t, Options{Image: img, Network: "none", Args: []string{"exit 0"}})
	if r.status != 125 || !strings.Contains(r.stderr, "no space left") {
		t.Errorf("on a full disk: %+v", r)
	}
	if !strings.Contains(r.stderr, "try:") {
		t.Errorf("nothing to try: %s", r.stderr)
	}
	os.Remove(dir + "/filler")
	for _, c := range mustList(t, m) {
		if err := m.Remove(c, true); err != nil {
			t.Error(err)
		}
	}
	m.empty(t)
	m.want(t, Options{Image: img, Network: "none"}, "echo again", "again")

	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	r = m.run(t, Options{Image: img, Network: "none", Args: []string{"exit 0"}})
	if r.status != 125 || !strings.Contains(r.stderr, "read-only file system") {
		t.Errorf("on a read-only disk: %+v", r)
	}
	if !strings.Contains(r.stderr, "try:") {
		t.Errorf("nothing to try: %s", r.stderr)
	}
}

func mustList(t *testing.T, m *machine) []*Record {
	t.Helper()
	all, err := m.List()
	if err != nil {
		t.Fatal(err)
	}
	return all
}
