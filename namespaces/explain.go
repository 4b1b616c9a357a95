package namespaces

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"moss/fail"
)

// ExplainUserNS looks why the kernel refused a user namespace and says what
// to do. There are three switches, and none of them is told by the errno:
// ENOSPC is also what a user gets whose limit is zero.
func ExplainUserNS(err error) error {
	for _, sysctl := range []struct {
		file, off, why, try string
	}{
		{"/proc/sys/user/max_user_namespaces", "0",
			"user.max_user_namespaces is 0: this host allows no user namespaces",
			"an administrator can run: sysctl -w user.max_user_namespaces=15000"},
		{"/proc/sys/kernel/unprivileged_userns_clone", "0",
			"kernel.unprivileged_userns_clone is 0: this host allows user namespaces only to root",
			"an administrator can run: sysctl -w kernel.unprivileged_userns_clone=1"},
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1",
			"kernel.apparmor_restrict_unprivileged_userns is 1: AppArmor allows user namespaces only to programs with a profile, and moss has none",
			"an administrator can run: " + appArmorFix()},
	} {
		if readSysctl(sysctl.file) == sysctl.off {
			return &fail.Error{Op: "creating a user namespace", Err: err, Why: sysctl.why, Try: sysctl.try, Docs: "docs/troubleshooting.md"}
		}
	}
	switch {
	case errors.Is(err, unix.ENOSPC):
		return &fail.Error{Op: "creating a user namespace", Err: err,
			Why: "user.max_user_namespaces is " + readSysctl("/proc/sys/user/max_user_namespaces") + " and all are in use, or namespaces are nested more than 32 deep",
			Try: "an administrator can raise it: sysctl -w user.max_user_namespaces=15000", Docs: "docs/troubleshooting.md"}
	case errors.Is(err, unix.EPERM) && seccompMode() == "2":
		return &fail.Error{Op: "creating a user namespace", Err: err,
			Why:  "this process runs under a seccomp filter (it is probably in a container already) that forbids it",
			Try:  "start the outer container with --security-opt seccomp=unconfined",
			Docs: "docs/troubleshooting.md"}
	case errors.Is(err, unix.EPERM) && rootIsNotRoot():
		return &fail.Error{Op: "creating a user namespace", Err: err,
			Why: "the root directory of this process is not the root of its mount namespace (chroot(2)); the kernel refuses then",
			Try: "run moss outside of the chroot", Docs: "docs/troubleshooting.md"}
	}
	return &fail.Error{Op: "creating a user namespace", Err: err, Docs: "docs/troubleshooting.md"}
}

func appArmorFix() string {
	exe, err := os.Executable()
	if err != nil {
		exe = "/usr/local/bin/moss"
	}
	return fmt.Sprintf("printf 'abi <abi/4.0>,\\ninclude <tunables/global>\\nprofile moss %s flags=(unconfined) { userns, }\\n' > /etc/apparmor.d/moss && apparmor_parser -r /etc/apparmor.d/moss", exe)
}

func readSysctl(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func seccompMode() string { return statusField("Seccomp") }

// statusField reads a line of /proc/self/status, proc_pid_status(5).
func statusField(name string) string {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// rootIsNotRoot reports whether / is no mount point of its own, as in a chroot
// (user_namespaces(7) lists it under EPERM of clone(2)).
func rootIsNotRoot() bool {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == "/" {
			return false
		}
	}
	return true
}

// ExplainStep turns a failed step into an error that teaches.
func ExplainStep(err error) error {
	var e *StepError
	if !errors.As(err, &e) {
		return err
	}
	switch {
	case e.Call == "clone":
		return ExplainUserNS(e)
	case e.Call == "write" && strings.Contains(e.Text, "_map"), e.Call == "write" && e.Step == "Map your own id":
		return ExplainUserNS(e)
	case e.Call == "setns":
		return &fail.Error{Op: "joining the user namespace", Err: e}
	case e.Call == "prlimit64":
		return &fail.Error{Op: "setting a resource limit:", On: e.Text, Err: e.Err,
			Why: "a hard limit cannot be raised without privileges", Try: "see the caller's own limits: ulimit -aH"}
	}
	return &fail.Error{Op: strings.ToLower(e.Step[:1]) + e.Step[1:] + ":", On: e.Text, Err: e.Err}
}
