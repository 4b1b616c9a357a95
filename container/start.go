package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"moss/explain"
	"moss/fail"
	"moss/namespaces"
	"moss/overlay"
	"moss/seccomp"
)

// start turns the record into the list of system calls and has a child walk
// it. When it returns without an error the payload is being executed; recorded
// is called when its record is written, and c.recorded tells how that went.
func (e *Engine) start(c *container, recorded func()) (err error) {
	m, err := e.IDMap()
	if err != nil {
		return err
	}
	ns, err := e.userNS(m)
	if err != nil {
		return err
	}
	defer ns.Close()
	e.Explain.Step(explain.Step{What: "Decide whose ids the container has: " + mapName(m), Call: "id map " + m.String(),
		Why: "inside→outside×count; decided once per store, because unpacked files belong to the ids of one map", See: []string{"docs/ids.md", "namespaces/idmap.go#Detect"}})

	view := e.view(c.lower)
	if c.Options.Rootfs != "" {
		view = overlay.View{c.Options.Rootfs}
	}
	who, err := lookUpUser(c.outline, c.Process.User, c.Options.GroupAdd)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(c.Process.Env, func(kv string) bool { return strings.HasPrefix(kv, "HOME=") }) {
		c.Process.Env = append(c.Process.Env, "HOME="+who.home)
	}
	if ns == nil {
		if len(c.Options.GroupAdd) > 0 {
			e.Warn(&fail.Error{Op: "--group-add has no effect", Why: "there is one group id only", Docs: "docs/ids.md"})
		}
		m = namespaces.SingleMap(who.uid, who.gid)
	} else if !m.Contains(who.uid, who.gid) {
		return &fail.Error{Op: "running as", On: fmt.Sprintf("%d:%d", who.uid, who.gid), Err: errors.New("these ids do not exist in the container"),
			Why: "the id map has room for fewer: " + mapName(m), Try: "another user with -u, or more subordinate ids in /etc/subuid and /etc/subgid", Docs: "docs/ids.md"}
	}
	e.Explain.Step(explain.Step{What: fmt.Sprintf("Look up the user: uid %d, gid %d, home %s", who.uid, who.gid, who.home),
		Call: "open /etc/passwd and /etc/group in the image's layers",
		Why:  "names mean what they mean in the image; the host's accounts do not count", See: []string{"passwd(5)", "container/user.go#lookUpUser"}})
	spec, err := e.spec(c, m, ns, view, who)
	if err != nil {
		return err
	}
	base, err := os.Open(spec.Base)
	if err != nil {
		return err
	}
	defer base.Close()
	spec.BaseFD = int(base.Fd())

	if c.stdio, err = openStdio(c.Options); err != nil {
		return err
	}
	spec.Stdio, spec.Terminal, spec.Alive = c.stdio.child, c.stdio.terminal, c.stdio.alive

	list := namespaces.Container(spec)
	e.Explain.Section("The child: every system call from here to the program")
	list.Explain(e.Explain)

	c.signals = watchSignals()
	pid, err := namespaces.Start(list)
	if err != nil {
		return e.explainStart(err, c, spec, view)
	}
	c.Status, c.Pid, c.StartedAt = Running, pid, now()
	if c.StartTime, err = namespaces.StartTime(pid); errors.Is(err, unix.ESRCH) {
		err = nil // it has ended already
	}
	if err == nil {
		c.pidfd, err = unix.PidfdOpen(pid, 0)
	}
	if err == nil && ns != nil {
		c.unguard, err = namespaces.GuardPayload(pid)
	}
	if err == nil {
		err = c.stdio.connect()
	}
	if err != nil {
		unix.Kill(pid, unix.SIGKILL)
		unix.Wait4(pid, nil, 0, nil)
		return err
	}
	// The payload need not wait for the record.
	r := *c.Record
	c.recorded = make(chan error, 1)
	go func() {
		err := e.save(&r)
		if err != nil && alive(&r) {
			unix.Kill(pid, unix.SIGKILL) // a container that no command knows of must not go on
		}
		recorded()
		c.recorded <- err
	}()
	return nil
}

// spec looks up everything the list needs.
func (e *Engine) spec(c *container, m namespaces.IDMap, ns *namespaces.UserNS, view overlay.View, who user) (*namespaces.Spec, error) {
	o := &c.Options
	single := ns == nil
	s := &namespaces.Spec{
		UserNS: ns, Map: m,
		HostNetwork: o.Network != "none", Hostname: c.Process.Hostname,
		Base: e.Store.LinkDir(), MountPoint: "../../skeleton",
		ReadOnly: o.ReadOnly, Devices: namespaces.DefaultDevices, ShmSize: o.ShmSize,
		UID: who.uid, GID: who.gid, Groups: who.groups, Caps: namespaces.DefaultCapabilities,
		WorkingDir: c.Process.WorkingDir, Argv: c.Process.Argv(), Env: c.Process.Env,
	}
	s.Candidates = candidates(s.Argv[0], s.Env)
	if s.ShmSize == 0 {
		s.ShmSize = 64 << 20
	}
	if o.Init {
		exe, err := os.Executable()
		if err != nil {
			return nil, err
		}
		s.InitBinary = exe
	}
	if err := e.skeleton(m); err != nil {
		return nil, err
	}
	if err := e.rootDirs(c, m, s); err != nil {
		return nil, err
	}
	if err := e.mounts(c, s, view); err != nil {
		return nil, err
	}
	if err := confine(o, s, single); err != nil {
		return nil, err
	}
	for _, u := range o.Ulimits {
		r, err := rlimit(u)
		if err != nil {
			return nil, err
		}
		s.Rlimits = append(s.Rlimits, r)
	}
	return s, withOpenFiles(s)
}

// rootDirs makes the directories the root is put together from.
func (e *Engine) rootDirs(c *container, m namespaces.IDMap, s *namespaces.Spec) (err error) {
	switch {
	case c.Options.Rootfs == "/":
		s.HostTree, err = hostTree()
		return err
	case c.Options.Rootfs != "":
		s.Bind = c.Options.Rootfs
		return nil
	}
	for _, d := range []struct {
		name string
		perm os.FileMode
	}{{"upper", c.outline.Perm}, {"work", 0o755}} {
		if err := makeDir(filepath.Join(e.dir(c.ID), d.name), d.perm, m); err != nil {
			return err
		}
	}
	s.Overlay, err = overlay.Options(append([]string{"../../skeleton"}, c.lower...), "../../containers/"+c.ID+"/upper", "../../containers/"+c.ID+"/work")
	if c.Options.Remove {
		// Unmounting an overlay syncs the whole file system its upper layer is
		// on, milliseconds or seconds of other people's writes; what is about
		// to be deleted need not be kept (overlayfs.rst, "Volatile mount").
		s.Overlay += ",volatile"
	}
	return err
}

// skeleton makes the layer below all layers, once per store: the directories
// and files that every container has something mounted on. An image that has
// them hides it, one that lacks them needs no copy made in the upper layer of
// each container, where they would look like changes. Docker lays the same on
// top of an image and calls it the init layer.
func (e *Engine) skeleton(m namespaces.IDMap) error {
	dir := filepath.Join(e.root, "skeleton")
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	temp, err := os.MkdirTemp(e.root, ".skeleton-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	for _, d := range []string{"", "dev", "etc", "proc", "sys"} {
		if err := makeDir(filepath.Join(temp, d), 0o755, m); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	for _, f := range []string{"hostname", "hosts", "resolv.conf"} {
		path := filepath.Join(temp, "etc", f)
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			return err
		}
		if err := chownToRoot(path, m); err != nil {
			return err
		}
	}
	if err := chownToRoot(temp, m); err != nil {
		return err
	}
	if err := os.Chmod(temp, 0o755); err != nil {
		return err
	}
	if err := os.Rename(temp, dir); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return nil
}

// makeDir makes a directory that belongs to the container's root and has
// exactly this mode, whatever the umask.
func makeDir(path string, perm os.FileMode, m namespaces.IDMap) error {
	old := unix.Umask(0) // cheaper than a chmod(2) that goes to the journal
	err := os.Mkdir(path, perm)
	unix.Umask(old)
	if err != nil {
		return err
	}
	return chownToRoot(path, m)
}

// chownToRoot gives path to the container's root where that is not the caller.
func chownToRoot(path string, m namespaces.IDMap) error {
	if m.Mode != namespaces.RootMap {
		return nil
	}
	uid, gid, _ := m.Owner(0, 0)
	return os.Lchown(path, uid, gid)
}

// confine decides what the payload may do: capabilities, system calls, paths.
func confine(o *Options, s *namespaces.Spec, single bool) (err error) {
	profile, paths := "", true
	for _, opt := range o.SecurityOpt {
		key, value, _ := strings.Cut(opt, "=")
		if value == "" {
			key, value, _ = strings.Cut(opt, ":") // docker's older form
		}
		switch key {
		case "no-new-privileges":
			s.NoNewPrivs = true
			if value != "" {
				if s.NoNewPrivs, err = strconv.ParseBool(value); err != nil {
					return fmt.Errorf("--security-opt %s: want true or false", opt)
				}
			}
		case "seccomp":
			profile = value
		case "systempaths":
			if value != "unconfined" {
				return fmt.Errorf("--security-opt %s: want systempaths=unconfined", opt)
			}
			paths = false
		case "apparmor", "label":
			if value != "unconfined" && value != "disable" {
				return &fail.Error{Op: "--security-opt", On: opt, Err: errors.New("not possible here"),
					Why: "only root may choose an AppArmor profile or SELinux label for another process"}
			}
		default:
			return &fail.Error{Op: "--security-opt", On: opt, Err: errors.New("unknown option"),
				Try: "no-new-privileges, seccomp=FILE|unconfined, systempaths=unconfined, apparmor=unconfined, label=disable"}
		}
	}
	if o.Privileged {
		s.Caps, paths = namespaces.AllCapabilities(), false
		if profile == "" {
			profile = "unconfined"
		}
		for _, d := range []string{"/dev/fuse", "/dev/net/tun", "/dev/kvm"} {
			if unix.Access(d, unix.R_OK|unix.W_OK) == nil {
				s.Devices = append(slices.Clone(s.Devices), d)
			}
		}
	}
	if s.Caps, err = s.Caps.Adjust(o.CapAdd, o.CapDrop); err != nil {
		return err
	}
	if paths {
		s.Masked, s.ReadOnlyDir = namespaces.DefaultMasked, namespaces.DefaultReadOnly
	}
	// With a single id no other id can be gained, so there is nothing that a
	// setuid program could give; what asks for other ids is told it has them.
	fake := single && s.UID == 0
	s.NoNewPrivs = s.NoNewPrivs || single
	so := seccomp.Options{Arch: runtime.GOARCH, Caps: uint64(s.Caps), FakeOwner: fake}
	s.SeccompFlags = seccomp.DefaultFlags
	switch profile {
	case "", "builtin":
		s.Seccomp, err = seccomp.Default(so)
	case "unconfined":
		if fake {
			s.Seccomp, err = seccomp.FakeOwner(so)
		}
	default:
		var b []byte
		if b, err = os.ReadFile(profile); err != nil {
			return fmt.Errorf("reading the seccomp profile: %w", err)
		}
		if s.Seccomp, err = seccomp.Compile(b, so); err != nil {
			return fmt.Errorf("seccomp profile %s: %w", profile, err)
		}
		s.SeccompFlags, err = seccomp.Flags(b)
	}
	return err
}

// candidates are the paths execve(2) is to try for a command: itself when it
// has a slash, else in each directory of the container's PATH.
func candidates(command string, env []string) []string {
	if strings.Contains(command, "/") {
		return []string{command}
	}
	var all []string
	for _, kv := range env {
		if dirs, ok := strings.CutPrefix(kv, "PATH="); ok {
			all = nil // the last one counts
			for _, dir := range filepath.SplitList(dirs) {
				all = append(all, filepath.Join(dir, command))
			}
		}
	}
	if all == nil {
		all = []string{"/bin/" + command, "/usr/bin/" + command}
	}
	return all
}

// rlimits are the names --ulimit knows, docker's.
var rlimits = [...]struct {
	name     string
	resource int
}{
	{"core", unix.RLIMIT_CORE}, {"cpu", unix.RLIMIT_CPU}, {"data", unix.RLIMIT_DATA}, {"fsize", unix.RLIMIT_FSIZE},
	{"locks", unix.RLIMIT_LOCKS}, {"memlock", unix.RLIMIT_MEMLOCK}, {"msgqueue", unix.RLIMIT_MSGQUEUE}, {"nice", unix.RLIMIT_NICE},
	{"nofile", unix.RLIMIT_NOFILE}, {"nproc", unix.RLIMIT_NPROC}, {"rss", unix.RLIMIT_RSS}, {"rtprio", unix.RLIMIT_RTPRIO},
	{"rttime", unix.RLIMIT_RTTIME}, {"sigpending", unix.RLIMIT_SIGPENDING}, {"stack", unix.RLIMIT_STACK},
}

// rlimit looks up a --ulimit and whether it can be had: only a privileged
// process may raise a hard limit (getrlimit(2)).
func rlimit(u Ulimit) (namespaces.Rlimit, error) {
	resource := -1
	for _, l := range rlimits {
		if l.name == u.Name {
			resource = l.resource
		}
	}
	if resource < 0 {
		return namespaces.Rlimit{}, fmt.Errorf("--ulimit %s: no such limit", u.Name)
	}
	r := namespaces.Rlimit{Resource: resource, Name: u.Name, Soft: uint64(u.Soft), Hard: uint64(u.Hard)}
	var have unix.Rlimit
	if err := unix.Getrlimit(resource, &have); err != nil {
		return r, fmt.Errorf("getrlimit(2) %s: %w", u.Name, err)
	}
	if r.Hard > have.Max {
		return r, &fail.Error{Op: "--ulimit", On: fmt.Sprintf("%s=%d:%d", u.Name, u.Soft, u.Hard), Err: unix.EPERM,
			Why: fmt.Sprintf("your own hard limit is %d, and only root may raise it", have.Max),
			Try: fmt.Sprintf("--ulimit %s=%d, or a higher limit for you in /etc/security/limits.conf", u.Name, have.Max)}
	}
	return r, nil
}

// withOpenFiles gives the payload the usual soft limit of open files. The Go
// runtime has raised moss's own, and a payload that inherited a limit of a
// billion would spend minutes closing files it never opened.
func withOpenFiles(s *namespaces.Spec) error {
	if slices.ContainsFunc(s.Rlimits, func(r namespaces.Rlimit) bool { return r.Resource == unix.RLIMIT_NOFILE }) {
		return nil
	}
	var have unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &have); err != nil {
		return fmt.Errorf("getrlimit(2) nofile: %w", err)
	}
	s.Rlimits = append(s.Rlimits, namespaces.Rlimit{Resource: unix.RLIMIT_NOFILE, Name: "nofile", Soft: min(have.Max, 1024), Hard: have.Max})
	return nil
}
