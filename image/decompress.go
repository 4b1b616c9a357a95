package image

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"moss/fail"
)

// Bounds on what a layer may become.
const (
	// maxRatio and floorBytes: deflate cannot do better than 1032:1 (zlib's
	// technical details, "Maximum Compression Factor"), so no honest gzip comes
	// near the bound; zstd can, with nothing but zeros.
	maxRatio   = 1100
	floorBytes = 64 << 20
	// diskReserve is what is left free: a full disk hurts everybody on it.
	diskReserve = 64 << 20
	// inodeReserve likewise, for layers of many empty files.
	inodeReserve = 1024
	// diskInterval is how many bytes go by between two looks at the disk.
	diskInterval = 16 << 20
	// maxWindow is what a zstd frame may ask to be remembered; zstd(1) itself
	// refuses more without --long. Ordinary levels use 8 MiB at most.
	maxWindow = 128 << 20
)

// limits bounds one layer.
type limits struct {
	bytes   int64 // of tar
	reserve int64 // of free disk
	dir     string
}

func (s *Store) limits(compressed int64) limits {
	l := limits{bytes: floorBytes, reserve: s.reserve, dir: s.root}
	if compressed < (1<<62)/maxRatio {
		l.bytes += maxRatio * compressed
	} else {
		l.bytes = 1 << 62
	}
	return l
}

// decompress turns the blob into blocks of tar. What it is decides its first
// bytes, not the media type: registries hold blobs with wrong ones.
func decompress(in io.Reader, out *stream, l limits) error {
	// inflate has a fast path for this very type.
	br := bufio.NewReaderSize(in, 64<<10)
	begin, err := br.Peek(512)
	if err != nil && err != io.EOF {
		return err
	}
	switch {
	case isGzip(begin):
		z := &gzipReader{br: br}
		return inflate("gzip", z, out, l)
	case isZstd(begin):
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return err
		}
		defer z.Close()
		return inflate("zstd", z, out, l)
	case isTar(begin):
		return inflate("", br, out, l)
	}
	return notALayer("neither gzip nor zstd nor tar", begin)
}

func inflate(format string, r io.Reader, out *stream, l limits) error {
	var n, looked int64
	for ended := false; !ended; {
		b, err := out.next()
		if err != nil {
			return err
		}
		got := 0
		for got < blockSize && !ended {
			m, err := r.Read(b.buf[got:])
			got += m
			if err == io.EOF {
				ended = true
			} else if err != nil {
				return explainInflate(format, err)
			}
		}
		if n == 0 && format != "" && !isTar(b.buf[:got]) {
			return notALayer(format+" of something that is no tar", b.buf[:got])
		}
		n += int64(got)
		if n > l.bytes {
			return &fail.Error{Op: "decompressing", On: format,
				Err: fmt.Errorf("more than %s", size(l.bytes)),
				Why: "no honest layer of this size becomes that large; it is made to fill disks",
				Try: "do not use this image"}
		}
		if n-looked >= diskInterval {
			if err := l.checkDisk(); err != nil {
				return err
			}
			looked = n
		}
		out.send(b, got)
	}
	return nil
}

func (l limits) checkDisk() error {
	var st unix.Statfs_t
	if err := unix.Statfs(l.dir, &st); err != nil {
		return fmt.Errorf("statfs(2) %s: %w", l.dir, err)
	}
	// Some file systems count no inodes and say 0 of 0.
	if freeBytes(&st) < l.reserve || st.Files > 0 && st.Ffree < inodeReserve {
		return &fail.Error{Op: "unpacking into", On: l.dir, Err: unix.ENOSPC, Why: fullness(l.dir) +
			", and moss leaves " + size(l.reserve) + " to others",
			Try: "remove images with moss rmi, free space there, or use a store elsewhere with --root DIR"}
	}
	return nil
}

// gzipReader reads members one after the other, as RFC 1952, Section 2.2 has
// them. Zeros after the last one are padding (gzip(1) ignores it too); anything
// else there is an error, as in docker.
type gzipReader struct {
	br *bufio.Reader
	z  *gzip.Reader
}

func (g *gzipReader) Read(p []byte) (int, error) {
	if g.z == nil {
		z, err := gzip.NewReader(g.br)
		if err != nil {
			return 0, noEOF(err)
		}
		z.Multistream(false)
		g.z = z
	}
	for {
		n, err := g.z.Read(p)
		if err != io.EOF {
			return n, err
		}
		if err := g.nextMember(); err != nil || n > 0 {
			return n, err
		}
	}
}

// nextMember returns io.EOF at the end of the blob.
func (g *gzipReader) nextMember() error {
	begin, err := g.br.Peek(3)
	if isGzip(begin) {
		if err := g.z.Reset(g.br); err != nil {
			return noEOF(err)
		}
		g.z.Multistream(false)
		return nil
	}
	for ; err == nil || len(begin) > 0; begin, err = g.br.Peek(1) {
		if strings.Trim(string(begin), "\x00") != "" {
			return errTrailing
		}
		g.br.Discard(len(begin))
	}
	return err
}

const gzipDeflate = 8

var errTrailing = errors.New("other bytes follow the compressed ones")

// noEOF: the end of the blob inside a header is early.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// explainInflate marks errors of the format. Those of the source pass through.
func explainInflate(format string, err error) error {
	e := &fail.Error{Op: "decompressing", On: format, Err: err}
	switch {
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		e.Why = "it was compressed with a window of more than " + strconv.Itoa(maxWindow>>20) + " MiB, all of which would have to be held in memory"
		e.Try = "ask the publisher for the image compressed without zstd --long"
	case errors.Is(err, gzip.ErrChecksum), errors.Is(err, gzip.ErrHeader), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, errTrailing),
		errors.Is(err, zstd.ErrCRCMismatch), errors.Is(err, zstd.ErrMagicMismatch):
		// Only said when the digest turned out right.
		e.Why = "the blob is byte for byte what the manifest names, so it was already damaged when it was published"
		e.Try = "tell whoever published the image"
	}
	return e
}

func notALayer(what string, begin []byte) error {
	e := &fail.Error{Op: "decompressing", On: "the layer", Err: errors.New(what)}
	if like := looksLike(begin); like != "" {
		e.Why = "it looks like " + like
	} else {
		e.Why = fmt.Sprintf("it begins with % x", begin[:min(len(begin), 8)])
	}
	e.Try = "layers are tar, tar+gzip or tar+zstd; ask the publisher for such an image"
	return e
}

func isGzip(b []byte) bool { return len(b) >= 3 && b[0] == 0x1f && b[1] == 0x8b && b[2] == gzipDeflate }

// isZstd knows frames and skippable frames (RFC 8878, Sections 3.1.1 and 3.1.2).
func isZstd(b []byte) bool {
	return len(b) >= 4 && (bytes.Equal(b[:4], []byte{0x28, 0xb5, 0x2f, 0xfd}) ||
		b[0]&0xf0 == 0x50 && b[1] == 0x2a && b[2] == 0x4d && b[3] == 0x18)
}

// isTar checks the header's checksum, the only thing that all formats of tar
// share (pax(1), "ustar Interchange Format"). Nothing at all, and zeros, are an
// archive without entries.
func isTar(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	if len(b) < 512 {
		return false
	}
	b = b[:512]
	const at, length = 148, 8
	var unsigned, signed int64
	for i, c := range b {
		if i >= at && i < at+length {
			c = ' '
		}
		unsigned += int64(c)
		signed += int64(int8(c))
	}
	if unsigned == length*' ' && b[at] == 0 {
		return true
	}
	field := strings.Trim(string(b[at:at+length]), " \x00")
	sum, err := strconv.ParseInt(field, 8, 64)
	return err == nil && (sum == unsigned || sum == signed)
}

// looksLike names what people meet in place of a layer; "" when it may be one,
// or anything.
func looksLike(b []byte) string {
	text := strings.ToLower(string(bytes.TrimLeft(b[:min(len(b), 512)], "\ufeff \t\r\n")))
	switch {
	case len(b) == 0:
		return ""
	case strings.HasPrefix(text, "<!doctype html"), strings.HasPrefix(text, "<html"):
		return "a web page: perhaps a proxy or a login page answered in place of the registry"
	case strings.HasPrefix(text, "<?xml"):
		return "XML: perhaps an error message of the storage behind the registry"
	case strings.HasPrefix(text, "{"), strings.HasPrefix(text, "["):
		return "JSON: perhaps an error message, or a manifest in a layer's place"
	case strings.HasPrefix(text, "version https://git-lfs"):
		return "a Git LFS pointer"
	case bytes.HasPrefix(b, []byte("\xfd7zXZ\x00")):
		return "xz"
	case bytes.HasPrefix(b, []byte("BZh")):
		return "bzip2"
	case bytes.HasPrefix(b, []byte("\x04\x22\x4d\x18")):
		return "lz4"
	case bytes.HasPrefix(b, []byte("PK\x03\x04")):
		return "zip"
	case bytes.HasPrefix(b, []byte("hsqs")):
		return "squashfs, as in SIF images"
	case bytes.HasPrefix(b, []byte("\x7fELF")):
		return "an ELF program"
	}
	return ""
}
