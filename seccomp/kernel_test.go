package seccomp

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// These tests load filters into the kernel, in a child: the test binary run
// again with childEnv set, because a filter cannot be taken off.

const childEnv = "MOSS_SECCOMP_CHILD"

func TestMain(m *testing.M) {
	if what := os.Getenv(childEnv); what != "" {
		if err := child(what); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func inChild(t *testing.T, what string, env ...string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Dir = t.TempDir()
	cmd.Env = append(append(os.Environ(), childEnv+"="+what), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("child %s: %v\n%s", what, err, out)
	}
	return string(out)
}

func TestKernelDefault(t *testing.T)    { inChild(t, "default") }
func TestKernelFake(t *testing.T)       { inChild(t, "fake") }
func TestKernelUnconfined(t *testing.T) { inChild(t, "unconfined") }

// Every filter we could build passes the kernel's own check.
func TestKernelAccepts(t *testing.T) {
	t.Log(strings.TrimSpace(inChild(t, "accepts")))
}

// load puts a filter on all threads of this process.
func load(program []unix.SockFilter) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	tid, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC|DefaultFlags, uintptr(unsafe.Pointer(&fprog)))
	runtime.KeepAlive(program)
	if errno != 0 || tid != 0 {
		return fmt.Errorf("seccomp(2): %w, thread %d", errno, tid)
	}
	return nil
}

func child(what string) error {
	runtime.LockOSThread()
	var errs []error
	expect := func(name string, want unix.Errno, nr uintptr, args ...uintptr) {
		var a [6]uintptr
		copy(a[:], args)
		if _, _, errno := unix.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]); errno != want {
			errs = append(errs, fmt.Errorf("%s: %v, want %v", name, errno, want))
		}
	}
	works := func() {
		// A program that knows nothing of all this.
		out, err := exec.Command("ls", "/").CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("proc")) {
			errs = append(errs, fmt.Errorf("ls: %v\n%s", err, out))
		}
		done := make(chan error)
		go func() { // and Go itself, on another thread
			runtime.LockOSThread()
			done <- os.WriteFile("written", []byte("x"), 0o600)
		}()
		if err := <-done; err != nil {
			errs = append(errs, err)
		}
	}
	switch what {
	case "default":
		program, err := Default(Options{Caps: DockerCaps})
		if err != nil {
			return err
		}
		if err := load(program); err != nil {
			return err
		}
		expect("unshare", unix.EPERM, unix.SYS_UNSHARE, unix.CLONE_NEWUSER)
		expect("clone with a namespace", unix.EPERM, unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD))
		expect("clone3", unix.ENOSYS, unix.SYS_CLONE3, 0, 0)
		expect("keyctl", unix.EPERM, unix.SYS_KEYCTL, 0)
		expect("bpf", unix.EPERM, unix.SYS_BPF, 0)
		expect("mount", unix.EPERM, unix.SYS_MOUNT)
		expect("personality query", 0, unix.SYS_PERSONALITY, 0xffffffff)
		expect("personality ADDR_NO_RANDOMIZE", unix.EPERM, unix.SYS_PERSONALITY, 0x40000)
		expect("socket AF_UNIX", 0, unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM)
		expect("socket AF_ALG", unix.EPERM, unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET)
		expect("socket AF_VSOCK", unix.EPERM, unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM)
		expect("call of the future", unix.ENOSYS, 700)
		expect("call with neither", unix.EPERM, unix.SYS_SWAPON)
		works()
	case "fake", "unconfined":
		if err := os.WriteFile("file", nil, 0o644); err != nil {
			return err
		}
		uid := unix.Getuid()
		program, err := Default(Options{Caps: DockerCaps, FakeOwner: true})
		if what == "unconfined" {
			program, err = FakeOwner(Options{})
		}
		if err != nil {
			return err
		}
		if err := load(program); err != nil {
			return err
		}
		name := func(s string) uintptr { return uintptr(unsafe.Pointer(&append([]byte(s), 0)[0])) }
		at := ^uintptr(99) // AT_FDCWD
		expect("fchownat", 0, unix.SYS_FCHOWNAT, at, name("file"), 12345, 54321, 0)
		expect("fchown of nothing", 0, unix.SYS_FCHOWN, 999, 1, 1)
		expect("setuid", 0, unix.SYS_SETUID, 12345)
		expect("setresgid", 0, unix.SYS_SETRESGID, 12345, 12345, 12345)
		expect("setgroups", 0, unix.SYS_SETGROUPS, 0, 0)
		expect("capset", 0, unix.SYS_CAPSET, 0, 0)
		expect("mknodat of a device", 0, unix.SYS_MKNODAT, at, name("null"), unix.S_IFCHR|0o666, 1<<8|3)
		expect("mknodat of a disk", 0, unix.SYS_MKNODAT, at, name("disk"), unix.S_IFBLK|0o666, 0)
		expect("mknodat of a FIFO", 0, unix.SYS_MKNODAT, at, name("fifo"), unix.S_IFIFO|0o666, 0)
		if what == "fake" {
			expect("unshare", unix.EPERM, unix.SYS_UNSHARE, unix.CLONE_NEWUSER)
		} else {
			expect("unshare", unix.EINVAL, unix.SYS_UNSHARE, 1)
		}
		var st unix.Stat_t
		if err := unix.Stat("file", &st); err != nil || int(st.Uid) != uid || unix.Getuid() != uid {
			errs = append(errs, fmt.Errorf("the owner changed: %d, %v", st.Uid, err))
		}
		for file, there := range map[string]bool{"null": false, "disk": false, "fifo": true} {
			if _, err := os.Lstat(file); (err == nil) != there {
				errs = append(errs, fmt.Errorf("%s: %v", file, err))
			}
		}
		works()
	case "accepts":
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return err
		}
		for _, o := range []Options{{Caps: DockerCaps}, {Caps: 0, FakeOwner: true}, {Caps: allCaps}, {Caps: allCaps, FakeOwner: true}} {
			program, err := Default(o)
			if err != nil {
				return err
			}
			if err := load(program); err != nil {
				errs = append(errs, fmt.Errorf("%+v: %w", o, err))
			}
			fmt.Printf("%d instructions\n", len(program))
		}
	case "bench":
		return benchLoad()
	}
	return errors.Join(errs...)
}

// BenchmarkLoad measures seccomp(2) in a process with one thread, which is what a
// container's first process is. MOSS_SECCOMP_FILTER names a file with another
// program to compare with (seccomp_export_bpf(3) writes such files).
func BenchmarkLoad(b *testing.B) {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	var total time.Duration
	n := 0
	for b.Loop() {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), childEnv+"=bench")
		out, err := cmd.CombinedOutput()
		if err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		ns, err := strconv.Atoi(strings.TrimSpace(string(out)))
		if err != nil {
			b.Fatal(err)
		}
		total += time.Duration(ns)
		n++
	}
	b.ReportMetric(float64(total.Nanoseconds())/float64(n), "ns/load")
}

func benchLoad() error {
	program, err := Default(Options{Caps: DockerCaps})
	if err != nil {
		return err
	}
	if file := os.Getenv("MOSS_SECCOMP_FILTER"); file != "" {
		data, err := os.ReadFile(filepath.Clean(file))
		if err != nil {
			return err
		}
		program = unsafe.Slice((*unix.SockFilter)(unsafe.Pointer(&data[0])), len(data)/8)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	start := time.Now()
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, DefaultFlags, uintptr(unsafe.Pointer(&fprog)))
	took := time.Since(start)
	runtime.KeepAlive(program)
	if errno != 0 {
		return errno
	}
	fmt.Println(took.Nanoseconds())
	return nil
}
