package namespaces

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Spec is what a container's start needs to know, all of it looked up already:
// Container only writes it down as system calls.
type Spec struct {
	// Who it is. With UserNS the child joins that user namespace, else it
	// makes one with the single-id Map.
	UserNS *UserNS
	Map    IDMap

	HostNetwork bool
	Hostname    string

	// Its root. Base is the directory that relative paths start at, BaseFD a
	// descriptor of it. The root is an Overlay (mount options relative to
	// Base), or Bind, a host directory, or HostTree, the host's own.
	Base       string
	BaseFD     int
	Overlay    string
	Bind       string
	MountPoint string // relative to Base: where the root is put together
	HostTree   []TreeEntry
	ReadOnly   bool

	Mounts      []Mount
	Files       []File   // each a file of the container's own, in memory
	Devices     []string // host device nodes that appear under the same name
	Masked      []MaskedPath
	ReadOnlyDir []string // paths in /proc that stay visible, read-only
	ShmSize     int64    // bytes

	// What it is allowed.
	UID, GID   int
	Groups     []int
	Caps       Capabilities
	NoNewPrivs bool
	Seccomp    []unix.SockFilter // nil: no filter
	// SeccompFlags are those of seccomp(2).
	SeccompFlags uintptr
	Rlimits      []Rlimit

	// What it executes.
	Stdio      [3]int    // descriptors of the caller that become 0, 1, 2
	Terminal   *Terminal // instead of Stdio
	InitBinary string    // host path of a program that becomes PID 1 and gets Argv; "" for none
	WorkingDir string
	Argv, Env  []string
	Candidates []string // paths to try, in order: Argv[0] looked up in PATH
	Alive      int      // write end of a pipe whose read end only the parent has
}

// Mount is one mount below the container's root, Target absolute in it.
type Mount struct {
	Type         string // "bind" or "tmpfs"
	Source       string // host path, or relative to Base
	Target       string
	File         bool // Source is not a directory
	Volume       bool // Source holds the container's own ids, not the caller's
	ReadOnly     bool
	NonRecursive bool
	Propagation  uintptr // MS_SLAVE, MS_SHARED …; 0 is private
	Flags        uintptr // of a tmpfs
	Data         string  // of a tmpfs
}

// File is a small file that exists only for this container.
type File struct {
	Target, Content string
}

// TreeEntry is one entry of a root put together from the host's: a directory,
// made anew or stacked on; a symlink; or a file, which is shown read-only.
type TreeEntry struct {
	Path    string // without the leading slash
	Dir     bool
	Overlay bool
	Link    string
}

// MaskedPath is hidden from the container: a file behind /dev/null, a
// directory behind an empty read-only tmpfs.
type MaskedPath struct {
	Path string
	Dir  bool
}

// Rlimit is setrlimit(2)'s.
type Rlimit struct {
	Resource   int
	Name       string
	Soft, Hard uint64
}

// Terminal asks for a pseudo-terminal from the container's own devpts. Its
// master comes back over Socket as SCM_RIGHTS (unix(7)).
type Terminal struct {
	Socket int
	Size   unix.Winsize
}

// Masked and read-only paths are docker's (moby daemon/pkg/oci/defaults.go):
// what the kernel does not keep apart by namespace and would tell or give away.
var (
	DefaultMasked = []MaskedPath{
		{"/proc/acpi", true}, {"/proc/asound", true}, {"/proc/interrupts", false}, {"/proc/kcore", false},
		{"/proc/keys", false}, {"/proc/latency_stats", false}, {"/proc/sched_debug", false},
		{"/proc/scsi", true}, {"/proc/timer_list", false}, {"/proc/timer_stats", false},
		{"/sys/devices/virtual/powercap", true}, {"/sys/firmware", true},
	}
	DefaultReadOnly = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	DefaultDevices  = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"}
)

// Container writes down the start of a container, from the id map to
// execve(2). Read it from top to bottom: this is all that a container is.
//
// The order is the lesson. Everything that needs the host's tree is opened
// first; then pivot_root(2) makes the image the only tree there is; only then
// are paths of the container touched, so that a symlink in an image can lead
// nowhere but into the image. What takes power comes before giving it up, and
// execve comes last.
func Container(s *Spec) *Program {
	p := new(Program)
	p.flags = unix.CLONE_VM | unix.CLONE_VFORK
	if s.UserNS == nil {
		p.flags |= unix.CLONE_NEWUSER | s.cloneFlags()
	}

	// [run 6/9] the list: who am I. A user namespace makes the caller root of
	// everything that is created after it, and of nothing else.
	var sources []result
	if s.UserNS != nil {
		if s.UserNS.Map.Mode == RootMap {
			sources = p.openSources(s) // root may read what the container's root may not
		}
		p.step("Join the user namespace that has the full id map", "the map "+s.UserNS.Map.String()+
			" (inside→outside×count) was written once, by newuidmap(1) or by root; joining is cheaper than writing it again",
			"user_namespaces(7)", "namespaces/keeper.go#JoinOrCreate")
		p.call("fchdir", unix.SYS_FCHDIR, show(uintptr(s.BaseFD), "fd of "+s.Base))
		p.call("setns", unix.SYS_SETNS, show(uintptr(s.UserNS.fd), "user namespace of the keeper"), show(unix.CLONE_NEWUSER, "CLONE_NEWUSER"))
		p.call("setresgid", unix.SYS_SETRESGID, num(0), num(0), num(0))
		p.call("setresuid", unix.SYS_SETRESUID, num(0), num(0), num(0))
		p.step("Create the other namespaces", "a process enters a new PID namespace by being born in it; "+
			"CLONE_PARENT makes the newborn our child too", "clone(2)", "namespaces(7)", "pid_namespaces(7)")
		flags := s.cloneFlags() | unix.CLONE_PARENT | unix.CLONE_VM | unix.CLONE_VFORK
		p.call("clone", unix.SYS_CLONE, show(flags, cloneNames(flags)), num(0), num(0), num(0), num(0))
		p.calls[len(p.calls)-1].flags |= opClone
	} else {
		p.mapSelf(s.Map)
		p.step("Start from the store", "short relative names keep the list of layers below the 4096 bytes mount(2) reads", "mount(2)")
		p.call("chdir", unix.SYS_CHDIR, str(s.Base))
	}
	p.step("Keep mounts from spreading", "what is mounted from here on is nobody else's", "mount_namespaces(7)")
	p.mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	p.call("umask", unix.SYS_UMASK, num(0)) // what is made below has the modes written there, whatever the caller's mask

	// [run 7/9] the list: the root.
	if sources == nil {
		sources = p.openSources(s)
	}
	proc := p.root(s)
	p.dev(s)
	null := p.mounts(s, sources)
	p.files(s)
	p.proc(proc)
	p.step("Let go of what moss has open", "a descriptor of a host directory, reached through /proc/self/fd, would be a way out (CVE-2024-21626)", "close_range(2)")
	keep := s.keep()
	mask := slices.Max(keep) + 1
	p.call("dup3", unix.SYS_DUP3, null.arg(), num(mask), show(unix.O_CLOEXEC, "O_CLOEXEC"))
	p.accept(unix.EINVAL) // it has that number already
	p.closeAllBut(append(keep, mask))
	p.mask(s, fmt.Sprintf("/proc/self/fd/%d", mask))
	if s.ReadOnly {
		p.step("Make the root read-only", "", "mount_setattr(2)")
		p.setReadOnly(atFDCWD(), "/", 0)
	}
	p.call("chdir", unix.SYS_CHDIR, str("/"))

	// [run 8/9] the list: less power, then the program.
	p.identity(s)
	p.terminal(s)
	p.limits(s)
	p.workdir(s)
	p.drop(s)
	p.exec(s)
	return p
}

// Start has a child walk the list that Container wrote, and returns when the
// payload has been executed.
func Start(p *Program) (pid int, err error) {
	pid, _, err = p.start(p.flags | uintptr(unix.SIGCHLD))
	return pid, err
}

func (s *Spec) cloneFlags() uintptr {
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP)
	if !s.HostNetwork {
		flags |= unix.CLONE_NEWNET
	}
	return flags
}

func mapLine(r Range) string { return fmt.Sprintf("%d %d %d", r.Container, r.Host, r.Count) }

// openSources takes hold of everything of the host's tree that will appear in
// the container, as detached mounts. They are opened by the names the user
// gave, before the image has a say in what a name means.
func (p *Program) openSources(s *Spec) (sources []result) {
	p.step("Take hold of what comes from the host", "a detached copy of a mount has no place in any tree yet; "+
		"it is put in place once the host's tree is gone", "open_tree(2)")
	if s.HostNetwork {
		// A new sysfs takes a network namespace of one's own.
		r := p.openTree("/sys", true)
		const attrs = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
		p.setattr(r.arg(), "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: attrs}, "rdonly,nosuid,nodev,noexec")
		sources = append(sources, r)
	}
	for _, d := range s.Devices {
		sources = append(sources, p.openTree(d, false))
	}
	for _, m := range s.Mounts {
		if m.Type == "bind" {
			r := p.openTree(m.Source, !m.NonRecursive)
			if s.UserNS != nil && s.UserNS.Map.Mode == RootMap && !m.Volume {
				// Root's own files are root's inside, too: an idmapped mount. Where
				// the file system knows none they show as nobody's.
				p.setattr(r.arg(), "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(s.UserNS.fd)}, "idmap")
				p.optional()
			}
			if m.ReadOnly {
				flags := unix.AT_EMPTY_PATH
				if !m.NonRecursive {
					flags |= unix.AT_RECURSIVE
				}
				p.setReadOnly(r.arg(), "", flags)
			}
			sources = append(sources, r)
		}
	}
	if s.InitBinary != "" {
		r := p.openTree(s.InitBinary, false)
		p.setReadOnly(r.arg(), "", unix.AT_EMPTY_PATH) // or the container could write to moss itself (CVE-2019-5736)
		sources = append(sources, r)
	}
	return sources
}

// root stacks the layers and makes them the root. It returns the /proc to be.
func (p *Program) root(s *Spec) (proc result) {
	switch {
	case s.HostTree != nil:
		p.hostTree(s)
	case s.Overlay != "":
		p.step("Stack the layers", "the image's layers are only read; what the container writes goes to upperdir. "+
			"userxattr lets an ordinary user's overlay note deletions", "overlayfs.rst", "overlay/options.go#Options")
		p.mount("overlay", s.MountPoint, "overlay", 0, s.Overlay)
		p.call("chdir", unix.SYS_CHDIR, str(s.MountPoint))
	default:
		p.step("Take the directory as root", "a root must be a mount point", "pivot_root(2)")
		r := p.openTree(s.Bind, true)
		p.moveMount(r, s.MountPoint)
		p.call("chdir", unix.SYS_CHDIR, str(s.MountPoint))
	}
	proc = p.kernel(s)
	p.step("Make it the root", "unlike chroot(2), it leaves no way back: the old root is put on top of the new one, which is where \".\" leads, and taken away. "+
		"Before that, a symlink of the image with one \"..\" too many would come out there", "pivot_root(2), \"pivot_root(\".\", \".\")\"")
	p.call("pivot_root", unix.SYS_PIVOT_ROOT, str("."), str("."))
	p.call("umount2", unix.SYS_UMOUNT2, str("."), show(unix.MNT_DETACH, "MNT_DETACH"))
	p.call("chdir", unix.SYS_CHDIR, str("/"))
	return proc
}

// kernel makes /sys and /proc while the host's are in sight: the kernel gives
// new ones only to those who see others in full (mount_too_revealing in its
// fs/namespace.c). The working directory is the root to be; no path here has a
// symlink to follow.
func (p *Program) kernel(s *Spec) (proc result) {
	p.step("Make /sys and /proc", "sysfs shows the network namespace of whoever mounts it, proc the processes of the PID namespace", "sysfs(5)", "proc(5)", "fsopen(2)")
	p.real("sys")
	if !s.HostNetwork { // else the host's is put in place by mounts, which has its descriptor
		p.mount("sysfs", "sys", "sysfs", quiet|unix.MS_RDONLY, "")
	}
	fs := p.call("fsopen", unix.SYS_FSOPEN, str("proc"), show(unix.FSOPEN_CLOEXEC, "FSOPEN_CLOEXEC"))
	p.call("fsconfig", unix.SYS_FSCONFIG, fs.arg(), show(unix.FSCONFIG_CMD_CREATE, "FSCONFIG_CMD_CREATE"), null(), null(), num(0))
	const attrs = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	return p.call("fsmount", unix.SYS_FSMOUNT, fs.arg(), show(unix.FSMOUNT_CLOEXEC, "FSMOUNT_CLOEXEC"), show(attrs, "nosuid,nodev,noexec"))
}

// hostTree puts the host's own directories together, each under a layer in
// memory: a layer on disk would be part of the tree that it is to lie on.
func (p *Program) hostTree(s *Spec) {
	p.step("Stack a writable layer in memory on each of the host's directories", "what is written is gone with the container",
		"overlayfs.rst", "container/hosttree.go#hostTree")
	p.mount("tmpfs", s.MountPoint, "tmpfs", 0, "mode=0755")
	p.call("chdir", unix.SYS_CHDIR, str(s.MountPoint))
	for _, d := range []string{"upper", "work", "root"} {
		p.mkdir(d, 0o755)
	}
	for i, t := range s.HostTree {
		at := "root/" + t.Path
		switch {
		case t.Overlay:
			upper, work := fmt.Sprintf("upper/%d", i), fmt.Sprintf("work/%d", i)
			p.mkdir(at, 0o755)
			p.mkdir(upper, 0o755)
			p.mkdir(work, 0o755)
			lower := strings.NewReplacer(`\`, `\\`, ":", `\:`, ",", `\,`).Replace("/" + t.Path)
			p.mount("overlay", at, "overlay", 0, "lowerdir="+lower+",upperdir="+upper+",workdir="+work+",userxattr")
		case t.Dir:
			p.mkdir(at, 0o755)
		case t.Link != "":
			p.call("symlinkat", unix.SYS_SYMLINKAT, str(t.Link), atFDCWD(), str(at))
		default:
			r := p.openTree("/"+t.Path, false)
			p.setReadOnly(r.arg(), "", unix.AT_EMPTY_PATH)
			p.touch(at)
			p.moveMount(r, at)
		}
	}
	p.mount("root", "root", "", unix.MS_BIND|unix.MS_REC, "") // a root must be a mount point
	p.call("chdir", unix.SYS_CHDIR, str("root"))
}

// real makes sure that dir is a directory of the image and not a symlink: the
// kernel's own file systems are found where every program expects them, or the
// container does not start.
func (p *Program) real(dir string) {
	p.mkdir(dir, 0o755)
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	p.call("openat", unix.SYS_OPENAT, atFDCWD(), str(dir), show(flags, "O_PATH|O_DIRECTORY|O_NOFOLLOW|O_CLOEXEC"))
}

// quiet are the flags of file systems that hold no programs.
const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// proc covers what files left there. It comes after everything that follows
// paths of the image: its magic links (/proc/self/fd, /proc/self/cwd) lead out
// of any root.
func (p *Program) proc(proc result) {
	p.step("Show /proc", "", "move_mount(2)")
	p.moveMount(proc, "/proc")
}

func (p *Program) cgroupfs() {
	p.step("Mount the control groups", "a cgroup namespace shows its own group as the root; where there is no cgroup v2 the directory stays as it is", "cgroup_namespaces(7)")
	p.mount("cgroup2", "/sys/fs/cgroup", "cgroup2", quiet|unix.MS_RDONLY, "")
	p.optional()
}

func (p *Program) dev(s *Spec) {
	p.step("Make a /dev of our own", "an ordinary user cannot create device nodes; those that are harmless come from the host", "overlayfs.rst", "devpts.rst")
	p.real("/dev")
	p.mount("tmpfs", "/dev", "tmpfs", unix.MS_NOSUID|unix.MS_STRICTATIME, "mode=755,size=65536k")
	for _, l := range [][2]string{
		{"/proc/self/fd", "/dev/fd"}, {"/proc/self/fd/0", "/dev/stdin"}, {"/proc/self/fd/1", "/dev/stdout"},
		{"/proc/self/fd/2", "/dev/stderr"}, {"/proc/kcore", "/dev/core"}, {"pts/ptmx", "/dev/ptmx"},
	} {
		p.call("symlinkat", unix.SYS_SYMLINKAT, str(l[0]), atFDCWD(), str(l[1]))
	}
	p.mkdir("/dev/pts", 0o755)
	data := "newinstance,ptmxmode=0666,mode=0620"
	if s.ContainerMap().Contains(0, 5) { // the group tty, where it exists
		data += ",gid=5"
	}
	p.mount("devpts", "/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, data)
	p.mkdir("/dev/shm", 0o1777)
	p.mount("shm", "/dev/shm", "tmpfs", quiet, fmt.Sprintf("mode=1777,size=%d", s.ShmSize))
	p.mkdir("/dev/mqueue", 0o1777)
	p.mount("mqueue", "/dev/mqueue", "mqueue", quiet, "")
}

// mounts puts the sources in place, in the order openSources opened them. It
// returns a descriptor of the /dev/null that is ours: one may have been mounted
// over it when it is needed to hide other files.
func (p *Program) mounts(s *Spec, sources []result) (null result) {
	next := func() (r result) {
		r, sources = sources[0], sources[1:]
		return r
	}
	if s.HostNetwork {
		p.step("Show the host's /sys, read-only", "it belongs to the network namespace, and that is the host's", "sysfs(5)")
		p.moveMount(next(), "/sys")
	}
	p.cgroupfs()
	if len(s.Devices) > 0 {
		p.step("Put the devices in place", "", "move_mount(2)")
	}
	for _, d := range s.Devices {
		r := next()
		for _, dir := range parents(strings.TrimPrefix(d, "/dev/")) {
			p.mkdir("/dev/"+dir, 0o755)
		}
		p.touch(d)
		p.moveMount(r, d)
	}
	null = p.call("openat", unix.SYS_OPENAT, atFDCWD(), str("/dev/null"), show(unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, "O_PATH|O_NOFOLLOW|O_CLOEXEC"))
	for _, m := range s.Mounts {
		p.step("Mount "+m.Target, "", "move_mount(2)", "tmpfs(5)")
		for _, dir := range parents(m.Target) {
			p.mkdir(dir, 0o755)
		}
		if m.Type == "tmpfs" {
			p.mkdir(m.Target, 0o755)
			p.mount("tmpfs", m.Target, "tmpfs", m.Flags, m.Data)
			continue
		}
		r := next()
		if m.File {
			p.touch(m.Target)
		} else {
			p.mkdir(m.Target, 0o755)
		}
		p.moveMountFollow(r, m.Target)
		if m.Propagation != 0 {
			p.mount("none", m.Target, "", m.Propagation, "")
		}
	}
	if s.InitBinary != "" {
		p.step("Put the init in place", "it is moss itself, read-only", "move_mount(2)")
		p.touch(initPath)
		p.moveMount(next(), initPath)
	}
	return null
}

// files writes the container's own files into a file system in memory and shows
// each where it belongs. The file system itself needs a place in the tree, and
// /proc is about to be covered by the real one.
func (p *Program) files(s *Spec) {
	p.step("Write the container's own files", "in memory: they are made anew at each start", "resolv.conf(5)", "hosts(5)")
	p.real("/proc")
	size := 1 << 20
	for _, f := range s.Files {
		size += len(f.Content)
	}
	p.mount("tmpfs", "/proc", "tmpfs", quiet, fmt.Sprintf("mode=755,size=%d", size))
	p.call("chdir", unix.SYS_CHDIR, str("/proc"))
	p.mkdir(emptyDir, 0o555)
	for _, f := range s.Files {
		name := path.Base(f.Target)
		const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_CLOEXEC
		fd := p.call("openat", unix.SYS_OPENAT, atFDCWD(), str(name), show(flags, "O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC"), show(0o644, "0644"))
		p.call("write", unix.SYS_WRITE, fd.arg(), str(f.Content), num(len(f.Content)))
		p.call("close", unix.SYS_CLOSE, fd.arg())
		for _, dir := range parents(f.Target) {
			p.mkdir(dir, 0o755)
		}
		p.touch(f.Target)
		p.mount(name, f.Target, "", unix.MS_BIND, "")
	}
}

// emptyDir is the directory in that file system which hides others.
const emptyDir = "empty"

// initPath is where the init of --init is seen inside: in the /dev that is
// ours, so that no image can be in its way.
const initPath = "/dev/moss-init"

// mask binds null, a name of our /dev/null, over what is hidden. Taken by its
// usual name it could be what an image with a volume on /dev has there, down to
// the hidden file itself (CVE-2025-31133).
func (p *Program) mask(s *Spec, null string) {
	if len(s.Masked)+len(s.ReadOnlyDir) == 0 {
		return
	}
	p.step("Hide what the kernel does not keep apart", "these files tell of, or act on, the whole machine", "docs/security.md")
	for _, m := range s.Masked {
		if m.Dir {
			p.mount(emptyDir, m.Path, "", unix.MS_BIND, "")
			p.accept(unix.ENOENT)
			p.setReadOnly(atFDCWD(), m.Path, 0)
		} else {
			p.mount(null, m.Path, "", unix.MS_BIND, "")
		}
		p.accept(unix.ENOENT) // this kernel has no such file
	}
	for _, path := range s.ReadOnlyDir {
		p.mount(path, path, "", unix.MS_BIND|unix.MS_REC, "")
		p.accept(unix.ENOENT)
		p.setReadOnly(atFDCWD(), path, unix.AT_RECURSIVE)
		p.accept(unix.ENOENT)
	}
}

// identity is how the container looks to itself.
func (p *Program) identity(s *Spec) {
	if s.Hostname != "" {
		p.step("Name the host", "", "uts_namespaces(7)")
		p.call("sethostname", unix.SYS_SETHOSTNAME, str(s.Hostname), num(len(s.Hostname)))
	}
	if !s.HostNetwork {
		p.step("Bring up the loopback device", "a new network namespace has nothing else, and that is down", "netdevice(7)")
		const cloexec = unix.SOCK_DGRAM | unix.SOCK_CLOEXEC
		sock := p.call("socket", unix.SYS_SOCKET, show(unix.AF_INET, "AF_INET"), show(cloexec, "SOCK_DGRAM|SOCK_CLOEXEC"), num(0))
		ifreq := &struct {
			name  [16]byte
			flags uint16
			_     [22]byte
		}{name: [16]byte{'l', 'o'}, flags: unix.IFF_UP | unix.IFF_RUNNING}
		p.call("ioctl", unix.SYS_IOCTL, sock.arg(), show(unix.SIOCSIFFLAGS, "SIOCSIFFLAGS"), mem(ifreq, "{lo, IFF_UP}"))
	}
	p.step("Start a session of its own", "no controlling terminal of the caller's to push input into, no keys of the caller's to use", "setsid(2)", "session-keyring(7)")
	p.call("setsid", unix.SYS_SETSID)
	p.call("keyctl", unix.SYS_KEYCTL, show(unix.KEYCTL_JOIN_SESSION_KEYRING, "KEYCTL_JOIN_SESSION_KEYRING"), null())
	p.optional()
	p.call("umask", unix.SYS_UMASK, show(0o022, "022"))
}

// terminal connects descriptors 0, 1 and 2.
func (p *Program) terminal(s *Spec) {
	if s.Terminal == nil {
		p.stdio(s.Stdio)
		return
	}
	p.step("Open a pseudo-terminal", "from the container's own devpts; the master goes to moss, which copies", "pty(7)", "ioctl_tty(2)", "unix(7), SCM_RIGHTS")
	t := s.Terminal
	unlock := new(int32)
	const flags = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC
	master := p.call("openat", unix.SYS_OPENAT, atFDCWD(), str("/dev/pts/ptmx"), show(flags, "O_RDWR|O_NOCTTY|O_CLOEXEC"))
	p.call("ioctl", unix.SYS_IOCTL, master.arg(), show(unix.TIOCSPTLCK, "TIOCSPTLCK"), mem(unlock, "[0]"))
	slave := p.call("ioctl", unix.SYS_IOCTL, master.arg(), show(unix.TIOCGPTPEER, "TIOCGPTPEER"), show(flags, "O_RDWR|O_NOCTTY|O_CLOEXEC"))
	msg := newRightsMessage()
	p.call("sendmsg", unix.SYS_SENDMSG, num(t.Socket),
		arg{ptr: unsafe.Pointer(msg), text: "{SCM_RIGHTS, [master]}", result: int16(master) + 1, value: unsafe.Offsetof(msg.fd)}, num(0))
	p.call("dup3", unix.SYS_DUP3, slave.arg(), num(0), num(0))
	p.call("dup3", unix.SYS_DUP3, num(0), num(1), num(0))
	p.call("dup3", unix.SYS_DUP3, num(0), num(2), num(0))
	p.call("ioctl", unix.SYS_IOCTL, num(0), show(unix.TIOCSCTTY, "TIOCSCTTY"), num(0))
	p.call("ioctl", unix.SYS_IOCTL, num(0), show(unix.TIOCSWINSZ, "TIOCSWINSZ"), mem(&t.Size, fmt.Sprintf("{%d×%d}", t.Size.Row, t.Size.Col)))
	p.call("fchown", unix.SYS_FCHOWN, num(0), num(s.UID), num(-1))
	p.optional()
	p.touch("/dev/console")
	p.mount("/dev/pts/0", "/dev/console", "", unix.MS_BIND, "")
}

func (p *Program) limits(s *Spec) {
	if len(s.Rlimits) == 0 {
		return
	}
	p.step("Set resource limits", "", "getrlimit(2)")
	for _, r := range s.Rlimits {
		lim := &unix.Rlimit{Cur: r.Soft, Max: r.Hard}
		p.call("prlimit64", unix.SYS_PRLIMIT64, num(0), show(uintptr(r.Resource), "RLIMIT_"+strings.ToUpper(r.Name)),
			mem(lim, fmt.Sprintf("{%d, %d}", int64(r.Soft), int64(r.Hard))), null())
	}
}

func (p *Program) workdir(s *Spec) {
	p.step("Enter the working directory", "it is made when the image lacks it, as docker does", "chdir(2)")
	for _, dir := range append(parents(s.WorkingDir), s.WorkingDir) {
		if dir != "/" {
			p.mkdir(dir, 0o755)
			p.accept(unix.EEXIST, unix.EROFS, unix.EACCES)
		}
	}
	p.call("chdir", unix.SYS_CHDIR, str(s.WorkingDir))
}

// drop gives up power. Installing a seccomp filter takes either CAP_SYS_ADMIN
// or no_new_privs (seccomp(2)), so it comes before the capabilities go.
func (p *Program) drop(s *Spec) {
	if s.NoNewPrivs {
		p.step("Renounce new privileges", "setuid programs and file capabilities give nothing any more", "PR_SET_NO_NEW_PRIVS(2const)")
		p.call("prctl", unix.SYS_PRCTL, show(unix.PR_SET_NO_NEW_PRIVS, "PR_SET_NO_NEW_PRIVS"), num(1), num(0), num(0), num(0))
	}
	if s.Seccomp != nil {
		p.step("Filter system calls", "docker's default profile, compiled to BPF; what it forbids fails with EPERM", "seccomp(2)", "docs/security.md")
		prog := &unix.SockFprog{Len: uint16(len(s.Seccomp)), Filter: &s.Seccomp[0]}
		p.call("seccomp", unix.SYS_SECCOMP, show(unix.SECCOMP_SET_MODE_FILTER, "SECCOMP_SET_MODE_FILTER"), show(s.SeccompFlags, fmt.Sprintf("%#x", s.SeccompFlags)),
			mem(prog, fmt.Sprintf("{%d instructions}", prog.Len)))
	}
	if dropped := AllCapabilities() &^ s.Caps; dropped != 0 {
		p.step("Drop capabilities", "the bounding set limits every later execve(2), even of a setuid program", "capabilities(7)")
		var each []uint8
		for i := range 64 {
			if dropped.Has(i) {
				each = append(each, uint8(i))
			}
		}
		p.callEach("prctl", unix.SYS_PRCTL, 1, each, show(unix.PR_CAPBSET_DROP, "PR_CAPBSET_DROP"), show(0, "each of "+strings.Join(dropped.Names(), " ")))
	}
	if s.UserNS != nil {
		p.step("Become the user", "", "credentials(7)")
		groups := make([]uint32, len(s.Groups)+1)
		for i, g := range s.Groups {
			groups[i] = uint32(g)
		}
		p.call("setgroups", unix.SYS_SETGROUPS, num(len(s.Groups)), mem(&groups[0], fmt.Sprint(s.Groups)))
		p.call("setresgid", unix.SYS_SETRESGID, num(s.GID), num(s.GID), num(s.GID))
		p.call("setresuid", unix.SYS_SETRESUID, num(s.UID), num(s.UID), num(s.UID))
	}
	if s.UID == 0 {
		p.step("Keep only these capabilities", strings.Join(s.Caps.Names(), " "), "capset(2)")
		hdr := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		low, high := uint32(s.Caps), uint32(s.Caps>>32)
		data := &[2]unix.CapUserData{{Effective: low, Permitted: low}, {Effective: high, Permitted: high}}
		p.call("capset", unix.SYS_CAPSET, mem(hdr, "v3"), mem(data, fmt.Sprintf("{%#x}", uint64(s.Caps))))
	}
}

func (p *Program) exec(s *Spec) {
	p.step("Die with moss", "when this process is gone the kernel kills the container's init, and with it all of the container; "+
		"the write fails if that happened already", "PR_SET_PDEATHSIG(2const)")
	p.call("prctl", unix.SYS_PRCTL, show(unix.PR_SET_PDEATHSIG, "PR_SET_PDEATHSIG"), show(uintptr(unix.SIGKILL), "SIGKILL"))
	p.call("write", unix.SYS_WRITE, num(s.Alive), str("."), num(1))
	p.step("Leave no descriptor open", "", "close_range(2)")
	p.call("close_range", unix.SYS_CLOSE_RANGE, num(3), show(^uintptr(0)>>32, "~0U"), show(unix.CLOSE_RANGE_CLOEXEC, "CLOSE_RANGE_CLOEXEC"))
	p.resetSignals()
	p.step("Execute the program", "it takes this process over: same pid (1), same namespaces, another program. "+
		"A name without a slash is tried in each directory of PATH", "execve(2)", "environ(7)")
	argv, candidates := s.Argv, s.Candidates
	if s.InitBinary != "" {
		argv = append([]string{InitName, "--"}, argv...)
		candidates = []string{initPath}
	}
	args, env := pointers(argv), pointers(s.Env)
	for _, c := range candidates {
		p.call("execve", unix.SYS_EXECVE, str(c), mem(&args[0], fmt.Sprintf("%q", argv)), mem(&env[0], fmt.Sprintf("[%d variables]", len(s.Env))))
		p.accept(unix.ENOENT, unix.EACCES, unix.ENOTDIR)
	}
}

// InitName is what the init of --init is called in its own argv; main looks
// for it.
const InitName = "moss-init"

// keep are the descriptors that are needed until execve.
func (s *Spec) keep() []int {
	if s.Terminal != nil {
		return []int{s.Terminal.Socket, s.Alive}
	}
	return []int{s.Stdio[0], s.Stdio[1], s.Stdio[2], s.Alive}
}

// closeAllBut closes every other descriptor.
func (p *Program) closeAllBut(keep []int) {
	slices.Sort(keep)
	first := 0
	for _, fd := range keep {
		if fd > first {
			p.call("close_range", unix.SYS_CLOSE_RANGE, num(first), num(fd-1), num(0))
		}
		first = max(first, fd+1)
	}
	p.call("close_range", unix.SYS_CLOSE_RANGE, num(first), show(^uintptr(0)>>32, "~0U"), num(0))
}

// The calls that many steps share.

// mapSelf gives the user namespace the child was cloned into its map.
func (p *Program) mapSelf(m IDMap) {
	p.step("Map your own id", "one id may be mapped without anybody's help; setgroups must be given up first, "+
		"or a process could shed a group that denies it something", "user_namespaces(7)", "namespaces/idmap.go#IDMap")
	p.writeFile("/proc/self/setgroups", "deny")
	p.writeFile("/proc/self/uid_map", mapLine(m.UIDs[0]))
	p.writeFile("/proc/self/gid_map", mapLine(m.GIDs[0]))
}

// stdio makes the caller's descriptors 0, 1 and 2.
func (p *Program) stdio(fds [3]int) {
	p.step("Connect standard input, output and error", "", "dup3(2)")
	for i, fd := range fds {
		if fd == i {
			p.call("fcntl", unix.SYS_FCNTL, num(fd), show(unix.F_SETFD, "F_SETFD"), num(0))
			continue
		}
		p.call("dup3", unix.SYS_DUP3, num(fd), num(i), num(0))
	}
}

func (p *Program) resetSignals() {
	p.step("Reset signals", "they were blocked since the clone; nothing of moss's own handling may remain", "signal(7)")
	action := new([4]uint64) // SIG_DFL, no flags, empty mask
	all := make([]uint8, 0, 64)
	for sig := uint8(1); sig <= 64; sig++ {
		if sig != uint8(unix.SIGKILL) && sig != uint8(unix.SIGSTOP) {
			all = append(all, sig)
		}
	}
	p.callEach("rt_sigaction", unix.SYS_RT_SIGACTION, 0, all, show(0, "each of 1…64 but SIGKILL and SIGSTOP"), mem(action, "{SIG_DFL}"), null(), num(8))
	p.call("rt_sigprocmask", unix.SYS_RT_SIGPROCMASK, show(unix.SIG_SETMASK, "SIG_SETMASK"), mem(action, "[]"), null(), num(8))
}

func (p *Program) mkdir(dir string, mode int) {
	p.call("mkdirat", unix.SYS_MKDIRAT, atFDCWD(), str(dir), show(uintptr(mode), fmt.Sprintf("%#o", mode)))
	p.accept(unix.EEXIST)
}

// touch makes an empty file to mount on, without opening it.
func (p *Program) touch(file string) {
	p.call("mknodat", unix.SYS_MKNODAT, atFDCWD(), str(file), show(unix.S_IFREG|0o644, "S_IFREG|0644"), num(0))
	p.accept(unix.EEXIST)
}

func (p *Program) mount(source, target, fstype string, flags uintptr, data string) {
	d := null()
	if data != "" {
		d = str(data)
	}
	p.call("mount", unix.SYS_MOUNT, str(source), str(target), str(fstype), show(flags, mountNames(flags)), d)
}

func (p *Program) openTree(hostPath string, recursive bool) result {
	flags, names := uintptr(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC), "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC"
	if recursive {
		flags, names = flags|unix.AT_RECURSIVE, names+"|AT_RECURSIVE"
	}
	return p.call("open_tree", unix.SYS_OPEN_TREE, atFDCWD(), str(hostPath), show(flags, names))
}

// moveMount puts a detached mount at target, which may not be a symlink.
func (p *Program) moveMount(tree result, target string) {
	p.call("move_mount", unix.SYS_MOVE_MOUNT, tree.arg(), str(""), atFDCWD(), str(target),
		show(unix.MOVE_MOUNT_F_EMPTY_PATH, "MOVE_MOUNT_F_EMPTY_PATH"))
}

// moveMountFollow is moveMount for targets that users name: images have
// symlinks there (/var/run, /etc/resolv.conf), and they lead into the image.
func (p *Program) moveMountFollow(tree result, target string) {
	p.call("move_mount", unix.SYS_MOVE_MOUNT, tree.arg(), str(""), atFDCWD(), str(target),
		show(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS, "MOVE_MOUNT_F_EMPTY_PATH|MOVE_MOUNT_T_SYMLINKS"))
}

func (p *Program) setReadOnly(fd arg, name string, flags int) {
	p.setattr(fd, name, flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}, "rdonly")
}

func (p *Program) setattr(fd arg, name string, flags int, attr *unix.MountAttr, text string) {
	var names []string
	if flags&unix.AT_EMPTY_PATH != 0 {
		names = append(names, "AT_EMPTY_PATH")
	}
	if flags&unix.AT_RECURSIVE != 0 {
		names = append(names, "AT_RECURSIVE")
	}
	p.call("mount_setattr", unix.SYS_MOUNT_SETATTR, fd, str(name), show(uintptr(flags), or(names)),
		mem(attr, "{"+text+"}"), num(int(unsafe.Sizeof(*attr))))
}

// writeFile writes one line to a file of /proc.
func (p *Program) writeFile(name, line string) {
	fd := p.call("openat", unix.SYS_OPENAT, atFDCWD(), str(name), show(unix.O_WRONLY|unix.O_CLOEXEC, "O_WRONLY|O_CLOEXEC"))
	p.call("write", unix.SYS_WRITE, fd.arg(), str(line), num(len(line)))
	p.call("close", unix.SYS_CLOSE, fd.arg())
}

// ContainerMap is the map that holds inside.
func (s *Spec) ContainerMap() IDMap {
	if s.UserNS != nil {
		return s.UserNS.Map
	}
	return s.Map
}

// parents lists the directories above an absolute or relative path, outermost
// first, without "/".
func parents(name string) []string {
	var all []string
	for dir := path.Dir(name); dir != "/" && dir != "."; dir = path.Dir(dir) {
		all = append([]string{dir}, all...)
	}
	return all
}

// pointers lays strings out as execve(2) wants them: a NULL-terminated array
// of pointers to NUL-terminated strings.
func pointers(all []string) []*byte {
	ptrs := make([]*byte, len(all)+1)
	for i, s := range all {
		b := make([]byte, len(s)+1)
		copy(b, s)
		ptrs[i] = &b[0]
	}
	return ptrs
}
