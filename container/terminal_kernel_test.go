package container

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"moss/internal/testimage"
	"moss/oci"
)

// screen is a terminal that a test sits at.
type screen struct {
	t      *testing.T
	master *os.File
	slave  *os.File
	fds    [2]int // theirs; File.Fd would make a Read outlast Close
	before unix.Termios

	mu    sync.Mutex
	shown bytes.Buffer
}

func newScreen(t *testing.T) *screen {
	t.Helper()
	master, err := unix.Open("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skip(err)
	}
	unlock := int32(0)
	if _, err := sysErr(unix.SYS_IOCTL, uintptr(master), unix.TIOCSPTLCK, uintptr(unsafe.Pointer(&unlock))); err != nil {
		t.Fatal(err)
	}
	fd, err := sysErr(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	s := &screen{t: t, master: os.NewFile(uintptr(master), "master"), slave: os.NewFile(fd, "slave"), fds: [2]int{master, int(fd)}}
	if err := unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 37, Col: 91}); err != nil {
		t.Fatal(err)
	}
	s.before = s.state()
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := s.master.Read(b)
			s.mu.Lock()
			s.shown.Write(b[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		s.slave.Close()
		s.master.Close()
	})
	return s
}

func (s *screen) state() unix.Termios {
	s.t.Helper()
	state, err := unix.IoctlGetTermios(s.fds[1], unix.TCGETS)
	if err != nil {
		s.t.Fatal(err)
	}
	return *state
}

// sit starts cmd with the screen as its controlling terminal.
func (s *screen) sit(cmd *exec.Cmd) {
	s.t.Helper()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.slave, s.slave, s.slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { cmd.Process.Kill() })
}

func (s *screen) see() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.String()
}

// waitFor returns when text is on the screen.
func (s *screen) waitFor(text string) {
	s.t.Helper()
	for range 500 {
		if strings.Contains(s.see(), text) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.t.Fatalf("%q does not appear; on the screen: %q", text, s.see())
}

func (s *screen) key(keys string) {
	s.t.Helper()
	if _, err := s.master.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

// restored checks that the terminal is as it was; the guard of a killed moss
// takes a moment.
func (s *screen) restored(what string) {
	s.t.Helper()
	for range 100 {
		if s.state() == s.before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.t.Errorf("%s: the terminal is left as %+v\nwas %+v", what, s.state(), s.before)
}

func TestTerminalKernel(t *testing.T) {
	m := theMachine(t)
	img := m.image(t, oci.Config{}, testimage.NewBuilder().File("plain", 0o644, "x").Tar())
	o := Options{Image: img, Network: "none", Remove: true, Interactive: true, TTY: true}
	with := func(change func(*Options), args ...string) *exec.Cmd {
		o := o
		o.Args = args
		if change != nil {
			change(&o)
		}
		return m.command(o)
	}
	t.Run("size and kind", func(t *testing.T) {
		for _, init := range []bool{false, true} {
			s := newScreen(t)
			cmd := with(func(o *Options) { o.Init = init }, "winsize", "tty 0", "tty 1", "tty 2", "fds", "readlink /proc/self/fd/0", "stat /dev/console", "tiocsti", "env TERM")
			s.sit(cmd)
			cmd.Wait()
			want := []string{"37x91", "true", "true", "true", "0 1 2", "/dev/pts/0"}
			said := strings.Split(s.see(), answerEnd)
			if len(said) != 10 || strings.Join(said[:6], " ") != strings.Join(want, " ") || !strings.HasPrefix(said[6], "20") || said[7] == "ok" || said[8] != "xterm" {
				t.Errorf("init %t: %q", init, said)
			}
			s.restored("after a normal end")
		}
	})
	t.Run("resize", func(t *testing.T) {
		s := newScreen(t)
		s.sit(with(nil, "trap 28", "winsize"))
		s.waitFor("ready")
		unix.IoctlSetWinsize(s.fds[0], unix.TIOCSWINSZ, &unix.Winsize{Row: 11, Col: 22})
		s.waitFor("11x22")
	})
	t.Run("keys", func(t *testing.T) {
		for _, init := range []bool{false, true} {
			s := newScreen(t)
			cmd := with(func(o *Options) { o.Init = init }, "trap 2", "line", "line", "line", "exit 5")
			s.sit(cmd)
			s.waitFor("ready")
			s.key("\x03")
			s.waitFor("interrupt")
			s.key("hélloo\x7f\r")
			s.key("\x16\x03\x16\x1a\r")
			s.key("\x04")
			cmd.Wait()
			for _, want := range []string{`"h\u00e9llo\n"`, `"\x03\x1a\n"`, "EOF"} {
				if got := s.see(); !strings.Contains(got, want) && !strings.Contains(got, strings.ReplaceAll(want, `\u00e9`, "é")) {
					t.Errorf("init %t: %s is missing: %q", init, want, got)
				}
			}
			if cmd.ProcessState.ExitCode() != 5 {
				t.Errorf("init %t: status %d", init, cmd.ProcessState.ExitCode())
			}
			s.restored("after keys")
		}
	})
	t.Run("all output arrives", func(t *testing.T) {
		s := newScreen(t)
		cmd := with(nil, "echo "+strings.Repeat("0123456789", 5000), "echo the-end")
		s.sit(cmd)
		cmd.Wait()
		s.waitFor("the-end")
		if n := strings.Count(s.see(), "0123456789"); n != 5000 {
			t.Errorf("%d of 5000 came", n)
		}
	})
	t.Run("errors", func(t *testing.T) {
		for name, change := range map[string]func(*Options){
			"no such program": func(o *Options) { o.Entrypoint, o.Args = &[]string{}, []string{"/nowhere"} },
			"no such user":    func(o *Options) { o.User = "nobody-here" },
			"no such source":  func(o *Options) { o.Mounts = []Mount{{Type: "bind", Source: "/no/such", Target: "/x"}} },
			"bad directory":   func(o *Options) { o.WorkingDir = "/plain" },
		} {
			s := newScreen(t)
			cmd := with(change, "echo x")
			s.sit(cmd)
			cmd.Wait()
			s.restored(name)
			if status := cmd.ProcessState.ExitCode(); status < 125 || status > 127 {
				t.Errorf("%s: status %d: %q", name, status, s.see())
			}
			if strings.Contains(strings.ReplaceAll(s.see(), "\r\n", ""), "\n") {
				t.Errorf("%s: the message was written in raw mode: %q", name, s.see())
			}
		}
	})
	t.Run("killed", func(t *testing.T) {
		s := newScreen(t)
		cmd := with(nil, "ready", "sleep 60000")
		s.sit(cmd)
		s.waitFor("ready")
		if s.state() == s.before {
			t.Error("the terminal is not in raw mode while the container runs")
		}
		cmd.Process.Kill()
		cmd.Wait()
		s.restored("after SIGKILL")
	})
	t.Run("killed by its group", func(t *testing.T) {
		s := newScreen(t)
		cmd := with(nil, "ready", "sleep 60000")
		s.sit(cmd)
		s.waitFor("ready")
		unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		cmd.Wait()
		s.restored("after SIGKILL of the group")
	})
	t.Run("hangup", func(t *testing.T) {
		s := newScreen(t)
		cmd := with(nil, "ready", "sleep 60000")
		s.sit(cmd)
		s.waitFor("ready")
		s.master.Close()
		done := make(chan error)
		go func() { done <- cmd.Wait() }()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("moss stays when its terminal is gone")
			cmd.Process.Kill()
		}
	})
	t.Run("output only", func(t *testing.T) {
		s := newScreen(t)
		cmd := with(func(o *Options) { o.Interactive = false }, "tty 0", "ready", "sleep 300", "echo the-end")
		s.sit(cmd)
		s.waitFor("ready")
		if s.state() != s.before {
			t.Error("-t without -i changed the terminal")
		}
		s.key("typed\r")
		cmd.Wait()
		s.waitFor("the-end")
		if n, err := unix.IoctlGetInt(s.fds[1], unix.TIOCINQ); err != nil || n == 0 {
			t.Errorf("-t without -i took what was typed: %d bytes are left, %v", n, err)
		}
	})
	t.Run("no terminal asked for", func(t *testing.T) {
		s := newScreen(t)
		cmd := with(func(o *Options) { o.TTY = false }, "tty 0", "tty 1", "tty 2", "line", "echo the-end")
		s.sit(cmd)
		s.key("typed\r")
		cmd.Wait()
		s.waitFor("the-end")
		if said := s.see(); !strings.Contains(said, "false"+answerEnd+"false"+answerEnd+"false") || !strings.Contains(said, `"typed\n"`) {
			t.Errorf("%q", said)
		}
		s.restored("without -t")
	})
	t.Run("into a pipe", func(t *testing.T) {
		o := o
		o.Interactive, o.Args = false, []string{"tty 1", "echo a\nb"}
		if r := m.run(t, o); r.stdout != "true"+answerEnd+"a\r\nb"+answerEnd || r.status != 0 {
			t.Errorf("%+v", r)
		}
	})
	if left, _ := filepath.Glob(filepath.Join(m.containers, "?????????*")); len(left) > 0 {
		all, _ := m.List()
		if len(all) > 0 {
			t.Errorf("left: %v", left)
		}
	}
}
