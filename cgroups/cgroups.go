// Package cgroups finds the control groups that a container's limits need.
//
// A control group is a directory: the processes listed in its cgroup.procs
// share the limits written into its other files. Version 2 is one tree for all
// controllers (cpu, memory, pids …), and its parts can be given to ordinary
// users: "delegated" (kernel cgroup-v2.rst, "Delegation"). Version 1 is a tree
// for each controller, and none of them is safe to give away. Many hosts mount
// both ("hybrid"), and there the controllers are usually taken by version 1.
//
// This package only looks: what is there, what of it is ours, and what an
// administrator would have to do about the rest.
package cgroups

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"moss/fail"
)

// Mode is how this host has its control groups.
type Mode string

const (
	// Unified is version 2 alone.
	Unified Mode = "unified"
	// Hybrid is both; a controller is in one of them at a time.
	Hybrid Mode = "hybrid"
	// Legacy is version 1 alone.
	Legacy Mode = "legacy"
	// None is no control groups, or none that are mounted.
	None Mode = "none"
)

// Info is what Detect found.
type Info struct {
	Mode  Mode
	Mount string // where version 2 is mounted; "" when it is not
	Path  string // this process's group there, as /proc/self/cgroup has it

	// Controllers may be switched on for groups below Path; where one is
	// missing, it belongs to version 1 or was kept by a group above.
	Controllers []string
	// Delegated are those of them that this process may really switch on,
	// because the group is its user's.
	Delegated []string
	// Systemd are the controllers of the user's own service manager, which makes
	// a delegated group when it is asked to: systemd-run --user --scope.
	Systemd []string

	Reason string // why a wanted controller is neither delegated nor to be had from systemd; "" when all are
	Try    string // what to do about it
}

// Wanted are the controllers behind docker's usual limits.
var Wanted = []string{"cpu", "memory", "pids"}

// Detect looks at the control groups of this process.
func Detect() Info {
	return detect(host{root: "/", uid: os.Geteuid(), writable: func(name string) error {
		return unix.Faccessat(unix.AT_FDCWD, name, unix.W_OK, unix.AT_EACCESS)
	}})
}

// Version is what docker info calls it: "2", "1" or "" for none.
func (i Info) Version() string {
	switch {
	case i.Mode == Unified:
		return "2"
	case i.Mode == None:
		return ""
	}
	return "1"
}

// Warning is nil when every wanted controller can be had, else it says which
// cannot, why, and what would help.
func (i Info) Warning() error {
	if i.Reason == "" {
		return nil
	}
	var missing []string
	for _, c := range Wanted {
		if !i.has(c) {
			missing = append(missing, c)
		}
	}
	return &fail.Error{Op: "limits of", On: strings.Join(missing, ", "), Err: errors.New("cannot be set here"),
		Why: i.Reason, Try: i.Try, Docs: "docs/troubleshooting.md"}
}

func (i Info) has(controller string) bool {
	return slices.Contains(i.Delegated, controller) || slices.Contains(i.Systemd, controller)
}

// host is what is looked at, so that a test can be another machine.
type host struct {
	root     string // of the tree with proc, sys and run
	uid      int
	writable func(path string) error
}

func detect(h host) Info {
	var i Info
	var bound string // the group that is the root of the mount
	i.Mode, i.Mount, bound = h.mounts()
	if i.Mount == "" {
		i.Reason, i.Try = h.whyNotUnified(i.Mode)
		return i
	}
	i.Path = h.ownGroup()
	dir, ok := inside(i.Mount, bound, i.Path)
	if !ok {
		i.Reason = fmt.Sprintf("this process's group %s is not below what is mounted at %s", i.Path, i.Mount)
		return i
	}
	i.Controllers = h.words(path.Join(dir, "cgroup.controllers"))
	denied := h.denied(dir)
	if denied == nil {
		i.Delegated = i.Controllers
	}
	service, _ := inside(i.Mount, bound, fmt.Sprintf("/user.slice/user-%[1]d.slice/user@%[1]d.service", h.uid))
	if h.uid != 0 && h.denied(service) == nil {
		i.Systemd = h.words(path.Join(service, "cgroup.controllers"))
	}
	if !slices.ContainsFunc(Wanted, func(c string) bool { return !i.has(c) }) {
		return i
	}
	switch {
	case h.inVersion1(i):
		i.Reason, i.Try = h.whyNotUnified(i.Mode)
	case errors.Is(denied, unix.EROFS):
		i.Reason = i.Mount + " is mounted read-only, as in most containers"
	case len(i.Systemd) > 0:
		i.Reason = "systemd passes only these on to your session: " + strings.Join(i.Systemd, " ")
		i.Try = delegateAll
	case denied != nil && h.exists("/run/systemd/system"):
		i.Reason = fmt.Sprintf("the group %s belongs to somebody else (%v), and no systemd of your own is running that could make one", i.Path, denied)
		i.Try = fmt.Sprintf("log in through a session (ssh, console) or have an administrator run: loginctl enable-linger %d", h.uid)
	case denied != nil:
		i.Reason = fmt.Sprintf("the group %s belongs to somebody else: %v", i.Path, denied)
		// Not the limits in it: those are the giver's to set (cgroup-v2.rst,
		// "Model of Delegation").
		i.Try = fmt.Sprintf("an administrator can give you one: cd %s && echo +cpu +memory +pids > cgroup.subtree_control && mkdir moss && cd moss && "+
			"chown %d . cgroup.procs cgroup.threads cgroup.subtree_control && echo PID-OF-YOUR-SHELL > cgroup.procs", i.Mount, h.uid)
	default:
		i.Reason = "the groups above " + i.Path + " do not pass these on to it (cgroup.subtree_control)"
		if h.exists("/run/systemd/system") {
			i.Try = delegateAll
		}
	}
	return i
}

// delegateAll is a drop-in for every user's service manager; without it
// systemd hands down memory and pids only (systemd.resource-control(5),
// "Delegate=").
const delegateAll = `an administrator can run: mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\nDelegate=cpu cpuset io memory pids\n' > /etc/systemd/system/user@.service.d/delegate.conf && systemctl daemon-reload; then log in again`

// whyNotUnified tells what would give version 2 its controllers. Which switch
// it is depends on who mounts the control groups at boot.
func (h host) whyNotUnified(m Mode) (reason, try string) {
	if m == None {
		return "no control groups are mounted", "an administrator can run: mount -t cgroup2 none /sys/fs/cgroup"
	}
	reason = "the controllers are in version 1 of the control groups, which cannot be given to an ordinary user"
	switch {
	case h.exists("/run/systemd/system"):
		try = "boot with the kernel parameter systemd.unified_cgroup_hierarchy=1"
	case h.exists("/run/openrc"):
		try = `set rc_cgroup_mode="unified" in /etc/rc.conf and boot again`
	default:
		try = "boot with the kernel parameter cgroup_no_v1=all"
	}
	return reason, try
}

// inVersion1 reports whether a wanted controller that is missing in version 2
// is in use by a tree of version 1: a controller is in one tree at a time
// (kernel cgroup-v2.rst, "Mounting").
func (h host) inVersion1(i Info) bool {
	b, _ := os.ReadFile(h.path("/proc/self/cgroup"))
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(line, ":", 3)
		if len(f) == 3 && slices.ContainsFunc(strings.Split(f[1], ","), func(c string) bool {
			return slices.Contains(Wanted, c) && !i.has(c)
		}) {
			return true
		}
	}
	return false
}

// denied is nil when the group dir is delegated to this process: a user has to
// be able to write the directory, cgroup.procs and cgroup.subtree_control
// (kernel cgroup-v2.rst, "Model of Delegation").
func (h host) denied(dir string) error {
	for _, name := range []string{"", "cgroup.procs", "cgroup.subtree_control"} {
		if err := h.writable(h.path(path.Join(dir, name))); err != nil {
			return err
		}
	}
	return nil
}

// mounts reads which versions are mounted, and of version 2 where and which of
// its groups (proc_pid_mountinfo(5), fields 4, 5 and the one after the dash).
func (h host) mounts() (m Mode, mount, bound string) {
	v1 := false
	b, _ := os.ReadFile(h.path("/proc/self/mountinfo"))
	for line := range strings.Lines(string(b)) {
		front, back, _ := strings.Cut(line, " - ")
		f, fsType := strings.Fields(front), strings.Fields(back)
		switch {
		case len(f) < 5 || len(fsType) == 0:
		case fsType[0] == "cgroup":
			v1 = true
		case fsType[0] == "cgroup2" && (mount == "" || unescape(f[4]) == standard):
			bound, mount = unescape(f[3]), unescape(f[4])
		}
	}
	switch {
	case mount == standard || mount != "" && !v1:
		// Where version 2 has the standard place, a version 1 mount elsewhere
		// is somebody's private matter (net_cls for a VPN, say).
		m = Unified
	case mount != "":
		m = Hybrid
	case v1:
		m = Legacy
	default:
		m = None
	}
	return m, mount, bound
}

const standard = "/sys/fs/cgroup"

// ownGroup is the line of hierarchy 0 in /proc/self/cgroup (cgroups(7),
// "/proc files").
func (h host) ownGroup() string {
	b, _ := os.ReadFile(h.path("/proc/self/cgroup"))
	for line := range strings.Lines(string(b)) {
		if p, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSuffix(p, "\n")
		}
	}
	return ""
}

// inside is where group is found when the group bound is mounted at mount.
func inside(mount, bound, group string) (dir string, ok bool) {
	if group == "" || group == "/.." || strings.HasPrefix(group, "/../") {
		return "", false // outside of the cgroup namespace (cgroup_namespaces(7))
	}
	rel, err := filepath.Rel(bound, group)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return "", false
	}
	return path.Join(mount, rel), true
}

// unescape undoes the \ooo with which the kernel writes blanks in mountinfo.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, ok := octal(s[i+1 : i+4]); ok {
				b.WriteByte(c)
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func octal(s string) (byte, bool) {
	n := 0
	for _, c := range []byte(s) {
		if c < '0' || c > '7' {
			return 0, false
		}
		n = n*8 + int(c-'0')
	}
	return byte(n), n < 256
}

func (h host) words(name string) []string {
	b, _ := os.ReadFile(h.path(name))
	return strings.Fields(string(b))
}

func (h host) exists(name string) bool {
	_, err := os.Stat(h.path(name))
	return err == nil
}

func (h host) path(name string) string { return filepath.Join(h.root, name) }
