package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"

	"moss/fail"
	"moss/oci"
)

// How a layer comes in, in one pass:
//
//	 open ──> readBlob ──raw──> decompress ──tar──┬─> diffID
//	          counts, hashes                      ├─> tar-split
//	                                              └─> Unpack
//
// Each is a goroutine; raw and tar are streams of blocks. The slowest link is
// inflate, which no one has made parallel; the rest is arranged around keeping
// it busy.
//
// Two contexts end it early. pass ends everything. work ends what comes after
// readBlob, which then still reads to the end: if the bytes are not those that
// were asked for, that is the thing to report, and not what decompressing or
// unpacking made of them.

// Blocks in flight: 2 MiB of raw bytes, so that the network and inflate need not
// take turns, and 6 MiB of tar, so that inflate goes on while Unpack waits for
// the disk.
const (
	rawBlocks = 8
	tarBlocks = 24
)

// receive fills dir with the layer.
func (s *Store) receive(ctx context.Context, blob oci.Descriptor, id oci.DiffID, open func(context.Context) (io.ReadCloser, error), dir string) (layerFile, error) {
	if s.Unpack == nil {
		return layerFile{}, errors.New("image.Store.Unpack is not set")
	}
	pass, failPass := context.WithCancelCause(ctx)
	defer failPass(nil)
	work, failWork := context.WithCancelCause(pass)
	defer failWork(nil)

	source, err := open(pass)
	if err != nil {
		return layerFile{}, err
	}
	// Read may be waiting for a network; Close wakes it.
	hangUp := sync.OnceFunc(func() { source.Close() })
	defer hangUp()
	defer context.AfterFunc(pass, hangUp)()

	raw := newStream(pass, &s.buffers, rawBlocks, 1)
	tar := newStream(work, &s.buffers, tarBlocks, 3)
	f := layerFile{DiffID: id, Blobs: []oci.Descriptor{{MediaType: blob.MediaType, Digest: blob.Digest, Size: blob.Size}}}
	diffID := id.NewHash()

	var all sync.WaitGroup
	all.Go(func() {
		if err := readBlob(source, blob, raw); err != nil {
			failPass(err)
			return
		}
		// So whoever reads raw to its end knows that the bytes are the right ones.
		raw.end()
	})
	all.Go(func() {
		in := raw.reader(0)
		err := decompress(in, tar, s.limits(blob.Size))
		if err == nil {
			tar.end()
			return
		}
		failWork(err)
		if _, derr := io.Copy(io.Discard, in); derr == nil {
			failPass(err)
		}
	})
	consume := func(n int, do func(r *blockReader) error) {
		all.Go(func() {
			r := tar.reader(n)
			err := do(r)
			if err == nil {
				// Beyond the tar's end marker there may be more, and it counts.
				_, err = io.Copy(io.Discard, r)
			}
			// A full disk does not get better by reading on.
			var errno syscall.Errno
			if errors.As(err, &errno) {
				failPass(err)
			} else if err != nil {
				failWork(err)
			}
		})
	}
	consume(0, func(r *blockReader) error {
		var err error
		f.Size, err = io.Copy(diffID, r)
		return err
	})
	consume(1, func(r *blockReader) error {
		var err error
		f.Lossy, err = split(r, dir)
		return err
	})
	consume(2, func(r *blockReader) error {
		var err error
		f.Notes, err = s.Unpack(work, r, dir+"/tree")
		return err
	})
	all.Wait()
	if err := context.Cause(pass); err != nil {
		return layerFile{}, err
	}
	if err := context.Cause(work); err != nil {
		return layerFile{}, err
	}
	raw.recycle()
	tar.recycle()
	if !id.Matches(diffID) {
		return layerFile{}, wrongDiffID(blob, id, fmt.Sprintf("%s:%x", id.Algorithm(), diffID.Sum(nil)), f.Size)
	}
	return f, nil
}

// readBlob sends the bytes of source on, and returns nil only if there were as
// many as declared and their digest is right. More than declared is an error at
// once.
func readBlob(source io.Reader, blob oci.Descriptor, out *stream) error {
	digest := blob.Digest.NewHash()
	var n int64
	var begin [512]byte
	for ended := false; !ended; {
		b, err := out.next()
		if err != nil {
			return err
		}
		got := 0
		// Networks deliver small pieces; a few of them are worth one hand-over.
		for got < blockSize/4 && !ended {
			m, err := source.Read(b.buf[got:])
			got += m
			if err == io.EOF {
				ended = true
			} else if err != nil {
				return &fail.Error{Op: "reading blob", On: blob.Digest.Short(), Err: err}
			}
		}
		if n < int64(len(begin)) {
			copy(begin[n:], b.buf[:got])
		}
		n += int64(got)
		if n > blob.Size {
			return &fail.Error{Op: "reading blob", On: blob.Digest.Short(),
				Err: fmt.Errorf("%w: more than the %d bytes the manifest declares", ErrDigestMismatch, blob.Size),
				Why: suspicion(begin[:], n), Try: tryOtherBytes}
		}
		digest.Write(b.buf[:got])
		out.send(b, got)
	}
	if n < blob.Size {
		return &fail.Error{Op: "reading blob", On: blob.Digest.Short(),
			Err: fmt.Errorf("%w after %d of %d bytes", io.ErrUnexpectedEOF, n, blob.Size),
			Why: suspicion(begin[:], n),
			Try: "pull again: finished layers are kept"}
	}
	if !blob.Digest.Matches(digest) {
		return &fail.Error{Op: "reading blob", On: blob.Digest.Short(),
			Err: fmt.Errorf("%w: received %d bytes with %s:%x, expected %d with %s", ErrDigestMismatch,
				n, blob.Digest.Algorithm(), digest.Sum(nil), blob.Size, blob.Digest),
			Why: suspicion(begin[:], n), Try: tryOtherBytes}
	}
	return nil
}

const tryOtherBytes = "pull again; if it stays so, the registry, a mirror or a proxy on the way serves other bytes than the manifest names"

func suspicion(begin []byte, n int64) string {
	if what := looksLike(begin[:min(n, int64(len(begin)))]); what != "" {
		return "the bytes look like " + what + " and not like a layer"
	}
	return ""
}

func wrongDiffID(blob oci.Descriptor, id oci.DiffID, got string, size int64) error {
	return &fail.Error{Op: "checking the tar of blob", On: blob.Digest.Short(),
		Err: fmt.Errorf("%w: its %d bytes are %s, expected diffID %s", ErrDigestMismatch, size, got, id),
		Why: "the blob is what the manifest names, but the image's config names another tar: the image was put together wrongly",
		Try: "tell whoever published the image; nothing of it was kept"}
}
