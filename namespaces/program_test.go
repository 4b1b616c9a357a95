package namespaces

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

//go:embed spawn_amd64.s
var spawnAMD64 string

//go:embed spawn_arm64.s
var spawnARM64 string

// TestAssemblyOffsets holds the numbers in the assembly against the structs
// they are the offsets of.
func TestAssemblyOffsets(t *testing.T) {
	var o op
	var sh shared
	want := map[string]uintptr{
		"OP_RET": unsafe.Offsetof(o.ret), "OP_FLAGS": unsafe.Offsetof(o.flags), "OP_MASK": unsafe.Offsetof(o.mask),
		"OP_STORE0": unsafe.Offsetof(o.store), "OP_STORE1": unsafe.Offsetof(o.store) + 8, "OP_STORE2": unsafe.Offsetof(o.store) + 16,
		"OP_SIZE":   unsafe.Sizeof(o),
		"SH_FAILED": unsafe.Offsetof(sh.failed), "SH_ERRNO": unsafe.Offsetof(sh.errno), "SH_PID": unsafe.Offsetof(sh.pid),
	}
	for name, text := range map[string]string{"amd64": spawnAMD64, "arm64": spawnARM64} {
		found := 0
		for line := range strings.Lines(text) {
			f := strings.Fields(line)
			if len(f) < 3 || f[0] != "#define" {
				continue
			}
			w, known := want[f[1]]
			if !known {
				continue
			}
			found++
			if got, err := strconv.Atoi(f[2]); err != nil || uintptr(got) != w {
				t.Errorf("spawn_%s.s: %s is %s, the struct has %d", name, f[1], f[2], w)
			}
		}
		if found != len(want) {
			t.Errorf("spawn_%s.s defines %d of %d offsets", name, found, len(want))
		}
	}
	if opSize != unsafe.Sizeof(o) || sharedSize != unsafe.Sizeof(sh) || unsafe.Offsetof(o.nr) != 0 || unsafe.Offsetof(o.args) != 8 {
		t.Errorf("op has %d bytes, shared %d", unsafe.Sizeof(o), unsafe.Sizeof(sh))
	}
}

const vfork = unix.CLONE_VM | unix.CLONE_VFORK | uintptr(unix.SIGCHLD)

// walk starts a child on the list and waits for it.
func walk(t *testing.T, p *Program) (status unix.WaitStatus, err error) {
	t.Helper()
	pid, _, err := p.start(vfork)
	if err != nil {
		return 0, err
	}
	for {
		if _, err := unix.Wait4(pid, &status, 0, nil); err != unix.EINTR {
			if err != nil {
				t.Fatal(err)
			}
			return status, nil
		}
	}
}

// to opens a file for writing, in the child.
func (p *Program) to(name string) result {
	return p.call("openat", unix.SYS_OPENAT, atFDCWD(), str(name), num(unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_CLOEXEC), num(0o600))
}

func (p *Program) end(status int) { p.call("exit_group", unix.SYS_EXIT_GROUP, num(status)) }

func TestProgramResults(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	text := "bytes \x01\x7f\xff\"\n\\ and a NUL \x00 too"
	p := new(Program)
	fd := p.to(file)
	p.call("write", unix.SYS_WRITE, fd.arg(), str(text), num(len(text)))
	p.call("fsync", unix.SYS_FSYNC, fd.arg())
	p.call("close", unix.SYS_CLOSE, fd.arg())
	p.end(7)
	status, err := walk(t, p)
	if err != nil || status.ExitStatus() != 7 {
		t.Fatalf("status %#x, error %v", status, err)
	}
	if b, err := os.ReadFile(file); string(b) != text {
		t.Errorf("written: %q, %v; want %q", b, err, text)
	}

	p = new(Program)
	fd = p.to(file)
	for range 4 {
		p.call("fsync", unix.SYS_FSYNC, fd.arg())
	}
	defer func() {
		if recover() == nil {
			t.Error("a result used four times is lost without a word")
		}
	}()
	p.start(vfork)
}

// TestProgramErrors has a list fail in the middle: what came before is done,
// what comes after is not, and the error names the call.
func TestProgramErrors(t *testing.T) {
	dir := t.TempDir()
	for i, test := range []struct {
		name string
		fail func(p *Program)
		want unix.Errno // 0: the list goes on
	}{
		{"plain", func(p *Program) { p.call("close", unix.SYS_CLOSE, num(-1)) }, unix.EBADF},
		{"optional", func(p *Program) { p.call("close", unix.SYS_CLOSE, num(-1)); p.optional() }, 0},
		{"accepted", func(p *Program) { p.call("close", unix.SYS_CLOSE, num(-1)); p.accept(unix.ENOENT, unix.EBADF) }, 0},
		{"another accepted", func(p *Program) { p.call("close", unix.SYS_CLOSE, num(-1)); p.accept(unix.ENOENT, unix.EROFS) }, unix.EBADF},
		{"errno 1", func(p *Program) {
			p.call("kill", unix.SYS_KILL, num(1), num(99))
			p.accept(unix.EINVAL)
		}, 0},
		{"errno above 63", func(p *Program) { p.call("listen", unix.SYS_LISTEN, num(9), num(1)); p.accept(unix.EBADF) }, unix.ENOTSOCK},
		{"errno above 63, optional", func(p *Program) { p.call("listen", unix.SYS_LISTEN, num(9), num(1)); p.optional() }, 0},
		{"no such call", func(p *Program) { p.call("none", 9999) }, unix.ENOSYS},
		{"clone", func(p *Program) {
			p.call("clone", unix.SYS_CLONE, num(unix.CLONE_NEWUSER|unix.CLONE_FS), num(0), num(0), num(0), num(0))
			p.calls[len(p.calls)-1].flags |= opClone
		}, unix.EINVAL},
		{"bad memory", func(p *Program) { p.call("write", unix.SYS_WRITE, num(9), num(1), num(8)) }, unix.EFAULT},
	} {
		t.Run(test.name, func(t *testing.T) {
			before, after := filepath.Join(dir, fmt.Sprint("before", i)), filepath.Join(dir, fmt.Sprint("after", i))
			p := new(Program)
			p.step("First", "")
			fd := p.to(before)
			p.call("dup3", unix.SYS_DUP3, fd.arg(), num(9), num(0))
			p.step("Second", "")
			test.fail(p)
			p.step("Third", "")
			p.to(after)
			p.end(3)
			status, err := walk(t, p)
			if _, err := os.Stat(before); err != nil {
				t.Error("the first step was not made:", err)
			}
			_, statErr := os.Stat(after)
			if test.want == 0 {
				if err != nil || status.ExitStatus() != 3 || statErr != nil {
					t.Errorf("status %#x, error %v, %v", status, err, statErr)
				}
				return
			}
			var e *StepError
			if !errors.As(err, &e) || e.Err != test.want || e.Step != "Second" || e.Call != p.calls[2].name {
				t.Errorf("error %#v, want %v in Second", err, test.want)
			}
			if statErr == nil {
				t.Error("the list went on after an error")
			}
		})
	}
}

// TestProgramClone goes on in a second child, which is the one to wait for.
func TestProgramClone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	second := func(rest func(p *Program)) *Program {
		p := new(Program)
		p.step("Clone", "")
		p.call("clone", unix.SYS_CLONE, num(unix.CLONE_PARENT|unix.CLONE_VM|unix.CLONE_VFORK), num(0), num(0), num(0), num(0))
		p.calls[len(p.calls)-1].flags |= opClone
		p.step("Rest", "")
		rest(p)
		return p
	}
	status, err := walk(t, second(func(p *Program) { p.to(file); p.end(4) }))
	if _, statErr := os.Stat(file); err != nil || status.ExitStatus() != 4 || statErr != nil {
		t.Errorf("status %#x, error %v, %v", status, err, statErr)
	}
	_, err = walk(t, second(func(p *Program) { p.call("close", unix.SYS_CLOSE, num(-1)) }))
	var e *StepError
	if !errors.As(err, &e) || e.Err != unix.EBADF || e.Step != "Rest" {
		t.Errorf("an error of the second child: %#v", err)
	}
	if pid, _ := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid > 0 {
		t.Errorf("child %d was not waited for", pid)
	}
}

// TestProgramExec tries names in turn and passes arguments, environment and
// untouched signals.
func TestProgramExec(t *testing.T) {
	const cat = "/bin/cat"
	if _, err := os.Stat(cat); err != nil {
		t.Skip(err)
	}
	signal.Ignore(unix.SIGUSR1)
	defer signal.Reset(unix.SIGUSR1)
	var out [2]int
	if err := unix.Pipe2(out[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	p := new(Program)
	p.call("dup3", unix.SYS_DUP3, num(out[1]), num(1), num(0))
	p.resetSignals()
	args, env := pointers([]string{"cat", "/proc/self/status", "/proc/self/environ"}), pointers([]string{"A=\xff b"})
	for _, name := range []string{"/nowhere/cat", cat + "/x", cat} {
		p.call("execve", unix.SYS_EXECVE, str(name), mem(&args[0], ""), mem(&env[0], ""))
		p.accept(unix.ENOENT, unix.EACCES, unix.ENOTDIR)
	}
	pid, _, err := p.start(vfork)
	unix.Close(out[1])
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(out[0]), "out")
	defer f.Close()
	b, _ := io.ReadAll(f)
	wait(pid)
	for _, want := range []string{"Name:\tcat", "SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000", "SigCgt:\t0000000000000000", "A=\xff b\x00"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%q is missing in:\n%s", want, b)
		}
	}
}

// TestProgramCrowd starts many children at once, while the collector works as
// hard as it can: the child reads memory that only Go knows of.
func TestProgramCrowd(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(1))
	dir := t.TempDir()
	stop := make(chan bool)
	go func() {
		var keep [][]byte
		for {
			select {
			case <-stop:
				return
			default:
				if keep = append(keep, make([]byte, 1<<12)); len(keep) > 1000 {
					keep = nil
					runtime.GC()
				}
			}
		}
	}()
	defer close(stop)
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			text := strings.Repeat(fmt.Sprint("child ", i, "\n"), 100)
			name := filepath.Join(dir, fmt.Sprint(i))
			p := new(Program)
			fd := p.to(name)
			for line := range strings.Lines(text) {
				p.call("write", unix.SYS_WRITE, num(-1), str(line), num(len(line)))
				p.optional()
			}
			p.call("write", unix.SYS_WRITE, fd.arg(), str(text), num(len(text)))
			p.end(i)
			status, err := walk(t, p)
			b, readErr := os.ReadFile(name)
			if err != nil || status.ExitStatus() != i || string(b) != text {
				t.Errorf("child %d: status %#x, error %v, %v, %d bytes of %d", i, status, err, readErr, len(b), len(text))
			}
		})
	}
	wg.Wait()
}

// TestProgramLeaves counts what a thousand starts leave behind.
func TestProgramLeaves(t *testing.T) {
	count := func() (fds, maps int) {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries), strings.Count(string(b), "\n")
	}
	start := func(i int) {
		p := new(Program)
		p.to("/dev/null")
		if i%2 == 0 {
			p.call("close", unix.SYS_CLOSE, num(-1))
		}
		p.end(0)
		walk(t, p)
	}
	for i := range 50 {
		start(i)
	}
	fds, maps := count()
	for i := range 1000 {
		start(i)
	}
	if f, m := count(); f != fds || m > maps+20 {
		t.Errorf("descriptors %d, before %d; mappings %d, before %d", f, fds, m, maps)
	}
	if pid, _ := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid > 0 {
		t.Errorf("child %d was not waited for", pid)
	}
}
