package namespaces

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Worker runs this binary once more inside a user namespace, where the caller
// is root over the ids of map m: for work on files that belong to other ids of
// containers, which an ordinary user may not touch from outside. It shares
// everything else with the caller. argv[0] tells the binary which role it has
// (container.ReexecMain). Worker returns the exit status.
//
// For a FullMap or RootMap u must be joined; for a SingleID u is nil.
func Worker(u *UserNS, m IDMap, argv []string, stdin, stdout, stderr *os.File) (int, error) {
	p := new(Program)
	flags := uintptr(unix.SIGCHLD) | unix.CLONE_VM | unix.CLONE_VFORK
	if u != nil {
		p.step("Join the user namespace", "", "user_namespaces(7)")
		p.call("setns", unix.SYS_SETNS, show(uintptr(u.fd), "user namespace of the keeper"), show(unix.CLONE_NEWUSER, "CLONE_NEWUSER"))
		p.call("setgroups", unix.SYS_SETGROUPS, num(0), null())
		p.call("setresgid", unix.SYS_SETRESGID, num(0), num(0), num(0))
		p.call("setresuid", unix.SYS_SETRESUID, num(0), num(0), num(0))
	} else {
		flags |= unix.CLONE_NEWUSER
		p.mapSelf(m)
	}
	p.stdio([3]int{int(stdin.Fd()), int(stdout.Fd()), int(stderr.Fd())})
	p.step("Die with moss", "", "PR_SET_PDEATHSIG(2const)")
	p.call("prctl", unix.SYS_PRCTL, show(unix.PR_SET_PDEATHSIG, "PR_SET_PDEATHSIG"), show(uintptr(unix.SIGKILL), "SIGKILL"))
	p.resetSignals()
	p.step("Execute moss itself", "", "execve(2)")
	args, env := pointers(argv), pointers(os.Environ())
	p.call("execve", unix.SYS_EXECVE, str("/proc/self/exe"), mem(&args[0], fmt.Sprintf("%q", argv)), mem(&env[0], "[environment]"))

	pid, _, err := p.start(flags)
	if err != nil {
		return 0, fmt.Errorf("starting a worker in the id map: %w", ExplainStep(err))
	}
	for {
		var ws unix.WaitStatus
		_, err := unix.Wait4(pid, &ws, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, fmt.Errorf("wait4(2): %w", err)
		case ws.Signaled():
			return 128 + int(ws.Signal()), nil
		default:
			return ws.ExitStatus(), nil
		}
	}
}
