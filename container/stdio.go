package container

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"moss/fail"
	"moss/namespaces"
)

// stdio connects a foreground container with the caller's descriptors.
//
// Without -t the payload must not see a terminal, as under docker: a caller's
// terminal is replaced by a pipe and copied. Files and pipes are handed over as
// they are: nothing is copied, every byte arrives as it was.
//
// With -t the payload has a terminal of its own, whose other end (the master)
// comes back from the start list; the caller's terminal is switched to raw
// mode, so that every key reaches the container.
type stdio struct {
	child    [3]int
	terminal *namespaces.Terminal
	alive    int // write end of a pipe, for the start list

	socket  int        // our end of what the master comes over
	opened  []*os.File // handed to the child, closed here once it has started
	ours    []*os.File // closed at the end
	outputs sync.WaitGroup
	sources []*os.File    // what copyOut reads
	ended   chan struct{} // closed when the container has ended
	copies  []func()      // started once the payload runs
	master  *os.File
	input   bool // what is typed goes to the master
	restore func()
}

func openStdio(o Options) (s *stdio, err error) {
	s = &stdio{socket: -1, restore: func() {}, ended: make(chan struct{})}
	defer func() {
		if err != nil {
			s.closeOpened()
			s.close()
		}
	}()
	var alive [2]int
	if err := unix.Pipe2(alive[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("pipe2(2): %w", err)
	}
	s.ours = append(s.ours, os.NewFile(uintptr(alive[0]), "alive"))
	s.opened = append(s.opened, os.NewFile(uintptr(alive[1]), "alive"))
	s.alive = alive[1]

	if o.TTY {
		return s, s.openTerminal(o)
	}
	return s, s.openPipes(o)
}

func (s *stdio) openPipes(o Options) error {
	in := os.Stdin
	switch {
	case !o.Interactive:
		null, err := os.Open(os.DevNull)
		if err != nil {
			return err
		}
		s.opened, s.child[0] = append(s.opened, null), int(null.Fd())
	case isTerminal(0):
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		s.opened, s.child[0] = append(s.opened, r), int(r.Fd())
		s.copies = append(s.copies, func() {
			go func() {
				io.Copy(w, in)
				w.Close()
			}()
		})
	}
	for i, out := range map[int]*os.File{1: os.Stdout, 2: os.Stderr} {
		s.child[i] = i
		if !isTerminal(i) {
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		s.opened, s.child[i] = append(s.opened, w), int(w.Fd())
		s.ours, s.sources = append(s.ours, r), append(s.sources, r)
		s.outputs.Add(1)
		s.copies = append(s.copies, func() { go s.copyOut(out, r) })
	}
	return nil
}

func (s *stdio) openTerminal(o Options) error {
	if o.Interactive && !isTerminal(0) {
		return &fail.Error{Op: "the input device is not a TTY", Why: "-t with -i wants a terminal as standard input",
			Try: "leave out -t to feed the container from a pipe or file"}
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socketpair(2): %w", err)
	}
	s.socket = pair[0]
	s.opened = append(s.opened, os.NewFile(uintptr(pair[1]), "socket"))
	s.terminal = &namespaces.Terminal{Socket: pair[1]}
	if size, err := unix.IoctlGetWinsize(1, unix.TIOCGWINSZ); err == nil {
		s.terminal.Size = *size
	}
	if o.Interactive {
		s.input = true
		return s.raw()
	}
	return nil
}

// raw switches the caller's terminal to raw mode and makes sure that it comes
// back, even if moss is killed.
func (s *stdio) raw() error {
	before, err := unix.IoctlGetTermios(0, unix.TCGETS)
	if err != nil {
		return fmt.Errorf("reading the terminal's state: %w", err)
	}
	release, err := namespaces.GuardTerminal(0, before)
	if err != nil {
		return fmt.Errorf("starting the terminal's guard: %w", err)
	}
	if _, err := term.MakeRaw(0); err != nil {
		release()
		return fmt.Errorf("switching the terminal to raw mode: %w", err)
	}
	s.restore = sync.OnceFunc(func() {
		unix.IoctlSetTermios(0, unix.TCSETSW, before)
		release()
	})
	return nil
}

// connect is called when the payload runs: the child's ends are its own now.
func (s *stdio) connect() error {
	s.closeOpened()
	if s.terminal == nil {
		for _, start := range s.copies {
			start()
		}
		return nil
	}
	master, err := receiveFD(s.socket)
	if err != nil {
		return fmt.Errorf("receiving the container's terminal: %w", err)
	}
	// Non-blocking, so that a read can be given up when the container ends.
	if err := unix.SetNonblock(master, true); err != nil {
		return err
	}
	s.master = os.NewFile(uintptr(master), "master")
	s.outputs.Add(1)
	s.sources = append(s.sources, s.master)
	go s.copyOut(os.Stdout, s.master)
	if s.input {
		go func() {
			io.Copy(s.master, os.Stdin)
			s.master.Close() // in raw mode no key ends the input: the terminal is gone, and so is the container's
		}()
	}
	return nil
}

// resize passes the caller's window size on.
func (s *stdio) resize() {
	if s == nil || s.master == nil {
		return
	}
	if size, err := unix.IoctlGetWinsize(1, unix.TIOCGWINSZ); err == nil {
		unix.IoctlSetWinsize(int(s.master.Fd()), unix.TIOCSWINSZ, size)
	}
}

// copyOut copies what the container writes. Once it has ended everything it
// wrote is there to read, however slowly the reader takes it; only somebody
// outside who holds the other end open could keep it from an end of file.
func (s *stdio) copyOut(dst io.Writer, src *os.File) {
	defer s.outputs.Done()
	buf := make([]byte, 32<<10)
	for {
		select {
		case <-s.ended:
			src.SetReadDeadline(time.Now().Add(foreignWait))
		default:
		}
		n, err := src.Read(buf)
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return // a terminal's end is EIO
		}
	}
}

// foreignWait is how long an ended container's output may be silent before it
// counts as held open by somebody else.
const foreignWait = 2 * time.Second

// drain waits until all that the container wrote has been copied.
func (s *stdio) drain() {
	close(s.ended)
	for _, src := range s.sources {
		src.SetReadDeadline(time.Now().Add(foreignWait))
	}
	s.outputs.Wait()
}

func (s *stdio) closeOpened() {
	for _, f := range s.opened {
		f.Close()
	}
	s.opened = nil
}

func (s *stdio) close() {
	s.closeOpened()
	s.restore()
	for _, f := range s.ours {
		f.Close()
	}
	if s.master != nil {
		s.master.Close()
	}
	if s.socket >= 0 {
		unix.Close(s.socket)
		s.socket = -1
	}
}

// receiveFD reads one descriptor from a Unix socket (unix(7), "SCM_RIGHTS").
func receiveFD(socket int) (int, error) {
	var data [16]byte
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, data[:], control, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		return -1, fmt.Errorf("recvmsg(2): %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return -1, errors.New("no descriptor came over the socket")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, errors.New("no descriptor came over the socket")
	}
	return fds[0], nil
}

// watchSignals collects the signals that are for the container. It comes before
// the start: whoever sees that the payload runs may send one, and must not hit
// moss instead. Those that are about moss itself (its children, its
// runtime, its job control) stay.
func watchSignals() chan os.Signal {
	// Each signal watched costs two system calls; the real-time ones, which
	// nobody sends to a command, would double the price of a start.
	ch := make(chan os.Signal, 128)
	signal.Notify(ch, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGABRT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM,
		unix.SIGTERM, unix.SIGCONT, unix.SIGWINCH, unix.SIGIO, unix.SIGPWR, unix.SIGVTALRM, unix.SIGPROF)
	return ch
}

// forwardSignals passes signals on to pid, the container's init, for as long as
// moss runs. An init ignores what it has no handler for (pid_namespaces(7)); so
// that Ctrl-C is not in vain there, the third one kills.
func forwardSignals(ch <-chan os.Signal, pid, pidfd int, resize func()) {
	insist := 0
	for s := range ch {
		sig := s.(syscall.Signal)
		switch sig {
		case unix.SIGWINCH, unix.SIGCONT:
			resize()
		case unix.SIGINT, unix.SIGTERM:
			if insist++; insist >= 3 && !catches(pid, sig) {
				sig = unix.SIGKILL
			}
		}
		unix.PidfdSendSignal(pidfd, sig, nil, 0) // a pid may be somebody else's by now
	}
}

// catches reports whether a process has a handler for sig: SigCgt in
// proc_pid_status(5), a bit mask in hexadecimal.
func catches(pid int, sig syscall.Signal) bool {
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	_, mask, _ := strings.Cut(string(b), "\nSigCgt:\t")
	mask, _, _ = strings.Cut(mask, "\n")
	bits, err := strconv.ParseUint(mask, 16, 64)
	return err != nil || bits&(1<<(sig-1)) != 0
}

func unixTime(ts syscall.Timespec) time.Time { return time.Unix(ts.Unix()) }
