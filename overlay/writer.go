package overlay

import (
	"bytes"
	"context"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Bodies of regular files are written beside the reading of the tar.
//
// The reader hands over an open descriptor and the bytes; a writer writes them,
// sets mode and times, and closes. Memory is bounded by the buffers there are:
// when all are on their way to disk the reader waits for one. A large body goes
// through in pieces, to one writer, so that a file is never written from two
// sides.

const (
	smallBuffer  = 32 << 10
	largeBuffer  = 256 << 10
	smallBuffers = 48
	largeBuffers = 8
	hole         = 4096 // zeros shorter than a block are written as they are
)

// file is a regular file that exists and is open, but has no content yet.
type file struct {
	fd     int
	path   string
	size   int64
	sparse bool // the tar says that it has holes
	mode   uint32
	chmod  bool // the mode is not yet right
	times  [2]unix.Timespec

	body []byte      // all of it, or nil:
	more chan []byte // then pieces come here, until it is closed
}

type writers struct {
	files        chan file
	small, large chan []byte
	done         sync.WaitGroup
	first        atomic.Pointer[error]
}

func startWriters() *writers {
	w := &writers{
		files: make(chan file, smallBuffers),
		small: make(chan []byte, smallBuffers),
		large: make(chan []byte, largeBuffers),
	}
	for range smallBuffers {
		w.small <- nil // a place for a buffer that was not needed yet
	}
	for range largeBuffers {
		w.large <- nil
	}
	for range min(4, max(2, runtime.GOMAXPROCS(0))) {
		w.done.Go(w.run)
	}
	return w
}

// failed returns the first error of any writer so far.
func (w *writers) failed() error {
	if err := w.first.Load(); err != nil {
		return *err
	}
	return nil
}

// stop waits for what was handed over and returns the first error.
func (w *writers) stop() error {
	close(w.files)
	w.done.Wait()
	return w.failed()
}

// write reads f's body from r and hands both over. It always takes care of
// f.fd. The error returned is r's or ctx's; the writers' come from failed.
func (w *writers) write(ctx context.Context, f file, r io.Reader) error {
	if f.size == 0 {
		w.finish(&f)
		return nil
	}
	if f.size <= largeBuffer {
		pool, size := w.small, smallBuffer
		if f.size > smallBuffer {
			pool, size = w.large, largeBuffer
		}
		body, err := read(r, <-pool, size, int(f.size))
		if err != nil {
			pool <- body
			unix.Close(f.fd)
			return err
		}
		f.body = body
		w.files <- f
		return nil
	}
	f.more = make(chan []byte, 1)
	w.files <- f
	defer close(f.more)
	for left := f.size; left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		if w.failed() != nil {
			return w.failed()
		}
		piece, err := read(r, <-w.large, largeBuffer, int(min(left, largeBuffer)))
		if err != nil {
			w.large <- piece
			return err
		}
		left -= int64(len(piece))
		f.more <- piece
	}
	return nil
}

// read fills n bytes of buf, which is made first when it is nil.
func read(r io.Reader, buf []byte, size, n int) ([]byte, error) {
	if buf == nil {
		buf = make([]byte, size)
	}
	buf = buf[:n]
	_, err := io.ReadFull(r, buf)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return buf, err
}

func (w *writers) run() {
	for f := range w.files {
		var off int64
		put := func(b []byte) {
			if err := f.put(b, off); err != nil {
				w.fail(call("write(2)", f.path, err))
			}
			off += int64(len(b))
			w.free(b)
		}
		if f.more == nil {
			put(f.body)
		} else {
			for b := range f.more {
				put(b)
			}
		}
		w.finish(&f)
	}
}

func (w *writers) free(b []byte) {
	b = b[:cap(b)]
	if len(b) == smallBuffer {
		w.small <- b
	} else {
		w.large <- b
	}
}

// finish sets what comes after the content, and closes.
func (w *writers) finish(f *file) {
	if f.sparse {
		// A hole at the end was skipped like any other.
		if err := unix.Ftruncate(f.fd, f.size); err != nil {
			w.fail(call("ftruncate(2)", f.path, err))
		}
	}
	if f.chmod {
		if err := unix.Fchmod(f.fd, f.mode); err != nil {
			w.fail(call("fchmod(2)", f.path, err))
		}
	}
	if err := futimens(f.fd, &f.times); err != nil {
		w.fail(call("utimensat(2)", f.path, err))
	}
	if err := unix.Close(f.fd); err != nil {
		w.fail(call("close(2)", f.path, err))
	}
}

func (w *writers) fail(err error) { w.first.CompareAndSwap(nil, &err) }

// put writes b at off. In a sparse file blocks of zeros are skipped, which
// leaves a hole.
func (f *file) put(b []byte, off int64) error {
	if !f.sparse {
		return writeAll(f.fd, b)
	}
	for len(b) > 0 {
		n := zeroBlocks(b)
		b, off = b[n:], off+int64(n)
		n = dataBlocks(b)
		if err := pwriteAll(f.fd, b[:n], off); err != nil {
			return err
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

var zeros [hole]byte

// zeroBlocks returns how many bytes at the start of b are blocks of zeros.
func zeroBlocks(b []byte) int {
	n := 0
	for n < len(b) {
		block := b[n:min(n+hole, len(b))]
		if !bytes.Equal(block, zeros[:len(block)]) {
			break
		}
		n += len(block)
	}
	return n
}

// dataBlocks returns how many bytes at the start of b precede a block of zeros.
func dataBlocks(b []byte) int {
	n := 0
	for n < len(b) {
		block := b[n:min(n+hole, len(b))]
		if bytes.Equal(block, zeros[:len(block)]) {
			break
		}
		n += len(block)
	}
	return n
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func pwriteAll(fd int, b []byte, off int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// futimens is utimensat(2) on the descriptor itself: with a null pathname,
// which unix.UtimesNanoAt has no way to say.
func futimens(fd int, ts *[2]unix.Timespec) error {
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(ts)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
