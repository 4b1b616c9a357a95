package overlay

import (
	"encoding/binary"
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"moss/fail"
)

// What Unpack could not do as an ordinary user is done here, by one who may:
// the worker inside the user namespace, where container ids are plain ids, or
// real root, who must translate them.

// Apply carries out fixups on the tree dir: owner, then mode, since chown(2)
// clears setuid and setgid, then file capabilities, which chown(2) removes.
// Symlinks are never followed. It may be repeated.
//
// owner translates a container's ids to those Apply is to write: the identity
// inside the user namespace, host ids for real root. Where it answers false,
// the entry keeps the owner it has and is counted in skipped; it loses setuid
// and setgid, which were meant to lend somebody else's rights.
//
// Sources: chown(2), NOTES; capabilities(7), "File capability extended
// attribute versioning".
func Apply(dir string, fixups []Fixup, owner func(uid, gid int) (int, int, bool)) (skipped int, err error) {
	d, err := openDirs(dir)
	if err != nil {
		return 0, err
	}
	defer d.close()
	rootID, _, rootOK := owner(0, 0)
	for _, f := range fixups {
		uid, gid, ok := owner(f.UID, f.GID)
		// -1 means "leave it" to chown(2), and larger ids do not exist.
		const last = 1<<32 - 2
		ok = ok && f.UID >= 0 && f.GID >= 0 && uid >= 0 && gid >= 0 && uid <= last && gid <= last
		caps := f.Caps
		if !rootOK {
			caps = nil
		}
		if caps != nil {
			caps = capsFor(caps, uint32(rootID))
		}
		if !ok || (f.Caps != nil && caps == nil) {
			skipped++
		}
		if err := applyOne(d, f, uid, gid, ok, caps); err != nil {
			return skipped, err
		}
	}
	return skipped, nil
}

func applyOne(d *dirs, f Fixup, uid, gid int, chown bool, caps []byte) error {
	p, err := cleanName(f.Path)
	if err != nil {
		return err
	}
	above, name := split(p)
	parent, err := d.get(above)
	if err != nil {
		return err
	}
	if name == "" {
		name = "."
	}
	fd, err := unix.Openat(parent.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return call("openat(2)", p, err)
	}
	defer unix.Close(fd)
	mode := f.Mode & 0o7777
	if chown {
		if err := unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
			return chownError(p, uid, gid, err)
		}
	} else {
		mode &^= unix.S_ISUID | unix.S_ISGID
	}
	if err := chmodPath(fd, mode); err != nil && err != unix.EOPNOTSUPP { // symlinks have no mode
		return call("fchmodat2(2)", p, err)
	}
	if caps == nil {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return call("fstat(2)", p, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil // only programs can have them, and a device would be opened
	}
	err = unix.Setxattr(procFD(fd), capsXattr, caps, 0)
	if err == unix.EOPNOTSUPP {
		return nil // a file system without xattrs: the program runs with fewer rights
	}
	return call("setxattr(2) "+capsXattr, p, err)
}

// chmodPath sets the mode of what an O_PATH descriptor stands for.
func chmodPath(fd int, mode uint32) error {
	err := unix.Fchmodat(fd, "", mode, unix.AT_EMPTY_PATH) // fchmodat2(2), Linux 6.6
	if err != unix.EOPNOTSUPP {
		return err
	}
	// The magic link leads to the inode itself, so nothing is resolved anew
	// (proc_pid_fd(5)). A symlink's answers EOPNOTSUPP once more.
	return unix.Chmod(procFD(fd), mode)
}

func procFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func chownError(p string, uid, gid int, err error) error {
	e := &fail.Error{Op: "fchownat(2)", On: show(p) + " to " + strconv.Itoa(uid) + ":" + strconv.Itoa(gid), Err: err}
	if errors.Is(err, unix.EINVAL) {
		e.Why = "one of the two ids is not in this user namespace's map"
		e.Try = "a range in /etc/subuid and /etc/subgid that reaches it"
	}
	return e
}

// The value of security.capability, struct vfs_cap_data of linux/capability.h:
// a revision and flags, two pairs of permitted and inheritable bits, and in
// revision 3 the host id of the root it counts for.
const (
	capsRevision  = 0xff000000
	capsRevision2 = 0x02000000
	capsRevision3 = 0x03000000
	capsSize2     = 20
	capsSize3     = 24
)

// capsFor rewrites the image's value for the root whose id is rootID where
// Apply runs, or returns nil when it is not one.
//
// For root itself that is revision 2: in a user namespace the kernel adds the
// namespace's root to it. A revision 3 value in an image names the root of the
// machine it was built on, which means nothing here.
func capsFor(value []byte, rootID uint32) []byte {
	if len(value) < capsSize2 {
		return nil
	}
	magic := binary.LittleEndian.Uint32(value)
	switch {
	case magic&capsRevision == capsRevision2 && len(value) == capsSize2:
	case magic&capsRevision == capsRevision3 && len(value) == capsSize3:
	default:
		return nil
	}
	size, revision := capsSize2, uint32(capsRevision2)
	if rootID != 0 {
		size, revision = capsSize3, capsRevision3
	}
	out := make([]byte, size)
	copy(out, value[:capsSize2])
	binary.LittleEndian.PutUint32(out, magic&^capsRevision|revision)
	if rootID != 0 {
		binary.LittleEndian.PutUint32(out[capsSize2:], rootID)
	}
	return out
}
