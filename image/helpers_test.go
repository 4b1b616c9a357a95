package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"

	"moss/oci"
)

// untar is the smallest Unpack that will do: directories, files, symlinks.
func untar(ctx context.Context, r io.Reader, dir string) ([]string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		name := filepath.Clean(strings.TrimPrefix(h.Name, "/"))
		switch h.Typeflag {
		case tar.TypeDir:
			if err := root.MkdirAll(name, 0o755); err != nil {
				return nil, err
			}
		case tar.TypeSymlink:
			root.Remove(name)
			if err := root.Symlink(h.Linkname, name); err != nil {
				return nil, err
			}
		case tar.TypeReg:
			if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				return nil, err
			}
			f, err := root.Create(name)
			if err != nil {
				return nil, err
			}
			_, err = io.Copy(f, tr)
			if err = errors.Join(err, f.Close()); err != nil {
				return nil, err
			}
		}
	}
}

func testStore(t testing.TB) *Store {
	t.Helper()
	s := openStore(t, filepath.Join(t.TempDir(), "store"))
	return s
}

func openStore(t testing.TB, root string) *Store {
	t.Helper()
	s, err := Open(root, "")
	if err != nil {
		t.Fatal(err)
	}
	s.Unpack = untar
	t.Cleanup(func() { s.Close() })
	return s
}

// file is one entry of a test's tar: a directory when the name ends in a slash,
// a symlink when content begins with "-> ".
type file struct{ name, content string }

func makeTar(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: 0o644, Typeflag: tar.TypeReg, Size: int64(len(f.content)), Format: tar.FormatPAX}
		body := f.content
		switch target, link := strings.CutPrefix(f.content, "-> "); {
		case strings.HasSuffix(f.name, "/"):
			h.Typeflag, h.Mode, h.Size = tar.TypeDir, 0o755, 0
			body = ""
		case link:
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, target, 0
			body = ""
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, body)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gz(b []byte) []byte {
	var out bytes.Buffer
	w, _ := gzip.NewWriterLevel(&out, 1)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

func describe(b []byte) oci.Descriptor {
	return oci.Descriptor{MediaType: oci.MediaTypeLayerGzip, Digest: oci.FromBytes(b), Size: int64(len(b))}
}

func opener(b []byte) func(context.Context) (io.ReadCloser, error) {
	return func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}

// add stores tarBytes as gzip and fails the test if that fails.
func add(t testing.TB, s *Store, tarBytes []byte) Layer {
	t.Helper()
	blob := gz(tarBytes)
	l, _, err := s.AddLayer(t.Context(), describe(blob), oci.FromBytes(tarBytes), opener(blob))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// addImage makes an image of the given layers (tars) and, unless name is "",
// names it.
func addImage(t testing.TB, s *Store, name, created string, layers ...[]byte) (id oci.Digest, manifest oci.Descriptor) {
	t.Helper()
	config := oci.Image{OS: "linux", Architecture: "amd64", Author: created, RootFS: oci.RootFS{Type: "layers"}}
	m := oci.Manifest{SchemaVersion: 2, MediaType: oci.MediaTypeManifest}
	for _, l := range layers {
		add(t, s, l)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, oci.FromBytes(l))
		m.Layers = append(m.Layers, describe(gz(l)))
	}
	raw, _ := json.Marshal(config)
	id, err := s.PutBlob(raw)
	if err != nil {
		t.Fatal(err)
	}
	m.Config = oci.Descriptor{MediaType: oci.MediaTypeConfig, Digest: id, Size: int64(len(raw))}
	rawM, _ := json.Marshal(m)
	md, err := s.PutBlob(rawM)
	if err != nil {
		t.Fatal(err)
	}
	manifest = oci.Descriptor{MediaType: oci.MediaTypeManifest, Digest: md, Size: int64(len(rawM))}
	if name != "" {
		if err := s.Tag(reference(t, name), manifest); err != nil {
			t.Fatal(err)
		}
	}
	return id, manifest
}

func reference(t testing.TB, s string) oci.Reference {
	t.Helper()
	r, err := oci.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// tidy fails the test when the store holds anything unfinished.
func tidy(t testing.TB, s *Store) {
	t.Helper()
	for _, dir := range []string{"tmp", "locks"} {
		entries, err := os.ReadDir(s.path(dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Name() != storeLock && !strings.HasPrefix(e.Name(), leasePrefix) {
				t.Errorf("%s/%s is left behind", dir, e.Name())
			}
		}
	}
}
