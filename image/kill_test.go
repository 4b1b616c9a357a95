package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"moss/fail"
	"moss/internal/kerneltest"
	"moss/oci"
)

// killRoot, when set, makes the test binary the victim of TestKilled: it pulls
// into the store named there.
const killRoot = "MOSS_TEST_KILL_ROOT"

func killLayers(t testing.TB) [][]byte {
	var layers [][]byte
	for i := range 3 {
		var files []file
		for j := range 60 {
			files = append(files, file{fmt.Sprintf("dir%d/file%d", i, j), noise(20_000, uint64(100*i+j))})
		}
		layers = append(layers, makeTar(t, files...))
	}
	return layers
}

func TestKillVictim(t *testing.T) {
	root := os.Getenv(killRoot)
	if root == "" {
		return // a process of TestKilled only
	}
	layers := killLayers(t)
	s := openStore(t, root)
	os.Stdout.WriteString("begun\n")
	addImage(t, s, "victim", "victim", layers...)
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	img, err := s.Find("victim")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(img, nil); err != nil {
		t.Fatal(err)
	}
	addImage(t, s, "victim", "victim", layers...)
}

// Whenever a pull or a removal is killed: what has a name is whole, the next one
// completes, and nothing unfinished stays.
func TestKilled(t *testing.T) {
	points := 10
	if testing.Short() {
		points = 4
	}
	layers := killLayers(t)
	root := filepath.Join(t.TempDir(), "store")
	victim := func() (*exec.Cmd, io.ReadCloser) {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestKillVictim$")
		cmd.Env = append(os.Environ(), killRoot+"="+root)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, out
	}
	// The moment of the kill is chosen within the length of a whole life.
	cmd, out := victim()
	io.ReadFull(out, make([]byte, len("begun\n")))
	begun := time.Now()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	life := time.Since(begun)

	for i := range points {
		cmd, out := victim()
		io.ReadFull(out, make([]byte, len("begun\n")))
		time.Sleep(time.Duration(rand.Int64N(int64(life) + 1)))
		cmd.Process.Kill()
		cmd.Wait()

		s := openStore(t, root)
		if img, err := s.Find("victim"); err == nil {
			for _, id := range img.Config.RootFS.DiffIDs {
				sameTar(t, s, id)
			}
		} else if !errors.Is(err, ErrNotFound) {
			t.Errorf("kill %d: %v", i, err)
		}
		addImage(t, s, "victim", "victim", layers...)
		for _, l := range layers {
			sameTar(t, s, oci.FromBytes(l))
		}
		tidy(t, s)
		if i%2 == 0 {
			img, err := s.Find("victim")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Remove(img, nil); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Prune(nil); err != nil {
				t.Fatal(err)
			}
			if err := s.Sweep(); err != nil {
				t.Fatal(err)
			}
			for _, dir := range []string{"tmp", "blobs/sha256", "layers/l", "layers/by-blob"} {
				if left, _ := os.ReadDir(s.path(dir)); len(left) != 0 {
					t.Errorf("kill %d: %d entries left in %s", i, len(left), dir)
				}
			}
		}
		s.Close()
	}
}

// On a disk that is too small: an error that says so, no rests, and it works
// again once there is room.
func TestDiskFull(t *testing.T) {
	kerneltest.Require(t, "userns")
	if !kerneltest.Inside(t) {
		return
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m,mode=0755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	s := openStore(t, dir+"/store")
	big := makeTar(t, file{"big", noise(6<<20, 1)})
	blob := gz(big)
	_, _, err := s.AddLayer(t.Context(), describe(blob), oci.FromBytes(big), opener(blob))
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("AddLayer = %v, want ENOSPC", err)
	}
	var said bytes.Buffer
	fail.Print(&said, err)
	t.Logf("%s", said.String())
	if !strings.Contains(said.String(), "left") || !strings.Contains(said.String(), "moss rmi") {
		t.Errorf("it says %q", said.String())
	}
	tidy(t, s)
	add(t, s, makeTar(t, file{"small", "fits"}))

	// Full to the last block: names and blobs cannot be written.
	f, err := os.Create(dir + "/fill")
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(f, strings.NewReader(noise(5<<20, 2)))
	f.Close()
	if _, err := s.PutBlob([]byte(noise(9000, 3))); !errors.Is(err, syscall.ENOSPC) || fail.Lesson(err) == nil {
		t.Errorf("PutBlob = %v, want ENOSPC and a lesson", err)
	}
	os.Remove(dir + "/fill")
	addImage(t, s, "after", "after", makeTar(t, file{"small", "fits"}))
	tidy(t, s)
}

// A read-only store can be read.
func TestReadOnly(t *testing.T) {
	kerneltest.Require(t, "userns")
	if !kerneltest.Inside(t) {
		return
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m,mode=0755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	s := openStore(t, dir+"/store")
	id, _ := addImage(t, s, "a", "a", layerTar(t, "a"))
	s.Close()
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir+"/store")
	if img, err := s.Find("a"); err != nil || img.ID != id {
		t.Errorf("Find in a read-only store: %v", err)
	}
	for what, err := range map[string]error{
		"AddLayer": func() error {
			b := layerTar(t, "b")
			_, _, err := s.AddLayer(context.Background(), describe(b), oci.FromBytes(b), opener(b))
			return err
		}(),
		"Open": func() error { _, err := Open(dir+"/new", ""); return err }(),
	} {
		if lesson := fail.Lesson(err); !errors.Is(err, syscall.EROFS) || lesson == nil || !strings.Contains(lesson.Why, "read-only") {
			t.Errorf("%s in a read-only file system: %v", what, err)
		}
	}
}
