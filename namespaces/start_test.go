package namespaces

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// run starts a busybox container and returns what it printed and how it ended.
func run(t *testing.T, change func(*Spec)) (string, unix.WaitStatus, error) {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("busybox (busybox-static) is not installed")
	}
	base := t.TempDir()
	for _, d := range []string{"lower/bin", "lower/etc", "upper", "work", "root"} {
		if err := os.MkdirAll(filepath.Join(base, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(base, "lower/bin/busybox"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	var out, alive [2]int
	unix.Pipe2(out[:], unix.O_CLOEXEC)
	unix.Pipe2(alive[:], unix.O_CLOEXEC)
	defer unix.Close(alive[0])
	defer unix.Close(alive[1])
	null, _ := os.Open("/dev/null")
	defer null.Close()
	s := &Spec{
		Map: SingleMap(0, 0), Base: base, Overlay: "lowerdir=lower,upperdir=upper,workdir=work,userxattr", MountPoint: "root",
		Devices: DefaultDevices, Masked: DefaultMasked, ReadOnlyDir: DefaultReadOnly, ShmSize: 1 << 20, Hostname: "box",
		Caps: DefaultCapabilities, NoNewPrivs: true, Stdio: [3]int{int(null.Fd()), out[1], 2}, WorkingDir: "/",
		Env: []string{"PATH=/bin"}, Alive: alive[1],
	}
	change(s)
	if s.Candidates == nil {
		s.Candidates = []string{s.Argv[0]}
	}
	pid, err := Start(Container(s))
	unix.Close(out[1])
	f := os.NewFile(uintptr(out[0]), "out")
	defer f.Close()
	if err != nil {
		return "", 0, err
	}
	buf := make([]byte, 1<<16)
	var text strings.Builder
	for {
		n, err := f.Read(buf)
		text.Write(buf[:n])
		if err != nil {
			break
		}
	}
	var ws unix.WaitStatus
	if _, err := unix.Wait4(pid, &ws, 0, nil); err != nil {
		t.Fatal(err)
	}
	return text.String(), ws, nil
}

func sh(script string) func(*Spec) {
	return func(s *Spec) { s.Argv = []string{"/bin/busybox", "sh", "-c", script} }
}

func TestStart(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("as root the single-id map would be the host's root")
	}
	for _, test := range []struct{ name, script, want string }{
		{"pid 1", "echo $$", "1\n"},
		{"hostname", "/bin/busybox hostname", "box\n"},
		{"uid", "/bin/busybox id -u", "0\n"},
		{"no leaked descriptors", "/bin/busybox ls /proc/self/fd", "0\n1\n2\n3\n"},
		{"loopback is up", "/bin/busybox cat /sys/class/net/lo/flags", "0x9\n"},
		{"caps", "/bin/busybox grep CapEff /proc/self/status", "CapEff:\t00000000a80425fb\n"},
		{"masked", "/bin/busybox wc -c < /proc/keys; /bin/busybox ls /sys/firmware", "0\n"},
		{"read-only", "echo 1 > /proc/sys/kernel/ctrl-alt-del || echo no", "no\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, ws, err := run(t, sh(test.script))
			if err != nil || ws != 0 || got != test.want {
				t.Errorf("%s\ngot %q, status %v, error %v\nwant %q", test.script, got, ws, err, test.want)
			}
		})
	}
}

func TestStartStatus(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("as root the single-id map would be the host's root")
	}
	if _, ws, err := run(t, sh("exit 3")); err != nil || ws.ExitStatus() != 3 {
		t.Errorf("exit 3: status %d, error %v", ws.ExitStatus(), err)
	}
	_, _, err := run(t, func(s *Spec) { s.Argv, s.Candidates = []string{"x"}, []string{"/bin/x", "/etc"} })
	var e *StepError
	if !errors.As(err, &e) || len(e.Exec) != 2 || e.Exec[0] != unix.ENOENT || e.Exec[1] != unix.EACCES {
		t.Errorf("a missing program: %#v", err)
	}
	_, _, err = run(t, func(s *Spec) { sh("")(s); s.WorkingDir = "/bin/busybox" })
	if !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a working directory that is a file: %v", err)
	}
}
