package overlay

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// debianLike returns a tar shaped like Debian's minbase: 8700 entries, 170 MB,
// a thousand directories, many small files and a few large ones. The file named
// by MOSS_BENCH_TAR is taken instead when there is one.
func debianLike(tb testing.TB) []byte {
	tb.Helper()
	if name := os.Getenv("MOSS_BENCH_TAR"); name != "" {
		b, err := os.ReadFile(name)
		if err != nil {
			tb.Fatal(err)
		}
		return b
	}
	rnd := rand.New(rand.NewSource(1))
	noise := make([]byte, 8<<20)
	rnd.Read(noise)
	var buf bytes.Buffer
	buf.Grow(180 << 20)
	tw := tar.NewWriter(&buf)
	when := time.Unix(1700000000, 0)
	put := func(h tar.Header, size int) {
		h.ModTime, h.Size = when, int64(size)
		if err := tw.WriteHeader(&h); err != nil {
			tb.Fatal(err)
		}
		off := rnd.Intn(len(noise) - size)
		if _, err := tw.Write(noise[off : off+size]); err != nil {
			tb.Fatal(err)
		}
	}
	for d := range 1000 {
		dir := fmt.Sprintf("usr/share/group%02d/dir%03d/", d/20, d)
		put(tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755}, 0)
		for f := range 7 {
			size := int(rnd.ExpFloat64() * 9000)
			if rnd.Intn(100) == 0 {
				size += 600 << 10
			}
			if rnd.Intn(700) == 0 {
				size += 4 << 20
			}
			put(tar.Header{Name: fmt.Sprintf("%sfile%d", dir, f), Typeflag: tar.TypeReg, Mode: 0o644}, min(size, 7<<20))
		}
		if d%10 < 7 {
			put(tar.Header{Name: dir + "link", Linkname: "file0", Typeflag: tar.TypeSymlink, Mode: 0o777}, 0)
		}
	}
	if err := tw.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

// BenchmarkUnpack compares with GNU tar on the same bytes:
//
//	go test -run=- -bench=Unpack -benchtime=5x ./overlay
//
// Every round has a fresh directory, and none is removed before the end: ext4
// avoids inodes freed a moment ago and is many times slower beside them.
func BenchmarkUnpack(b *testing.B) {
	layer := debianLike(b)
	base := b.TempDir()
	file := filepath.Join(base, "layer.tar")
	if err := os.WriteFile(file, layer, 0o600); err != nil {
		b.Fatal(err)
	}
	round := 0
	fresh := func() string {
		round++
		dir := filepath.Join(base, fmt.Sprint("round", round))
		if err := os.Mkdir(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		return dir
	}
	b.Run("moss", func(b *testing.B) {
		b.SetBytes(int64(len(layer)))
		b.ReportAllocs()
		for b.Loop() {
			f, err := os.Open(file)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := Unpack(context.Background(), f, fresh(), UnpackOptions{}); err != nil {
				b.Fatal(err)
			}
			f.Close()
		}
	})
	b.Run("tar", func(b *testing.B) {
		if _, err := exec.LookPath("tar"); err != nil {
			b.Skip(err)
		}
		b.SetBytes(int64(len(layer)))
		for b.Loop() {
			cmd := exec.Command("tar", "xf", file, "-C", fresh())
			if out, err := cmd.CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
		}
	})
}
