package main

import (
	"archive/tar"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// listing prints trees so that two of them can be compared with diff(1). Link
// counts and inode numbers are left out: an overlay does not keep them once a
// name of a file has been replaced in a higher layer.
type listing struct {
	noOwner bool
	skip    []string
}

type node struct {
	kind     byte // as find -type has it
	mode     uint32
	uid, gid int
	size     int64
	mtime    string
	target   string
	sum      string
	xattrs   map[string]string
}

func (l listing) hides(name string) bool {
	for _, s := range l.skip {
		if s = strings.Trim(s, "/"); name == s || strings.HasPrefix(name, s+"/") {
			return true
		}
	}
	return name == "." // its mode and time are the container's upper directory's
}

func (l listing) print(w io.Writer, name string, n node) {
	fmt.Fprintf(w, "%q %c %04o", name, n.kind, n.mode)
	if !l.noOwner {
		fmt.Fprintf(w, " %d:%d", n.uid, n.gid)
	}
	if n.kind == 'f' {
		fmt.Fprintf(w, " %d %.16s", n.size, n.sum)
	}
	if n.kind == 'l' {
		fmt.Fprintf(w, " -> %q", n.target)
	}
	fmt.Fprint(w, " ", n.mtime)
	for _, k := range slices.Sorted(maps.Keys(n.xattrs)) {
		fmt.Fprintf(w, " %s=%x", k, n.xattrs[k])
	}
	fmt.Fprintln(w)
}

// tree lists what is on disk.
func (l listing) tree(w io.Writer, root string) error {
	return filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, p)
		if l.hides(name) {
			if d.IsDir() && name != "." {
				return fs.SkipDir
			}
			return nil
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(p, &st); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		n := node{mode: st.Mode & 0o7777, uid: int(st.Uid), gid: int(st.Gid), size: st.Size, mtime: fmt.Sprintf("%d.%09d", st.Mtim.Sec, st.Mtim.Nsec)}
		switch st.Mode & syscall.S_IFMT {
		case syscall.S_IFREG:
			n.kind = 'f'
			b, err := readClosed(p, n.mode)
			if err != nil {
				return err
			}
			n.sum = fmt.Sprintf("%x", sha256.Sum256(b))
			n.xattrs, err = xattrs(p)
			if err != nil {
				return err
			}
		case syscall.S_IFDIR:
			n.kind = 'd'
		case syscall.S_IFLNK:
			n.kind = 'l'
			if n.target, err = os.Readlink(p); err != nil {
				return err
			}
		case syscall.S_IFIFO:
			n.kind = 'p'
		default:
			n.kind = '?'
		}
		l.print(w, name, n)
		return nil
	})
}

// readClosed reads a file even when its mode keeps its owner out: outside a
// container, the reference is listed by whoever unpacked it.
func readClosed(p string, mode uint32) ([]byte, error) {
	b, err := os.ReadFile(p)
	if err == nil || mode&0o400 != 0 || os.Chmod(p, 0o400) != nil {
		return b, err
	}
	defer os.Chmod(p, fs.FileMode(mode&0o777))
	return os.ReadFile(p)
}

// xattrs returns the attributes a layer can carry.
func xattrs(p string) (map[string]string, error) {
	buf := make([]byte, 64<<10)
	n, err := syscall.Listxattr(p, buf)
	if err != nil {
		return nil, fmt.Errorf("listxattr(2) %s: %w", p, err)
	}
	var all map[string]string
	for name := range strings.SplitSeq(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		if !strings.HasPrefix(name, "user.") && name != "security.capability" ||
			strings.HasPrefix(name, "user.overlay.") || strings.HasPrefix(name, "user.rootlesscontainers") {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := syscall.Getxattr(p, name, value)
		if err != nil {
			return nil, fmt.Errorf("getxattr(2) %s %s: %w", p, name, err)
		}
		if all == nil {
			all = map[string]string{}
		}
		all[name] = string(value[:n])
	}
	return all, nil
}

// merged lists what the layers make together, by the rules of image-spec
// layer.md alone: no file system is asked.
func (l listing) merged(w io.Writer, layers []layer) error {
	tree := map[string]node{}
	drop := func(name string, itself bool) {
		for p := range tree {
			if p == name && itself || strings.HasPrefix(p, name+"/") {
				delete(tree, p)
			}
		}
	}
	for _, lay := range layers {
		// Whiteouts hide the layers below only, wherever they stand in the tar.
		for _, e := range lay {
			parent, base := path.Split(strings.TrimSuffix(e.Name, "/"))
			if base == ".wh..wh..opq" {
				drop(strings.TrimSuffix(parent, "/"), false)
			} else if hidden, ok := strings.CutPrefix(base, ".wh."); ok {
				drop(parent+hidden, true)
			}
		}
		for _, e := range lay {
			name := path.Clean(e.Name)
			if strings.HasPrefix(path.Base(name), ".wh.") {
				continue
			}
			n := node{mode: uint32(e.Mode), uid: e.Uid, gid: e.Gid, size: e.Size, mtime: fmt.Sprintf("%d.%09d", e.ModTime.Unix(), e.ModTime.Nanosecond())}
			for k, v := range e.PAXRecords {
				n.xattrs = map[string]string{strings.TrimPrefix(k, "SCHILY.xattr."): v}
			}
			switch e.Typeflag {
			case tar.TypeReg:
				n.kind, n.sum = 'f', fmt.Sprintf("%x", sha256.Sum256([]byte(e.body)))
			case tar.TypeDir:
				n.kind = 'd'
			case tar.TypeSymlink:
				n.kind, n.target = 'l', e.Linkname
			case tar.TypeFifo:
				n.kind = 'p'
			case tar.TypeLink:
				target, ok := tree[path.Clean(e.Linkname)]
				if !ok {
					return fmt.Errorf("%s: hard link to %s, which is not there", name, e.Linkname)
				}
				n = target
			default:
				continue // a device node: an ordinary user cannot have it
			}
			if n.kind != 'd' || tree[name].kind != 'd' {
				drop(name, true)
			}
			tree[name] = n
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(tree), walkOrder) {
		if !l.hides(name) {
			l.print(w, name, tree[name])
		}
	}
	return nil
}

// walkOrder is the order of filepath.WalkDir: by component.
func walkOrder(a, b string) int {
	return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
}
