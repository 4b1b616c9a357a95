package overlay

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// A look at layers as overlayfs would merge them, without a mount.
//
// Before a container exists moss must know what its image has: the user in
// /etc/passwd, whether the program is there, for which machine it is. A lookup
// asks layer after layer, top first, and follows overlayfs's rules (kernel
// overlayfs.rst, "whiteouts and opaque directories"): the first layer that has
// the name decides; a whiteout, an opaque directory, or anything but a
// directory on the way ends the search.
//
// Symlinks count from the merged root and are walked here. The kernel is asked
// to open only paths without any (openat2(2), RESOLVE_NO_SYMLINKS and
// RESOLVE_BENEATH), so a layer that changes while it is looked at, a running
// container's own, cannot lead out either.

// View is unpacked trees, lowest first. It holds nothing open; a tree that is
// not there counts as empty. A root directory's opaque mark is not looked at,
// just as the kernel does not: see Trim.
type View []string

// place is where a lookup ended.
type place struct {
	layer int    // index into the View
	path  string // in that layer and in the merged tree, without symlinks; "" is the root
	st    unix.Stat_t
}

// Open opens a regular file, or one layer's part of a directory, for reading.
// Symlinks are followed inside the merged root.
func (v View) Open(inRoot string) (*os.File, error) {
	at, err := v.resolve(inRoot, true)
	if err == nil {
		if k := at.st.Mode & unix.S_IFMT; k != unix.S_IFREG && k != unix.S_IFDIR {
			err = fmt.Errorf("neither a regular file nor a directory") // a FIFO's open would wait
		}
	}
	var fd int
	if err == nil {
		fd, err = v.openAt(at, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: inRoot, Err: err}
	}
	return os.NewFile(uintptr(fd), inRoot), nil
}

// ReadFile reads a regular file that has at most max bytes.
func (v View) ReadFile(inRoot string, max int64) ([]byte, error) {
	f, err := v.Open(inRoot)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		return nil, &fs.PathError{Op: "read", Path: inRoot, Err: unix.EISDIR}
	}
	// The size may be a lie by the time of reading: read one byte beyond.
	b := make([]byte, 0, min(st.Size(), max)+1)
	for int64(len(b)) <= max {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := f.Read(b[len(b):min(int64(cap(b)), max+1)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, &fs.PathError{Op: "read", Path: inRoot, Err: fmt.Errorf("larger than %d bytes", max)}
}

// Stat describes what inRoot leads to.
func (v View) Stat(inRoot string) (fs.FileInfo, error) { return v.stat(inRoot, true) }

// Lstat describes inRoot, without following it when it is a symlink.
func (v View) Lstat(inRoot string) (fs.FileInfo, error) { return v.stat(inRoot, false) }

func (v View) stat(inRoot string, follow bool) (fs.FileInfo, error) {
	at, err := v.resolve(inRoot, follow)
	if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: inRoot, Err: err}
	}
	fd, err := v.openAt(at, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: inRoot, Err: err}
	}
	f := os.NewFile(uintptr(fd), "/"+at.path)
	defer f.Close()
	return f.Stat()
}

// Readlink returns the target of a symlink, as it is written there.
func (v View) Readlink(inRoot string) (string, error) {
	at, err := v.resolve(inRoot, false)
	if err == nil && at.st.Mode&unix.S_IFMT != unix.S_IFLNK {
		err = unix.EINVAL
	}
	target := ""
	if err == nil {
		target, err = readlinkat(unix.AT_FDCWD, v.hostPath(at))
	}
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: inRoot, Err: err}
	}
	return target, nil
}

// Resolve returns the path inRoot leads to, absolute in the merged root and
// without symlinks.
func (v View) Resolve(inRoot string) (string, error) {
	at, err := v.resolve(inRoot, true)
	if err != nil {
		return "", &fs.PathError{Op: "stat", Path: inRoot, Err: err}
	}
	return "/" + at.path, nil
}

// ReadDir lists a merged directory, sorted by name.
func (v View) ReadDir(inRoot string) ([]fs.FileInfo, error) {
	at, err := v.resolve(inRoot, true)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: inRoot, Err: err}
	}
	if at.st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, &fs.PathError{Op: "readdir", Path: inRoot, Err: unix.ENOTDIR}
	}
	seen := make(map[string]bool)
	var list []fs.FileInfo
	for {
		hidesBelow := v.opaque(at)
		if err := v.addDir(at, seen, &list); err != nil {
			return nil, &fs.PathError{Op: "readdir", Path: inRoot, Err: err}
		}
		if hidesBelow || at.layer == 0 {
			break
		}
		// The same directory further down, when layers below contribute to it.
		next, err := v.lookup(at.path, at.layer-1, len(at.path))
		if err != nil || next.path != at.path {
			break
		}
		at = next
	}
	sort.Slice(list, func(i, k int) bool { return list[i].Name() < list[k].Name() })
	return list, nil
}

// addDir adds the names of one layer's directory that none above has.
func (v View) addDir(at place, seen map[string]bool, list *[]fs.FileInfo) error {
	fd, err := v.openAt(at, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(fd), v.hostPath(at))
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if seen[e.Name()] {
			continue
		}
		seen[e.Name()] = true
		var st unix.Stat_t
		if err := unix.Fstatat(fd, e.Name(), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if isWhiteoutDevice(&st) || isWhiteoutFile(path.Join(v.hostPath(at), e.Name()), &st) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		*list = append(*list, info)
	}
	return nil
}

// Trim returns v without the layers that an opaque root directory above them
// hides. To be called once for an image, before looking or mounting: image-spec
// lets a layer empty the whole tree, but the kernel merges roots whatever their
// marks say.
func (v View) Trim() View {
	for i := len(v) - 1; i > 0; i-- {
		if isOpaque(v[i]) {
			return v[i:]
		}
	}
	return v
}

// resolve walks inRoot from the merged root, following symlinks on the way and,
// if follow is set, at the end.
func (v View) resolve(inRoot string, follow bool) (place, error) {
	if len(v) == 0 {
		return place{}, unix.ENOENT
	}
	done, rest := "", inRoot // done has no symlinks
	for links := 0; ; {
		// Up to the first "..": what stands before it may be a symlink, and
		// then ".." is the parent of where that leads.
		head, tail, up := cutUp(rest)
		want := join(done, path.Clean("/" + head)[1:])
		if path.Clean("/"+head) == "/" {
			want = done
		}
		at, err := v.lookup(want, len(v)-1, -1)
		if err != nil {
			return at, err
		}
		atEnd := at.path == want
		if at.st.Mode&unix.S_IFMT == unix.S_IFLNK && (!atEnd || up || follow || strings.HasSuffix(rest, "/")) {
			if links++; links > maxLinks {
				return at, unix.ELOOP
			}
			target, err := readlinkat(unix.AT_FDCWD, v.hostPath(at))
			if err != nil {
				return at, err
			}
			left := want[len(at.path):]
			if up {
				left += "/../" + tail
			} else if strings.HasSuffix(rest, "/") {
				left += "/"
			}
			done, _ = split(at.path)
			if strings.HasPrefix(target, "/") {
				done = ""
			}
			rest = target + left
			continue
		}
		isDir := at.st.Mode&unix.S_IFMT == unix.S_IFDIR
		if !isDir && (up || strings.HasSuffix(rest, "/")) {
			return at, unix.ENOTDIR
		}
		if !up {
			return at, nil
		}
		done, _ = split(at.path)
		rest = tail
	}
}

// cutUp splits p at its first ".." component.
func cutUp(p string) (head, tail string, up bool) {
	for i := 0; i < len(p); {
		end := strings.IndexByte(p[i:], '/')
		if end < 0 {
			end = len(p)
		} else {
			end += i
		}
		if p[i:end] == ".." {
			return p[:i], strings.TrimLeft(p[end:], "/"), true
		}
		i = end + 1
	}
	return p, "", false
}

// lookup finds p, a clean path, from layer top downwards. It returns the place
// of p, or of the first symlink on the way to it, or ENOENT or ENOTDIR.
//
// covered is how many bytes of p are known to be directories in layers above
// top; -1 when there are none above.
func (v View) lookup(p string, top, covered int) (place, error) {
	var host []byte
	for i := top; i >= 0; i-- {
		at := place{layer: i}
		host = append(host[:0], v[i]...)
		if p == "" {
			at.path = ""
			return at, unix.Lstat(v[i], &at.st)
		}
		// Component by component: the layer may have a symlink or a whiteout
		// where p has a directory.
		more := true
		opaque := false
		for end := 0; more; {
			begin := end
			if next := strings.IndexByte(p[min(begin+1, len(p)):], '/'); next >= 0 {
				end = begin + 1 + next
			} else {
				end, more = len(p), false
			}
			if begin == 0 {
				host = append(host, '/')
			}
			host = append(host, p[begin:end]...)
			err := unix.Lstat(string(host), &at.st)
			if err == unix.ENOENT {
				break // not in this layer
			}
			if err != nil {
				return at, err
			}
			at.path = p[:end]
			kind := at.st.Mode & unix.S_IFMT
			if kind != unix.S_IFDIR {
				switch {
				case isWhiteoutDevice(&at.st), end <= covered, isWhiteoutFile(string(host), &at.st):
					return at, unix.ENOENT // gone, or under a directory of a layer above
				case !more, kind == unix.S_IFLNK:
					return at, nil
				}
				return at, unix.ENOTDIR
			}
			if !more {
				return at, nil
			}
			// Only the parent of what is missing matters, so ask late: after
			// the loop, for each directory passed.
			covered = max(covered, end)
		}
		// The name is not in this layer. An opaque directory on the way hides
		// the layers below.
		for end := len(at.path); end > 0 && !opaque; {
			opaque = isOpaque(string(host[:len(v[i])+1+end]))
			end = max(strings.LastIndexByte(p[:end], '/'), 0)
		}
		if opaque {
			break
		}
	}
	return place{}, unix.ENOENT
}

// opaque reports whether at or a directory above it hides the layers below.
func (v View) opaque(at place) bool {
	host := v.hostPath(at)
	for len(host) > len(v[at.layer]) {
		if isOpaque(host) {
			return true
		}
		host = host[:strings.LastIndexByte(host, '/')]
	}
	return false
}

func (v View) hostPath(at place) string {
	if at.path == "" {
		return v[at.layer]
	}
	return v[at.layer] + "/" + at.path
}

// openAt opens a place, on the way to which there are no symlinks, or were
// none a moment ago.
func (v View) openAt(at place, flags int) (int, error) {
	root, err := unix.Open(v[at.layer], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(root)
	rel := at.path
	if rel == "" {
		rel = "."
	}
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(root, rel, &how)
		if err != unix.EAGAIN && err != unix.EINTR { // EAGAIN: something moved meanwhile, openat2(2)
			return fd, err
		}
	}
}

func isOpaque(host string) bool {
	var value [8]byte
	n, err := unix.Lgetxattr(host, opaqueXattr, value[:])
	return err == nil && n == 1 && value[0] == 'y'
}

// isWhiteoutFile reports whether host is a whiteout spelled as an xattr; the
// stat saves asking for most.
func isWhiteoutFile(host string, st *unix.Stat_t) bool {
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != 0 {
		return false
	}
	_, err := unix.Lgetxattr(host, whiteoutXattr, nil)
	return err == nil
}
