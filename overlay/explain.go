package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"moss/fail"
)

// Why overlayfs said no. mount(2) has one number for a dozen reasons and puts
// the rest into the kernel log, which ordinary users often may not read. So
// the reasons are looked for here, one after the other, after the failure; what
// is not found is not said.

// host is what is looked at, so that a test can be another machine.
type host struct {
	release string // uname -r
	read    func(name string) ([]byte, error)
	statfs  func(path string) (magic int64, err error)
	stat    func(path string, st *unix.Stat_t) error
	glob    func(pattern string) ([]string, error)
}

func thisHost() host {
	h := host{read: os.ReadFile, glob: filepath.Glob, stat: unix.Stat}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.release = unix.ByteSliceToString(u.Release[:])
	}
	h.statfs = func(path string) (int64, error) {
		var st unix.Statfs_t
		err := unix.Statfs(path, &st)
		return int64(st.Type), err
	}
	return h
}

// Probe looks, without mounting anything, whether the kernel can overlay in a
// user namespace: whether it has overlayfs, and is new enough. It returns nil
// or a *fail.Error; that nothing speaks against it does not prove that a mount
// works.
func Probe() error {
	h := thisHost()
	if e := h.noOverlay(); e != nil {
		return e
	}
	if e := h.tooOld(); e != nil {
		return e
	}
	return nil
}

// Explain says why mount(2) of an overlay over the layers lower with upper and
// work, all host paths, upper and work "" for a read-only one, failed with err.
// Why is empty when nothing was found.
func Explain(err error, lower []string, upper, work string) *fail.Error {
	e := thisHost().explain(err, lower, upper, work)
	e.Err = err
	if e.Op == "" {
		e.Op = "mount(2)"
	}
	if e.On == "" {
		e.On = "overlay of " + strconv.Itoa(len(lower)) + " layers"
		if upper != "" {
			e.On += " at " + upper
		}
	}
	return e
}

// explain tries the reasons from the general to the particular.
func (h host) explain(err error, lower []string, upper, work string) *fail.Error {
	if e := h.noOverlay(); e != nil {
		return e
	}
	if e := h.tooOld(); e != nil {
		return e
	}
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		if e := h.restricted(); e != nil {
			return e
		}
	}
	// A directory that is not there gives ENOENT, and so does an option string
	// that was cut off: Options keeps that from happening.
	dirs := append([]string{}, lower...)
	if upper != "" {
		dirs = append(dirs, upper, work)
	}
	for _, dir := range dirs {
		var st unix.Stat_t
		if serr := h.stat(dir, &st); serr != nil {
			return &fail.Error{Why: fmt.Sprintf("%s: %v", dir, serr)}
		} else if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return &fail.Error{Why: dir + " is not a directory"}
		}
	}
	if errors.Is(err, unix.EINVAL) && len(lower) > maxLower {
		return &fail.Error{
			Why: fmt.Sprintf("%d layers, and the kernel stacks at most %d", len(lower), maxLower),
			Try: "rebuild the image with fewer layers",
		}
	}
	if upper == "" {
		if errors.Is(err, unix.EINVAL) && len(lower) == 1 {
			return &fail.Error{Why: "without an upper directory overlayfs wants at least two lower ones"}
		}
		return &fail.Error{}
	}
	if e := h.unfit(upper); e != nil {
		return e
	}
	return h.placed(err, lower, upper, work)
}

// noOverlay reports a kernel without overlayfs. A module that is on disk but
// not loaded is no reason: mount(2) loads it.
func (h host) noOverlay() *fail.Error {
	b, err := h.read("/proc/filesystems")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(b)) {
		if fields := strings.Fields(line); len(fields) > 0 && fields[len(fields)-1] == "overlay" {
			return nil
		}
	}
	if found, _ := h.glob("/lib/modules/" + h.release + "/kernel/fs/overlayfs/overlay.ko*"); len(found) > 0 {
		return nil
	}
	return &fail.Error{
		Op: "mount(2)", On: "overlay", Err: unix.ENODEV,
		Why: "this kernel has no overlayfs: it is not in /proc/filesystems, and no module overlay.ko is under /lib/modules/" + h.release,
		Try: "as root: modprobe overlay, or a kernel built with CONFIG_OVERLAY_FS",
	}
}

// tooOld reports a kernel that mounts overlays only for the real root.
func (h host) tooOld() *fail.Error {
	major, minor, ok := version(h.release)
	if !ok || major > 5 || major == 5 && minor >= 11 {
		return nil
	}
	return &fail.Error{
		Op: "mount(2)", On: "overlay", Err: unix.EPERM,
		Why: "Linux " + h.release + " allows overlayfs to real root only; user namespaces may mount it since 5.11",
		Try: "Linux 5.11 or later",
	}
}

// restricted reports AppArmor's rule for user namespaces of unconfined
// programs: they are made, but without capabilities.
func (h host) restricted() *fail.Error {
	const knob = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
	b, err := h.read(knob)
	if err != nil || strings.TrimSpace(string(b)) != "1" {
		return nil
	}
	return &fail.Error{
		Why: knob + " is 1: AppArmor takes the capabilities from user namespaces of programs without a profile",
		Try: "as root: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for moss with the rule userns",
	}
}

// unfit reports a file system that cannot hold an upper directory (kernel
// overlayfs.rst, "Upper and Lower": it must take xattrs and give d_type in
// readdir; NFS does not).
func (h host) unfit(upper string) *fail.Error {
	magic, err := h.statfs(upper)
	if err != nil {
		return nil
	}
	name := ""
	switch uint32(magic) {
	case unix.NFS_SUPER_MAGIC:
		name = "NFS"
	case unix.OVERLAYFS_SUPER_MAGIC:
		name = "itself an overlay"
	case unix.FUSE_SUPER_MAGIC:
		name = "FUSE"
	case unix.SMB_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC:
		name = "SMB"
	case unix.V9FS_MAGIC:
		name = "9p"
	case unix.MSDOS_SUPER_MAGIC:
		name = "FAT"
	case unix.EXFAT_SUPER_MAGIC:
		name = "exFAT"
	case unix.ECRYPTFS_SUPER_MAGIC:
		name = "eCryptfs"
	case unix.TMPFS_MAGIC:
		if major, minor, ok := version(h.release); ok && (major < 6 || major == 6 && minor < 6) {
			name = "tmpfs, which takes user xattrs since Linux 6.6, and this is " + h.release
		}
	}
	if name == "" {
		return nil
	}
	return &fail.Error{
		Why: "the file system of " + upper + " is " + name + ": overlayfs does not write to it",
		Try: "--root on a local ext4, xfs or btrfs, such as a directory under /var/tmp",
	}
}

// placed reports directories that may not stand together.
func (h host) placed(err error, lower []string, upper, work string) *fail.Error {
	var u, w unix.Stat_t
	if h.stat(upper, &u) == nil && h.stat(work, &w) == nil && u.Dev != w.Dev {
		return &fail.Error{Why: upper + " and " + work + " are on two file systems; overlayfs moves files from the second to the first"}
	}
	if within(work, upper) || within(upper, work) {
		return &fail.Error{Why: "upper and work directory contain one another: " + upper + ", " + work}
	}
	for _, l := range lower {
		if within(l, upper) || within(upper, l) || within(l, work) || within(work, l) {
			return &fail.Error{Why: "the layer " + l + " and the upper directory " + upper + " overlap"}
		}
	}
	if errors.Is(err, unix.ELOOP) {
		seen := make(map[string]bool)
		for _, l := range lower {
			if l = filepath.Clean(l); seen[l] {
				return &fail.Error{Why: "the layer " + l + " is listed twice, which the kernel calls a loop"}
			}
			seen[l] = true
		}
	}
	if errors.Is(err, unix.EBUSY) {
		return &fail.Error{Why: upper + " or " + work + " is in use by another overlay mount"}
	}
	if errors.Is(err, unix.ESTALE) {
		return &fail.Error{
			Why: upper + " was written over other layers than these, and remembers it",
			Try: "create the container anew",
		}
	}
	return &fail.Error{}
}

// within reports whether inner is outer or lies in it.
func within(inner, outer string) bool {
	inner, outer = filepath.Clean(inner), filepath.Clean(outer)
	return inner == outer || strings.HasPrefix(inner, strings.TrimSuffix(outer, "/")+"/")
}

// version reads "6.1.0-18-amd64".
func version(release string) (major, minor int, ok bool) {
	a, rest, _ := strings.Cut(release, ".")
	end := 0
	for end < len(rest) && rest[end] >= '0' && rest[end] <= '9' {
		end++
	}
	major, err1 := strconv.Atoi(a)
	minor, err2 := strconv.Atoi(rest[:end])
	return major, minor, err1 == nil && err2 == nil
}

// explainUnpack adds what can be found out about a failure of Unpack.
func explainUnpack(err error, dir string) error {
	var e *fail.Error
	if !errors.As(err, &e) || e.Why != "" {
		return err
	}
	switch {
	case errors.Is(err, unix.ENOSPC):
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) != nil {
			break
		}
		switch {
		case st.Files > 0 && st.Ffree == 0:
			e.Why = "the file system of " + dir + " has no inodes left (df -i)"
		case st.Bavail*uint64(st.Bsize) < 1<<20:
			e.Why = "the file system of " + dir + " is full"
		}
		if e.Why != "" {
			e.Try = "moss rmi an image that is not needed, or --root on a larger file system"
		}
	case errors.Is(err, unix.EDQUOT):
		e.Why = "the disk quota of uid " + strconv.Itoa(os.Getuid()) + " is used up"
		e.Try = "moss rmi an image that is not needed, or --root elsewhere"
	case errors.Is(err, unix.EROFS):
		e.Why = "the file system of " + dir + " is mounted read-only"
		e.Try = "--root on a file system that can be written"
	case errors.Is(err, unix.EMFILE):
		var lim unix.Rlimit
		if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) == nil {
			e.Why = fmt.Sprintf("this process may have %d files open", lim.Cur)
			e.Try = "ulimit -n 4096"
		}
	}
	return err
}
