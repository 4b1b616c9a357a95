package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"moss/fail"
	"moss/internal/testimage"
)

func TestOptions(t *testing.T) {
	tests := []struct {
		lower       []string
		upper, work string
		want, err   string
	}{
		{[]string{"bottom", "middle", "top"}, "up", "wo", "lowerdir=top:middle:bottom,upperdir=up,workdir=wo,userxattr", ""},
		{[]string{"a", "b"}, "", "", "lowerdir=b:a,userxattr", ""},
		{[]string{`a:b`}, `c,d`, `e\f`, `lowerdir=a\:b,upperdir=c\,d,workdir=e\\f,userxattr`, ""},
		{nil, "up", "wo", "", "without layers"},
		{make([]string, 501), "up", "wo", "", "501 layers"},
		{[]string{strings.Repeat("x", 4095)}, "up", "wo", "", "1 layers"},
		{[]string{strings.Repeat("x", 4095-len("lowerdir=,upperdir=up,workdir=wo,userxattr"))}, "up", "wo", "ok", ""},
		{[]string{strings.Repeat("x", 4096-len("lowerdir=,upperdir=up,workdir=wo,userxattr"))}, "up", "wo", "", "1 layers"},
	}
	for _, test := range tests {
		got, err := Options(test.lower, test.upper, test.work)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("Options of %d layers: error %v, want %q", len(test.lower), err, test.err)
			}
			continue
		}
		if err != nil || (got != test.want && test.want != "ok") {
			t.Errorf("Options(%q) = %q, %v; want %q", test.lower, got, err, test.want)
		}
	}
}

func TestExplain(t *testing.T) {
	dir := t.TempDir()
	upper, work, low := dir+"/upper", dir+"/work", dir+"/low"
	for _, d := range []string{upper, work, low, upper + "/in"} {
		os.Mkdir(d, 0o755)
	}
	os.WriteFile(dir+"/file", nil, 0o644)
	tests := []struct {
		name        string
		err         error
		lower       []string
		upper, work string
		release     string
		files       map[string]string
		magic       int64
		why         string
	}{
		{name: "nothing found", err: unix.EINVAL, why: ""},
		{name: "no overlayfs", err: unix.ENODEV, files: map[string]string{"/proc/filesystems": "nodev\tproc\n\text4\n"}, why: "this kernel has no overlayfs"},
		{name: "old", err: unix.EPERM, release: "5.10.0-28-amd64", why: "since 5.11"},
		{name: "AppArmor", err: unix.EPERM, files: map[string]string{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"}, why: "AppArmor"},
		{name: "AppArmor off", err: unix.EPERM, files: map[string]string{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "0\n"}, why: ""},
		{name: "NFS", err: unix.EINVAL, magic: unix.NFS_SUPER_MAGIC, why: "is NFS"},
		{name: "overlay on overlay", err: unix.EINVAL, magic: unix.OVERLAYFS_SUPER_MAGIC, why: "itself an overlay"},
		{name: "FUSE", err: unix.EINVAL, magic: unix.FUSE_SUPER_MAGIC, why: "is FUSE"},
		{name: "old tmpfs", err: unix.EINVAL, release: "6.1.0", magic: unix.TMPFS_MAGIC, why: "since Linux 6.6"},
		{name: "new tmpfs", err: unix.EINVAL, magic: unix.TMPFS_MAGIC, why: ""},
		{name: "missing", err: unix.ENOENT, lower: []string{low, dir + "/none"}, why: dir + "/none: no such file or directory"},
		{name: "a file", err: unix.ENOTDIR, lower: []string{dir + "/file"}, why: "file is not a directory"},
		{name: "overlap", err: unix.ELOOP, lower: []string{upper + "/in"}, why: "overlap"},
		{name: "work in upper", err: unix.EINVAL, work: upper + "/in", why: "contain one another"},
		{name: "twice", err: unix.ELOOP, lower: []string{low, low + "/"}, why: "listed twice"},
		{name: "busy", err: unix.EBUSY, why: "in use by another"},
		{name: "stale", err: unix.ESTALE, why: "other layers"},
		{name: "other device", err: unix.EXDEV, work: "/proc", why: "two file systems"},
	}
	for _, test := range tests {
		h := thisHost()
		h.release = "6.18.0"
		if test.release != "" {
			h.release = test.release
		}
		h.read = func(name string) ([]byte, error) {
			if s, ok := test.files[name]; ok {
				return []byte(s), nil
			}
			if name == "/proc/filesystems" {
				return []byte("nodev\tproc\nnodev\toverlay\n\text4\n"), nil
			}
			return nil, os.ErrNotExist
		}
		h.glob = func(string) ([]string, error) { return nil, nil }
		h.statfs = func(string) (int64, error) { return test.magic, nil }
		if test.lower == nil {
			test.lower = []string{low}
		}
		if test.work == "" {
			test.work = work
		}
		e := h.explain(test.err, test.lower, upper, test.work)
		if (test.why == "") != (e.Why == "") || !strings.Contains(e.Why, test.why) {
			t.Errorf("%s: %q, want %q", test.name, e.Why, test.why)
		}
	}
	e := Explain(unix.EINVAL, []string{low}, upper, work)
	if !errors.Is(e, unix.EINVAL) || !strings.HasPrefix(e.Error(), "mount(2) overlay of 1 layers at ") {
		t.Errorf("Explain: %v", e)
	}
}

func TestCapsFor(t *testing.T) {
	v2 := testimage.NetBindService()
	le := binary.LittleEndian
	v3 := append([]byte(v2), 0, 0, 0, 0)
	le.PutUint32(v3, 0x03000001)
	le.PutUint32(v3[20:], 1234)
	mapped := append([]byte{}, v3...)
	le.PutUint32(mapped[20:], 100000)
	tests := []struct {
		name  string
		value string
		root  uint32
		want  string
	}{
		{"v2 for root", v2, 0, v2},
		{"v2 for a mapped root", v2, 100000, string(mapped)},
		{"v3 for root", string(v3), 0, v2},
		{"v3 for a mapped root", string(v3), 100000, string(mapped)},
		{"short", v2[:12], 0, ""},
		{"v2 with a tail", v2 + "1234", 0, ""},
		{"v1", "\x01\x00\x00\x01" + v2[4:], 0, ""},
		{"none", "", 0, ""},
	}
	for _, test := range tests {
		if got := string(capsFor([]byte(test.value), test.root)); got != test.want {
			t.Errorf("%s: %x, want %x", test.name, got, test.want)
		}
	}
}

// Apply as the owner of everything, to whom only the identity is allowed:
// modes are set, symlinks are not followed, what is out of reach is counted.
func TestApplyStaysInside(t *testing.T) {
	a := newArena(t)
	layer := testimage.NewBuilder().
		Owned("f", 0o4711, 5, 5, "x").
		Symlink("link", "../x").
		Symlink("dir", "../outside").
		Tar()
	if _, err := a.unpack(layer, UnpackOptions{}); err != nil {
		t.Fatal(err)
	}
	me := func(uid, gid int) (int, int, bool) { return os.Getuid(), os.Getgid(), uid < 100 && gid < 100 }
	before := a.around()
	skipped, err := Apply(a.dir, []Fixup{
		{Path: "f", Mode: 0o4750},
		{Path: "link", Mode: 0o777},
		{Path: ".", Mode: 0o711},
	}, me)
	if err != nil || skipped != 0 {
		t.Fatal(skipped, err)
	}
	var st unix.Stat_t
	if unix.Lstat(a.dir+"/f", &st); st.Mode&0o7777 != 0o4750 {
		t.Errorf("f has mode %o", st.Mode)
	}
	if unix.Lstat(a.dir, &st); st.Mode&0o7777 != 0o711 {
		t.Errorf("root has mode %o", st.Mode)
	}
	// A path through a symlink is walked inside the tree, where it is not there.
	if _, err := Apply(a.dir, []Fixup{{Path: "dir/secret", Mode: 0o777}}, me); err == nil {
		t.Error("applied through a symlink")
	}
	if _, err := Apply(a.dir, []Fixup{{Path: "../x", Mode: 0o777}}, me); err == nil {
		t.Error("applied outside")
	}
	if after := a.around(); before != after {
		t.Errorf("touched something outside:\n%s\n---\n%s", before, after)
	}
	skipped, err = Apply(a.dir, []Fixup{{Path: "f", UID: 4000000, GID: 4000001, Mode: 0o6750}, {Path: "f", UID: -1, Mode: 0o6750}}, me)
	if err != nil || skipped != 2 {
		t.Errorf("beyond the map: %d, %v", skipped, err)
	}
	if unix.Lstat(a.dir+"/f", &st); st.Mode&0o7777 != 0o750 {
		t.Errorf("beyond the map f has mode %o, want no setuid", st.Mode)
	}
}

// Real root writes host ids and the capability's revision 3.
func TestApplyAsRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root may give files away")
	}
	a := newArena(t)
	layer := testimage.NewBuilder().Owned("f", 0o6755, 33, 44, "x").File("deep/"+strings.Repeat("directory/", 500)+"f", 0o644, "x").Tar()
	if _, err := a.unpack(layer, UnpackOptions{}); err != nil {
		t.Fatal(err)
	}
	fixups := []Fixup{
		{Path: "f", UID: 33, GID: 44, Mode: 0o6755, Caps: []byte(testimage.NetBindService())},
		{Path: "deep/" + strings.Repeat("directory/", 500) + "f", UID: 1, GID: 2, Mode: 0o644},
	}
	shift := func(uid, gid int) (int, int, bool) { return 100000 + uid, 200000 + gid, uid < 65536 && gid < 65536 }
	if skipped, err := Apply(a.dir, fixups, shift); err != nil || skipped != 0 {
		t.Fatal(skipped, err)
	}
	var st unix.Stat_t
	unix.Lstat(a.dir+"/f", &st)
	if st.Uid != 100033 || st.Gid != 200044 || st.Mode&0o7777 != 0o6755 {
		t.Errorf("f is %d:%d %o", st.Uid, st.Gid, st.Mode)
	}
	value := make([]byte, 100)
	n, err := unix.Lgetxattr(a.dir+"/f", capsXattr, value)
	if err != nil || n != 24 || binary.LittleEndian.Uint32(value[20:]) != 100000 {
		t.Errorf("security.capability = %x, %v", value[:max(n, 0)], err)
	}
}

func TestErrorsTeach(t *testing.T) {
	_, err := Unpack(t.Context(), strings.NewReader(""), filepath.Join(t.TempDir(), "none"), UnpackOptions{})
	if !errors.Is(err, unix.ENOENT) {
		t.Errorf("no directory: %v", err)
	}
	if got := show("a\x1b[31mb"); got != `"a\x1b[31mb"` {
		t.Errorf("show = %s", got)
	}
	if got := show(strings.Repeat("ü", 150)); len(got) > 210 {
		t.Errorf("show = %s", got)
	}
	e := call("openat(2)", "x\ny", unix.EIO)
	if want := `openat(2) "x\ny": input/output error`; e.Error() != want {
		t.Errorf("%v, want %s", e, want)
	}
	var f *fail.Error
	full := explainUnpack(call("write(2)", "x", unix.EROFS), "/dir")
	if !errors.As(full, &f) || !strings.Contains(f.Why, "read-only") {
		t.Errorf("EROFS: %v", fmt.Sprintf("%+v", f))
	}
}

func TestProbe(t *testing.T) {
	if err := Probe(); err != nil {
		var e *fail.Error
		if !errors.As(err, &e) || e.Why == "" {
			t.Errorf("Probe gives no reason: %v", err)
		}
		t.Skipf("no overlay here: %v", err)
	}
}
