//go:build !race

package image_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"

	"moss/image"
	"moss/oci"
	"moss/overlay"
)

const peakEnv = "MOSS_TEST_PEAK"

// Three layers of 100 MB each come in at once in less than 80 MB of memory.
func TestPeakMemory(t *testing.T) {
	if os.Getenv(peakEnv) == "" {
		// In a process of its own: the peak of this one says nothing.
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestPeakMemory$")
		cmd.Env = append(os.Environ(), peakEnv+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		_, peak, _ := strings.Cut(string(out), "VmHWM:")
		var kib int
		if _, err := fmt.Sscan(peak, &kib); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("peak %d MiB", kib>>10)
		if kib > 80<<10 {
			t.Errorf("peak memory %d MiB, want less than 80", kib>>10)
		}
		return
	}
	s, err := image.Open(t.TempDir()+"/store", "")
	if err != nil {
		t.Fatal(err)
	}
	s.Unpack = func(ctx context.Context, r io.Reader, dir string) ([]string, error) {
		_, err := overlay.Unpack(ctx, r, dir, overlay.UnpackOptions{})
		return nil, err
	}
	var all sync.WaitGroup
	for _, name := range strings.Split("abc", "") {
		all.Go(func() {
			blob := t.TempDir() + "/blob"
			f, err := os.Create(blob)
			if err != nil {
				t.Error(err)
				return
			}
			digest, diffID := sha256.New(), sha256.New()
			z, _ := gzip.NewWriterLevel(io.MultiWriter(f, digest), 1)
			filler(io.MultiWriter(z, diffID), name, 100)
			z.Close()
			at, _ := f.Seek(0, io.SeekCurrent)
			f.Close()
			desc := oci.Descriptor{Digest: oci.FromHash(digest), Size: at}
			if _, _, err := s.AddLayer(t.Context(), desc, oci.FromHash(diffID), func(context.Context) (io.ReadCloser, error) { return os.Open(blob) }); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	// Not ru_maxrss of wait4(2): that includes the parent's size at fork(2).
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "VmHWM:") {
			os.Stdout.WriteString(line)
		}
	}
}
