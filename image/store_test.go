package image

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"moss/fail"
	"moss/oci"
)

func TestOpen(t *testing.T) {
	root := filepath.Join(t.TempDir(), "a", "b", "store")
	s, err := Open(root, "")
	if err != nil {
		t.Fatal(err)
	}
	rootPerm := fs.FileMode(0o700)
	if os.Geteuid() == 0 {
		rootPerm = 0o711
	}
	for dir, want := range map[string]fs.FileMode{"": rootPerm, "layers": 0o711, "layers/l": 0o711, "blobs": 0o700, "refs": 0o700, "run": 0o700} {
		if fi, err := os.Stat(s.path(dir)); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%q: %v, %v; want mode %o", dir, fi.Mode(), err, want)
		}
	}
	if _, err := Open(root, filepath.Join(root, "elsewhere")); err != nil {
		t.Errorf("opening it again: %v", err)
	}
	// Somebody tidied up.
	os.Remove(s.path("tmp"))
	os.RemoveAll(s.path("locks"))
	s, _ = Open(root, "")
	if _, err := s.PutBlob([]byte("{}")); err != nil {
		t.Errorf("PutBlob in a store without tmp and locks: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	aFile := filepath.Join(dir, "file")
	newer := filepath.Join(dir, "newer")
	odd := filepath.Join(dir, "odd")
	os.WriteFile(aFile, nil, 0o600)
	os.Mkdir(newer, 0o700)
	os.WriteFile(newer+"/format", []byte("moss 99\n"), 0o600)
	os.Mkdir(odd, 0o700)
	os.WriteFile(odd+"/format", []byte("photos\n"), 0o600)
	cases := []struct{ name, root, why string }{
		{"a file", aFile, aFile + " is not a directory"},
		{"below a file", aFile + "/x/y", aFile + " is not a directory"},
		{"newer", newer, "a newer moss"},
		{"not ours", odd, "something else"},
	}
	if os.Geteuid() != 0 {
		locked := filepath.Join(dir, "locked")
		os.Mkdir(locked, 0o500)
		cases = append(cases,
			struct{ name, root, why string }{"no permission", locked + "/store", "with mode 0500"},
			struct{ name, root, why string }{"another's", "/", "belongs to user id 0"})
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := Open(c.root, filepath.Join(dir, "run"))
			lesson := fail.Lesson(err)
			if lesson == nil || !strings.Contains(lesson.Why, c.why) || lesson.Try == "" {
				t.Errorf("Open = %v, lesson %+v; want why %q and a try", err, lesson, c.why)
			}
		})
	}
}

func TestBlob(t *testing.T) {
	s := testStore(t)
	d, err := s.PutBlob([]byte(`{"a":1}`))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := s.Blob(d); err != nil || string(b) != `{"a":1}` {
		t.Errorf("Blob = %q, %v", b, err)
	}
	if _, err := s.Blob(oci.FromBytes(nil)); !errors.Is(err, ErrNotFound) {
		t.Errorf("absent blob: %v", err)
	}
	if _, err := s.Blob("sha256:../../../etc/passwd"); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("a path in place of a digest: %v", err)
	}
	for _, damaged := range []string{`{"a":2}`, "", strings.Repeat("x", maxBlob+1)} {
		if err := os.WriteFile(s.blobPath(d), []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Blob(d); !errors.Is(err, ErrDigestMismatch) {
			t.Errorf("damaged blob (%d bytes): %v", len(damaged), err)
		}
		if _, err := s.PutBlob([]byte(`{"a":1}`)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Blob(d); err != nil {
			t.Errorf("after putting it again: %v", err)
		}
	}
	if _, err := s.PutBlob(make([]byte, maxBlob+1)); err == nil {
		t.Error("an oversized blob is kept")
	}
	long := oci.Digest(fmt.Sprintf("sha512:%0128x", 1))
	if err := s.PutBlobAs(long, []byte("x")); !errors.Is(err, ErrDigestMismatch) {
		t.Errorf("PutBlobAs of other bytes: %v", err)
	}
}

func TestPutSha512(t *testing.T) {
	s := testStore(t)
	h := oci.Digest(fmt.Sprintf("sha512:%0128x", 0)).NewHash()
	h.Write([]byte("x"))
	d := oci.Digest(fmt.Sprintf("sha512:%x", h.Sum(nil)))
	if err := s.PutBlobAs(d, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if b, err := s.Blob(d); err != nil || string(b) != "x" {
		t.Errorf("Blob = %q, %v", b, err)
	}
}

func layerTar(t testing.TB, content string) []byte { return makeTar(t, file{"f", content}) }

func TestFind(t *testing.T) {
	s := testStore(t)
	debian, manifest := addImage(t, s, "debian:12", "one", layerTar(t, "debian"))
	if err := s.Tag(reference(t, "docker.io/library/debian@"+string(manifest.Digest)), manifest); err != nil {
		t.Fatal(err)
	}
	index := oci.FromBytes([]byte("the index"))
	if err := s.Tag(reference(t, "debian:12@"+string(index)), manifest); err != nil {
		t.Fatal(err)
	}
	local, _ := addImage(t, s, "localhost:5000/team/app:v1", "two", layerTar(t, "app"), layerTar(t, "debian"))
	// A name that could be an id.
	tricky, _ := addImage(t, s, debian.Hex()[:4], "three", layerTar(t, "tricky"))
	for typed, want := range map[string]oci.Digest{
		"debian:12":                         debian,
		"docker.io/library/debian:12":       debian,
		"index.docker.io/debian:12":         debian,
		"debian@" + string(manifest.Digest): debian,
		"debian@" + string(index):           debian,
		"debian:99@" + string(index):        debian, // the digest decides, as in docker
		string(debian):                      debian,
		debian.Hex():                        debian,
		debian.Short():                      debian,
		"sha256:" + debian.Short():          debian,
		string(manifest.Digest):             debian,
		"localhost:5000/team/app:v1":        local,
		local.Hex()[:12]:                    local,
		debian.Hex()[:4]:                    tricky,
		"sha256:" + debian.Hex()[:20]:       debian,
		debian.Hex()[:4] + ":" + "latest":   tricky,
		"library/" + debian.Hex()[:4]:       tricky,
		"docker.io/library/" + tricky.Hex()[:0] + debian.Hex()[:4]: tricky,
	} {
		img, err := s.Find(typed)
		if err != nil {
			t.Errorf("Find(%q): %v", typed, err)
		} else if img.ID != want {
			t.Errorf("Find(%q) = %s, want %s", typed, img.ID.Short(), want.Short())
		}
	}
	img, err := s.Find("debian:12")
	if err != nil {
		t.Fatal(err)
	}
	if len(img.Names) != 1 || img.Names[0].Familiar() != "debian:12" || len(img.Digests) != 2 || img.Size != int64(len(layerTar(t, "debian"))) {
		t.Errorf("names %v, digests %v, size %d", img.Names, img.Digests, img.Size)
	}
	if quick, err := s.Lookup(reference(t, "debian:12")); err != nil || quick.ID != debian {
		t.Errorf("Lookup: %v", err)
	}
	for _, absent := range []string{"debian", "debian:13", "busybox", "Not A Name", "", "sha256:", "ffff:x", "debian@" + string(oci.FromBytes(nil)), "../../x", "localhost:5000/team"} {
		if _, err := s.Find(absent); !errors.Is(err, ErrNotFound) {
			t.Errorf("Find(%q) = %v, want ErrNotFound", absent, err)
		}
	}
}

func TestFindAmbiguous(t *testing.T) {
	s := testStore(t)
	first := map[byte]oci.Digest{}
	for i := 0; ; i++ {
		id, _ := addImage(t, s, fmt.Sprintf("img%d", i), fmt.Sprint(i))
		if other, ok := first[id.Hex()[0]]; ok {
			_, err := s.Find("sha256:" + id.Hex()[:1])
			if !errors.Is(err, ErrAmbiguous) || !strings.Contains(fail.Lesson(err).Why, other.Short()) {
				t.Errorf("Find of a shared prefix: %v", err)
			}
			return
		}
		first[id.Hex()[0]] = id
	}
}

func TestDidYouMean(t *testing.T) {
	s := testStore(t)
	for _, name := range []string{"debian:12", "alpine", "ghcr.io/org/tool:v2", "sh"} {
		addImage(t, s, name, name)
	}
	for typed, want := range map[string]string{
		"debian":      "debian:12",
		"debina:12":   "debian:12",
		"apline":      "alpine",
		"Alpine":      "alpine",
		"tool":        "ghcr.io/org/tool:v2",
		"unrelated":   "",
		"go":          "",
		"org/tool:v2": "ghcr.io/org/tool:v2",
	} {
		_, err := s.Find(typed)
		lesson := fail.Lesson(err)
		if lesson == nil {
			t.Errorf("Find(%q) = %v without a lesson", typed, err)
			continue
		}
		if means := strings.Contains(lesson.Try, "did you mean"); means != (want != "") || !strings.Contains(lesson.Try, want) {
			t.Errorf("Find(%q): try %q, want a hint at %q", typed, lesson.Try, want)
		}
	}
}

func TestTagMoves(t *testing.T) {
	s := testStore(t)
	old, _ := addImage(t, s, "app", "old", layerTar(t, "old"))
	fresh, _ := addImage(t, s, "app", "new", layerTar(t, "new"))
	img, err := s.Find("app")
	if err != nil || img.ID != fresh {
		t.Fatalf("app is %v, %v", img, err)
	}
	all, err := s.Images()
	if err != nil || len(all) != 2 {
		t.Fatalf("Images = %d, %v; want the named and the dangling one", len(all), err)
	}
	dangling, err := s.Find(old.Short())
	if err != nil || len(dangling.Names) != 0 {
		t.Errorf("the old image: %v, %v", dangling, err)
	}
	if err := s.Untag(reference(t, "app")); err != nil {
		t.Fatal(err)
	}
	if err := s.Untag(reference(t, "app")); !errors.Is(err, ErrNotFound) {
		t.Errorf("untagged twice: %v", err)
	}
	if entries, _ := os.ReadDir(s.path("refs")); len(entries) != 1 {
		t.Errorf("refs holds %v, want only %s", entries, imagesDir)
	}
}

func TestTagNeedsEverything(t *testing.T) {
	s := testStore(t)
	id, manifest := addImage(t, s, "", "x", layerTar(t, "x"))
	if err := os.Remove(s.blobPath(id)); err != nil {
		t.Fatal(err)
	}
	if err := s.Tag(reference(t, "x"), manifest); !errors.Is(err, ErrNotFound) {
		t.Errorf("Tag without config: %v", err)
	}
	_, manifest = addImage(t, s, "", "y", layerTar(t, "y"))
	if err := os.RemoveAll(s.layerPath(oci.FromBytes(layerTar(t, "y")))); err != nil {
		t.Fatal(err)
	}
	if err := s.Tag(reference(t, "y"), manifest); !errors.Is(err, ErrNotFound) {
		t.Errorf("Tag without a layer: %v", err)
	}
}

func TestRefNames(t *testing.T) {
	s := testStore(t)
	names := []string{"localhost:5000/a", "[::1]:5000/a/b:t", "Upper.example/x", "a/b/c:_x", "a/b:c", "a/b__c", "debian:12"}
	for i, name := range names {
		addImage(t, s, name, fmt.Sprint(i))
	}
	all, err := s.refs()
	if err != nil || len(all) != len(names) {
		t.Fatalf("%d refs, %v; want %d", len(all), err, len(names))
	}
	for i, name := range names {
		img, err := s.Find(name)
		if err != nil || img.Config.Author != fmt.Sprint(i) {
			t.Errorf("Find(%q): %v", name, err)
		}
	}
	for _, bad := range []oci.Reference{{}, {Registry: "..", Repository: "x", Tag: "y"}, {Registry: "r.x", Repository: "../x", Tag: "y"}, {Registry: "r.x", Repository: "x", Tag: "../y"}, {Registry: "r.x", Repository: "x"}} {
		if path, err := s.refPath(bad); err == nil {
			t.Errorf("refPath(%+v) = %s", bad, path)
		}
	}
	// A damaged file hides only itself.
	path, _ := s.refPath(reference(t, "debian:12"))
	os.WriteFile(path, []byte("{"), 0o600)
	if all, err := s.Images(); err != nil || len(all) != len(names) {
		t.Errorf("Images beside a damaged name: %d, %v", len(all), err)
	}
}

func TestRemove(t *testing.T) {
	s := testStore(t)
	shared, ownA, ownB := layerTar(t, "shared"), layerTar(t, "a"), layerTar(t, "b")
	a, _ := addImage(t, s, "a", "a", shared, ownA)
	b, manifestB := addImage(t, s, "b", "b", shared, ownB)
	if err := s.Tag(reference(t, "b:two"), manifestB); err != nil {
		t.Fatal(err)
	}
	img, err := s.Find("a")
	if err != nil {
		t.Fatal(err)
	}
	deleted, err := s.Remove(img, nil)
	if err != nil {
		t.Fatal(err)
	}
	for d, want := range map[oci.Digest]bool{a: true, img.Manifest.Digest: true, oci.FromBytes(ownA): true, oci.FromBytes(shared): false, b: false} {
		if slices.Contains(deleted, d) != want {
			t.Errorf("deleted %s: %v, want %v", d.Short(), !want, want)
		}
	}
	if _, err := s.LayerOf(oci.FromBytes(gz(ownA))); !errors.Is(err, ErrNotFound) {
		t.Errorf("LayerOf a removed layer: %v", err)
	}
	img, err = s.Find("b:two")
	if err != nil {
		t.Fatal(err)
	}
	// A container keeps its layers, not the image.
	deleted, err = s.Remove(img, func(d oci.DiffID) bool { return d == oci.FromBytes(ownB) })
	if err != nil || slices.Contains(deleted, oci.FromBytes(ownB)) || !slices.Contains(deleted, oci.FromBytes(shared)) {
		t.Errorf("Remove = %v, %v", deleted, err)
	}
	if all, _ := s.Images(); len(all) != 0 {
		t.Errorf("%d images left", len(all))
	}
	if deleted, err := s.Prune(nil); err != nil || !slices.Equal(deleted, []oci.Digest{oci.FromBytes(ownB)}) {
		t.Errorf("Prune = %v, %v; want the container's layer", deleted, err)
	}
	tidy(t, s)
	for _, dir := range []string{"layers/l", "layers/by-blob", "blobs/sha256"} {
		if left, _ := os.ReadDir(s.path(dir)); len(left) != 0 {
			t.Errorf("%s: %d entries left", dir, len(left))
		}
	}
}

// A removal spares the layers a pull in another process has just reused.
func TestRemoveDuringPull(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	here, there := openStore(t, root), openStore(t, root)
	shared := layerTar(t, "shared")
	addImage(t, here, "old", "old", shared, layerTar(t, "own"))
	img, err := here.Find("old")
	if err != nil {
		t.Fatal(err)
	}
	// The pull finds the layer, and announces a config it does not use in the end.
	if _, fresh, err := there.AddLayer(t.Context(), describe(gz(shared)), oci.FromBytes(shared), nil); err != nil || fresh {
		t.Fatalf("AddLayer = fresh %v, %v", fresh, err)
	}
	deleted, err := here.Remove(img, nil)
	if err != nil || slices.Contains(deleted, oci.FromBytes(shared)) {
		t.Fatalf("Remove = %v, %v; want the announced layer spared", deleted, err)
	}
	id, _ := addImage(t, there, "new", "new", shared)
	if img, err := here.Find("new"); err != nil || img.ID != id {
		t.Fatalf("Find = %v", err)
	}
	if deleted, err := here.Prune(nil); err != nil || len(deleted) != 0 {
		t.Errorf("Prune = %v, %v; want nothing", deleted, err)
	}
	// Named now, so no longer announced.
	if img, err = here.Find("new"); err != nil {
		t.Fatal(err)
	}
	if deleted, err := here.Remove(img, nil); err != nil || !slices.Contains(deleted, oci.FromBytes(shared)) {
		t.Errorf("Remove = %v, %v; want the layer gone", deleted, err)
	}
}

// Pulls and removals of the same image at once: an image that has a name is whole.
func TestTagAndRemoveRace(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	stores := []*Store{openStore(t, root), openStore(t, root)}
	layers := [][]byte{layerTar(t, "1"), layerTar(t, "2")}
	var all sync.WaitGroup
	all.Go(func() {
		for i := range 40 {
			addImage(t, stores[0], fmt.Sprintf("r%d", i%3), fmt.Sprint(i%2), layers...)
			img, err := stores[0].Lookup(reference(t, fmt.Sprintf("r%d", i%3)))
			if errors.Is(err, ErrNotFound) {
				continue // removed already
			}
			if err != nil {
				t.Error(err)
				continue
			}
			_ = img
		}
	})
	all.Go(func() {
		for range 40 {
			images, err := stores[1].Images()
			if err != nil {
				t.Error(err)
			}
			for _, img := range images {
				if _, err := stores[1].Remove(img, nil); err != nil {
					t.Error(err)
				}
			}
		}
	})
	all.Wait()
	images, err := stores[1].Images()
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range images {
		for _, id := range img.Config.RootFS.DiffIDs {
			if _, err := stores[1].Layer(id); err != nil {
				t.Errorf("%v: %v", img.Names, err)
			}
		}
	}
	tidy(t, stores[0])
}

func TestWriteFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	for _, text := range []string{"one", "two"} {
		if err := WriteFile(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		fi, serr := os.Stat(path)
		if err != nil || serr != nil || string(b) != text || fi.Mode().Perm() != 0o640 {
			t.Errorf("%q, mode %v, %v %v", b, fi.Mode(), err, serr)
		}
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("%d files in the directory, want 1", len(left))
	}
}

func FuzzLayerFile(f *testing.F) {
	f.Add([]byte(`{"diffID":"sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef","short":"5f70bf1","size":1024,"blobs":[]}`))
	f.Add([]byte(`{"diffID":"sha256:../..","short":"../../x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := parseLayerFile(b)
		if err != nil {
			return
		}
		if strings.ContainsAny(l.Short+l.DiffID.Hex(), "/.") || l.Size < 0 {
			t.Errorf("accepted %+v", l)
		}
	})
}

func FuzzRecord(f *testing.F) {
	d := "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
	f.Add([]byte(`{"reference":"docker.io/library/debian:12","manifest":{"digest":"` + d + `","size":1},"image":"` + d + `"}`))
	f.Add([]byte(`{"reference":"../../x","manifest":{},"image":""}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err != nil {
			return
		}
		if r.Manifest.Digest.Validate() != nil || r.Image.Validate() != nil {
			t.Errorf("accepted %+v", r)
		}
	})
}

func FuzzDecompress(f *testing.F) {
	tarBytes := makeTar(f, file{"a", "b"})
	f.Add(tarBytes)
	f.Add(gz(tarBytes))
	f.Add(append(gz(tarBytes), gz(nil)...))
	f.Add(zstdWindow)
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &Store{root: os.TempDir(), reserve: 0}
		st := newStream(t.Context(), &s.buffers, 64, 1)
		l := s.limits(0)
		l.bytes = 8 << 20
		_ = decompress(bytes.NewReader(b), st, l)
	})
}
