package container

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"moss/fail"
	"moss/image"
	"moss/internal/kerneltest"
	"moss/oci"
	"moss/pull"
)

// runHelloEnv makes the test binary run the built-in image in the store that
// it names.
const runHelloEnv = "MOSS_TEST_RUN_HELLO"

// runHello is what TestMain does then.
func runHello(root string) int {
	e, err := Open(Config{Root: root, Warn: func(error) {}})
	if err == nil {
		defer e.Close()
		var status int
		if status, err = e.Run(context.Background(), Options{Image: builtinImage, Remove: true, Network: "none"}, pull.Options{}); err == nil {
			return status
		}
	}
	fail.Print(os.Stderr, err)
	return fail.StatusMoss
}

// openTest opens a store of the test's own.
func openTest(t *testing.T) *Engine {
	t.Helper()
	root := t.TempDir()
	e, err := Open(Config{Root: root, RunRoot: filepath.Join(root, "run"), Warn: func(err error) { t.Log(err) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		e.Close()
		// Subordinate ids may own what is left.
		if err := e.removeTree(filepath.Join(root, "layers")); err != nil {
			t.Error(err)
		}
	})
	return e
}

// needStatic skips where the test binary is not what moss is: one static file.
func needStatic(t *testing.T) {
	t.Helper()
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if checkStatic(f) != nil {
		t.Skip("the test binary is dynamic; run with CGO_ENABLED=0")
	}
}

func TestBuiltin(t *testing.T) {
	needStatic(t)
	e := openTest(t)
	img, err := e.builtin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := img.Config.Platform(); !got.Fits(oci.Host()) {
		t.Errorf("the image is for %v", got)
	}
	if len(img.Config.History) != 2 || img.Config.Config.Labels["org.opencontainers.image.title"] != "hello" {
		t.Errorf("config: %+v", img.Config)
	}
	layer, err := e.Store.Layer(img.Config.RootFS.DiffIDs[0])
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(layer.Dir, helloPath)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not this binary (%v)", helloPath, err)
	}
	if info, err := os.Stat(filepath.Join(layer.Dir, "tmp")); err != nil || info.Mode() != os.ModeDir|os.ModeSticky|0o777 {
		t.Errorf("/tmp: %v, %v", info, err)
	}

	// The second time nothing is read: the binary is told by its inode.
	before, _ := os.Stat(e.builtinFile())
	again, err := e.builtin(t.Context())
	if err != nil || again.ID != img.ID {
		t.Errorf("again: %v, %v", again, err)
	}
	if after, _ := os.Stat(e.builtinFile()); !os.SameFile(before, after) {
		t.Error("made again although nothing has changed")
	}
	if all, err := e.Store.Images(); err != nil || len(all) != 1 || all[0].Names[0].Familiar() != "localhost/hello:latest" {
		t.Errorf("images: %v, %v", all, err)
	}
}

// Whatever of it is lost, the next run makes it again.
func TestBuiltinRepaired(t *testing.T) {
	needStatic(t)
	e := openTest(t)
	img, err := e.builtin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func() error{
		"note damaged":  func() error { return os.WriteFile(e.builtinFile(), []byte("{"), 0o600) },
		"name taken":    func() error { return e.Store.Untag(builtinRef()) },
		"layer removed": func() error { return os.RemoveAll(filepath.Join(e.root, "layers", img.Config.RootFS.DiffIDs[0].Hex())) },
		"image removed": func() error { _, err := e.Store.Remove(img, nil); return err },
	} {
		if err := damage(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		again, err := e.builtin(t.Context())
		if err != nil || again.ID != img.ID {
			t.Errorf("%s: %v, %v", name, again, err)
		}
	}
}

// A newer moss makes its own, and the older one's goes, unless a container
// stands on it.
func TestBuiltinReplaced(t *testing.T) {
	e := openTest(t)
	older := func(text string) oci.Digest {
		t.Helper()
		tar := func(w io.Writer) error {
			return writeBuiltinLayer(w, strings.NewReader(text), int64(len(text)), time.Time{})
		}
		img, err := e.storeBuiltin(t.Context(), tar, exeID{Size: int64(len(text))}, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		return img.ID
	}
	a := older("one")
	b := older("another")
	if _, err := e.Store.Find(string(a)); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("the older image is still there: %v", err)
	}
	img, err := e.Store.Find(string(b))
	if err != nil {
		t.Fatal(err)
	}
	id := newID()
	if err := os.Mkdir(e.dir(id), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := e.save(&Record{ID: id, Name: "user", Status: Exited, ImageID: b, Layers: img.Config.RootFS.DiffIDs}); err != nil {
		t.Fatal(err)
	}
	older("a third")
	if _, err := e.Store.Find(string(b)); err != nil {
		t.Errorf("the image of a container was removed: %v", err)
	}
	if _, err := e.Store.Layer(img.Config.RootFS.DiffIDs[0]); err != nil {
		t.Errorf("the layer of a container was removed: %v", err)
	}
}

// An image of the user's own that is called hello is what hello means then.
func TestBuiltinGivesWay(t *testing.T) {
	e := openTest(t)
	tar := func(w io.Writer) error { return writeBuiltinLayer(w, strings.NewReader("x"), 1, time.Time{}) }
	img, err := e.storeBuiltin(t.Context(), tar, exeID{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	own, err := oci.ParseReference("docker.io/library/hello:latest")
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Store.Tag(own, img.Manifest); err != nil {
		t.Fatal(err)
	}
	if got, err := e.builtin(t.Context()); err != nil || got.ID != img.ID {
		t.Errorf("builtin: %v, %v; want the user's", got, err)
	}
}

func TestBuiltinLayerIsTheSame(t *testing.T) {
	made := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	write := func() (oci.Digest, int64) {
		d, n, err := digestOf(func(w io.Writer) error { return writeBuiltinLayer(w, strings.NewReader("elf"), 3, made) })
		if err != nil {
			t.Fatal(err)
		}
		return d, n
	}
	a, size := write()
	if b, _ := write(); a != b {
		t.Errorf("two digests: %s, %s", a, b)
	}
	if size%512 != 0 || size == 0 {
		t.Errorf("%d bytes are no tar", size)
	}
	err := writeBuiltinLayer(io.Discard, strings.NewReader("shrunk"), 100, made)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a binary that shrinks meanwhile: %v", err)
	}
}

func TestIsHello(t *testing.T) {
	for _, c := range []struct {
		arg, env string
		want     bool
	}{
		{"/hello", "moss", true},
		{"/hello", "docker", false},
		{"/hello", "", false},
		{"hello", "moss", false},
		{"./hello", "moss", false},
		{"/home/me/hello", "moss", false},
	} {
		t.Setenv("container", c.env)
		if got := isHello([]string{c.arg}); got != c.want {
			t.Errorf("isHello(%q) with container=%s: %v, want %v", c.arg, c.env, got, c.want)
		}
	}
}

// Many at once, into a store that has nothing yet, by a binary that is gone
// from the disk: all of them say hello, and nothing is left.
func TestBuiltinCrowdKernel(t *testing.T) {
	kerneltest.Require(t, "userns", "overlay")
	needStatic(t)
	e := openTest(t)
	exe := filepath.Join(t.TempDir(), "moss")
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe, b, 0o755); err != nil {
		t.Fatal(err)
	}
	const n = 12
	var started, done sync.WaitGroup
	outs, errs := make([]bytes.Buffer, n), make([]error, n)
	for i := range n {
		started.Add(1)
		done.Go(func() {
			cmd := exec.Command(exe)
			cmd.Env = append(os.Environ(), runHelloEnv+"="+e.root)
			cmd.Stdout, cmd.Stderr = &outs[i], &outs[i]
			errs[i] = cmd.Start()
			started.Done()
			if errs[i] == nil {
				errs[i] = cmd.Wait()
			}
		})
	}
	started.Wait()
	if err := os.Remove(exe); err != nil {
		t.Error(err)
	}
	done.Wait()
	for i := range n {
		if errs[i] != nil || !strings.Contains(outs[i].String(), "Hello") || !strings.Contains(outs[i].String(), "process id 1.") {
			t.Errorf("run %d: %v\n%s", i, errs[i], &outs[i])
		}
	}
	if all, err := e.Store.Images(); err != nil || len(all) != 1 {
		t.Errorf("%d images, %v; want 1", len(all), err)
	}
	if all, err := e.List(); err != nil || len(all) != 0 {
		t.Errorf("%d containers, %v; want none", len(all), err)
	}
	var left []string
	for _, dir := range []string{"tmp", "locks"} {
		entries, _ := os.ReadDir(filepath.Join(e.root, dir))
		for _, entry := range entries {
			if entry.Name() != "store" {
				left = append(left, dir+"/"+entry.Name())
			}
		}
	}
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestCheckStatic(t *testing.T) {
	if err := checkStatic(strings.NewReader("#!/bin/sh")); err == nil {
		t.Error("a script passed as a static program")
	}
	f, err := os.Open("/bin/sh")
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	bin, err := elf.NewFile(f)
	if err != nil {
		t.Skip(err)
	}
	dynamic := false
	for _, p := range bin.Progs {
		dynamic = dynamic || p.Type == elf.PT_INTERP
	}
	if !dynamic {
		t.Skip("/bin/sh is static here")
	}
	if l := fail.Lesson(checkStatic(f)); l == nil || !strings.Contains(l.Why, "cgo") {
		t.Errorf("a dynamic program: %v", fmt.Sprint(l))
	}
}

func BenchmarkBuiltinWarm(b *testing.B) {
	root := b.TempDir()
	e, err := Open(Config{Root: root, RunRoot: filepath.Join(root, "run"), Warn: func(error) {}})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	if _, err := e.builtin(b.Context()); err != nil {
		b.Skip(err)
	}
	for b.Loop() {
		if _, err := e.builtin(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
