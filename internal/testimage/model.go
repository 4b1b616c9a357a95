package testimage

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"syscall"
)

// Entry is one name of a root file system as a process in it sees it.
type Entry struct {
	Path     string // relative to the root; "." is the root
	Type     byte   // 'f', 'd', 'l' or 'p'
	Mode     uint32 // with setuid, setgid and sticky; 0 for a symlink
	UID, GID int
	MTime    int64  // nanoseconds since 1970; AnyTime for a directory no layer lists
	Content  string // size and digest of a file, target of a symlink
	SameAs   string // the alphabetically first of its hard links, when there are several
	Xattrs   string // of "user.", sorted
}

// AnyTime says that nothing is promised about a time.
const AnyTime = -1 << 63

// String is one line that a diff can show.
func (e Entry) String() string {
	when := "any"
	if e.MTime != AnyTime {
		when = fmt.Sprint(e.MTime)
	}
	return fmt.Sprintf("%q %c %05o %d:%d %s %q same=%q %s", e.Path, e.Type, e.Mode, e.UID, e.GID, when, e.Content, e.SameAs, e.Xattrs)
}

// Diff returns the lines in which two listings differ. The root itself is not
// compared: in a container it is the writable directory on top.
func Diff(want, got []Entry) []string {
	any := make(map[string]bool)
	for _, e := range want {
		if e.MTime == AnyTime {
			any[e.Path] = true
		}
	}
	lines := make(map[string]int)
	for _, e := range want {
		if e.Path != "." {
			lines[e.String()]++
		}
	}
	for _, e := range got {
		if any[e.Path] {
			e.MTime = AnyTime
		}
		if e.Path != "." {
			lines[e.String()]--
		}
	}
	var out []string
	for line, n := range lines {
		switch {
		case n > 0:
			out = append(out, line+" -want")
		case n < 0:
			out = append(out, line+" +got")
		}
	}
	sort.Strings(out)
	return out
}

// inode is what hard links share.
type inode struct{ Entry }

// Expect says what layers, lowest first, come to, without device nodes.
// owner is as for overlay.Apply: where it answers false, the entry is 0:0 and
// has no setuid or setgid.
func Expect(layers [][]byte, owner func(uid, gid int) (int, int, bool)) []Entry {
	tree := map[string]*inode{".": {Entry: Entry{Type: 'd', Mode: 0o755, MTime: AnyTime}}}
	for _, layer := range layers {
		// Whiteouts first: they speak of the layers below.
		each(layer, func(h *tar.Header, _ io.Reader) {
			dir, base := path.Split(path.Clean("/" + h.Name))
			dir = rel(dir)
			switch {
			case base == ".wh..wh..opq":
				removeBelow(tree, dir)
			case strings.HasPrefix(base, ".wh..wh."):
			case strings.HasPrefix(base, ".wh."):
				remove(tree, path.Join(dir, base[4:]))
			case h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0:
				remove(tree, path.Join(dir, base))
			}
		})
		// A symlink on the way is followed only when this very layer brought it:
		// layers unpack apart from each other.
		mine := map[string]*inode{}
		each(layer, func(h *tar.Header, body io.Reader) {
			dir, base := path.Split(path.Clean("/" + h.Name))
			if strings.HasPrefix(base, ".wh.") || h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
				return
			}
			p := path.Join(follow(mine, rel(dir)), base)
			for up := path.Dir(p); up != "."; up = path.Dir(up) {
				if n := tree[up]; n == nil || n.Type != 'd' {
					tree[up] = &inode{Entry: Entry{Type: 'd', Mode: 0o755, MTime: AnyTime}}
				}
			}
			if h.Typeflag == tar.TypeLink {
				target := rel(path.Clean("/" + h.Linkname))
				remove(tree, p)
				tree[p] = tree[path.Join(follow(mine, path.Dir(target)), path.Base(target))]
				mine[p] = tree[p]
				return
			}
			n := &inode{Entry: Entry{Mode: uint32(h.Mode) & 0o7777, MTime: h.ModTime.UnixNano()}}
			var ok bool
			if n.UID, n.GID, ok = owner(h.Uid, h.Gid); !ok {
				n.UID, n.GID = 0, 0
				n.Mode &^= 0o6000
			}
			n.Xattrs = paxXattrs(h)
			switch h.Typeflag {
			case tar.TypeDir:
				n.Type = 'd'
			case tar.TypeSymlink:
				n.Type, n.Mode, n.Content = 'l', 0, h.Linkname
			case tar.TypeFifo:
				n.Type = 'p'
			default:
				n.Type, n.Content = 'f', content(body)
			}
			if old := tree[p]; old == nil || old.Type != 'd' || n.Type != 'd' {
				remove(tree, p)
			}
			tree[p] = n
			mine[p] = n
		})
	}
	paths := map[*inode][]string{}
	for p, n := range tree {
		paths[n] = append(paths[n], p)
	}
	var out []Entry
	for n, names := range paths {
		sort.Strings(names)
		for _, p := range names {
			e := n.Entry
			e.Path = p
			if len(names) > 1 {
				e.SameAs = names[0]
			}
			out = append(out, e)
		}
	}
	sort.Slice(out, func(i, k int) bool { return out[i].Path < out[k].Path })
	return out
}

func each(layer []byte, f func(*tar.Header, io.Reader)) {
	tr := tar.NewReader(bytes.NewReader(layer))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			panic(err)
		}
		f(h, tr)
	}
}

func rel(p string) string {
	if p = strings.Trim(p, "/"); p == "" {
		return "."
	}
	return p
}

// follow replaces symlinks among a path's components; the test image has none
// that need more than one step each.
func follow(tree map[string]*inode, p string) string {
	done := "."
	for _, name := range strings.Split(p, "/") {
		done = path.Join(done, name)
		if n := tree[done]; n != nil && n.Type == 'l' {
			if path.IsAbs(n.Content) {
				done = rel(path.Clean(n.Content))
			} else {
				done = path.Join(path.Dir(done), n.Content)
			}
		}
	}
	return done
}

func remove(tree map[string]*inode, p string) {
	removeBelow(tree, p)
	if p != "." {
		delete(tree, p)
	}
}

func removeBelow(tree map[string]*inode, p string) {
	for q := range tree {
		if q != "." && (p == "." || strings.HasPrefix(q, p+"/")) {
			delete(tree, q)
		}
	}
}

func paxXattrs(h *tar.Header) string {
	var list []string
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if ok && strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.") {
			list = append(list, fmt.Sprintf("%s=%q", name, value))
		}
	}
	sort.Strings(list)
	return strings.Join(list, " ")
}

func content(r io.Reader) string {
	h := sha256.New()
	n, err := io.Copy(h, r)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %x", n, h.Sum(nil)[:8])
}

// List walks a real tree, a mounted one or one that was unpacked, as the
// calling process sees it. Device nodes are left out.
func List(root string) ([]Entry, error) {
	var out []Entry
	inodes := map[[2]uint64][]int{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		name, _ := filepath.Rel(root, p)
		e := Entry{Path: name, Mode: st.Mode & 0o7777, UID: int(st.Uid), GID: int(st.Gid), MTime: st.Mtim.Nano()}
		switch st.Mode & syscall.S_IFMT {
		case syscall.S_IFDIR:
			e.Type = 'd'
		case syscall.S_IFLNK:
			e.Type, e.Mode = 'l', 0
			if e.Content, err = os.Readlink(p); err != nil {
				return err
			}
		case syscall.S_IFIFO:
			e.Type = 'p'
		case syscall.S_IFREG:
			e.Type = 'f'
			f, err := os.Open(p)
			if err != nil {
				return err
			}
			e.Content = content(f)
			f.Close()
		default:
			return nil
		}
		if e.Type == 'f' || e.Type == 'd' {
			e.Xattrs = userXattrs(p)
		}
		if e.Type != 'd' && st.Nlink > 1 {
			key := [2]uint64{uint64(st.Dev), st.Ino}
			inodes[key] = append(inodes[key], len(out))
		}
		out = append(out, e)
		return nil
	})
	for _, same := range inodes {
		if len(same) < 2 {
			continue
		}
		first := out[same[0]].Path
		for _, i := range same {
			first = min(first, out[i].Path)
		}
		for _, i := range same {
			out[i].SameAs = first
		}
	}
	sort.Slice(out, func(i, k int) bool { return out[i].Path < out[k].Path })
	return out, err
}

func userXattrs(p string) string {
	names := make([]byte, 4096)
	n, err := syscall.Listxattr(p, names)
	if err != nil {
		return ""
	}
	var list []string
	for _, name := range strings.Split(strings.TrimRight(string(names[:n]), "\x00"), "\x00") {
		if !strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		value := make([]byte, 4096)
		n, err := syscall.Getxattr(p, name, value)
		if err != nil {
			continue
		}
		list = append(list, fmt.Sprintf("%s=%q", name, value[:n]))
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}
