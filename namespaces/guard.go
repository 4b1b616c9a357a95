package namespaces

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// GuardTerminal leaves a small process behind that puts the terminal fd back
// to state when the caller is gone, whatever ended it: a program that is
// killed with SIGKILL cannot tidy up itself, and its user would be left with a
// terminal that shows nothing typed. The guard is a list without a program; it
// waits for the end of a pipe that only the caller holds open. release ends it
// without an action.
func GuardTerminal(fd int, state *unix.Termios) (release func(), err error) {
	var life [2]int
	if err := unix.Pipe2(life[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("pipe2(2): %w", err)
	}
	var b [1]byte
	p := new(Program)
	p.step("Wait for the end of moss", "", "pipe(7)")
	p.call("setpgid", unix.SYS_SETPGID, num(0), num(0)) // Ctrl-C and Ctrl-Z are not for us
	if fd != 1 {
		p.call("dup3", unix.SYS_DUP3, num(fd), num(1), num(0)) // before 0 is taken: it may be the terminal
	}
	p.call("dup3", unix.SYS_DUP3, num(life[0]), num(0), num(0))
	p.call("close_range", unix.SYS_CLOSE_RANGE, num(2), show(^uintptr(0)>>32, "~0U"), num(0))
	p.call("prctl", unix.SYS_PRCTL, show(unix.PR_SET_NAME, "PR_SET_NAME"), str("moss-terminal"))
	p.call("read", unix.SYS_READ, num(0), mem(&b[0], "…"), num(1))
	p.step("Put the terminal back", "", "ioctl_tty(2)")
	p.call("ioctl", unix.SYS_IOCTL, num(1), show(unix.TCSETSW, "TCSETSW"), mem(state, "{as it was}"))
	p.call("exit_group", unix.SYS_EXIT_GROUP, num(0))
	pid, _, err := p.start(uintptr(unix.SIGCHLD))
	unix.Close(life[0])
	if err != nil {
		unix.Close(life[1])
		return nil, err
	}
	return func() {
		unix.Kill(pid, unix.SIGKILL)
		wait(pid)
		unix.Close(life[1])
	}, nil
}

// GuardPayload leaves a process behind that kills the container's init pid when
// the caller is gone. PR_SET_PDEATHSIG, the last step of a start, does that for
// most; but the kernel forgets it when a process changes its user, as servers
// and gosu(1) do. Where there is one id only nobody can, and no guard is needed.
//
// The guard shares the caller's memory, which makes it cheap, and needs none:
// it walks its list in registers. release ends it without an action; the caller
// must have waited for pid by then, or lets it live.
func GuardPayload(pid int) (release func(), err error) {
	var life [2]int
	if err := unix.Pipe2(life[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("pipe2(2): %w", err)
	}
	defer unix.Close(life[0])
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		unix.Close(life[1])
		return nil, fmt.Errorf("pidfd_open(2): %w", err)
	}
	defer unix.Close(fd)

	b := new([1]byte)
	p := new(Program)
	p.step("Wait for the end of moss", "", "pipe(7)")
	p.call("setpgid", unix.SYS_SETPGID, num(0), num(0)) // Ctrl-C and Ctrl-Z are not for us
	p.call("prctl", unix.SYS_PRCTL, show(unix.PR_SET_NAME, "PR_SET_NAME"), str("moss-guard"))
	p.closeAllBut([]int{life[0], fd})
	p.call("read", unix.SYS_READ, num(life[0]), mem(b, "…"), num(1))
	p.step("Kill the container", "", "pidfd_send_signal(2)")
	p.call("pidfd_send_signal", unix.SYS_PIDFD_SEND_SIGNAL, num(fd), show(uintptr(unix.SIGKILL), "SIGKILL"), null(), num(0))
	p.optional()
	p.call("exit_group", unix.SYS_EXIT_GROUP, num(0))
	guard, keep, err := p.share()
	if err != nil {
		unix.Close(life[1])
		return nil, err
	}
	return func() {
		unix.Kill(guard, unix.SIGKILL)
		wait(guard)
		unix.Close(life[1])
		runtime.KeepAlive(keep)
	}, nil
}
