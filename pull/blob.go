package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"moss/explain"
	"moss/fail"
	"moss/oci"
)

var errClosed = errors.New("read of a closed blob")

// blobReader is one blob as one stream, whatever happens to the connections it
// comes over: after a break it asks for the rest (RFC 9110, Section 14.2) and
// goes on. It gives exactly d.Size bytes, or an error; their digest is for the
// reader to check (image.Store.AddLayer does).
//
// Close may be called while a Read is under way, and ends it.
type blobReader struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	r      *registry
	d      oci.Descriptor
	note   func(State, int64) // for progress

	mu    sync.Mutex    // held by Read
	body  io.ReadCloser // nil between connections
	off   int64         // bytes given so far
	tries int           // breaks since the last byte
	err   error         // sticky
	shown time.Time     // of the last note
}

// blob opens d for reading. note may be nil.
func (r *registry) blob(ctx context.Context, d oci.Descriptor, note func(State, int64)) (*blobReader, error) {
	if note == nil {
		note = func(State, int64) {}
	}
	b := &blobReader{r: r, d: d, note: note}
	b.ctx, b.cancel = context.WithCancelCause(ctx)
	if err := b.connect(); err != nil {
		b.cancel(nil)
		return nil, err
	}
	return b, nil
}

func (b *blobReader) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(p) == 0 || b.err != nil {
		return 0, b.err
	}
	for {
		if b.body == nil {
			if b.err = b.connect(); b.err != nil {
				return 0, b.err
			}
		}
		n, err := b.body.Read(p)
		if int64(n) > b.d.Size-b.off {
			b.err = b.sizeError("more")
			return 0, b.err
		}
		b.off += int64(n)
		if n > 0 {
			b.tries = 0
		}
		switch {
		case err == nil:
			b.progress()
			if n > 0 {
				return n, nil
			}
		case err == io.EOF && b.off == b.d.Size:
			b.note(Unpacking, b.off)
			b.err = io.EOF
			return n, b.err
		case b.ctx.Err() != nil:
			b.err = context.Cause(b.ctx)
			return n, b.err
		default:
			b.drop()
			if b.off == b.d.Size {
				// All bytes are here; how the connection ended is of no interest.
				b.note(Unpacking, b.off)
				b.err = io.EOF
				return n, b.err
			}
			if berr := b.broken(err); berr != nil {
				b.err = berr
				return n, b.err
			}
			if n > 0 {
				return n, nil
			}
		}
	}
}

// Close gives the connection back.
func (b *blobReader) Close() error {
	b.cancel(errClosed)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drop()
	if b.err == nil {
		b.err = errClosed
	}
	return nil
}

func (b *blobReader) drop() {
	if b.body != nil {
		b.body.Close()
		b.body = nil
	}
}

// progress reports at most ten times a second.
func (b *blobReader) progress() {
	if now := time.Now(); now.Sub(b.shown) >= 100*time.Millisecond {
		b.shown = now
		b.note(Downloading, b.off)
	}
}

// broken waits before the next connection, or gives up.
func (b *blobReader) broken(err error) error {
	b.tries++
	if b.tries >= maxTries {
		return &fail.Error{Op: "download", On: b.d.Digest.Short(), Err: fmt.Errorf("the connection broke %d times at byte %d of %d: %w", b.tries, b.off, b.d.Size, err)}
	}
	b.note(Retrying, b.off)
	wait := backoff(b.tries - 1)
	b.r.explain.Step(explain.Step{What: fmt.Sprintf("Go on with blob %s at byte %d", b.d.Digest.Short(), b.off),
		Call: fmt.Sprintf("sleep %v", wait.Round(10*time.Millisecond)), Why: "the connection broke: " + clip(err.Error(), 200)})
	return b.r.s.sleep(b.ctx, wait)
}

// connect asks for what is still missing.
func (b *blobReader) connect() error {
	for {
		header := http.Header{"Accept": {acceptBlob}}
		if b.off > 0 {
			header.Set("Range", fmt.Sprintf("bytes=%d-", b.off))
		}
		resp, err := b.r.get(b.ctx, http.MethodGet, "blobs/"+string(b.d.Digest), header, func() { b.note(Retrying, b.off) })
		if err != nil {
			var status *statusError
			if b.off > 0 && errors.As(err, &status) && status.code == http.StatusRequestedRangeNotSatisfiable {
				return b.sizeError("fewer")
			}
			return err
		}
		skip, err := b.check(resp)
		if err == nil && skip > 0 {
			_, err = io.CopyN(io.Discard, resp.Body, skip)
		}
		if err == nil {
			b.body = resp.Body
			b.note(Downloading, b.off)
			return nil
		}
		resp.Body.Close()
		var lesson *fail.Error
		switch {
		case b.ctx.Err() != nil:
			return context.Cause(b.ctx)
		case errors.As(err, &lesson):
			return err
		}
		if err := b.broken(err); err != nil {
			return err
		}
	}
}

// check compares what resp promises with what was asked for, and returns how
// many of its bytes are here already.
func (b *blobReader) check(resp *http.Response) (skip int64, err error) {
	switch resp.StatusCode {
	case http.StatusOK: // the whole blob: the server does not do ranges
		if resp.ContentLength >= 0 && resp.ContentLength != b.d.Size {
			return 0, b.lengthError(resp.ContentLength)
		}
		return b.off, nil
	case http.StatusPartialContent:
		start, total, ok := parseContentRange(resp.Header.Get("Content-Range"))
		if !ok || start > b.off {
			return 0, &fail.Error{Op: "download", On: b.d.Digest.Short(), Err: fmt.Errorf("asked for byte %d on, got %q", b.off, clip(resp.Header.Get("Content-Range"), 100))}
		}
		if total >= 0 && total != b.d.Size {
			return 0, b.lengthError(total)
		}
		return b.off - start, nil
	}
	return 0, &fail.Error{Op: "download", On: b.d.Digest.Short(), Err: fmt.Errorf("unexpected answer %d", resp.StatusCode)}
}

// parseContentRange reads "bytes 5-9/10"; total is -1 for "*".
func parseContentRange(v string) (start, total int64, ok bool) {
	v, ok = strings.CutPrefix(v, "bytes ")
	span, size, ok2 := strings.Cut(v, "/")
	first, _, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, false
	}
	start, err := strconv.ParseInt(first, 10, 64)
	if err != nil || start < 0 {
		return 0, 0, false
	}
	if size == "*" {
		return start, -1, true
	}
	total, err = strconv.ParseInt(size, 10, 64)
	return start, total, err == nil
}

func (b *blobReader) lengthError(offered int64) error {
	return &fail.Error{Op: "download", On: string(b.d.Digest), Err: fmt.Errorf("the registry has %d bytes, the manifest says %d", offered, b.d.Size),
		Why: "the blob is truncated or oversized, or the manifest lies about its size; nothing of it was kept"}
}

func (b *blobReader) sizeError(which string) error {
	return &fail.Error{Op: "download", On: string(b.d.Digest), Err: fmt.Errorf("the registry gives %s bytes than the %d the manifest says", which, b.d.Size),
		Why: "the blob is truncated or oversized, or the manifest lies about its size; nothing of it was kept"}
}
