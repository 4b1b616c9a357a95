package overlay

import (
	"strings"

	"golang.org/x/sys/unix"
)

// How a name inside a tree becomes a directory descriptor.
//
// The kernel is never given a path, only one component and the descriptor of
// the directory it lies in, with O_NOFOLLOW. A symlink on the way is read and
// walked by us, its ".." stopping at the root and its "/" meaning the root, as
// chroot(2) would have it. So no name can lead out of the tree, none is too
// long for PATH_MAX, and a symlink that replaces a directory between two
// entries is seen when the next one is walked.
//
// openat2(2) with RESOLVE_IN_ROOT would do the same for paths that exist and
// are shorter than 4096 bytes; here directories must also be made on the way,
// and the descriptors are kept because the next entry lies beside this one.

const (
	maxLinks = 40       // symlinks in one walk, path_resolution(7)
	maxPath  = 4 * 4096 // bytes in one name; a limit of ours, see cleanName
	maxOpen  = 64       // directory descriptors kept
)

// node is an open directory.
type node struct {
	fd   int    // O_PATH
	path string // relative to the root, without symlinks; "" is the root
	used uint64 // when last asked for
	pins int    // while positive it stays open
}

// dirs opens directories of one tree and remembers the recent ones. It belongs
// to one goroutine.
type dirs struct {
	root  *node
	open  map[string]*node  // by path without symlinks
	alias map[string]string // path through symlinks → without
	clock uint64

	// missing, when set, makes the directory name in parent that a walk needs
	// and that is not there (exists false) or is no directory (exists true). It
	// returns the error the walk shall end with, or nil to try again.
	missing func(parent *node, name, path string, exists bool) error
}

// openDirs opens the tree dir. dir itself is the caller's and is trusted.
func openDirs(dir string) (*dirs, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, call("open(2)", dir, err)
	}
	return &dirs{
		root:  &node{fd: fd},
		open:  make(map[string]*node, maxOpen),
		alias: make(map[string]string),
	}, nil
}

func (d *dirs) close() {
	d.forget()
	unix.Close(d.root.fd)
}

// get opens the directory path, a result of cleanName, following symlinks
// inside the tree. The node is good until the next get, unless pinned.
func (d *dirs) get(path string) (*node, error) {
	links := 0
	return d.walk(path, &links)
}

func (d *dirs) walk(path string, links *int) (*node, error) {
	d.clock++
	if path == "" {
		return d.root, nil
	}
	if n := d.open[path]; n != nil {
		n.used = d.clock
		return n, nil
	}
	if to, ok := d.alias[path]; ok {
		if to == "" {
			return d.root, nil
		}
		if n := d.open[to]; n != nil {
			n.used = d.clock
			return n, nil
		}
	}
	above, name := split(path)
	parent, err := d.walk(above, links)
	if err != nil {
		return nil, err
	}
	straight := join(parent.path, name)
	if n := d.open[straight]; n != nil {
		d.alias[path] = straight
		n.used = d.clock
		return n, nil
	}
	var n *node
	for tries := 0; ; tries++ {
		fd, err := unix.Openat(parent.fd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == nil {
			n = d.keep(fd, straight)
			break
		}
		if err == unix.ENOTDIR {
			// With O_DIRECTORY and O_NOFOLLOW a symlink is "not a directory" too.
			if target, lerr := readlinkat(parent.fd, name); lerr == nil {
				if n, err = d.follow(parent.path, target, links); err != nil {
					return nil, err
				}
				break
			}
		}
		if (err != unix.ENOENT && err != unix.ENOTDIR) || d.missing == nil || tries > 0 {
			return nil, call("openat(2)", straight, err)
		}
		if err := d.missing(parent, name, straight, err == unix.ENOTDIR); err != nil {
			return nil, err
		}
	}
	if n.path != path {
		d.alias[path] = n.path
	}
	return n, nil
}

// follow walks a symlink's target from the directory base, a path without
// symlinks.
func (d *dirs) follow(base, target string, links *int) (*node, error) {
	if *links++; *links > maxLinks {
		return nil, call("openat(2)", base, unix.ELOOP)
	}
	if strings.HasPrefix(target, "/") {
		base = ""
	}
	n, err := d.walk(base, links)
	for rest := target; err == nil && rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch name {
		case "", ".":
		case "..":
			above, _ := split(n.path)
			n, err = d.walk(above, links)
		default:
			if len(n.path)+len(name) > maxPath {
				return nil, call("openat(2)", base, unix.ENAMETOOLONG)
			}
			n, err = d.walk(join(n.path, name), links)
		}
	}
	return n, err
}

// keep remembers an open directory and closes the one not used for longest
// when there are too many.
func (d *dirs) keep(fd int, path string) *node {
	if len(d.open) >= maxOpen {
		var oldest *node
		for _, n := range d.open {
			if n.pins == 0 && (oldest == nil || n.used < oldest.used) {
				oldest = n
			}
		}
		if oldest != nil {
			unix.Close(oldest.fd)
			delete(d.open, oldest.path)
		}
	}
	if len(d.alias) > 4096 {
		clear(d.alias)
	}
	n := &node{fd: fd, path: path, used: d.clock}
	d.open[path] = n
	return n
}

// forget closes every directory but the root.
func (d *dirs) forget() {
	for _, n := range d.open {
		unix.Close(n.fd)
	}
	clear(d.open)
	clear(d.alias)
}

// forgetBelow is forget for one directory that was removed, and all in it.
// Pinned nodes are never there: an entry does not replace its own parent.
func (d *dirs) forgetBelow(path string) {
	for p, n := range d.open {
		if p == path || strings.HasPrefix(p, path+"/") {
			unix.Close(n.fd)
			delete(d.open, p)
		}
	}
	clear(d.alias)
}

// forgetLinks is forget for when only a symlink is gone: descriptors of
// directories are kept by their real names and stay right.
func (d *dirs) forgetLinks() { clear(d.alias) }

// split cuts path into the directory and the last component.
func split(path string) (dir, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

// join is split's inverse.
func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// readlinkat reads a symlink of any length; EINVAL when name is none.
func readlinkat(dirfd int, name string) (string, error) {
	for size := 256; ; size *= 2 {
		buf := make([]byte, size)
		n, err := unix.Readlinkat(dirfd, name, buf)
		if err != nil {
			return "", err
		}
		if n < size {
			return string(buf[:n]), nil
		}
	}
}
