package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"moss/internal/testimage"
)

func viewLayers(t testing.TB) View {
	t.Helper()
	base := testimage.NewBuilder().
		File("etc/passwd", 0o644, "base").
		File("etc/group", 0o644, "base group").
		File("usr/bin/sh", 0o755, "shell").
		Symlink("bin", "usr/bin").
		Symlink("abs", "/etc/passwd").
		Symlink("climb", "../../../../etc/passwd").
		Symlink("updown", "bin/../lib").
		File("usr/lib", 0o644, "usr lib").
		Symlink("loop", "loop").
		Symlink("out", "/outside").
		Symlink("todir", "etc/").
		File("opq/below", 0o644, "x").
		File("a/b/c/deep", 0o644, "deep").
		File("gone", 0o644, "x").
		File("gonedir/x", 0o644, "x").
		File("empty", 0o644, "").
		File("covered", 0o644, "a file below a directory").
		Symlink("linkbelow", "etc").
		Tar()
	mid := testimage.NewBuilder().
		File("etc/group", 0o644, "mid group").
		Whiteout("gone").Whiteout("gonedir").
		File("opq/above", 0o644, "y").Opaque("opq").
		File("covered/in", 0o644, "in").
		File("linkbelow/passwd", 0o644, "a real directory").
		Tar()
	top := testimage.NewBuilder().
		Dir("etc", 0o700).
		File("opq/top", 0o644, "z").
		File("gonedir/new", 0o644, "new").
		Tar()
	var v View
	for i, layer := range [][]byte{base, mid, top} {
		a := newArena(t)
		if _, err := a.unpack(layer, UnpackOptions{}); err != nil {
			t.Fatalf("layer %d: %v", i, err)
		}
		v = append(v, a.dir)
	}
	return v
}

func TestView(t *testing.T) {
	v := viewLayers(t)
	tests := []struct{ path, want string }{
		{"/etc/passwd", "base"},
		{"etc/passwd", "base"},
		{"//etc/./passwd", "base"},
		{"/etc/group", "mid group"},
		{"/bin/sh", "shell"},
		{"/bin/../../etc/passwd", "base"},
		{"/updown", "usr lib"}, // bin/.. is usr, not the root
		{"/bin/../lib", "usr lib"},
		{"/abs", "base"},
		{"/climb", "base"},
		{"/../../../etc/passwd", "base"},
		{"/todir/passwd", "base"},
		{"/opq/below", "no such file"},
		{"/opq/above", "y"},
		{"/opq/top", "z"},
		{"/a/b/c/deep", "deep"},
		{"/gone", "no such file"},
		{"/gonedir/x", "no such file"},
		{"/gonedir/new", "new"},
		{"/empty", ""},
		{"/covered/in", "in"},
		{"/covered", "is a directory"},
		{"/linkbelow/passwd", "a real directory"},
		{"/linkbelow/group", "no such file"},
		{"/loop", "too many levels"},
		{"/loop/x", "too many levels"},
		{"/out/secret", "no such file"},
		{"/etc/passwd/x", "not a directory"},
		{"/etc/passwd/", "not a directory"},
		{"/etc/passwd/..", "not a directory"},
		{"/nothing/../etc/passwd", "no such file"},
		{"/", "is a directory"},
		{"", "is a directory"},
		{"..", "is a directory"},
	}
	for _, test := range tests {
		b, err := v.ReadFile(test.path, 1000)
		got := string(b)
		if err != nil {
			got = err.Error()
		}
		if got != test.want && (err == nil || !strings.Contains(got, test.want)) {
			t.Errorf("ReadFile(%q) = %q, want %q", test.path, got, test.want)
		}
	}
	if _, err := v.ReadFile("/etc/passwd", 3); err == nil || !strings.Contains(err.Error(), "larger than 3") {
		t.Errorf("limit: %v", err)
	}
	if _, err := v.Open("/gone"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of a whiteout: %v", err)
	}
	if st, err := v.Stat("/etc"); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("the top layer's etc: %v, %v", st, err)
	}
	if st, err := v.Lstat("/bin"); err != nil || st.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("Lstat(bin): %v, %v", st, err)
	}
	if st, err := v.Lstat("/bin/"); err != nil || !st.IsDir() {
		t.Errorf("Lstat(bin/): %v, %v", st, err)
	}
	if to, err := v.Readlink("/bin"); to != "usr/bin" {
		t.Errorf("Readlink: %q, %v", to, err)
	}
	if p, err := v.Resolve("/bin/../bin/../bin/sh"); p != "/usr/bin/sh" {
		t.Errorf("Resolve(usr/bin/../bin/../bin/sh): %q, %v", p, err)
	}
	if p, err := v.Resolve("/bin/sh"); p != "/usr/bin/sh" {
		t.Errorf("Resolve: %q, %v", p, err)
	}
	for dir, want := range map[string]string{
		"/etc":     "group passwd",
		"/opq":     "above top",
		"/gonedir": "new",
		"/bin":     "sh",
		"/":        "a abs bin climb covered empty etc gonedir linkbelow loop opq out todir updown usr",
	} {
		list, err := v.ReadDir(dir)
		var names []string
		for _, info := range list {
			names = append(names, info.Name())
		}
		if got := strings.Join(names, " "); got != want || err != nil {
			t.Errorf("ReadDir(%q) = %q, %v; want %q", dir, got, err, want)
		}
	}
	if _, err := (View{}).Stat("/"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no layers: %v", err)
	}
}

func TestViewOpaqueRoot(t *testing.T) {
	var v View
	for _, layer := range [][]byte{
		testimage.NewBuilder().File("below", 0o644, "x").Tar(),
		testimage.NewBuilder().Opaque(".").File("mid", 0o644, "x").Tar(),
		testimage.NewBuilder().File("top", 0o644, "x").Tar(),
	} {
		a := newArena(t)
		if _, err := a.unpack(layer, UnpackOptions{}); err != nil {
			t.Fatal(err)
		}
		v = append(v, a.dir)
	}
	if trimmed := v.Trim(); len(trimmed) != 2 || trimmed[0] != v[1] {
		t.Errorf("Trim = %q", trimmed)
	}
	v = v.Trim()
	if _, err := v.Stat("/below"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("below an opaque root: %v", err)
	}
	if list, err := v.ReadDir("/"); len(list) != 2 {
		t.Errorf("%v, %v", list, err)
	}
}

// A running container's upper directory may change under the View: the open
// must refuse a symlink that was a directory when it was looked at.
func TestViewRefusesLateSymlinks(t *testing.T) {
	dir := t.TempDir()
	os.Mkdir(filepath.Join(dir, "tree"), 0o755)
	os.WriteFile(filepath.Join(dir, "secret"), []byte("x"), 0o644)
	v := View{filepath.Join(dir, "tree")}
	os.Symlink("..", filepath.Join(v[0], "a"))
	if _, err := v.openAt(place{path: "a/secret"}, unix.O_RDONLY); err != unix.ELOOP {
		t.Errorf("open through a symlink: %v", err)
	}
	if _, err := v.openAt(place{path: "../secret"}, unix.O_RDONLY); err != unix.EXDEV {
		t.Errorf("open through ..: %v", err)
	}
}

func TestViewFIFO(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(dir+"/p", 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (View{dir}).Open("p"); err == nil {
		t.Error("opened a FIFO")
	}
}

// /etc/passwd from the lowest of 64 layers, as each start of a container does.
func BenchmarkViewPasswd(b *testing.B) {
	base := b.TempDir()
	var v View
	for i := range 64 {
		dir := filepath.Join(base, fmt.Sprintf("%064d", i), "tree")
		os.MkdirAll(filepath.Join(dir, "usr/bin"), 0o755)
		if i%2 == 0 {
			os.MkdirAll(filepath.Join(dir, "etc"), 0o755)
		}
		v = append(v, dir)
	}
	os.WriteFile(v[0]+"/etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\n"), 0o644)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.ReadFile("/etc/passwd", 1<<20); err != nil {
			b.Fatal(err)
		}
	}
}
