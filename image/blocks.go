package image

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
)

// blockSize is the unit in which bytes go from one goroutine to the next: large
// enough that the hand-over costs nothing, small enough that a block is still
// in the processor's cache when the next stage reads it.
const blockSize = 256 << 10

// block is a buffer that several readers may share. Nobody writes to data after
// it was sent.
type block struct {
	data  []byte // what is in use of buf
	buf   []byte
	users atomic.Int32
}

// stream is a bounded sequence of blocks from one writer to one or more
// readers, each of which sees all of it. The bound is on the blocks, not on the
// channels: the writer waits when the slowest reader holds them all, and no
// reader waits for another.
type stream struct {
	ctx     context.Context // its end wakes everybody
	buffers *sync.Pool
	free    chan *block
	made    int
	queues  []chan *block
}

func newStream(ctx context.Context, buffers *sync.Pool, blocks, readers int) *stream {
	st := &stream{ctx: ctx, buffers: buffers, free: make(chan *block, blocks)}
	for range readers {
		st.queues = append(st.queues, make(chan *block, blocks))
	}
	return st
}

// next returns a block to fill. Only the writer calls it.
func (st *stream) next() (*block, error) {
	select {
	case b := <-st.free:
		return b, nil
	default:
	}
	if st.made < cap(st.free) {
		st.made++
		buf, _ := st.buffers.Get().(*[]byte)
		if buf == nil {
			b := make([]byte, blockSize)
			buf = &b
		}
		return &block{buf: *buf}, nil
	}
	select {
	case b := <-st.free:
		return b, nil
	case <-st.ctx.Done():
		return nil, context.Cause(st.ctx)
	}
}

// send hands the first n bytes of b to every reader. It does not wait: a queue
// has room for all blocks there are.
func (st *stream) send(b *block, n int) {
	if n == 0 {
		st.free <- b
		return
	}
	b.data = b.buf[:n]
	b.users.Store(int32(len(st.queues)))
	for _, q := range st.queues {
		q <- b
	}
}

// end tells the readers that all was sent.
func (st *stream) end() {
	for _, q := range st.queues {
		close(q)
	}
}

func (st *stream) release(b *block) {
	if b.users.Add(-1) == 0 {
		st.free <- b
	}
}

// recycle gives the buffers back, when neither writer nor readers run any more.
func (st *stream) recycle() {
	for {
		select {
		case b := <-st.free:
			st.buffers.Put(&b.buf)
		default:
			return
		}
	}
}

// reader reads the stream's nth queue.
func (st *stream) reader(n int) *blockReader {
	return &blockReader{st: st, queue: st.queues[n]}
}

// blockReader reads one queue to its end, or to the end of the stream's context,
// whose cause it then returns.
type blockReader struct {
	st    *stream
	queue chan *block
	cur   *block
	rest  []byte
}

func (r *blockReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		if err := r.advance(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// WriteTo spares a copy where whole blocks can be written, as into the pipe of
// another process.
func (r *blockReader) WriteTo(w io.Writer) (written int64, err error) {
	for {
		if len(r.rest) == 0 {
			if err := r.advance(); err == io.EOF {
				return written, nil
			} else if err != nil {
				return written, err
			}
		}
		n, err := w.Write(r.rest)
		written += int64(n)
		r.rest = r.rest[n:]
		if err != nil {
			return written, err
		}
	}
}

func (r *blockReader) advance() error {
	if r.cur != nil {
		r.st.release(r.cur)
		r.cur = nil
	}
	select {
	case b, ok := <-r.queue:
		if !ok {
			return io.EOF
		}
		r.cur, r.rest = b, b.data
		return nil
	case <-r.st.ctx.Done():
		return context.Cause(r.st.ctx)
	}
}
