package overlay

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"moss/internal/testimage"
)

// inNamespaces runs the calling test once more, as root of a new user and mount
// namespace, and reports whether this is that second run. What the second run
// mounts dies with it. ids is how many ids the namespace has: 1 for a map any
// user may write, more for root's.
func inNamespaces(t *testing.T, ids int) bool {
	t.Helper()
	if os.Getenv("OVERLAY_TEST_INSIDE") == t.Name() {
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "OVERLAY_TEST_INSIDE="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: ids}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: ids}},
	}
	out, err := cmd.CombinedOutput()
	if _, ran := err.(*exec.ExitError); err != nil && !ran {
		t.Skipf("no user namespace here: %v", err)
	}
	if err != nil {
		t.Fatalf("inside: %v\n%s", err, out)
	}
	if bytes.Contains(out, []byte("--- SKIP")) {
		t.Skipf("inside: %s", out)
	}
	return false
}

// mountOverlay mounts trees over each other and returns where.
func mountOverlay(t *testing.T, trees []string) string {
	t.Helper()
	base := t.TempDir()
	upper, work, merged := filepath.Join(base, "upper"), filepath.Join(base, "work"), filepath.Join(base, "merged")
	for _, dir := range []string{upper, work, merged} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options, err := Options(trees, upper, work)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		t.Fatalf("mount: %v", Explain(err, trees, upper, work))
	}
	t.Cleanup(func() { unix.Unmount(merged, unix.MNT_DETACH) })
	return merged
}

// unpackAll unpacks layers beside each other.
func unpackAll(t *testing.T, layers [][]byte, o UnpackOptions) (trees []string, fixups [][]Fixup) {
	t.Helper()
	base := t.TempDir()
	t.Cleanup(func() { openUp(base) })
	for i, layer := range layers {
		dir := filepath.Join(base, strconv.Itoa(i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		f, err := Unpack(context.Background(), bytes.NewReader(layer), dir, o)
		if err != nil {
			t.Fatalf("layer %d: %v", i, err)
		}
		trees, fixups = append(trees, dir), append(fixups, f)
	}
	return trees, fixups
}

// openUp makes directories writable, so that an ordinary user can remove them.
func openUp(dir string) {
	filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			os.Chmod(p, 0o700)
		}
		return nil
	})
}

// One id, as for a user without subordinate ids: all is root's.
func TestHazardsWithOneID(t *testing.T) {
	if !inNamespaces(t, 1) {
		return
	}
	layers := testimage.Hazards()
	trees, _ := unpackAll(t, layers, UnpackOptions{})
	want := testimage.Expect(layers, func(int, int) (int, int, bool) { return 0, 0, true })
	compare(t, want, mountOverlay(t, trees))
}

// The same with whiteouts spelled as xattrs (Linux 6.7).
func TestHazardsWithoutMknod(t *testing.T) {
	if major, minor, ok := version(thisHost().release); ok && (major < 6 || major == 6 && minor < 7) {
		t.Skip("whiteouts as xattrs came with Linux 6.7")
	}
	if !inNamespaces(t, 1) {
		return
	}
	mknodWhiteout = func(dirfd int, name string) error {
		var st unix.Stat_t
		if unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			return unix.EEXIST
		}
		return unix.EPERM
	}
	layers := testimage.Hazards()
	trees, _ := unpackAll(t, layers, UnpackOptions{})
	want := testimage.Expect(layers, func(int, int) (int, int, bool) { return 0, 0, true })
	compare(t, want, mountOverlay(t, trees))
	compareView(t, want, View(trees))
}

// A range of ids: owners are applied where the map reaches.
func TestHazardsWithManyIDs(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root may write a map of many ids without newuidmap")
	}
	if !inNamespaces(t, 65536) {
		return
	}
	owner := func(uid, gid int) (int, int, bool) { return uid, gid, uid < 65536 && gid < 65536 }
	layers := testimage.Hazards()
	trees, fixups := unpackAll(t, layers, UnpackOptions{})
	skipped := 0
	for i := range trees {
		n, err := Apply(trees[i], fixups[i], owner)
		if err != nil {
			t.Fatal(err)
		}
		skipped += n
	}
	if skipped != 2 {
		t.Errorf("skipped %d owners, want 2", skipped)
	}
	merged := mountOverlay(t, trees)
	compare(t, testimage.Expect(layers, owner), merged)

	value := make([]byte, 64)
	n, err := unix.Getxattr(filepath.Join(merged, "hazards/owners/caps"), capsXattr, value)
	if err != nil || string(value[:n]) != testimage.NetBindService() {
		t.Errorf("security.capability = %x, %v", value[:max(n, 0)], err)
	}
}

func compare(t *testing.T, want []testimage.Entry, dir string) {
	t.Helper()
	got, err := testimage.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range testimage.Diff(want, got) {
		if len(line) > 400 {
			line = line[:200] + "…" + line[len(line)-200:]
		}
		t.Error(line)
	}
}

// compareView checks that a View sees what is expected to be mounted.
func compareView(t *testing.T, want []testimage.Entry, v View) {
	t.Helper()
	var paths []string
	var walk func(dir string)
	walk = func(dir string) {
		list, err := v.ReadDir(dir)
		if err != nil {
			t.Fatalf("ReadDir(%q): %v", dir, err)
		}
		for _, info := range list {
			p := dir + "/" + info.Name()
			paths = append(paths, strings.TrimPrefix(p, "/"))
			if one, err := v.Lstat(p); err != nil || one.Mode() != info.Mode() || one.Size() != info.Size() {
				t.Errorf("Lstat(%q) = %v, %v; ReadDir says %v", p, one, err, info)
			}
			if info.IsDir() {
				walk(p)
			}
		}
	}
	walk("")
	var wantPaths []string
	for _, e := range want {
		if e.Path != "." {
			wantPaths = append(wantPaths, e.Path)
		}
	}
	seen := make(map[string]int)
	for _, p := range wantPaths {
		seen[p]++
	}
	for _, p := range paths {
		seen[p]--
	}
	for p, n := range seen {
		if n != 0 {
			t.Errorf("View: %q is off by %d", p, -n)
		}
	}
}

func TestViewSeesTheMergedTree(t *testing.T) {
	if !inNamespaces(t, 1) { // as root of a namespace, to read directories of mode 0
		return
	}
	layers := testimage.Hazards()
	trees, _ := unpackAll(t, layers, UnpackOptions{})
	compareView(t, testimage.Expect(layers, func(int, int) (int, int, bool) { return 0, 0, true }), View(trees))
}

// Options must survive the kernel's parser, whatever the store's directory is
// called, and 500 layers must mount.
func TestOptionsMount(t *testing.T) {
	if !inNamespaces(t, 1) {
		return
	}
	base := filepath.Join(t.TempDir(), `a,b:c\d =`)
	var trees []string
	for i := range 3 {
		dir := filepath.Join(base, fmt.Sprintf(`layer,%d:\`, i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		os.WriteFile(filepath.Join(dir, "who"), []byte{byte('0' + i)}, 0o644)
		trees = append(trees, dir)
	}
	upper, work, merged := base+"/up,:\\", base+"/wo,:\\", base+"/merged"
	for _, dir := range []string{upper, work, merged} {
		os.Mkdir(dir, 0o755)
	}
	options, err := Options(trees, upper, work)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		t.Fatalf("%s: %v", options, err)
	}
	defer unix.Unmount(merged, unix.MNT_DETACH)
	if who, _ := os.ReadFile(merged + "/who"); string(who) != "2" {
		t.Errorf("the top layer is %q, want 2", who)
	}
}

func TestManyLayersMount(t *testing.T) {
	if !inNamespaces(t, 1) {
		return
	}
	t.Chdir(t.TempDir())
	var names []string
	for i := range 400 {
		name := fmt.Sprintf("%07x", i)
		if err := os.MkdirAll(name, 0o755); err != nil {
			t.Fatal(err)
		}
		os.WriteFile(filepath.Join(name, name), nil, 0o644)
		names = append(names, name)
	}
	os.Mkdir("up", 0o755)
	os.Mkdir("wo", 0o755)
	os.Mkdir("m", 0o755)
	options, err := Options(names, "up", "wo")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("overlay", "m", "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount("m", unix.MNT_DETACH)
	if list, err := os.ReadDir("m"); err != nil || len(list) != 400 {
		t.Errorf("%d names, %v", len(list), err)
	}
}

// What View.Trim is for: the kernel merges roots whatever their marks say.
func TestKernelMergesOpaqueRoots(t *testing.T) {
	if !inNamespaces(t, 1) {
		return
	}
	trees, _ := unpackAll(t, [][]byte{
		testimage.NewBuilder().File("below", 0o644, "x").Tar(),
		testimage.NewBuilder().Opaque(".").File("above", 0o644, "x").Tar(),
	}, UnpackOptions{})
	merged := mountOverlay(t, trees)
	if _, err := os.Lstat(merged + "/below"); err != nil {
		t.Errorf("this kernel honours an opaque root; View should too: %v", err)
	}
	trimmed := mountOverlay(t, View(trees).Trim())
	if _, err := os.Lstat(trimmed + "/below"); err == nil {
		t.Error("Trim did not hide the layer below")
	}
}
