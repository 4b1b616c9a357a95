package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"os"
	"testing"

	"moss/image"
	"moss/oci"
	"moss/overlay"
)

// A layer unpacked by overlay, as an ordinary user or as root, gives its tar
// back. MOSS_TEST_TAR names a tar of your own, uncompressed.
func TestOpenTarAfterOverlay(t *testing.T) {
	path := os.Getenv("MOSS_TEST_TAR")
	if path == "" {
		path = t.TempDir() + "/layer.tar"
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		filler(f, "x", 3)
		f.Close()
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		t.Fatal(err)
	}
	id := oci.FromHash(h)
	s, err := image.Open(t.TempDir()+"/store", "")
	if err != nil {
		t.Fatal(err)
	}
	s.Unpack = func(ctx context.Context, r io.Reader, dir string) ([]string, error) {
		_, err := overlay.Unpack(ctx, r, dir, overlay.UnpackOptions{})
		return nil, err
	}
	open := func(context.Context) (io.ReadCloser, error) { return os.Open(path) }
	if _, _, err := s.AddLayer(t.Context(), oci.Descriptor{Digest: id, Size: n}, id, open); err != nil {
		t.Fatal(err)
	}
	r, err := s.OpenTar(t.Context(), id, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	h.Reset()
	if _, err := io.Copy(h, r); err != nil {
		t.Fatal(err)
	}
	if got := oci.FromHash(h); got != id {
		t.Errorf("the tar made again is %s, want %s", got, id)
	}
}

// filler writes a tar of one file.
func filler(w io.Writer, name string, mebibytes int) {
	chunk := bytes.Repeat([]byte(name+" and again 0123456789abcdef\n"), 40_000)[:1<<20]
	tw := tar.NewWriter(w)
	tw.WriteHeader(&tar.Header{Name: "big-" + name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(mebibytes) << 20})
	for range mebibytes {
		tw.Write(chunk)
	}
	tw.Close()
}
