package kerneltest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"
)

// probes maps a condition to its question; nil means granted.
func probes() map[string]func() error {
	return map[string]func() error{
		// a user namespace of one's own, with one id mapped to its root
		"userns": func() error { return clone(syscall.CLONE_NEWUSER) },
		// a network namespace below it
		"netns": func() error { return clone(syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET) },
		// overlayfs mounted inside it, with userxattr and whiteouts
		"overlay": func() error { return child("overlay", syscall.CLONE_NEWNS) },
		// a fresh /proc inside it, which a masked /proc outside forbids
		"proc": func() error { return child("proc", syscall.CLONE_NEWNS|syscall.CLONE_NEWPID) },
		// subordinate ids: newuidmap and newgidmap write this user's map
		"newuidmap": newuidmap,
		// files may be given to any owner: root on the machine, not only inside
		"chown": chown,
		// seccomp filters, seccomp(2)
		"seccomp": seccomp,
		// a cgroup v2 below one's own may be made
		"cgroup": cgroup,
	}
}

// clone asks clone(2) for the namespaces. The program to run does not exist:
// when that is the only complaint, the kernel has granted everything before.
func clone(flags uintptr) error {
	nowhere := filepath.Join(os.TempDir(), "moss-kerneltest-no-such-program")
	cmd := &exec.Cmd{Path: nowhere, SysProcAttr: inNamespaces(flags)}
	err := cmd.Run()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var call *os.PathError
	if errors.As(err, &call) {
		err = call.Err
	}
	return fmt.Errorf("clone(2): %w", err)
}

// inNamespaces has the child be root of a new user namespace that maps the
// caller alone, which needs no privilege (user_namespaces(7)).
func inNamespaces(flags uintptr) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  flags | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
}

// probeEnv names the question a re-executed test binary answers instead of
// running tests; probeDir is a directory it may fill.
const (
	probeEnv = "MOSS_KERNELTEST_PROBE"
	probeDir = "MOSS_KERNELTEST_DIR"
)

// A probe that mounts needs a process of its own in new namespaces, and a Go
// test offers no place before TestMain but this. The package is linked into
// tests only, so the start of moss does not pay for it.
func init() {
	var answer error
	switch os.Getenv(probeEnv) {
	case "":
		return
	case "overlay":
		answer = mountOverlay(os.Getenv(probeDir))
	case "proc":
		answer = syscall.Mount("proc", os.Getenv(probeDir), "proc", 0, "")
		if answer != nil {
			answer = fmt.Errorf("mount(2) proc: %w", answer)
		}
	case "wait":
		io.Copy(io.Discard, os.Stdin)
	}
	if answer != nil {
		fmt.Fprint(os.Stderr, answer)
		os.Exit(1)
	}
	os.Exit(0)
}

// child asks the question in a re-executed test binary inside new namespaces.
func child(question string, flags uintptr) error {
	dir, err := os.MkdirTemp("", "moss-kerneltest-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), probeEnv+"="+question, probeDir+"="+dir)
	cmd.SysProcAttr = inNamespaces(flags)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(out) > 0 {
		return errors.New(string(out))
	}
	return err
}

func mountOverlay(dir string) error {
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "lower/file"), nil, 0o644); err != nil {
		return err
	}
	if err := os.Chdir(dir); err != nil {
		return err
	}
	options := "lowerdir=lower,upperdir=upper,workdir=work,userxattr"
	if err := syscall.Mount("overlay", "merged", "overlay", 0, options); err != nil {
		return fmt.Errorf("mount(2) overlay in %s: %w", dir, err)
	}
	// Removing a lower file makes a whiteout: a device node, which some hosts refuse.
	if err := os.Remove("merged/file"); err != nil {
		return err
	}
	if err := syscall.Unmount("merged", 0); err != nil {
		return err
	}
	// overlayfs made a directory in work that nobody may read: removed by
	// who is root in here, as the caller could not.
	return os.RemoveAll("work")
}

func newuidmap() error {
	me, err := user.Current()
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), probeEnv+"=wait")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer cmd.Wait()
	defer stdin.Close()

	for _, m := range []struct{ program, file, id string }{
		{"newuidmap", "/etc/subuid", me.Uid},
		{"newgidmap", "/etc/subgid", me.Gid},
	} {
		first, err := subordinate(m.file, me)
		if err != nil {
			return err
		}
		out, err := exec.Command(m.program, fmt.Sprint(cmd.Process.Pid), "0", m.id, "1", "1", first, "1").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", m.program, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// subordinate returns the first id of the user's first range, subuid(5).
func subordinate(file string, me *user.User) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) == 3 && (f[0] == me.Username || f[0] == me.Uid) {
			return f[1], nil
		}
	}
	return "", fmt.Errorf("%s has no line for %s", file, me.Username)
}

func chown() error {
	f, err := os.CreateTemp("", "moss-kerneltest-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := f.Chown(4000000, 4000001); err != nil {
		return fmt.Errorf("chown(2) to 4000000:4000001: %w", errors.Unwrap(err))
	}
	return nil
}

// seccomp offers the kernel a filter at address 0: EFAULT means it would have
// read one, EINVAL that it knows none (prctl(2), PR_SET_SECCOMP).
func seccomp() error {
	const (
		prSetSeccomp      = 22
		seccompModeFilter = 2
	)
	_, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prSetSeccomp, seccompModeFilter, uintptr(unsafe.Pointer(nil)))
	if errno == syscall.EFAULT {
		return nil
	}
	return fmt.Errorf("prctl(PR_SET_SECCOMP): %w", errno)
}

// cgroup makes a cgroup below its own and removes it again.
func cgroup() error {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var root string
	for line := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(line, " - ")
		if f := strings.Fields(before); strings.HasPrefix(after, "cgroup2 ") && len(f) > 4 {
			root = f[4]
		}
	}
	if root == "" {
		return errors.New("no cgroup2 is mounted")
	}
	for line := range strings.Lines(string(own)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			dir, err := os.MkdirTemp(filepath.Join(root, path), "moss-kerneltest-")
			if err != nil {
				return err
			}
			return os.Remove(dir)
		}
	}
	return errors.New("/proc/self/cgroup names no version 2 cgroup")
}
