package container

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"moss/cgroups"
	"moss/fail"
	"moss/namespaces"
	"moss/overlay"
)

// Info is what moss info shows: this machine, this store, and what of a
// container's parts can be had here. Names are docker's where docker has the
// thing (Docker Engine API, SystemInfo).
type Info struct {
	Containers        int
	ContainersRunning int
	ContainersStopped int // created ones too, as docker counts
	Images            int

	Root     string // docker's DockerRootDir
	RunRoot  string
	DiskFree int64 // bytes an ordinary user may still write below Root
	DiskSize int64 // bytes

	Driver       string      // of the layers: always "overlay"
	DriverStatus [][2]string // what is behind it, for people

	IDs      namespaces.IDMap
	IDsFixed bool // the store was made under IDs; else they are what its first use would choose

	CgroupDriver  string // always "none" as long as nothing is limited through them
	CgroupVersion string // "2", "1" (also where both are mounted), "" for none
	Cgroups       cgroups.Info

	SecurityOptions []string // "name=seccomp,profile=builtin" …
	Networks        []string // what --network takes

	Name            string // of the host
	OperatingSystem string // os-release(5), PRETTY_NAME
	OSType          string
	KernelVersion   string
	Architecture    string // the kernel's name of it, as uname -m
	NCPU            int
	MemTotal        int64 // bytes

	// Warnings are what is missing and how to get it; each is or holds a
	// *fail.Error.
	Warnings []error
}

// Info looks at the machine and the store. It changes neither: the id map of a
// store that was never used stays undecided.
func (e *Engine) Info() (Info, error) {
	i := Info{
		Root: e.root, RunRoot: e.Store.RunRoot(),
		Driver: "overlay", CgroupDriver: "none", Networks: []string{"host", "none"},
		OSType: runtime.GOOS, OperatingSystem: osName("/etc/os-release", "/usr/lib/os-release"), NCPU: runtime.NumCPU(),
	}
	if err := e.count(&i); err != nil {
		return i, err
	}
	i.machine()
	warn := func(err error) {
		if err != nil {
			i.Warnings = append(i.Warnings, err)
		}
	}
	warn(probeUserNS())
	overlaid := overlay.Probe()
	i.DriverStatus = [][2]string{{"Backing Filesystem", fsName(e.root)}, {"Overlay in a user namespace", yesNo(overlaid == nil)}}
	warn(overlaid)
	if err := e.idInfo(&i, warn); err != nil {
		return i, err
	}
	i.Cgroups = cgroups.Detect()
	i.CgroupVersion = i.Cgroups.Version()
	warn(i.Cgroups.Warning())
	warn(i.security())
	return i, nil
}

// count fills in what the store holds.
func (e *Engine) count(i *Info) error {
	records, err := e.List()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	i.Containers = len(records)
	for _, r := range records {
		if r.Status == Running {
			i.ContainersRunning++
		} else {
			i.ContainersStopped++
		}
	}
	images, err := e.Store.Images()
	if err != nil {
		return err
	}
	i.Images = len(images)
	var st unix.Statfs_t
	if unix.Statfs(e.root, &st) == nil {
		i.DiskFree, i.DiskSize = int64(st.Bavail)*st.Bsize, int64(st.Blocks)*st.Bsize
	}
	return nil
}

func (i *Info) machine() {
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		i.KernelVersion = unix.ByteSliceToString(uts.Release[:])
		i.Architecture = unix.ByteSliceToString(uts.Machine[:])
		i.Name = unix.ByteSliceToString(uts.Nodename[:])
	}
	var sys unix.Sysinfo_t
	if unix.Sysinfo(&sys) == nil {
		i.MemTotal = int64(uint64(sys.Totalram) * uint64(sys.Unit))
	}
}

// idInfo tells the store's id map, and what stands between it and the full one.
func (e *Engine) idInfo(i *Info, warn func(error)) error {
	now, missing := namespaces.Detect()
	_, err := os.Stat(filepath.Join(e.root, "idmap.json"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		i.IDs = now
	case err != nil:
		return err
	default:
		if i.IDs, err = e.IDMap(); err != nil {
			return err
		}
		i.IDsFixed = true
	}
	if i.IDs.Mode == namespaces.SingleID {
		if missing == nil {
			missing = &fail.Error{Op: "the store has a single id, and more ids are possible now", Why: "which ids a store has is decided when it is first used",
				Try: "start with an empty store (moss rmi -f $(moss images -q), then remove " + filepath.Join(e.root, "idmap.json") + ")", Docs: "docs/ids.md"}
		}
		warn(missing)
	} else if i.IDsFixed && !i.IDs.Equal(now) {
		warn(&fail.Error{Op: "the store was made under another id map", On: i.IDs.String(),
			Why: "your ids are " + now.String() + " now: " + cmp.Or(lessonWhy(missing), "/etc/subuid or /etc/subgid has changed"),
			Try: "what it was before, or an empty store with --root DIR", Docs: "docs/ids.md"})
	}
	return nil
}

func lessonWhy(err error) string {
	if l := fail.Lesson(err); l != nil {
		return l.Why
	}
	return ""
}

// security lists what confines a container here, in docker info's words.
func (i *Info) security() error {
	actions, err := os.ReadFile("/proc/sys/kernel/seccomp/actions_avail")
	var missing error
	if err == nil && slices.Contains(strings.Fields(string(actions)), "errno") {
		i.SecurityOptions = append(i.SecurityOptions, "name=seccomp,profile=builtin")
	} else if _, err := os.Stat("/proc/sys/kernel"); err == nil {
		missing = &fail.Error{Op: "seccomp filters", Err: errors.New("not possible here"),
			Why: "this kernel was built without CONFIG_SECCOMP_FILTER (no /proc/sys/kernel/seccomp/actions_avail)",
			Try: "another kernel, or for what you trust: --security-opt seccomp=unconfined"}
	}
	if i.IDs.Mode == namespaces.RootMap {
		i.SecurityOptions = append(i.SecurityOptions, "name=userns")
	} else {
		i.SecurityOptions = append(i.SecurityOptions, "name=rootless")
	}
	i.SecurityOptions = append(i.SecurityOptions, "name=cgroupns")
	return missing
}

// probeUserNS makes a user namespace, since no setting tells for sure that one
// can be made.
//
// The process in it is asked to execute a directory. execve(2) says EACCES to
// that, and it is the last thing to happen: whoever hears it knows that the
// namespace was made and mapped. Nothing runs, and no binary is needed.
func probeUserNS() error {
	_, err := syscall.ForkExec("/", []string{"/"}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}})
	if errors.Is(err, unix.EACCES) {
		return nil
	}
	return namespaces.ExplainUserNS(err)
}

// osName is what os-release(5) calls the system; the first file that is there
// counts.
func osName(files ...string) string {
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if value, ok := strings.CutPrefix(lines.Text(), "PRETTY_NAME="); ok {
				if plain, err := strconv.Unquote(value); err == nil {
					return plain
				}
				return strings.Trim(value, "'")
			}
		}
		break
	}
	return runtime.GOOS
}

// fsName names the file system that path lies on (statfs(2), f_type).
func fsName(path string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return "unknown"
	}
	switch uint32(st.Type) {
	case unix.EXT4_SUPER_MAGIC:
		return "extfs"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs"
	case unix.NFS_SUPER_MAGIC:
		return "nfs"
	case unix.F2FS_SUPER_MAGIC:
		return "f2fs"
	}
	return fmt.Sprintf("0x%x", uint32(st.Type))
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
