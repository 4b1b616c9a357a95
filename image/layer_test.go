package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"moss/fail"
	"moss/oci"
)

func noise(n int, seed uint64) string {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range b {
		b[i] = byte('a' + r.IntN(20))
	}
	return string(b)
}

var sampleFiles = []file{
	{"etc/", ""}, {"etc/hostname", "moss\n"}, {"bin/", ""}, {"bin/sh", noise(700_000, 1)},
	{"etc/link", "-> hostname"}, {"empty", ""}, {"odd\xff\xfename", "latin"}, {strings.Repeat("deep/", 60) + "file", "x"},
}

func sample(t testing.TB) []byte { return makeTar(t, sampleFiles...) }

func zst(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(b, nil)
}

// Every form a layer may come in gives the same tree, and the same tar back.
func TestAddLayerForms(t *testing.T) {
	plain := sample(t)
	half := len(plain) / 2
	padded := append(bytes.Clone(plain), make([]byte, 300_000)...)
	for _, form := range []struct {
		name      string
		tar, blob []byte
	}{
		{"plain", plain, plain},
		{"gzip", plain, gz(plain)},
		{"gzip members", plain, append(gz(plain[:half]), gz(plain[half:])...)},
		{"gzip empty member", plain, append(gz(nil), gz(plain)...)},
		{"gzip zero padded", plain, append(gz(plain), make([]byte, 1000)...)},
		{"zstd", plain, zst(t, plain)},
		{"zstd frames", plain, append(zst(t, plain[:half]), zst(t, plain[half:])...)},
		{"zstd skippable first", plain, append([]byte("\x50\x2a\x4d\x18\x02\x00\x00\x00hi"), zst(t, plain)...)},
		{"data after the end marker", padded, gz(padded)},
		{"junk after the end marker", append(bytes.Clone(plain), "junk"...), gz(append(bytes.Clone(plain), "junk"...))},
		{"docker's empty layer", make([]byte, 1024), gz(make([]byte, 1024))},
	} {
		t.Run(form.name, func(t *testing.T) {
			s := testStore(t)
			id := oci.FromBytes(form.tar)
			l, fresh, err := s.AddLayer(t.Context(), describe(form.blob), id, opener(form.blob))
			if err != nil {
				t.Fatal(err)
			}
			if !fresh || l.DiffID != id || l.Size != int64(len(form.tar)) {
				t.Errorf("AddLayer = %+v, fresh %v; want size %d", l, fresh, len(form.tar))
			}
			if len(form.tar) > 2000 {
				if b, err := os.ReadFile(l.Dir + "/bin/sh"); err != nil || string(b) != sampleFiles[3].content {
					t.Errorf("bin/sh: %d bytes, %v", len(b), err)
				}
			}
			if to, err := os.Readlink(filepath.Join(s.LinkDir(), l.Short)); err != nil || filepath.Join(s.LinkDir(), to) != l.Dir {
				t.Errorf("short name %s -> %s, %v; want %s", l.Short, to, err, l.Dir)
			}
			if found, err := s.LayerOf(oci.FromBytes(form.blob)); err != nil || found.DiffID != id {
				t.Errorf("LayerOf = %v, %v", found.DiffID, err)
			}
			sameTar(t, s, id)
			tidy(t, s)
		})
	}
}

func sameTar(t *testing.T, s *Store, id oci.DiffID) {
	t.Helper()
	r, err := s.OpenTar(t.Context(), id, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		t.Fatal(err)
	}
	if got := oci.FromHash(h); got != id {
		t.Errorf("the tar made again is %s, want %s", got, id)
	}
}

// What can be wrong with the bytes, and what is said about it.
func TestAddLayerRefuses(t *testing.T) {
	plain := sample(t)
	good := gz(plain)
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	html := []byte("<!DOCTYPE html><html>" + strings.Repeat("Please log in. ", 100))
	other := oci.FromBytes([]byte("another tar"))
	bomb := zst(t, make([]byte, 200<<20))
	for _, c := range []struct {
		name     string
		declared []byte // what the manifest names
		sent     []byte
		id       oci.DiffID
		is       error
		says     string // in error, why or try
	}{
		{"truncated", good, good[:len(good)-100], "", io.ErrUnexpectedEOF, fmt.Sprintf("after %d of %d bytes", len(good)-100, len(good))},
		{"nothing", good, nil, "", io.ErrUnexpectedEOF, "after 0 of"},
		{"oversized", good, append(bytes.Clone(good), 'x'), "", ErrDigestMismatch, fmt.Sprintf("more than the %d bytes", len(good))},
		{"flipped bit", good, flipped, "", ErrDigestMismatch, "expected " + fmt.Sprint(len(good)) + " with " + string(oci.FromBytes(good))},
		{"web page in its place", html, html, "", nil, "a web page"},
		{"web page sent", good, html, "", nil, "a web page"},
		{"JSON", []byte(`{"errors":[]}`), []byte(`{"errors":[]}`), "", nil, "JSON"},
		{"gzip of JSON", gz([]byte(`{"a":1}`)), gz([]byte(`{"a":1}`)), "", nil, "gzip of something that is no tar"},
		{"xz", []byte("\xfd7zXZ\x00........"), []byte("\xfd7zXZ\x00........"), "", nil, "xz"},
		{"published truncated gzip", good[:len(good)-9], good[:len(good)-9], "", io.ErrUnexpectedEOF, "already damaged when it was published"},
		{"published damaged gzip", flipped, flipped, "", nil, "already damaged when it was published"},
		{"trailing junk", append(bytes.Clone(good), "junk"...), append(bytes.Clone(good), "junk"...), "", errTrailing, "already damaged"},
		{"wrong diffID", good, good, other, ErrDigestMismatch, string(other)},
		{"tar cut short", gz(plain[:100_000]), gz(plain[:100_000]), oci.FromBytes(plain[:100_000]), io.ErrUnexpectedEOF, ""},
		{"bomb", bomb, bomb, "", nil, "made to fill disks"},
		{"zstd window", zstdWindow, zstdWindow, "", nil, "128 MiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := testStore(t)
			id := c.id
			if id == "" {
				id = oci.FromBytes(plain)
			}
			_, _, err := s.AddLayer(t.Context(), describe(c.declared), id, opener(c.sent))
			if err == nil {
				t.Fatal("accepted")
			}
			if c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("error %v, want %v", err, c.is)
			}
			var said bytes.Buffer
			fail.Print(&said, err)
			t.Logf("%s", said.String())
			if !strings.Contains(said.String(), c.says) {
				t.Errorf("it says\n%swhich lacks %q", said.String(), c.says)
			}
			if _, err := s.Layer(id); !errors.Is(err, ErrNotFound) {
				t.Errorf("Layer after the failure: %v", err)
			}
			tidy(t, s)
			if c.id == "" {
				add(t, s, plain) // the next attempt is not hindered
			}
		})
	}
}

// zstdWindow is a frame header that asks for a window of 1 GiB (RFC 8878,
// Section 3.1.1.1.2: exponent 20).
var zstdWindow = []byte("\x28\xb5\x2f\xfd\x00\xa0\x01\x00\x00....................")

// A GNU sparse header may claim any size without a byte to it.
func TestAddLayerSparseBomb(t *testing.T) {
	b := sparseTar(1 << 50)
	s := testStore(t)
	// Not to write a pebibyte of zeros.
	s.Unpack = func(ctx context.Context, r io.Reader, dir string) ([]string, error) { return nil, nil }
	l, _, err := s.AddLayer(t.Context(), describe(b), oci.FromBytes(b), opener(b))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.OpenTar(t.Context(), l.DiffID, nil); err == nil || !strings.Contains(fail.Lesson(err).Why, "sparse") {
		t.Errorf("OpenTar of an archive with sparse files: %v", err)
	}
}

// sparseTar is an old GNU sparse entry: one byte of data at the start of a file
// of realSize bytes.
func sparseTar(realSize int64) []byte {
	h := make([]byte, 512)
	copy(h, "hole")
	copy(h[100:], "0000644\x00")
	copy(h[108:], "0000000\x00")
	copy(h[116:], "0000000\x00")
	copy(h[124:], "00000000001\x00")
	copy(h[136:], "00000000000\x00")
	h[156] = 'S'
	copy(h[257:], "ustar  \x00")
	copy(h[386:], "00000000000\x00")
	copy(h[398:], "00000000001\x00")
	binarySize := h[483:495]
	binarySize[0] = 0x80
	for i, v := 11, realSize; i > 0; i, v = i-1, v>>8 {
		binarySize[i] = byte(v)
	}
	copy(h[148:], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	data := make([]byte, 512)
	data[0] = 'x'
	return append(append(h, data...), make([]byte, 1024)...)
}

func TestAddLayerTwiceTheSameName(t *testing.T) {
	for _, c := range []struct {
		name   string
		second string
		lossy  bool
	}{{"same contents", "one", false}, {"others", "two", true}} {
		t.Run(c.name, func(t *testing.T) {
			s := testStore(t)
			l := add(t, s, makeTar(t, file{"d/", ""}, file{"a", "one"}, file{"d/", ""}, file{"./a", c.second}))
			if b, _ := os.ReadFile(l.Dir + "/a"); string(b) != c.second {
				t.Errorf("a is %q, want the later %q", b, c.second)
			}
			if !c.lossy {
				sameTar(t, s, l.DiffID)
			} else if _, err := s.OpenTar(t.Context(), l.DiffID, nil); err == nil {
				t.Error("OpenTar promises a tar it cannot make")
			}
		})
	}
}

func TestOpenTarSeesChanges(t *testing.T) {
	s := testStore(t)
	l := add(t, s, sample(t))
	if err := os.WriteFile(l.Dir+"/etc/hostname", []byte("ssom\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := s.OpenTar(t.Context(), l.DiffID, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.Copy(io.Discard, r); err == nil || !strings.Contains(err.Error(), "etc/hostname") {
		t.Errorf("reading a changed tree: %v, want an error that names etc/hostname", err)
	}
}

// A name in the archive must not lead out of the tree when the tar is made again.
func TestOpenTarStaysInside(t *testing.T) {
	s := testStore(t)
	l := add(t, s, makeTar(t, file{"d/", ""}, file{"d/secret", "inside"}))
	outside := t.TempDir()
	if err := os.WriteFile(outside+"/secret", []byte("outsid"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.RemoveAll(l.Dir+"/d"), os.Symlink(outside, l.Dir+"/d")); err != nil {
		t.Fatal(err)
	}
	r, err := s.OpenTar(t.Context(), l.DiffID, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err == nil || bytes.Contains(b, []byte("outsid")) {
		t.Errorf("a symlink led out of the tree: error %v", err)
	}
}

// Many goroutines and two stores want the same layer: one does the work.
func TestAddLayerTogether(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	stores := []*Store{openStore(t, root), openStore(t, root)}
	plain := sample(t)
	blob := gz(plain)
	var opened, fresh atomic.Int32
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			l, isFresh, err := stores[i%2].AddLayer(t.Context(), describe(blob), oci.FromBytes(plain),
				func(ctx context.Context) (io.ReadCloser, error) {
					opened.Add(1)
					time.Sleep(20 * time.Millisecond)
					return opener(blob)(ctx)
				})
			if err != nil || l.Size != int64(len(plain)) {
				t.Errorf("AddLayer = %+v, %v", l, err)
			}
			if isFresh {
				fresh.Add(1)
			}
		})
	}
	all.Wait()
	if opened.Load() != 1 || fresh.Load() != 1 {
		t.Errorf("opened %d times, fresh %d times; want once", opened.Load(), fresh.Load())
	}
	tidy(t, stores[0])
}

func TestAddLayerFirstFails(t *testing.T) {
	s := testStore(t)
	plain := sample(t)
	blob := gz(plain)
	broken := errors.New("connection reset")
	started := make(chan struct{})
	go func() {
		<-started
	}()
	var all sync.WaitGroup
	all.Go(func() {
		_, _, err := s.AddLayer(t.Context(), describe(blob), oci.FromBytes(plain), func(context.Context) (io.ReadCloser, error) {
			close(started)
			time.Sleep(30 * time.Millisecond)
			return nil, broken
		})
		if !errors.Is(err, broken) {
			t.Errorf("first: %v, want %v", err, broken)
		}
	})
	<-started
	if _, fresh, err := s.AddLayer(t.Context(), describe(blob), oci.FromBytes(plain), opener(blob)); err != nil || !fresh {
		t.Errorf("second: fresh %v, %v", fresh, err)
	}
	all.Wait()
	tidy(t, s)
}

func TestAddLayerCancelled(t *testing.T) {
	plain := sample(t)
	blob := gz(plain)
	s := testStore(t)
	for _, after := range []int{0, 100, len(blob) / 2} {
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("interrupted")
		r, w := io.Pipe() // blocks for ever, as a dead network does
		go func() {
			w.Write(blob[:after])
			cancel(why)
		}()
		begun := time.Now()
		_, _, err := s.AddLayer(ctx, describe(blob), oci.FromBytes(plain), func(context.Context) (io.ReadCloser, error) { return r, nil })
		if !errors.Is(err, why) {
			t.Errorf("after %d bytes: %v, want %v", after, err, why)
		}
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("after %d bytes: took %v", after, took)
		}
		tidy(t, s)
	}
	// Waiting for another's work ends as well.
	unlock, err := s.tryLock(layerPrefix+oci.FromBytes(plain).Hex(), unix.LOCK_EX)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := s.AddLayer(ctx, describe(blob), oci.FromBytes(plain), opener(blob)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting: %v", err)
	}
}

func TestAddLayerUnpackFails(t *testing.T) {
	plain := sample(t)
	blob := gz(plain)
	s := testStore(t)
	odd := errors.New("an entry leads out")
	s.Unpack = func(ctx context.Context, r io.Reader, dir string) ([]string, error) {
		os.Mkdir(dir+"/locked", 0o700)
		os.WriteFile(dir+"/locked/file", nil, 0o600)
		os.Chmod(dir+"/locked", 0o500) // an ordinary user cannot delete in it
		return nil, odd
	}
	if _, _, err := s.AddLayer(t.Context(), describe(blob), oci.FromBytes(plain), opener(blob)); !errors.Is(err, odd) {
		t.Errorf("AddLayer = %v, want %v", err, odd)
	}
	tidy(t, s)
}

// The disk is not filled to the last block.
func TestAddLayerReserve(t *testing.T) {
	s := testStore(t)
	s.reserve = 1 << 62
	big := makeTar(t, file{"big", strings.Repeat("x", diskInterval+blockSize)})
	blob := gz(big)
	_, _, err := s.AddLayer(t.Context(), describe(blob), oci.FromBytes(big), opener(blob))
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(fail.Lesson(err).Why, "left") {
		t.Errorf("AddLayer = %v, want ENOSPC and what is left", err)
	}
	tidy(t, s)
}

// A layer that was not synced counts only in the boot it was made in.
func TestDurable(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	s := openStore(t, root)
	synced := add(t, s, makeTar(t, file{"a", "synced"}))
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	lost := add(t, s, makeTar(t, file{"a", "lost"}))
	for _, l := range []Layer{synced, lost} {
		path := s.path("layers", l.DiffID.Hex(), "layer.json")
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b = bytes.Replace(b, []byte(bootID()), []byte("another boot"), 1)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = openStore(t, root)
	if _, err := s.Layer(synced.DiffID); err != nil {
		t.Errorf("synced layer: %v", err)
	}
	if _, err := s.Layer(lost.DiffID); !errors.Is(err, ErrNotFound) {
		t.Errorf("layer of another boot: %v, want ErrNotFound", err)
	}
	if got, err := s.Lowers([]oci.DiffID{synced.DiffID}); err != nil || got[0] != synced.Short {
		t.Errorf("Lowers = %v, %v", got, err)
	}
	if _, err := s.Lowers([]oci.DiffID{lost.DiffID}); !errors.Is(err, ErrNotFound) {
		t.Errorf("Lowers of a lost layer: %v", err)
	}
	again := add(t, s, makeTar(t, file{"a", "lost"}))
	if again.Short != lost.Short {
		t.Errorf("short name changed from %s to %s", lost.Short, again.Short)
	}
	tidy(t, s)
}

func TestShortNamesCollide(t *testing.T) {
	s := testStore(t)
	a := oci.DiffID("sha256:" + strings.Repeat("ab", 32))
	b := oci.DiffID("sha256:" + strings.Repeat("ab", 31) + "cd")
	for _, c := range []struct {
		id   oci.DiffID
		want int
	}{{a, 7}, {a, 7}, {b, 8}, {b, 8}} {
		if short, err := s.link(c.id); err != nil || len(short) != c.want {
			t.Errorf("link(%s) = %s, %v; want %d digits", c.id, short, err, c.want)
		}
	}
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(s.LinkDir()); len(left) != 0 {
		t.Errorf("%d links to no layer survive a sweep", len(left))
	}
}
