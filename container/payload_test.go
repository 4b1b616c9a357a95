package container

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// answerEnd stands behind each answer of the payload.
const answerEnd = "\x1e"

// payload is the program that runs inside. Each argument is a question, words
// with blanks between; the answer is text, or the name of the errno.
func payload(questions []string) int {
	runtime.LockOSThread() // what a question changes of a thread, the next one sees
	for _, q := range questions {
		w := strings.Split(q, " ")
		ask := verbs()[w[0]]
		if ask == nil {
			fmt.Fprintf(os.Stderr, "payload: no question %q\n", q)
			return 99
		}
		answer, err := func() (s string, err error) {
			defer func() {
				if r := recover(); r != nil {
					err = fmt.Errorf("%s: %v", q, r)
				}
			}()
			return ask(w[1:])
		}()
		if err != nil {
			answer += errorName(err)
		}
		io.WriteString(os.Stdout, answer+answerEnd)
	}
	return 0
}

func errorName(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

func ok(err error) (string, error) {
	if err != nil {
		return "", err
	}
	return "ok", nil
}

func number(s string) int {
	n, err := strconv.ParseInt(s, 0, 64)
	if err != nil {
		panic(err)
	}
	return int(n)
}

func sysErr(nr uintptr, args ...uintptr) (uintptr, error) {
	var a [6]uintptr
	copy(a[:], args)
	r, _, errno := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	if errno != 0 {
		return 0, errno
	}
	return r, nil
}

func verbs() map[string]func(w []string) (string, error) {
	return map[string]func(w []string) (string, error){
		// looking
		"cat": func(w []string) (string, error) { b, err := os.ReadFile(w[0]); return string(b), err },
		"ls": func(w []string) (string, error) {
			entries, err := os.ReadDir(w[0])
			var names []string
			for _, e := range entries {
				names = append(names, e.Name())
			}
			return strings.Join(names, " "), err
		},
		"stat": func(w []string) (string, error) {
			var st unix.Stat_t
			err := unix.Lstat(w[0], &st)
			return fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid), err
		},
		"readlink": func(w []string) (string, error) { return os.Readlink(w[0]) },
		"cwd":      func([]string) (string, error) { return os.Getwd() },
		"env":      func(w []string) (string, error) { return os.Getenv(w[0]), nil },
		"hostname": func([]string) (string, error) { return os.Hostname() },
		"id": func([]string) (string, error) {
			groups, err := os.Getgroups()
			slices.Sort(groups)
			return fmt.Sprint(os.Getuid(), os.Getgid(), groups), err
		},
		"status": func(w []string) (string, error) { // lines of /proc/self/status
			b, err := os.ReadFile("/proc/thread-self/status")
			var all []string
			for line := range strings.Lines(string(b)) {
				if k, v, _ := strings.Cut(line, ":"); slices.Contains(w, k) {
					all = append(all, strings.TrimSpace(v))
				}
			}
			return strings.Join(all, " "), err
		},
		"fds": func([]string) (string, error) { // without opening one
			var open []string
			for fd := range 4096 {
				if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
					open = append(open, strconv.Itoa(fd))
				}
			}
			return strings.Join(open, " "), nil
		},
		"pids": func([]string) (string, error) {
			entries, err := os.ReadDir("/proc")
			n := 0
			for _, e := range entries {
				if strings.Trim(e.Name(), "0123456789") == "" {
					n++
				}
			}
			return strconv.Itoa(n), err
		},
		"pid": func([]string) (string, error) { return strconv.Itoa(os.Getpid()), nil },
		"rlimit": func(w []string) (string, error) {
			var l unix.Rlimit
			err := unix.Getrlimit(number(w[0]), &l)
			return fmt.Sprint(l.Cur, l.Max), err
		},
		"keyring": func([]string) (string, error) {
			id, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
			return strconv.Itoa(id), err
		},
		"winsize": func([]string) (string, error) {
			ws, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
			if err != nil {
				return "", err
			}
			return fmt.Sprintf("%dx%d", ws.Row, ws.Col), nil
		},
		"tty": func(w []string) (string, error) { return strconv.FormatBool(isTerminal(number(w[0]))), nil },

		// changing files
		"write": func(w []string) (string, error) {
			fd, err := unix.Open(w[0], unix.O_WRONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return "", err
			}
			defer unix.Close(fd)
			_, err = unix.Write(fd, []byte(strings.Join(w[1:], " ")))
			return ok(err)
		},
		"create": func(w []string) (string, error) {
			fd, err := unix.Open(w[0], unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
			if err == nil {
				unix.Close(fd)
			}
			return ok(err)
		},
		"fill": func(w []string) (string, error) { // until it is full
			f, err := os.Create(w[0])
			if err != nil {
				return "", err
			}
			defer f.Close()
			for range 1 << 12 {
				if _, err := f.Write(make([]byte, 1<<20)); err != nil {
					return "", err
				}
			}
			return "never full", nil
		},
		"mkdir":   func(w []string) (string, error) { return ok(unix.Mkdir(w[0], 0o755)) },
		"rm":      func(w []string) (string, error) { return ok(os.Remove(w[0])) },
		"rename":  func(w []string) (string, error) { return ok(unix.Rename(w[0], w[1])) },
		"link":    func(w []string) (string, error) { return ok(unix.Link(w[0], w[1])) },
		"symlink": func(w []string) (string, error) { return ok(unix.Symlink(w[0], w[1])) },
		"chmod":   func(w []string) (string, error) { return ok(unix.Chmod(w[0], uint32(number(w[1])))) },
		"chown":   func(w []string) (string, error) { return ok(unix.Lchown(w[0], number(w[1]), number(w[2]))) },
		"touch": func(w []string) (string, error) {
			return ok(unix.Utimes(w[0], []unix.Timeval{{Sec: 1}, {Sec: 1}}))
		},
		"truncate": func(w []string) (string, error) { return ok(unix.Truncate(w[0], 0)) },
		"setxattr": func(w []string) (string, error) { return ok(unix.Setxattr(w[0], w[1], []byte("x"), 0)) },
		"mknod":    func(w []string) (string, error) { return ok(unix.Mknod(w[0], unix.S_IFCHR|0o666, number(w[1]))) },

		// system calls
		"mount": func(w []string) (string, error) { // SOURCE TARGET TYPE FLAGS
			return ok(unix.Mount(w[0], w[1], w[2], uintptr(number(w[3])), ""))
		},
		"umount": func(w []string) (string, error) { return ok(unix.Unmount(w[0], number(w[1]))) },
		"rdonly-off": func(w []string) (string, error) {
			return ok(unix.MountSetattr(unix.AT_FDCWD, w[0], 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}))
		},
		"open_tree": func(w []string) (string, error) {
			fd, err := unix.OpenTree(unix.AT_FDCWD, w[0], unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
			if err == nil {
				unix.Close(fd)
			}
			return ok(err)
		},
		"chroot":  func(w []string) (string, error) { return ok(unix.Chroot(w[0])) },
		"pivot":   func(w []string) (string, error) { return ok(unix.PivotRoot(w[0], w[0])) },
		"unshare": func(w []string) (string, error) { return ok(unix.Unshare(number(w[0]))) },
		"sethost": func(w []string) (string, error) { return ok(unix.Sethostname([]byte(w[0]))) },
		"setuid": func(w []string) (string, error) {
			_, err := sysErr(unix.SYS_SETUID, uintptr(number(w[0])))
			return ok(err)
		},
		"setgid": func(w []string) (string, error) {
			_, err := sysErr(unix.SYS_SETGID, uintptr(number(w[0])))
			return ok(err)
		},
		"setgroups": func(w []string) (string, error) { _, err := sysErr(unix.SYS_SETGROUPS, 0, 0); return ok(err) },
		"syscall": func(w []string) (string, error) { // NUMBER ARGS…
			var args []uintptr
			for _, s := range w[1:] {
				args = append(args, uintptr(number(s)))
			}
			_, err := sysErr(uintptr(number(w[0])), args...)
			return ok(err)
		},
		"handle": func(w []string) (string, error) { // open_by_handle_at(2), the way out called shocker
			h, id, err := unix.NameToHandleAt(unix.AT_FDCWD, w[0], 0)
			_ = id
			if err != nil {
				h = unix.NewFileHandle(1, make([]byte, 8))
			}
			dir, err := unix.Open("/", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return "", err
			}
			defer unix.Close(dir)
			fd, err := unix.OpenByHandleAt(dir, h, unix.O_RDONLY)
			if err == nil {
				unix.Close(fd)
			}
			return ok(err)
		},
		"clone3": func([]string) (string, error) {
			var args [11]uint64
			_, err := sysErr(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args[0])), 64)
			return ok(err)
		},
		"tiocsti": func(w []string) (string, error) {
			fd, err := unix.Open("/dev/tty", unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				return "no tty: ", err
			}
			defer unix.Close(fd)
			c := byte('x')
			_, err = sysErr(unix.SYS_IOCTL, uintptr(fd), unix.TIOCSTI, uintptr(unsafe.Pointer(&c)))
			return ok(err)
		},
		"socket": func(w []string) (string, error) {
			fd, err := unix.Socket(number(w[0]), number(w[1])|unix.SOCK_CLOEXEC, 0)
			if err == nil {
				unix.Close(fd)
			}
			return ok(err)
		},
		"kill": func(w []string) (string, error) { return ok(unix.Kill(number(w[0]), syscall.Signal(number(w[1])))) },

		// ending, waiting
		"exit": func(w []string) (string, error) { os.Exit(number(w[0])); return "", nil },
		"die": func(w []string) (string, error) { // of a signal: not as PID 1, where it is ignored
			signal.Reset()
			unix.Kill(os.Getpid(), syscall.Signal(number(w[0])))
			time.Sleep(time.Second)
			return "alive", nil
		},
		"sleep": func(w []string) (string, error) {
			time.Sleep(time.Duration(number(w[0])) * time.Millisecond)
			return "ok", nil
		},
		"echo": func(w []string) (string, error) { return strings.Join(w, " "), nil },
		"stderr": func(w []string) (string, error) {
			fmt.Fprint(os.Stderr, strings.Join(w, " "))
			return "ok", nil
		},
		"ready": func(w []string) (string, error) { fmt.Print("ready" + answerEnd); return "", nil },
		"copy": func([]string) (string, error) { // standard input to output, as it is
			io.Copy(os.Stdout, os.Stdin)
			os.Exit(0)
			return "", nil
		},
		"trap": func(w []string) (string, error) { // says it waits, then answers with the signal
			ch := make(chan os.Signal, 8)
			for _, s := range w {
				signal.Notify(ch, syscall.Signal(number(s)))
			}
			fmt.Print("ready" + answerEnd)
			return (<-ch).String(), nil
		},
		"exec": func(w []string) (string, error) { return "", syscall.Exec(w[0], w, os.Environ()) },
		"child": func(w []string) (string, error) { // the same questions asked of a child
			cmd := exec.Command(payloadPath, strings.Join(w, " "))
			b, err := cmd.Output()
			return strings.TrimSuffix(string(b), answerEnd), err
		},
		"line": func([]string) (string, error) {
			b := make([]byte, 256)
			n, err := os.Stdin.Read(b)
			return fmt.Sprintf("%q", b[:n]), err
		},
	}
}
