package overlay

import (
	"archive/tar"
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"moss/fail"
)

// Whiteouts and xattrs: what of a layer overlayfs gives a meaning.
//
// A whiteout speaks about the layers below only, whatever its place in the tar
// (image-spec layer.md, "Whiteouts"). So where a layer both whites a name out
// and brings it, in either order, the new one stays: a file simply, since it
// hides what is below anyway, and a directory with the opaque mark, since it
// would otherwise merge with what the whiteout says is gone.
//
// From this also follows what an image may not bring: xattrs that overlayfs
// reads as its own. An image could whiteout or redirect with them in ways that
// no other runtime would see.

const (
	whiteoutPrefix = ".wh."
	metaPrefix     = ".wh..wh." // AUFS's own: .wh..wh.plnk, .wh..wh.aufs, …
	opaqueName     = ".wh..wh..opq"

	// With the mount option userxattr overlayfs reads these instead of
	// "trusted.overlay." (kernel overlayfs.rst, "User xattr").
	originXattr   = "user.overlay.origin"   // "": was copied up, from nobody knows where
	opaqueXattr   = "user.overlay.opaque"   // "y": hides all below; "x": has whiteouts spelled as xattr
	whiteoutXattr = "user.overlay.whiteout" // on an empty file in an "x" directory, Linux 6.7

	paxXattr  = "SCHILY.xattr." // how a PAX header carries an xattr
	capsXattr = "security.capability"
)

// isMeta reports whether an entry is AUFS's bookkeeping, which docker leaves
// out: any .wh..wh. name but the opaque mark, and what lies below such a one.
func isMeta(above, base string) bool {
	if strings.HasPrefix(base, metaPrefix) && base != opaqueName {
		return true
	}
	return strings.HasPrefix(above, metaPrefix) || strings.Contains(above, "/"+metaPrefix)
}

// whiteoutEntry handles the entry base, which begins with .wh., in parent.
func (u *unpacker) whiteoutEntry(parent *node, base string) error {
	if base == opaqueName {
		return u.setOpaque(parent, ".", parent.path)
	}
	name := base[len(whiteoutPrefix):]
	if name == "" || name == "." || name == ".." {
		return &fail.Error{
			Op: "unpacking", On: show(join(parent.path, base)),
			Err: errors.New("a whiteout that names no entry of its directory"),
		}
	}
	return u.whiteout(parent, name, join(parent.path, name))
}

// whiteout hides p of the layers below.
func (u *unpacker) whiteout(parent *node, name, p string) error {
	u.gone[p] = true
	if err := u.setOrigin(parent); err != nil {
		return err
	}
	err := mknodWhiteout(parent.fd, name)
	if err == nil {
		return nil
	}
	if err == unix.EEXIST {
		var st unix.Stat_t
		if err := unix.Fstatat(parent.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return call("fstatat(2)", p, err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return u.setOpaque(parent, name, p)
		}
		return nil
	}
	if err != unix.EPERM && err != unix.EACCES && err != unix.ENOSYS && err != unix.EOPNOTSUPP {
		return call("mknodat(2)", p, err)
	}
	return u.xattrWhiteout(parent, name, p, err)
}

// setOrigin marks a directory that holds whiteouts. The kernel takes them out of
// a listing where it merges directories; in one that only this layer has, and
// that has no origin, it would list names that do not exist.
func (u *unpacker) setOrigin(dir *node) error {
	if u.origin[dir.path] {
		return nil
	}
	if u.origin == nil {
		u.origin = make(map[string]bool)
	}
	u.origin[dir.path] = true
	if err := setDirXattr(dir.fd, ".", originXattr, nil); err != unix.EOPNOTSUPP {
		return call("fsetxattr(2)", dir.path, err)
	}
	return nil // such a file system cannot keep opaque directories either; the first one says so
}

// mknodWhiteout makes the 0:0 device. A variable, so that a test can stand in
// for a kernel or a seccomp filter that refuses.
var mknodWhiteout = func(dirfd int, name string) error {
	return unix.Mknodat(dirfd, name, unix.S_IFCHR, 0)
}

// xattrWhiteout spells a whiteout the other way the kernel knows, for where
// mknod(2) is refused. Its directory is marked in finishWhiteouts, when it is
// known whether it is opaque: a mark has only one value.
func (u *unpacker) xattrWhiteout(parent *node, name, p string, refused error) error {
	fd, err := unix.Openat(parent.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return call("openat(2)", p, err)
	}
	defer unix.Close(fd)
	if err := unix.Fsetxattr(fd, whiteoutXattr, []byte("y"), 0); err != nil {
		return &fail.Error{Op: "mknodat(2)", On: show(p), Err: refused,
			Why: "and the file system does not take " + whiteoutXattr + " instead: " + err.Error()}
	}
	if u.xgone == nil {
		u.xgone = make(map[string]bool)
	}
	u.xgone[p] = true
	return nil
}

// isWhiteout reports whether what stands at p is a whiteout made above.
func (u *unpacker) isWhiteout(parent *node, name, p string) bool {
	if !u.gone[p] {
		return false
	}
	var st unix.Stat_t
	if unix.Fstatat(parent.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return false
	}
	return isWhiteoutDevice(&st) || u.xgone[p]
}

func isWhiteoutDevice(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// setOpaque marks the directory name in parent.
func (u *unpacker) setOpaque(parent *node, name, p string) error {
	if u.opaque == nil {
		u.opaque = make(map[string]bool)
	}
	u.opaque[p] = true
	return u.mark(parent, name, p, "y")
}

func (u *unpacker) mark(parent *node, name, p, value string) error {
	err := setDirXattr(parent.fd, name, opaqueXattr, []byte(value))
	if err == unix.EOPNOTSUPP {
		return &fail.Error{
			Op: "fsetxattr(2)", On: show(p), Err: err,
			Why: "the file system of " + u.tree + " does not store user xattrs, which overlayfs needs",
			Try: "a --root on ext4, xfs, btrfs, or tmpfs of Linux 6.6",
		}
	}
	return call("fsetxattr(2)", p, err)
}

// finishWhiteouts completes whiteouts spelled as xattrs.
func (u *unpacker) finishWhiteouts() error {
	for p := range u.xgone {
		above, name := split(p)
		parent, err := u.dirs.get(above)
		if err != nil {
			return err
		}
		if u.opaque[parent.path] {
			// All below is hidden already, and "y" takes the place of "x": the
			// file would show.
			if err := unix.Unlinkat(parent.fd, name, 0); err != nil {
				return call("unlinkat(2)", p, err)
			}
			continue
		}
		if err := u.mark(parent, ".", parent.path, "x"); err != nil {
			return err
		}
	}
	return nil
}

type xattr struct {
	name  string
	value []byte
}

// userXattrs returns the entry's xattrs that an ordinary user may set, and
// notes the others.
func (u *unpacker) userXattrs(p string, hdr *tar.Header) []xattr {
	if len(hdr.PAXRecords) == 0 {
		return nil
	}
	var attrs []xattr
	for key, value := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok || name == capsXattr {
			continue
		}
		switch {
		case strings.HasPrefix(name, "user.overlay."), strings.HasPrefix(name, "trusted.overlay."):
			u.note("xattr "+show(name), p, "overlayfs would take it for its own")
		case strings.HasPrefix(name, "user."):
			attrs = append(attrs, xattr{name, []byte(value)})
		default:
			u.note("xattr "+show(name), p, "the kernel keeps it from ordinary users")
		}
	}
	return attrs
}

// noXattrs is userXattrs for what cannot have any (xattr(7), "Extended user
// attributes").
func (u *unpacker) noXattrs(kind, p string, hdr *tar.Header) {
	if len(u.userXattrs(p, hdr)) > 0 {
		u.note("user xattrs on "+kind, p, "the kernel keeps them on regular files and directories only")
	}
}

// dirXattrs sets the xattrs of a directory.
func (u *unpacker) dirXattrs(parent *node, name, p string, hdr *tar.Header) {
	for _, a := range u.userXattrs(p, hdr) {
		u.xattrResult(a.name, p, setDirXattr(parent.fd, name, a.name, a.value))
	}
}

// xattrResult notes an xattr that could not be set: a file without it is worth
// more than no image.
func (u *unpacker) xattrResult(name, p string, err error) {
	if err != nil {
		u.note("xattr "+show(name), p, "fsetxattr(2): "+err.Error())
	}
}

// setDirXattr needs a descriptor opened for reading: O_PATH ones have no
// xattrs to them.
func setDirXattr(parentfd int, name, attr string, value []byte) error {
	fd, err := unix.Openat(parentfd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fsetxattr(fd, attr, value, 0)
}
