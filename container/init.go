package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"moss/fail"
)

// initMain is PID 1 of a container started with --init: it starts the payload,
// passes signals on and reaps what is orphaned, as pid_namespaces(7), "The
// namespace init process", asks of an init and most programs do not do.
func initMain(args []string) int {
	if len(args) < 3 || args[1] != "--" {
		fmt.Fprintln(os.Stderr, "moss: this is the init of --init; it is not meant to be called")
		return fail.StatusMoss
	}
	argv := args[2:]
	path, err := exec.LookPath(argv[0])
	if err != nil {
		fmt.Fprintf(os.Stderr, "moss: %v\n", err)
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EISDIR) {
			return fail.StatusCannotExec
		}
		return fail.StatusNotFound
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	child, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{Setpgid: true, Foreground: isTerminal(0), Ctty: 0},
	})
	if err != nil {
		fmt.Fprintf(os.Stderr, "moss: exec %s: %v\n", path, err)
		return fail.StatusCannotExec
	}
	go func() {
		for sig := range signals {
			if sig != unix.SIGCHLD && sig != unix.SIGURG && sig != unix.SIGTTOU && sig != unix.SIGTTIN {
				unix.Kill(child, sig.(syscall.Signal))
			}
		}
	}()
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fail.StatusMoss
		}
		if pid == child && (ws.Exited() || ws.Signaled()) {
			return exitStatus(ws)
		}
	}
}

// exitStatus is a shell's, and docker's: 128 plus the signal for one that was
// killed.
func exitStatus(ws unix.WaitStatus) int {
	if ws.Signaled() {
		return fail.StatusSignal + int(ws.Signal())
	}
	return ws.ExitStatus()
}

func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}
