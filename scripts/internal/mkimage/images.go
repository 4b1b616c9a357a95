package main

import (
	"archive/tar"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"strings"
	"time"
)

// layer is a tar in the making: one entry after the other, in this order.
type layer []entry

type entry struct {
	tar.Header
	body string
}

type image struct {
	name     string
	layers   []layer
	config   map[string]any // the "config" object of the image configuration
	docker   bool           // Docker's schema 2 media types instead of OCI's
	platform []string       // several: an index
}

// born is the time of all entries that do not say otherwise; the nanoseconds
// show whether they survive.
var born = time.Unix(1_600_000_000, 123_456_789)

func dir(name string, mode int64) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, ModTime: born}}
}

func file(name, body string, mode int64) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(body)), ModTime: born}, body: body}
}

func symlink(name, target string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, ModTime: born}}
}

func hardlink(name, target string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, ModTime: born}}
}

// whiteout hides name of the layers below; opaque hides all they have in dir
// (image-spec layer.md, "Whiteouts").
func whiteout(name string) entry {
	return file(path.Join(path.Dir(name), ".wh."+path.Base(name)), "", 0o644)
}
func opaque(dir string) entry { return file(dir+"/.wh..wh..opq", "", 0o644) }

func (e entry) owner(uid, gid int) entry { e.Uid, e.Gid = uid, gid; return e }
func (e entry) at(t time.Time) entry     { e.ModTime = t; return e }
func (e entry) xattr(name, value string) entry {
	e.PAXRecords = map[string]string{"SCHILY.xattr." + name: value}
	return e
}

// images are all built-in images, with busybox as their user land.
func images(busybox string) ([]image, error) {
	base, err := userland(busybox)
	if err != nil {
		return nil, err
	}
	sh := map[string]any{"Cmd": []string{"sh"}, "Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}}
	stack := func(n int) []layer {
		layers := []layer{base}
		for i := 1; i < n; i++ {
			layers = append(layers, layer{dir("layers", 0o755), file(fmt.Sprintf("layers/%d", i), "x\n", 0o644)})
		}
		return layers
	}
	return []image{
		{name: "busybox", layers: []layer{base}, config: sh, platform: []string{"amd64", "arm64"}},
		{name: "five", layers: stack(5), config: sh},
		{name: "many", layers: stack(64), config: sh},
		{name: "deep", layers: stack(127), config: sh},
		{name: "hazards", layers: hazards(base), config: sh},
		{name: "beyond", layers: []layer{base, {file("beyond", "x\n", 0o644).owner(4000000, 4000001)}}, config: sh},
		{name: "devices", layers: []layer{base, {
			{Header: tar.Header{Typeflag: tar.TypeChar, Name: "zero", Mode: 0o666, Devmajor: 1, Devminor: 5, ModTime: born}},
			{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o600, ModTime: born}},
		}}, config: sh},
		{name: "bulky", layers: bulky(base), config: sh},
		{name: "config", docker: true, layers: []layer{base, {
			dir("home", 0o755), dir("home/app", 0o755).owner(1000, 1000),
			dir("data", 0o755), file("data/seed", "seed\n", 0o644),
			file("entry", "#!/bin/sh\necho \"entry $*\"\nexec \"$@\"\n", 0o755),
		}}, config: map[string]any{
			"Entrypoint": []string{"/entry"},
			"Cmd":        []string{"sh", "-c", "id -un; pwd; echo $GREETING; cat /data/seed"},
			"Env":        []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GREETING=good morning"},
			"User":       "app",
			"WorkingDir": "/srv/deep",
			"Volumes":    map[string]any{"/data": map[string]any{}},
			"StopSignal": "SIGINT",
			"Labels":     map[string]string{"made.by": "mkimage"},
		}},
	}, nil
}

// bulky is an image whose pull takes a moment: four layers of files that do
// not compress.
func bulky(base layer) []layer {
	noise := rand.NewChaCha8([32]byte{})
	layers := []layer{base}
	for i := range 4 {
		top := fmt.Sprintf("bulk/%d", i)
		l := layer{dir("bulk", 0o755), dir(top, 0o755)}
		for j := range 300 {
			body := make([]byte, 10_000)
			noise.Read(body)
			l = append(l, file(fmt.Sprintf("%s/%d", top, j), string(body), 0o644))
		}
		layers = append(layers, l)
	}
	return layers
}

// userland is busybox with a link for each of its programs, and the files a
// person expects to find.
func userland(busybox string) (layer, error) {
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list: %w", busybox, err)
	}
	l := layer{
		dir(".", 0o755), dir("bin", 0o755), dir("dev", 0o755), dir("etc", 0o755), dir("proc", 0o555), dir("root", 0o700),
		dir("sys", 0o555), dir("tmp", 0o1777), dir("usr", 0o755), dir("usr/bin", 0o755), dir("var", 0o755),
		file("bin/busybox", string(program), 0o755),
		file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n", 0o644),
		file("etc/group", "root:x:0:\naudio:x:29:app\napp:x:1000:\nnogroup:x:65534:\n", 0o644),
		file("etc/hosts", "", 0o644), file("etc/hostname", "", 0o644), file("etc/resolv.conf", "", 0o644),
	}
	for name := range strings.Lines(string(applets)) {
		if name = strings.TrimSpace(name); name != "busybox" && name != "" {
			l = append(l, symlink("bin/"+name, "busybox"))
		}
	}
	return l, nil
}

// hazards is seven layers of what goes wrong in an overlay.
func hazards(base layer) []layer {
	long := strings.Repeat("a-long-directory-name-that-is-there-to-be-long/", 20)
	layers := []layer{
		append(base,
			file("lister", "", 0o755), // where the tests bind the program that lists
			dir("a", 0o755), file("a/1", "one\n", 0o644), file("a/2", "two\n", 0o644), file("a/3", "three\n", 0o644),
			dir("opaque", 0o755), file("opaque/old1", "old\n", 0o644), dir("opaque/old2", 0o755), file("opaque/old2/x", "old\n", 0o644),
			dir("late", 0o755), file("late/old", "old\n", 0o644),
			file("file-to-dir", "a file\n", 0o644),
			dir("dir-to-file", 0o755), file("dir-to-file/x", "x\n", 0o644),
			symlink("link-to-dir", "a"), symlink("link-to-file", "a/1"),
			file("hard1", "hard\n", 0o640), hardlink("hard2", "hard1"), dir("far", 0o755), hardlink("far/hard3", "hard1"),
			file("gone", "gone\n", 0o644), dir("gone-dir", 0o755), dir("gone-dir/deep", 0o755), file("gone-dir/deep/er", "x\n", 0o644),
			file("back", "first\n", 0o644),
			dir("again", 0o755), file("again/old", "old\n", 0o644),
			dir("nest", 0o755), dir("nest/in", 0o755), file("nest/in/x", "x\n", 0o644), file("nest/y", "y\n", 0o644),
			dir("chmod", 0o755), file("chmod/stays", "stays\n", 0o600),
		),
		{whiteout("gone"), whiteout("gone-dir"), whiteout("back"), dir("a", 0o755), whiteout("a/2"), file("a/3", "three, again\n", 0o600)},
		{
			dir("opaque", 0o750), opaque("opaque"), file("opaque/new1", "new\n", 0o644),
			file("back", "second\n", 0o640),
			dir("late", 0o711), file("late/new", "new\n", 0o644), opaque("late"), // the marker after what it must not hide
		},
		{
			dir("file-to-dir", 0o755), file("file-to-dir/inside", "x\n", 0o644),
			file("dir-to-file", "a file now\n", 0o644),
			dir("link-to-dir", 0o755), file("link-to-dir/own", "not in a/\n", 0o644),
			file("link-to-file", "not through the link\n", 0o644),
		},
		{
			whiteout("again"), dir("again", 0o700), file("again/new", "new\n", 0o644), // hidden and made anew in one layer
			dir("chmod", 0o1770).owner(0, 29),
			dir("never", 0o755), whiteout("never/was"), // hides what is nowhere
		},
		{
			dir("nest", 0o755), opaque("nest"), dir("nest/in", 0o755), opaque("nest/in"), file("nest/in/z", "z\n", 0o644),
			file("new\nline", "x\n", 0o644), file("tab\tand space ", "x\n", 0o644), file(`back\slash`, "x\n", 0o644),
			file("comma,colon:equals=", "x\n", 0o644), file("not utf-8 \xff\xfe", "x\n", 0o644), file("häuschen", "x\n", 0o644),
			file(strings.Repeat("n", 255), "x\n", 0o644), file(".whatever", "no whiteout\n", 0o644), file("-rf", "x\n", 0o644),
		},
		{
			file("hard1", "not hard any more\n", 0o644),
			file("setuid", "x\n", 0o4755), file("setgid", "x\n", 0o2755), dir("sticky", 0o1777), dir("setgid-dir", 0o2775).owner(0, 29),
			file("nobody-may", "x\n", 0), file("owned", "x\n", 0o644).owner(1000, 1000), symlink("owned-link", "nowhere").owner(1000, 1000),
			dir("closed", 0o555), file("closed/x", "x\n", 0o444),
			file("xattr", "x\n", 0o644).xattr("user.moss", "a\x00value"),
			// CAP_NET_BIND_SERVICE, permitted and effective, version 2 (capabilities(7), "File capability extended attribute versioning")
			file("capable", "x\n", 0o755).xattr("security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
			file("old", "x\n", 0o644).at(time.Unix(1, 1)), file("future", "x\n", 0o644).at(time.Unix(4_000_000_000, 999_999_999)),
			file("empty", "", 0o644), file("big", strings.Repeat("0123456789abcdef", 1<<17), 0o644),
			symlink("absolute", "/a/1"), symlink("up", "../../../../a/1"), symlink("loop", "loop"),
			symlink("long-link", strings.Repeat("x", 1000)),
			{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o600, ModTime: born}},
		},
	}
	last := &layers[len(layers)-1]
	for i, c := range long {
		if c == '/' {
			*last = append(*last, dir(long[:i], 0o755))
		}
	}
	*last = append(*last, file(long+"end", "x\n", 0o644))
	return layers
}
