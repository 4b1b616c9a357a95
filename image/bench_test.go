package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/gzip"

	"moss/image"
	"moss/oci"
	"moss/overlay"
)

// BenchmarkAddLayer unpacks a gzip layer as a pull does, beside GNU tar, which
// neither hashes nor splits. MOSS_BENCH_LAYER names a layer.tar.gz of your own;
// without it one of 3,000 files is made. Every round has a fresh directory that
// stays until the end: ext4 is many times slower where a tree was just deleted.
func BenchmarkAddLayer(b *testing.B) {
	path := benchLayer(b)
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	digest, diffID := sha256.New(), sha256.New()
	z, err := gzip.NewReader(io.TeeReader(f, digest))
	if err != nil {
		b.Fatal(err)
	}
	tarSize, err := io.Copy(diffID, z)
	if err != nil {
		b.Fatal(err)
	}
	fi, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	f.Close()
	id := oci.FromHash(diffID)
	desc := oci.Descriptor{MediaType: oci.MediaTypeLayerGzip, Digest: oci.FromHash(digest), Size: fi.Size()}
	open := func(context.Context) (io.ReadCloser, error) { return os.Open(path) }
	rounds := b.TempDir()
	n := 0
	fresh := func() string { n++; return filepath.Join(rounds, fmt.Sprint(n)) }

	store := func(b *testing.B) *image.Store {
		s, err := image.Open(fresh(), "")
		if err != nil {
			b.Fatal(err)
		}
		s.Unpack = func(ctx context.Context, r io.Reader, dir string) ([]string, error) {
			_, err := overlay.Unpack(ctx, r, dir, overlay.UnpackOptions{})
			return nil, err
		}
		return s
	}

	b.Run("moss", func(b *testing.B) {
		b.SetBytes(tarSize)
		for b.Loop() {
			s := store(b)
			if _, _, err := s.AddLayer(b.Context(), desc, id, open); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("sync", func(b *testing.B) {
		for range b.N {
			b.StopTimer()
			s := store(b)
			if _, _, err := s.AddLayer(b.Context(), desc, id, open); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			if err := s.Sync(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("tar", func(b *testing.B) {
		b.SetBytes(tarSize)
		for b.Loop() {
			dir := fresh()
			if err := os.Mkdir(dir, 0o755); err != nil {
				b.Fatal(err)
			}
			// Devices are refused to an ordinary user, as they are to moss.
			cmd := exec.Command("tar", "xzf", path, "-C", dir, "--exclude=./dev/*")
			if out, err := cmd.CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
		}
	})
}

func benchLayer(b *testing.B) (path string) {
	b.Helper()
	if path := os.Getenv("MOSS_BENCH_LAYER"); path != "" {
		return path
	}
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := tar.NewWriter(z)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 3000 {
		if i%30 == 0 {
			w.WriteHeader(&tar.Header{Name: fmt.Sprintf("d%d/", i/30), Typeflag: tar.TypeDir, Mode: 0o755})
		}
		body := make([]byte, r.IntN(40_000))
		for j := range body {
			body[j] = "etaoin shrdlu\n\x00\x01\x02"[r.IntN(17)]
		}
		w.WriteHeader(&tar.Header{Name: fmt.Sprintf("d%d/f%d", i/30, i), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body))})
		w.Write(body)
	}
	w.Close()
	z.Close()
	path = filepath.Join(b.TempDir(), "layer.tar.gz")
	if err := os.WriteFile(path, buf.Bytes(), 0o600); err != nil {
		b.Fatal(err)
	}
	return path
}

// BenchmarkStart is what a start asks of the store: the image by name, and the
// short names of its layers.
func BenchmarkStart(b *testing.B) {
	for _, layers := range []int{5, 64} {
		b.Run(fmt.Sprint(layers), func(b *testing.B) {
			root := b.TempDir() + "/store"
			s, ref := manyLayers(b, root, layers)
			s.Close()
			for b.Loop() {
				s, err := image.Open(root, "")
				if err != nil {
					b.Fatal(err)
				}
				img, err := s.Lookup(ref)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := s.Lowers(img.Config.RootFS.DiffIDs); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func manyLayers(b *testing.B, root string, n int) (*image.Store, oci.Reference) {
	b.Helper()
	s, err := image.Open(root, "")
	if err != nil {
		b.Fatal(err)
	}
	s.Unpack = func(context.Context, io.Reader, string) ([]string, error) { return nil, nil }
	config := oci.Image{OS: "linux", RootFS: oci.RootFS{Type: "layers"}}
	m := oci.Manifest{SchemaVersion: 2}
	for i := range n {
		var t bytes.Buffer
		w := tar.NewWriter(&t)
		w.WriteHeader(&tar.Header{Name: fmt.Sprintf("layer%d/", i), Typeflag: tar.TypeDir})
		w.Close()
		desc := oci.Descriptor{Digest: oci.FromBytes(t.Bytes()), Size: int64(t.Len())}
		open := func(context.Context) (io.ReadCloser, error) { return io.NopCloser(&t), nil }
		if _, _, err := s.AddLayer(b.Context(), desc, desc.Digest, open); err != nil {
			b.Fatal(err)
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, desc.Digest)
		m.Layers = append(m.Layers, desc)
	}
	put := func(v any) oci.Descriptor {
		text, err := json.Marshal(v)
		if err != nil {
			b.Fatal(err)
		}
		d, err := s.PutBlob(text)
		if err != nil {
			b.Fatal(err)
		}
		return oci.Descriptor{Digest: d, Size: int64(len(text))}
	}
	m.Config = put(config)
	manifest := put(m)
	ref, err := oci.ParseReference("bench")
	if err != nil {
		b.Fatal(err)
	}
	if err := errors.Join(s.Sync(), s.Tag(ref, manifest)); err != nil {
		b.Fatal(err)
	}
	return s, ref
}
