package overlay

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"moss/fail"
	"moss/internal/testimage"
)

// arena is a directory to unpack into, with canaries around it that nothing
// may touch, and a symlink-friendly secret outside.
type arena struct {
	t    testing.TB
	base string
	dir  string // base/tree
}

func newArena(t testing.TB) *arena {
	t.Helper()
	base := t.TempDir()
	t.Cleanup(func() { openUp(base) })
	a := &arena{t: t, base: base, dir: filepath.Join(base, "tree")}
	for _, dir := range []string{a.dir, base + "/outside", base + "/etc"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"outside/secret", "etc/passwd", "canary", "x"} {
		if err := os.WriteFile(filepath.Join(base, file), []byte("untouched\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		when := time.Unix(1500000000, 0)
		os.Chtimes(filepath.Join(base, file), when, when)
	}
	return a
}

// around describes everything in base but the tree.
func (a *arena) around() string {
	var out []string
	err := filepath.WalkDir(a.base, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if p == a.dir {
			return filepath.SkipDir
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		out = append(out, fmt.Sprint(p, st.Ino, st.Mode, st.Nlink, st.Uid, st.Gid, st.Size, st.Mtim, st.Ctim))
		return nil
	})
	if err != nil {
		a.t.Fatal(err)
	}
	return strings.Join(out, "\n")
}

// unpack unpacks layer and checks that nothing around the tree changed.
func (a *arena) unpack(layer []byte, o UnpackOptions) ([]Fixup, error) {
	a.t.Helper()
	before := a.around()
	fixups, err := Unpack(context.Background(), bytes.NewReader(layer), a.dir, o)
	if after := a.around(); before != after {
		a.t.Fatalf("touched something outside the tree:\n%s\n---\n%s", before, after)
	}
	return fixups, err
}

// list shows a tree, one "path type mode [-> target] [= content]" per line.
func (a *arena) list() []string {
	a.t.Helper()
	var out []string
	err := filepath.WalkDir(a.dir, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(a.dir, p)
		if rel == "." {
			if isOpaque(p) {
				out = append(out, ". opaque")
			}
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		switch {
		case isWhiteoutDevice(&st):
			out = append(out, rel+" gone")
		case d.IsDir():
			line := fmt.Sprintf("%s dir %o", rel, st.Mode&0o7777)
			if isOpaque(p) {
				line += " opaque"
			}
			out = append(out, line)
		case d.Type() == os.ModeSymlink:
			target, _ := os.Readlink(p)
			out = append(out, rel+" -> "+target)
		case d.Type().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			out = append(out, fmt.Sprintf("%s file %o = %s", rel, st.Mode&0o7777, b))
		default:
			out = append(out, rel+" "+d.Type().String())
		}
		return nil
	})
	if err != nil {
		a.t.Fatal(err)
	}
	sort.Strings(out)
	return out
}

func TestUnpack(t *testing.T) {
	type b = testimage.Builder
	reg := func(name, body string) func(*b) { return func(l *b) { l.File(name, 0o644, body) } }
	dir := func(name string) func(*b) { return func(l *b) { l.Dir(name, 0o755) } }
	sym := func(name, target string) func(*b) { return func(l *b) { l.Symlink(name, target) } }
	link := func(name, target string) func(*b) { return func(l *b) { l.Link(name, target) } }
	gone := func(name string) func(*b) { return func(l *b) { l.Whiteout(name) } }
	opq := func(name string) func(*b) { return func(l *b) { l.Opaque(name) } }
	mode := func(name string, m int64) func(*b) { return func(l *b) { l.File(name, m, "") } }
	dmode := func(name string, m int64) func(*b) { return func(l *b) { l.Dir(name, m) } }
	typ := func(h tar.Header) func(*b) { return func(l *b) { l.Entry(h, "") } }

	tests := []struct {
		name  string
		layer []func(*b)
		want  []string
		err   string
	}{
		// Names.
		{"dotdot", []func(*b){reg("../../x", "in")}, []string{"x file 644 = in"}, ""},
		{"dotdot inside", []func(*b){reg("a/../../../b", "in")}, []string{"b file 644 = in"}, ""},
		{"absolute", []func(*b){reg("/etc/passwd", "in")}, []string{"etc dir 755", "etc/passwd file 644 = in"}, ""},
		{"root", []func(*b){dmode(".", 0o755), dmode("/", 0o755), dmode("..", 0o755)}, nil, ""},
		{"file as root", []func(*b){reg("..", "x"), reg("a", "a")}, []string{"a file 644 = a"}, ""},
		{"implied parents", []func(*b){reg("a/b/c", "x")}, []string{"a dir 755", "a/b dir 755", "a/b/c file 644 = x"}, ""},
		{"name of 256 bytes", []func(*b){reg(strings.Repeat("n", 256), "x")}, nil, "file name too long"},
		{"name of 20 kB", []func(*b){reg(strings.Repeat("n/", 10000)+"n", "x")}, nil, "file name too long"},

		// Symlinks on the way.
		{"below an absolute symlink", []func(*b){sym("a", "/etc"), reg("a/passwd", "in")},
			[]string{"a -> /etc", "etc dir 755", "etc/passwd file 644 = in"}, ""},
		{"below a climbing symlink", []func(*b){sym("a", "../../../outside"), reg("a/secret", "in")},
			[]string{"a -> ../../../outside", "outside dir 755", "outside/secret file 644 = in"}, ""},
		{"below symlinks to symlinks", []func(*b){dir("d"), sym("d/a", "../b"), sym("b", "/c/.."), dir("c"), reg("d/a/f", "in")},
			[]string{"b -> /c/..", "c dir 755", "d dir 755", "d/a -> ../b", "f file 644 = in"}, ""},
		{"below a loop", []func(*b){sym("a", "b"), sym("b", "a"), reg("a/f", "in")}, nil, "too many levels of symbolic links"},
		{"below /proc", []func(*b){sym("a", "/proc/self/cwd"), reg("a/x", "in")},
			[]string{"a -> /proc/self/cwd", "proc dir 755", "proc/self dir 755", "proc/self/cwd dir 755", "proc/self/cwd/x file 644 = in"}, ""},
		{"below a file", []func(*b){reg("a", "x"), reg("a/b", "x")}, nil, "not a directory"},
		{"onto a symlink", []func(*b){sym("a", "/etc/passwd"), reg("a", "in")}, []string{"a file 644 = in"}, ""},
		{"onto a climbing symlink", []func(*b){sym("a", "../x"), reg("a", "in")}, []string{"a file 644 = in"}, ""},
		{"directory onto a symlink", []func(*b){sym("a", "../outside"), dmode("a", 0o700), reg("a/f", "in")},
			[]string{"a dir 700", "a/f file 644 = in"}, ""},
		{"symlink swapped in", []func(*b){dir("a"), reg("a/one", "1"), sym("a", "../outside"), reg("a/two", "2")},
			[]string{"a -> ../outside", "outside dir 755", "outside/two file 644 = 2"}, ""},
		{"symlink swapped twice", []func(*b){dir("d"), sym("a", "d"), reg("a/one", "1"), sym("a", "../outside"), reg("a/two", "2"), dir("a"), reg("a/three", "3")},
			[]string{"a dir 755", "a/three file 644 = 3", "d dir 755", "d/one file 644 = 1", "outside dir 755", "outside/two file 644 = 2"}, ""},
		{"symlink swapped in above", []func(*b){dir("a"), dir("a/b"), reg("a/b/one", "1"), sym("a", "/outside"), reg("a/b/two", "2")},
			[]string{"a -> /outside", "outside dir 755", "outside/b dir 755", "outside/b/two file 644 = 2"}, ""},
		{"empty symlink", []func(*b){sym("a", "")}, nil, "no such file or directory"},

		// Hard links.
		{"link", []func(*b){reg("a", "1"), link("b", "/a"), link("c", "./b")},
			[]string{"a file 644 = 1", "b file 644 = 1", "c file 644 = 1"}, ""},
		{"link to a symlink", []func(*b){sym("a", "../x"), link("b", "a")}, []string{"a -> ../x", "b -> ../x"}, ""},
		{"link out", []func(*b){link("b", "../x")}, nil, "no such file or directory"},
		{"link out by symlink", []func(*b){sym("a", "../outside"), link("b", "a/secret")}, nil, "no such file or directory"},
		{"link out by absolute name", []func(*b){link("b", "/etc/passwd")}, nil, "hard links do not reach"},
		{"link through a symlink", []func(*b){dir("d"), reg("d/f", "1"), sym("a", "/d"), link("b", "a/f")},
			[]string{"a -> /d", "b file 644 = 1", "d dir 755", "d/f file 644 = 1"}, ""},
		{"link to a directory", []func(*b){dir("d"), link("b", "d")}, nil, "is a directory"},
		{"link to the root", []func(*b){link("b", "/")}, nil, "no such file or directory"},
		{"link to itself", []func(*b){reg("a", "1"), link("a", "a")}, []string{"a file 644 = 1"}, ""},
		{"link before its target", []func(*b){link("b", "a"), reg("a", "1")}, nil, "no such entry before the link"},
		{"link over a file", []func(*b){reg("a", "1"), reg("b", "2"), link("b", "a")}, []string{"a file 644 = 1", "b file 644 = 1"}, ""},
		{"link over its target's directory", []func(*b){reg("d/a", "1"), link("d", "d/a")}, nil, "take the place of the directory"},
		{"link to a replaced file", []func(*b){reg("a", "1"), link("b", "a"), reg("a", "2")}, []string{"a file 644 = 2", "b file 644 = 1"}, ""},
		{"link to a whiteout", []func(*b){gone("a"), link("b", "a")}, nil, "no such file or directory"},

		// The same path twice.
		{"file over file", []func(*b){reg("a", "first"), mode("a", 0o600)}, []string{"a file 600 = "}, ""},
		{"file over full directory", []func(*b){reg("a/b/c/d", "1"), reg("a/e", "2"), reg("a", "3")}, []string{"a file 644 = 3"}, ""},
		{"directory over file", []func(*b){reg("a", "1"), dir("a"), reg("a/b", "2")}, []string{"a dir 755", "a/b file 644 = 2"}, ""},
		{"directory over directory", []func(*b){dmode("a", 0o700), reg("a/b", "1"), dmode("a", 0o750)},
			[]string{"a dir 750", "a/b file 644 = 1"}, ""},
		{"directory after its entries", []func(*b){reg("a/b", "1"), dmode("a", 0o711)}, []string{"a dir 711", "a/b file 644 = 1"}, ""},
		{"replaced, then implied", []func(*b){dmode("a", 0o700), reg("a/x", "1"), reg("a", "2"), dir("a"), reg("a/b/c", "3")},
			[]string{"a dir 755", "a/b dir 755", "a/b/c file 644 = 3"}, ""},

		// Whiteouts.
		{"whiteout", []func(*b){gone("a/b")}, []string{"a dir 755", "a/b gone"}, ""},
		{"whiteout twice", []func(*b){gone("a"), gone("a")}, []string{"a gone"}, ""},
		{"whiteout, then file", []func(*b){gone("a"), reg("a", "1")}, []string{"a file 644 = 1"}, ""},
		{"file, then whiteout", []func(*b){reg("a", "1"), gone("a")}, []string{"a file 644 = 1"}, ""},
		{"whiteout, then directory", []func(*b){gone("a"), dir("a")}, []string{"a dir 755 opaque"}, ""},
		{"directory, then whiteout", []func(*b){dir("a"), gone("a")}, []string{"a dir 755 opaque"}, ""},
		{"whiteout, then implied directory", []func(*b){gone("a"), reg("a/b", "1")}, []string{"a dir 755 opaque", "a/b file 644 = 1"}, ""},
		{"whiteout, file, directory", []func(*b){gone("a"), reg("a", "1"), dir("a")}, []string{"a dir 755 opaque"}, ""},
		{"whiteout, then symlink", []func(*b){gone("a"), sym("a", "b")}, []string{"a -> b"}, ""},
		{"whiteout below a symlink", []func(*b){sym("a", "../outside"), gone("a/secret")},
			[]string{"a -> ../outside", "outside dir 755", "outside/secret gone"}, ""},
		{"whiteout of nothing", []func(*b){reg("a/.wh.", "")}, nil, "names no entry"},
		{"whiteout of dot", []func(*b){reg("a/.wh..", "")}, nil, "names no entry"},
		{"whiteout of dotdot", []func(*b){reg("a/.wh...", "")}, nil, "names no entry"},
		{"opaque first", []func(*b){opq("a"), reg("a/b", "1"), dmode("a", 0o700)}, []string{"a dir 700 opaque", "a/b file 644 = 1"}, ""},
		{"opaque last", []func(*b){dmode("a", 0o500), reg("a/b", "1"), opq("a")}, []string{"a dir 500 opaque", "a/b file 644 = 1"}, ""},
		{"opaque root", []func(*b){reg(".wh..wh..opq", ""), reg("a", "1")}, []string{". opaque", "a file 644 = 1"}, ""},
		{"opaque file replaced", []func(*b){opq("a"), reg("a", "1")}, []string{"a file 644 = 1"}, ""},
		{"aufs", []func(*b){dir(".wh..wh.plnk"), reg(".wh..wh.plnk/1.2", "x"), reg("a/.wh..wh.aufs", "x"), reg("b", "1")},
			[]string{"b file 644 = 1"}, ""},
		{"whiteout device", []func(*b){typ(tar.Header{Name: "a", Typeflag: tar.TypeChar})}, []string{"a gone"}, ""},

		// Modes.
		{"special bits", []func(*b){mode("u", 0o4755), mode("g", 0o2711), dmode("t", 0o1777), dmode("s", 0o2770), reg("s/f", "1"), dir("s/d")},
			[]string{"g file 2711 = ", "s dir 2770", "s/d dir 755", "s/f file 644 = 1", "t dir 1777", "u file 4755 = "}, ""},
		{"wide modes", []func(*b){mode("a", 0o666), dmode("d", 0o777), dmode("none/", 0)}, []string{"a file 666 = ", "d dir 777", "none dir 0"}, ""},
		{"read-only directory", []func(*b){dmode("d", 0o500), reg("d/f", "1"), dmode("d/e", 0o500), reg("d/e/g", "2")},
			[]string{"d dir 500", "d/e dir 500", "d/e/g file 644 = 2", "d/f file 644 = 1"}, ""},

		// Kinds.
		{"fifo", []func(*b){typ(tar.Header{Name: "p", Typeflag: tar.TypeFifo, Mode: 0o600})}, []string{"p p---------"}, ""},
		{"devices", []func(*b){typ(tar.Header{Name: "c", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}), typ(tar.Header{Name: "b", Typeflag: tar.TypeBlock, Devmajor: 8})}, nil, ""},
		{"global header", []func(*b){func(l *b) {
			l.Raw(rawGlobalHeader())
		}, reg("a", "1")}, []string{"a file 644 = 1"}, ""},
		{"unknown kind", []func(*b){typ(tar.Header{Name: "a", Typeflag: 'Z'})}, nil, "unknown"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := testimage.NewBuilder()
			for _, add := range test.layer {
				add(l)
			}
			a := newArena(t)
			_, err := a.unpack(l.Tar(), UnpackOptions{})
			if test.err != "" {
				text := ""
				if err != nil {
					var why *fail.Error
					if text = err.Error(); errors.As(err, &why) {
						text += ": " + why.Why
					}
				}
				if !strings.Contains(text, test.err) {
					t.Fatalf("error %q, want one with %q", text, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if os.Getuid() != 0 {
				got := a.list0()
				if want := strings.Join(test.want, "\n"); got != want {
					t.Errorf("got\n%s\nwant\n%s", got, want)
				}
				return
			}
			if got, want := strings.Join(a.list(), "\n"), strings.Join(test.want, "\n"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// list0 is list for an ordinary user, to whom a directory of mode 0 is closed:
// its mode is read, then it is opened.
func (a *arena) list0() string {
	modes := make(map[string]uint32)
	filepath.WalkDir(a.dir, func(p string, d os.DirEntry, err error) error {
		var st unix.Stat_t
		if d != nil && d.IsDir() && p != a.dir && modes[p] == 0 && unix.Lstat(p, &st) == nil && st.Mode&0o500 != 0o500 {
			modes[p] = st.Mode & 0o7777
			os.Chmod(p, os.FileMode(st.Mode&0o777|0o500))
		}
		return nil
	})
	lines := a.list()
	for i, line := range lines {
		path, rest, _ := strings.Cut(line, " dir ")
		if m, ok := modes[filepath.Join(a.dir, path)]; ok {
			_, tail, _ := strings.Cut(rest, " ")
			lines[i] = strings.TrimSuffix(fmt.Sprintf("%s dir %o %s", path, m, tail), " ")
		}
	}
	return strings.Join(lines, "\n")
}

// rawGlobalHeader is a pax global header as git archive writes it.
func rawGlobalHeader() []byte {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	tw.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header",
		PAXRecords: map[string]string{"comment": "0123456789abcdef", "path": "evil"}})
	tw.Flush()
	return b.Bytes()
}

func TestUnpackFixups(t *testing.T) {
	caps := testimage.NetBindService()
	layer := testimage.NewBuilder().
		File("root", 0o644, "").
		Owned("user", 0o4755, 1000, 1001, "x").
		Link("user-too", "user").
		Owned("replaced", 0o644, 5, 5, "").
		File("replaced", 0o644, "").
		Owned("dir/gone", 0o644, 5, 5, "").
		File("dir", 0o644, "").
		Symlink("link", "dir").
		Owned("link2/below", 0o644, 6, 7, "").
		Entry(tar.Header{Name: "caps", Typeflag: tar.TypeReg, Mode: 0o755, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": caps}}, "x").
		Entry(tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 3, Gid: 4}, "").
		Tar()
	a := newArena(t)
	fixups, err := a.unpack(layer, UnpackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range fixups {
		got = append(got, fmt.Sprintf("%s %d:%d %o %x", f.Path, f.UID, f.GID, f.Mode, f.Caps))
	}
	sort.Strings(got)
	want := []string{
		". 3:4 750 ",
		fmt.Sprintf("caps 0:0 755 %x", caps),
		"link2/below 6:7 644 ",
		"user 1000:1001 4755 ",
		"user-too 1000:1001 4755 ",
	}
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("got\n%s\nwant\n%s", g, w)
	}
	b := newArena(t)
	all, err := b.unpack(layer, UnpackOptions{AllOwners: true})
	if st, err := os.Lstat(b.dir + "/user"); err != nil || st.Mode()&os.ModeSetuid != 0 {
		t.Errorf("AllOwners: setuid before its owner is right: %v, %v", st.Mode(), err)
	}
	if err != nil || len(all) != 9 {
		t.Errorf("AllOwners: %d fixups, %v; want 9", len(all), err)
	}
}

func TestUnpackTimes(t *testing.T) {
	when := time.Unix(1234567890, 123456789)
	layer := testimage.NewBuilder().
		Entry(tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o555, ModTime: when}, "").
		Entry(tar.Header{Name: "d/f", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: when}, "body").
		Entry(tar.Header{Name: "d/l", Typeflag: tar.TypeSymlink, Linkname: "f", ModTime: when}, "").
		Entry(tar.Header{Name: "d/p", Typeflag: tar.TypeFifo, ModTime: when, AccessTime: time.Unix(7, 0)}, "").
		Entry(tar.Header{Name: "old", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Unix(-1000, 5)}, "").
		Tar()
	a := newArena(t)
	if _, err := a.unpack(layer, UnpackOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]time.Time{"d": when, "d/f": when, "d/l": when, "d/p": when, "old": time.Unix(-1000, 5)} {
		st, err := os.Lstat(filepath.Join(a.dir, name))
		if err != nil || !st.ModTime().Equal(want) {
			t.Errorf("%s: %v, %v; want %v", name, st.ModTime(), err, want)
		}
	}
	os.Chmod(a.dir+"/d", 0o755)
}

func TestUnpackXattrs(t *testing.T) {
	layer := testimage.NewBuilder().
		Entry(tar.Header{Name: "f", Typeflag: tar.TypeReg, Mode: 0o444, PAXRecords: map[string]string{
			"SCHILY.xattr.user.note":                "value",
			"SCHILY.xattr.user.overlay.redirect":    "/etc",
			"SCHILY.xattr.security.selinux":         "label",
			"SCHILY.xattr.trusted.overlay.whiteout": "y",
		}}, "").
		Entry(tar.Header{Name: "g", Typeflag: tar.TypeReg, Mode: 0o444, PAXRecords: map[string]string{"SCHILY.xattr.security.selinux": "label"}}, "").
		Entry(tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o555, PAXRecords: map[string]string{
			"SCHILY.xattr.user.note":           "dir",
			"SCHILY.xattr.user.overlay.opaque": "y",
		}}, "").
		Entry(tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "f", PAXRecords: map[string]string{"SCHILY.xattr.user.note": "on f?"}}, "").
		Tar()
	a := newArena(t)
	var notes []string
	if _, err := a.unpack(layer, UnpackOptions{Note: func(s string) { notes = append(notes, s) }}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"f": "value", "d": "dir"} {
		value := make([]byte, 100)
		n, err := unix.Lgetxattr(filepath.Join(a.dir, name), "user.note", value)
		if err == unix.EOPNOTSUPP {
			t.Skip("this file system has no user xattrs")
		}
		if err != nil || string(value[:n]) != want {
			t.Errorf("%s: %q, %v; want %q", name, value[:max(n, 0)], err, want)
		}
		list := make([]byte, 1000)
		n, _ = unix.Llistxattr(filepath.Join(a.dir, name), list)
		if strings.Contains(string(list[:n]), "overlay") {
			t.Errorf("%s has %q", name, list[:n])
		}
	}
	want := []string{
		"user xattrs on symlinks left out: l",
		"xattr security.selinux left out: f and 1 more (the kernel keeps it from ordinary users)",
		"xattr trusted.overlay.whiteout left out: f (overlayfs would take it for its own)",
		"xattr user.overlay.opaque left out: d (overlayfs",
		"xattr user.overlay.redirect left out: f (overlayfs",
	}
	if len(notes) != len(want) {
		t.Fatalf("notes:\n%s", strings.Join(notes, "\n"))
	}
	for i := range want {
		if !strings.HasPrefix(notes[i], want[i]) {
			t.Errorf("note %q, want %q…", notes[i], want[i])
		}
	}
}

func TestUnpackSparse(t *testing.T) {
	for _, format := range []string{"gnu", "0.1", "1.0"} {
		layer := testimage.NewBuilder().
			Raw(testimage.Sparse(format, "big", 64<<20, testimage.Segment{Off: 1 << 20, Data: "one"}, testimage.Segment{Off: 33<<20 + 5, Data: "two"})).
			Raw(testimage.Sparse(format, "small", 5000, testimage.Segment{Off: 4990, Data: "end"})).
			File("after", 0o644, "next").Tar()
		a := newArena(t)
		if _, err := a.unpack(layer, UnpackOptions{}); err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		b, err := os.ReadFile(a.dir + "/big")
		if err != nil || len(b) != 64<<20 || string(b[1<<20:1<<20+3]) != "one" || string(b[33<<20+5:33<<20+8]) != "two" {
			t.Errorf("%s: big is wrong: %d bytes, %v", format, len(b), err)
		}
		if n := len(b) - bytes.Count(b, []byte{0}); n != 6 {
			t.Errorf("%s: %d bytes are no hole", format, n)
		}
		var st unix.Stat_t
		if unix.Lstat(a.dir+"/big", &st) == nil && st.Blocks*512 > 1<<20 {
			t.Errorf("%s: takes %d bytes on disk", format, st.Blocks*512)
		}
		if b, _ := os.ReadFile(a.dir + "/small"); len(b) != 5000 || string(b[4990:4993]) != "end" {
			t.Errorf("%s: small is wrong", format)
		}
		if b, _ := os.ReadFile(a.dir + "/after"); string(b) != "next" {
			t.Errorf("%s: the entry after is %q", format, b)
		}
	}
}

// Deeper than PATH_MAX reaches, and then replaced by a file.
func TestUnpackDeep(t *testing.T) {
	deep := strings.Repeat("0123456789abcdef/", 700)
	layer := testimage.NewBuilder().
		File("deep/"+deep+"leaf", 0o644, "leaf").
		Link("deep/"+deep+"same", "deep/"+deep+"leaf").
		Dir("deep/"+strings.TrimSuffix(deep, "/"), 0o700)
	a := newArena(t)
	if _, err := a.unpack(layer.Tar(), UnpackOptions{}); err != nil {
		t.Fatal(err)
	}
	d, err := openDirs(a.dir)
	if err != nil {
		t.Fatal(err)
	}
	n, err := d.get("deep/" + strings.TrimSuffix(deep, "/"))
	var st unix.Stat_t
	if err == nil {
		err = unix.Fstatat(n.fd, "same", &st, 0)
	}
	d.close()
	if err != nil || st.Nlink != 2 || st.Size != 4 {
		t.Errorf("leaf: %v, %+v", err, st)
	}
	b := newArena(t)
	replaced := testimage.NewBuilder().
		Owned("deep/"+deep+"leaf", 0o644, 1, 1, "leaf").
		File("deep/"+deep+"other/leaf", 0o644, "leaf").
		File("deep", 0o644, "flat").Tar()
	fixups, err := b.unpack(replaced, UnpackOptions{})
	if err != nil || len(fixups) != 0 {
		t.Fatal(fixups, err)
	}
	if got := b.list(); len(got) != 1 || got[0] != "deep file 644 = flat" {
		t.Errorf("%q", got)
	}
}

func TestUnpackBroken(t *testing.T) {
	good := testimage.NewBuilder().File("a", 0o644, strings.Repeat("x", 10000)).File("b", 0o644, strings.Repeat("y", 1<<20)).Tar()
	for _, cut := range []int{1, 511, 513, 5000, 11000, 12000, 300000, 1 << 20} {
		if _, err := newArena(t).unpack(good[:cut], UnpackOptions{}); err == nil {
			t.Errorf("cut after %d bytes: no error", cut)
		}
	}
	bad := bytes.Clone(good)
	bad[300]++
	if _, err := newArena(t).unpack(bad, UnpackOptions{}); !errors.Is(err, tar.ErrHeader) {
		t.Errorf("damaged header: %v", err)
	}
	if _, err := newArena(t).unpack([]byte(strings.Repeat("no tar ", 1000)), UnpackOptions{}); !errors.Is(err, tar.ErrHeader) {
		t.Errorf("no tar: %v", err)
	}
	if _, err := newArena(t).unpack(nil, UnpackOptions{}); err != nil {
		t.Errorf("empty layer: %v", err)
	}
	// An error that the reader has only at its end is Unpack's.
	end := errors.New("digest mismatch")
	_, err := Unpack(context.Background(), io.MultiReader(bytes.NewReader(good), errReader{end}), newArena(t).dir, UnpackOptions{})
	if !errors.Is(err, end) {
		t.Errorf("error at the end: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Unpack(ctx, bytes.NewReader(good), newArena(t).dir, UnpackOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestUnpackMaxBytes(t *testing.T) {
	layer := testimage.NewBuilder().File("a", 0o644, strings.Repeat("x", 5000)).Tar()
	exact := int64(len(layer))
	if _, err := newArena(t).unpack(layer, UnpackOptions{MaxBytes: exact}); err != nil {
		t.Errorf("exactly as large: %v", err)
	}
	for name, l := range map[string][]byte{
		"one byte more":   append(bytes.Clone(layer), 0),
		"padding no end":  append(bytes.Clone(layer), make([]byte, 1<<20)...),
		"a lying header":  testimage.Sparse("gnu", "huge", 1<<32, testimage.Segment{}),
		"many small ones": testimage.NewBuilder().File("a", 0o644, strings.Repeat("x", 4000)).File("b", 0o644, strings.Repeat("x", 4000)).Tar(),
	} {
		_, err := newArena(t).unpack(l, UnpackOptions{MaxBytes: exact})
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
		var e *fail.Error
		if !errors.As(err, &e) || !strings.Contains(e.Why, fmt.Sprint(exact)) {
			t.Errorf("%s: the error does not say the bound: %+v", name, e)
		}
	}
}

// The same plain content, unpacked by GNU tar.
func TestUnpackAsTarDoes(t *testing.T) {
	if out, err := exec.Command("tar", "--version").Output(); err != nil || !bytes.Contains(out, []byte("GNU tar")) {
		t.Skip("no GNU tar here")
	}
	// A directory's entries stand together, as tar(1) itself writes them: it
	// gives a directory its time when it meets an entry of another one.
	b := testimage.NewBuilder().Dir("d", 0o2750)
	for i := range 100 {
		b.File(fmt.Sprintf("d/file%d", i), int64(0o400+i%0o400), strings.Repeat(fmt.Sprint(i), i*i))
	}
	b.File("d/setuid", 0o6755, "x").Dir("links", 0o755)
	for i := range 100 {
		b.Link(fmt.Sprintf("links/link%d", i), fmt.Sprintf("d/file%d", i))
	}
	b.Dir("symlinks", 0o1777)
	for i := range 100 {
		b.Symlink(fmt.Sprintf("symlinks/sym%d", i), fmt.Sprintf("../d/file%d", i))
	}
	b.Raw(testimage.Sparse("1.0", "sparse", 1<<20, testimage.Segment{Off: 5000, Data: "x"})).
		Entry(tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o640}, "")
	layer := b.Tar()
	ours, theirs := newArena(t), newArena(t)
	if _, err := ours.unpack(layer, UnpackOptions{}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("tar", "-xp", "--no-same-owner", "-C", theirs.dir)
	cmd.Stdin = bytes.NewReader(layer)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	want, err := testimage.List(theirs.dir)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, want, ours.dir)
}

// Nothing in a tar, well-formed or not, may touch anything but the tree.
//
//	go test -run=- -fuzz='FuzzUnpack$' -fuzzminimizetime=10x ./overlay
//
// Without the bound on minimizing, go test spends its first minutes on that.
func FuzzUnpack(f *testing.F) {
	// On a memory file system when there is one: thousands of trees come and go.
	if st, err := os.Stat("/dev/shm"); err == nil && st.IsDir() && os.Getenv("TMPDIR") == "" {
		f.Setenv("TMPDIR", "/dev/shm")
	}
	for _, layer := range testimage.Hazards() {
		if len(layer) < 100<<10 { // mutating megabytes is slow and finds little
			f.Add(layer)
		}
	}
	f.Add(testimage.NewBuilder().Symlink("a", "../outside").File("a/secret", 0o644, "x").Link("b", "a/secret").Whiteout("a/x").Opaque("a").Tar())
	f.Add(testimage.NewBuilder().Symlink("a", "/").File("a/../../x", 0o644, "x").Dir("a", 0).Symlink("a", "b").Symlink("b", "..").File("a/b", 0o777, "").Tar())
	f.Add(testimage.NewBuilder().File("a/b", 0o644, "1").Symlink("a", "../etc").File("a/passwd", 0o644, "2").Tar())
	f.Fuzz(func(t *testing.T, layer []byte) {
		a := newArena(t)
		fixups, err := a.unpack(layer, UnpackOptions{MaxBytes: 1 << 20})
		if err != nil {
			return
		}
		// What Unpack returns must be there for Apply, by names without symlinks.
		d, err := openDirs(a.dir)
		if err != nil {
			t.Fatal(err)
		}
		defer d.close()
		openUp(a.dir)
		for _, fix := range fixups {
			above, name := split(fix.Path)
			if above == "." {
				above = ""
			}
			n, err := d.get(above)
			if err != nil {
				t.Fatalf("fixup %q: %v", fix.Path, err)
			}
			var st unix.Stat_t
			if err := unix.Fstatat(n.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || n.path != above {
				t.Fatalf("fixup %q: %v, resolved %q", fix.Path, err, n.path)
			}
		}
		v := View{a.dir}
		v.ReadDir("/")
		v.ReadFile("/etc/passwd", 1000)
	})
}

// FuzzUnpackEntries is FuzzUnpack with the tar's form left alone: each three
// bytes are an entry, its name and its target, out of names made to collide.
func FuzzUnpackEntries(f *testing.F) {
	if st, err := os.Stat("/dev/shm"); err == nil && st.IsDir() && os.Getenv("TMPDIR") == "" {
		f.Setenv("TMPDIR", "/dev/shm")
	}
	names := []string{"a", "b", "a/b", "a/b/c", "b/a", "a/../b", "..", "../x", "/.", ".", "../outside", "../outside/secret", "/etc", "/etc/passwd",
		"a/passwd", "a/secret", "a/x", "b/x", "b/../../x", "a/./b", "/a/b/../c", "c", "c/a", "../tree/a"}
	f.Add([]byte{2, 0, 10, 0, 15, 0, 3, 1, 15, 4, 0, 0, 5, 0, 0})
	f.Add([]byte{2, 0, 12, 1, 14, 0, 2, 0, 9, 0, 14, 0, 5, 1, 1})
	f.Fuzz(func(t *testing.T, ops []byte) {
		l := testimage.NewBuilder()
		for ; len(ops) >= 3; ops = ops[3:] {
			name, target := names[int(ops[1])%len(names)], names[int(ops[2])%len(names)]
			switch ops[0] % 8 {
			case 0:
				l.Owned(name, 0o6755, 1, 1, "new")
			case 1:
				l.Entry(tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: int64(ops[2]) << 1, Uid: int(ops[2] % 2)}, "")
			case 2:
				l.Symlink(name, target)
			case 3:
				l.Link(name, target)
			case 4:
				l.Whiteout(name)
			case 5:
				l.Opaque(name)
			case 6:
				l.Entry(tar.Header{Name: name, Typeflag: tar.TypeFifo, Mode: 0o666}, "")
			case 7:
				l.Entry(tar.Header{Name: name, Typeflag: tar.TypeChar, Devmajor: int64(ops[2] % 2)}, "")
			}
		}
		a := newArena(t)
		fixups, err := a.unpack(l.Tar(), UnpackOptions{})
		if err != nil {
			return
		}
		openUp(a.dir)
		for _, fix := range fixups {
			// Reached without following anything.
			if _, err := os.Lstat(filepath.Join(a.dir, fix.Path)); err != nil {
				t.Fatalf("fixup %q: %v", fix.Path, err)
			}
			if real, err := filepath.EvalSymlinks(filepath.Join(a.dir, filepath.Dir(fix.Path))); err != nil || real != filepath.Join(a.dir, filepath.Dir(fix.Path)) {
				t.Fatalf("fixup %q is below a symlink: %q, %v", fix.Path, real, err)
			}
		}
		// No name of removeTree's is left.
		for _, line := range a.list() {
			if strings.HasPrefix(line, metaPrefix) {
				t.Fatalf("left behind: %s", line)
			}
		}
		View{a.dir}.ReadDir("/")
	})
}

// The umask, a setgid parent and a default ACL are the host's business, not the
// image's.
func TestUnpackHostDefaults(t *testing.T) {
	old := unix.Umask(0o277)
	defer unix.Umask(old)
	layer := testimage.NewBuilder().
		Dir("d", 0o777).Dir("d/e", 0o2755).File("d/e/f", 0o666, "x").File("implied/f", 0o4755, "x").
		Entry(tar.Header{Name: "p", Typeflag: tar.TypeFifo, Mode: 0o666}, "").Tar()
	a := func() *arena {
		defer unix.Umask(unix.Umask(0o022))
		a := newArena(t)
		os.Chmod(a.dir, 0o755|os.ModeSetgid)
		return a
	}()
	if _, err := a.unpack(layer, UnpackOptions{}); err != nil {
		t.Fatal(err)
	}
	want := "d dir 777\nd/e dir 2755\nd/e/f file 666 = x\nimplied dir 755\nimplied/f file 4755 = x\np p---------"
	if got := strings.Join(a.list(), "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	var st unix.Stat_t
	if unix.Lstat(a.dir+"/p", &st); st.Mode&0o7777 != 0o666 {
		t.Errorf("the FIFO has mode %o", st.Mode)
	}
}

// Layers unpack beside each other, and each in little memory.
func TestUnpackManyAtOnce(t *testing.T) {
	layer := testimage.NewBuilder()
	for i := range 300 {
		layer.File(fmt.Sprintf("d%d/f%d", i%7, i), 0o644, strings.Repeat("x", i*400))
	}
	layer.File("large", 0o644, strings.Repeat("0123456789", 500000))
	bytesOfLayer := layer.Tar()
	errs := make(chan error)
	for range 6 {
		dir := t.TempDir()
		go func() {
			_, err := Unpack(context.Background(), bytes.NewReader(bytesOfLayer), dir, UnpackOptions{})
			if b, rerr := os.ReadFile(dir + "/large"); err == nil && (rerr != nil || string(b) != strings.Repeat("0123456789", 500000)) {
				err = fmt.Errorf("large is wrong: %d bytes, %v", len(b), rerr)
			}
			errs <- err
		}()
	}
	for range 6 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
