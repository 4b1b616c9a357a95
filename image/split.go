package image

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc64"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/vbatts/tar-split/tar/asm"
	"github.com/vbatts/tar-split/tar/storage"
	"golang.org/x/sys/unix"

	"moss/fail"
	"moss/oci"
)

// A tree does not remember its tar: the order of the entries, who owned them
// where ids are not mapped, how numbers were padded. tar-split keeps all bytes
// that are not the contents of files, and for each file its name and a CRC, so
// that tree and metadata together give the same tar, and so the same digest.

const splitFile = "tar-split.json.gz"

// split reads the tar and writes its metadata into dir. lossy says why the tar
// cannot be made from it again; "" when it can.
func split(tar io.Reader, dir string) (lossy string, err error) {
	file, err := os.OpenFile(dir+"/"+splitFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	defer file.Close()
	// 10 MB of JSON for a layer of 170 MB; level 1 makes 0.6 MB of it in 15 ms.
	z, err := gzip.NewWriterLevel(file, gzip.BestSpeed)
	if err != nil {
		return "", err
	}
	w := bufio.NewWriterSize(z, 64<<10)
	in := &counter{r: tar}
	p := &packer{enc: json.NewEncoder(w), seed: maphash.MakeSeed(), bodies: map[uint64]uint64{}}
	copied, done, err := asm.NewInputTarStreamWithDone(in, p, &crcPutter{in: in, buf: make([]byte, blockSize)})
	if err != nil {
		return "", err
	}
	// The stream gives back what it reads, for others to unpack. They have it
	// already; here it only has to be taken.
	sink := make([]byte, blockSize)
	for err == nil {
		_, err = copied.Read(sink)
	}
	copied.Close()
	if err := <-done; err != nil {
		return "", notTar(err)
	}
	if err := errors.Join(w.Flush(), z.Close(), file.Close()); err != nil {
		return "", err
	}
	if p.bytes != in.n && p.lossy == "" {
		p.lossy = "the archive has sparse files, whose holes tar-split does not describe"
	}
	return p.lossy, nil
}

// counter knows how much of the tar was read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

func notTar(err error) error {
	return fmt.Errorf("reading the tar: %w", err)
}

// packer writes storage's JSON lines. storage's own packer refuses an archive
// that has a name twice. Such layers exist; they unpack and run, and most can
// even be made again: only contents that were written over are lost.
type packer struct {
	enc   *json.Encoder
	n     int
	bytes int64 // that OpenTar would give
	lossy string
	// bodies maps the hash of a name to the hash of its contents' size and CRC.
	// Names themselves would be most of the memory for a layer of a million
	// files; two names with one hash only make a layer lossy that is not.
	bodies map[uint64]uint64
	seed   maphash.Seed
}

func (p *packer) AddEntry(e storage.Entry) (int, error) {
	if e.Type == storage.FileType {
		name := path.Clean("/" + e.GetName())
		key := maphash.String(p.seed, name)
		now := uint64(0)
		if e.Size > 0 {
			now = maphash.Bytes(p.seed, binary.LittleEndian.AppendUint64(e.Payload[:len(e.Payload):len(e.Payload)], uint64(e.Size)))
		}
		if before, twice := p.bodies[key]; twice && before != now {
			p.lossy = fmt.Sprintf("the archive has %q twice, with different contents", e.GetName())
		}
		if e.Size > 0 {
			p.bodies[key] = now
			if strings.HasPrefix(path.Base(name), ".wh.") {
				p.lossy = fmt.Sprintf("the whiteout %q has contents", e.GetName())
			}
		}
	}
	p.bytes += e.Size
	if e.Type == storage.SegmentType {
		p.bytes += int64(len(e.Payload))
	}
	e.Position = p.n
	if err := p.enc.Encode(e); err != nil {
		return -1, err
	}
	p.n++
	return e.Position, nil
}

// crcPutter computes the CRC that OpenTar compares and keeps nothing.
type crcPutter struct {
	in  *counter
	buf []byte
}

func (c *crcPutter) Put(_ string, r io.Reader) (int64, []byte, error) {
	h := crc64.New(storage.CRCTable)
	var n int64
	for {
		m, err := r.Read(c.buf)
		h.Write(c.buf[:m])
		n += int64(m)
		if err == io.EOF {
			return n, h.Sum(nil), nil
		}
		if err != nil {
			return n, nil, err
		}
		// More comes out than went in: a sparse file, which reads as zeros for as
		// long as its header pleases. Such an archive is lossy whatever the CRC.
		if n > c.in.n {
			return n, h.Sum(nil), nil
		}
	}
}

// unpacker reads what packer wrote.
type unpacker struct{ dec *json.Decoder }

func (u *unpacker) Next() (*storage.Entry, error) {
	var e storage.Entry
	if err := u.dec.Decode(&e); err != nil {
		return nil, err
	}
	return &e, nil
}

// TarSplit returns the layer's tar-split metadata, uncompressed: a line of JSON
// for each entry. The caller closes it.
func (s *Store) TarSplit(id oci.DiffID) (io.ReadCloser, error) {
	if _, err := s.layerFile(id); err != nil {
		return nil, err
	}
	f, err := os.Open(s.path("layers", id.Hex(), splitFile))
	if err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("reading %s: %w", f.Name(), err)
	}
	return &gzipFile{z, f}, nil
}

type gzipFile struct {
	*gzip.Reader
	f *os.File
}

func (g *gzipFile) Close() error { return errors.Join(g.Reader.Close(), g.f.Close()) }

// OpenTar makes the layer's tar again, byte for byte. body opens the contents of
// one entry of the archive by its name there; nil reads the layer's tree, every
// name resolved inside it. The end of the context ends the stream; the caller
// closes it.
//
// Contents that have changed in the tree end the stream with an error at the
// file concerned, whose name it says. Hash the stream all the same before
// trusting it: the check per file is a CRC.
func (s *Store) OpenTar(ctx context.Context, id oci.DiffID, body func(name string) (io.ReadCloser, error)) (io.ReadCloser, error) {
	f, err := s.layerFile(id)
	if err != nil {
		return nil, err
	}
	if f.Lossy != "" {
		return nil, &fail.Error{Op: "making the tar of layer", On: id.Short(), Err: errors.New("not possible from its files"),
			Why: f.Lossy, Try: "pull the image again where it is needed: the registry has the blob"}
	}
	meta, err := s.TarSplit(id)
	if err != nil {
		return nil, err
	}
	release := func() {}
	if body == nil {
		tree, err := unix.Open(s.layer(f).Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			meta.Close()
			return nil, &fs.PathError{Op: "open", Path: s.layer(f).Dir, Err: err}
		}
		body = func(name string) (io.ReadCloser, error) { return openIn(tree, name) }
		release = func() { unix.Close(tree) }
	}
	r, w := io.Pipe()
	stop := context.AfterFunc(ctx, func() { w.CloseWithError(context.Cause(ctx)) })
	go func() {
		// tar-split writes headers and bodies apart; together they make better
		// pieces.
		buffered := bufio.NewWriterSize(w, blockSize)
		err := asm.WriteOutputTarStream(getter(body), &unpacker{json.NewDecoder(bufio.NewReaderSize(meta, 64<<10))}, buffered)
		if err == nil {
			err = buffered.Flush()
		}
		stop()
		meta.Close()
		release()
		w.CloseWithError(err)
	}()
	return r, nil
}

type getter func(name string) (io.ReadCloser, error)

func (g getter) Get(name string) (io.ReadCloser, error) { return g(name) }

// openIn opens a regular file below tree. RESOLVE_IN_ROOT (openat2(2)) keeps
// "..", absolute names and symlinks inside, as for a process whose root it is.
func openIn(tree int, name string) (io.ReadCloser, error) {
	fd, err := unix.Openat2(tree, name, &unix.OpenHow{
		// Not to wait for the writer of a FIFO that took the file's place.
		Flags:   unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		e := &fail.Error{Op: "openat2(2)", On: name, Err: err}
		if err == unix.EACCES {
			e.Why = "its mode keeps even its owner out, and only root in the user namespace is above that"
		}
		return nil, e
	}
	return os.NewFile(uintptr(fd), name), nil
}
