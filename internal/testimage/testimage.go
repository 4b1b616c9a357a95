// Package testimage makes layers full of what can go wrong between a tar and a
// merged root file system, and says what they should come to. It is for tests.
//
// What is expected is computed from the tars by a model of its own (model.go),
// a map from path to entry with image-spec's rules, which shares no code and no
// idea of representation with package overlay.
package testimage

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

// Owners in the image that no usual id map reaches.
const (
	FarUID = 4000000
	FarGID = 4000001
)

var epoch = time.Unix(1700000000, 0)

// Builder writes one layer.
type Builder struct {
	buf bytes.Buffer
	tw  *tar.Writer
	n   int
}

// NewBuilder returns an empty layer.
func NewBuilder() *Builder {
	b := new(Builder)
	b.tw = tar.NewWriter(&b.buf)
	return b
}

// Tar ends the layer and returns its bytes.
func (b *Builder) Tar() []byte {
	if err := b.tw.Close(); err != nil {
		panic(err)
	}
	return b.buf.Bytes()
}

// Entry adds an entry; a zero ModTime becomes one of its own, in nanoseconds.
func (b *Builder) Entry(h tar.Header, body string) *Builder {
	b.n++
	if h.ModTime.IsZero() {
		h.ModTime = epoch.Add(time.Duration(b.n)*time.Hour + time.Duration(b.n)*1001001*time.Nanosecond)
	}
	h.Format = tar.FormatPAX
	h.Size = int64(len(body))
	if err := b.tw.WriteHeader(&h); err != nil {
		panic(fmt.Sprintf("%q: %v", h.Name, err))
	}
	if _, err := b.tw.Write([]byte(body)); err != nil {
		panic(err)
	}
	return b
}

// Raw adds blocks that tar.Writer refuses to write, see Sparse.
func (b *Builder) Raw(blocks []byte) *Builder {
	if err := b.tw.Flush(); err != nil {
		panic(err)
	}
	b.buf.Write(blocks)
	return b
}

// File adds a regular file of root's.
func (b *Builder) File(name string, mode int64, body string) *Builder {
	return b.Entry(tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode}, body)
}

// Owned adds a regular file.
func (b *Builder) Owned(name string, mode int64, uid, gid int, body string) *Builder {
	return b.Entry(tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Uid: uid, Gid: gid}, body)
}

// Dir adds a directory of root's.
func (b *Builder) Dir(name string, mode int64) *Builder {
	return b.Entry(tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: mode}, "")
}

// Symlink adds a symlink.
func (b *Builder) Symlink(name, target string) *Builder {
	return b.Entry(tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}, "")
}

// Link adds a hard link.
func (b *Builder) Link(name, target string) *Builder {
	return b.Entry(tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target, Mode: 0o644}, "")
}

// Whiteout adds a whiteout of name.
func (b *Builder) Whiteout(name string) *Builder {
	i := strings.LastIndexByte(name, '/') + 1
	return b.File(name[:i]+".wh."+name[i:], 0o644, "")
}

// Opaque adds an opaque whiteout of the directory name.
func (b *Builder) Opaque(name string) *Builder {
	return b.File(name+"/.wh..wh..opq", 0o644, "")
}

// Segment is a part of a sparse file that is no hole.
type Segment struct {
	Off  int64
	Data string
}

// Sparse returns the blocks of a sparse file as GNU tar would write it, with
// format "gnu", "0.1" or "1.0" (GNU tar manual, "Storing Sparse Files"). It has
// at most three segments.
func Sparse(format, name string, size int64, segments ...Segment) []byte {
	segments = append(segments, Segment{Off: size}) // GNU tar's sign for a hole at the end
	var body, sparseMap []byte
	for _, s := range segments {
		body = append(body, s.Data...)
	}
	switch format {
	case "gnu":
		h := header(name, 'S', int64(len(body)))
		copy(h[257:], "ustar  \x00")
		for i := range h[345:500] { // no prefix in this format
			h[345+i] = 0
		}
		for i, s := range segments {
			copy(h[386+24*i:], fmt.Sprintf("%011o\x00%011o\x00", s.Off, len(s.Data)))
		}
		copy(h[483:], fmt.Sprintf("%011o\x00", size))
		return append(checksum(h), pad(body)...)
	case "0.1":
		list := ""
		for i, s := range segments {
			if i > 0 {
				list += ","
			}
			list += fmt.Sprintf("%d,%d", s.Off, len(s.Data))
		}
		x := record("GNU.sparse.size", fmt.Sprint(size)) +
			record("GNU.sparse.numblocks", fmt.Sprint(len(segments))) +
			record("GNU.sparse.name", name) + record("GNU.sparse.map", list)
		out := append(checksum(header("PaxHeaders/sparse", 'x', int64(len(x)))), pad([]byte(x))...)
		return append(append(out, checksum(header("GNUSparseFile.0/x", '0', int64(len(body))))...), pad(body)...)
	case "1.0":
		sparseMap = fmt.Appendf(nil, "%d\n", len(segments))
		for _, s := range segments {
			sparseMap = fmt.Appendf(sparseMap, "%d\n%d\n", s.Off, len(s.Data))
		}
		body = append(pad(sparseMap), body...)
		x := record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0") +
			record("GNU.sparse.name", name) + record("GNU.sparse.realsize", fmt.Sprint(size))
		out := append(checksum(header("PaxHeaders/sparse", 'x', int64(len(x)))), pad([]byte(x))...)
		return append(append(out, checksum(header("GNUSparseFile.0/x", '0', int64(len(body))))...), pad(body)...)
	}
	panic("sparse format " + format)
}

// header returns a ustar header block, without its checksum.
func header(name string, typeflag byte, size int64) []byte {
	h := make([]byte, 512)
	copy(h, name)
	copy(h[100:], "0000644\x000000000\x000000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00%011o\x00", size, epoch.Unix()))
	h[156] = typeflag
	copy(h[257:], "ustar\x0000")
	return h
}

func checksum(h []byte) []byte {
	copy(h[148:], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

func pad(b []byte) []byte {
	return append(b, make([]byte, (512-len(b)%512)%512)...)
}

// record is one line of a pax header: its length counts itself.
func record(key, value string) string {
	n := len(key) + len(value) + 3
	for {
		s := fmt.Sprintf("%d %s=%s\n", n, key, value)
		if len(s) == n {
			return s
		}
		n = len(s)
	}
}

// NetBindService is a security.capability value, revision 2, that grants
// cap_net_bind_service (10), permitted and effective.
func NetBindService() string {
	b := binary.LittleEndian.AppendUint32(nil, 0x02000001)
	b = binary.LittleEndian.AppendUint32(b, 1<<10)
	return string(append(b, make([]byte, 12)...))
}

// Hazards returns seven layers, lowest first. They contain no program; a test
// that runs one adds a layer, which must not use the names under /hazards,
// /etc and /newetc.
func Hazards() [][]byte {
	const h = "hazards/"
	long := strings.Repeat("n", 255)
	deep := strings.TrimSuffix(strings.Repeat("deep-directory-name-0123456789/", 60), "/")

	base := NewBuilder().
		Dir(".", 0o755).
		Dir("etc", 0o755).
		File("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n").
		File("etc/old", 0o600, "only in the old etc\n").
		Dir("hazards", 0o755).
		File(h+"plain", 0o644, "plain\n").
		File(h+"empty", 0o644, "").
		File(h+"large", 0o640, strings.Repeat("0123456789abcdef", 80000)).
		File(h+"gone-file", 0o644, "x").
		Dir(h+"gone-dir", 0o755).
		Dir(h+"gone-dir/sub", 0o755).
		File(h+"gone-dir/sub/file", 0o644, "x").
		Symlink(h+"gone-symlink", "plain").
		Dir(h+"opaque", 0o755).
		File(h+"opaque/hidden", 0o644, "x").
		Dir(h+"opaque/sub", 0o755).
		File(h+"opaque/sub/hidden", 0o644, "x").
		Dir(h+"opaque-late", 0o755).
		File(h+"opaque-late/hidden", 0o644, "x").
		Dir(h+"remade", 0o755).
		File(h+"remade/hidden", 0o644, "x").
		Dir(h+"remade-late", 0o755).
		File(h+"remade-late/hidden", 0o644, "x").
		File(h+"file-to-dir", 0o644, "x").
		Dir(h+"dir-to-file", 0o755).
		File(h+"dir-to-file/hidden", 0o644, "x").
		Dir(h+"dir-to-symlink", 0o755).
		File(h+"dir-to-symlink/hidden", 0o644, "x").
		Symlink(h+"symlink-to-dir", "opaque").
		Symlink(h+"symlink-to-file", "/etc").
		Dir(h+"merged", 0o755).
		File(h+"merged/below", 0o644, "below").
		File(h+"merged/both", 0o644, "below").
		Dir(h+"locked", 0o555).
		File(h+"locked/file", 0o444, "in a directory nobody may write\n").
		Dir(h+"locked/none", 0o000).
		Dir(h+"sticky", 0o1777).
		Dir(h+"setgid-dir", 0o2775).
		File(h+"setgid-dir/file", 0o644, "").
		Symlink(h+"absolute", "/hazards/plain").
		Symlink(h+"dangling", "/no/such/"+strings.Repeat("name/", 100)+"end").
		Symlink(h+"loop", "loop").
		Symlink(h+"up", "../../../../../../../../etc").
		Tar()

	whiteouts := NewBuilder().
		Dir("hazards", 0o755).
		Whiteout(h+"gone-file").
		Whiteout(h+"gone-dir").
		Whiteout(h+"gone-symlink").
		Whiteout(h+"never-was").
		Dir(h+"opaque", 0o750).
		Opaque(h+"opaque").
		File(h+"opaque/new", 0o644, "new\n").
		// The mark comes last and must not hide what its own layer brought.
		Dir(h+"opaque-late", 0o755).
		File(h+"opaque-late/new", 0o644, "new\n").
		Opaque(h+"opaque-late").
		// The same for a whiteout of a name that the layer itself brings.
		Whiteout(h+"remade").
		Dir(h+"remade", 0o755).
		File(h+"remade/new", 0o644, "new\n").
		Dir(h+"remade-late", 0o755).
		File(h+"remade-late/new", 0o644, "new\n").
		Whiteout(h+"remade-late").
		File("hazards/.wh..wh.aufs", 0o644, "bookkeeping").
		Tar()

	kinds := NewBuilder().
		Dir("hazards", 0o755).
		Dir(h+"file-to-dir", 0o755).
		File(h+"file-to-dir/new", 0o644, "new\n").
		File(h+"dir-to-file", 0o644, "now a file\n").
		Symlink(h+"dir-to-symlink", "merged").
		Dir(h+"symlink-to-dir", 0o755).
		File(h+"symlink-to-dir/new", 0o644, "not in opaque\n").
		File(h+"symlink-to-file", 0o644, "not etc\n").
		Dir(h+"merged", 0o711).
		File(h+"merged/above", 0o644, "above").
		File(h+"merged/both", 0o600, "above").
		// Within one layer the later entry wins.
		File(h+"twice", 0o644, "first\n").
		File(h+"twice", 0o600, "second\n").
		Symlink(h+"twice-dir", "/etc").
		Dir(h+"twice-dir", 0o755).
		File(h+"twice-dir/file", 0o644, "not in etc\n").
		Tar()

	links := NewBuilder().
		Dir("hazards", 0o755).
		Dir(h+"links", 0o755).
		File(h+"links/a", 0o644, "three names\n").
		Link(h+"links/b", h+"links/a").
		Link(h+"links/c", "/"+h+"links/b").
		Symlink(h+"links/sym", "a").
		Link(h+"links/sym-too", h+"links/sym").
		File(h+"links/big", 0o755, strings.Repeat("big", 400000)).
		Link(h+"links/big-too", "./"+h+"links/big").
		Symlink(h+"through", "links").
		File(h+"through/via-symlink", 0o644, "lands in links\n").
		Symlink(h+"out", "/hazards/links").
		File(h+"out/via-absolute", 0o644, "lands in links too\n").
		File("../../hazards/dotdot", 0o644, "stays inside\n").
		File("/hazards/slash", 0o644, "stays inside\n").
		Tar()

	owners := NewBuilder().
		Dir("hazards", 0o755).
		Dir(h+"owners", 0o755).
		Owned(h+"owners/setuid", 0o4755, 0, 0, "#!\n").
		Owned(h+"owners/setgid", 0o2755, 0, 42, "#!\n").
		Owned(h+"owners/user", 0o600, 1000, 1000, "mine\n").
		Owned(h+"owners/setuid-user", 0o6711, 1000, 50, "#!\n").
		Owned(h+"owners/far", 0o644, FarUID, FarGID, "beyond the map\n").
		Owned(h+"owners/far-setuid", 0o4755, FarUID, FarGID, "#!\n").
		Entry(tar.Header{Name: h + "owners/link", Typeflag: tar.TypeSymlink, Linkname: "user", Uid: 1000, Gid: 1000}, "").
		Entry(tar.Header{Name: h + "owners/dir/", Typeflag: tar.TypeDir, Mode: 0o2750, Uid: 1000, Gid: 50}, "").
		Entry(tar.Header{Name: h + "owners/caps", Typeflag: tar.TypeReg, Mode: 0o755,
			PAXRecords: map[string]string{"SCHILY.xattr.security.capability": NetBindService()}}, "#!\n").
		Entry(tar.Header{Name: h + "owners/xattr", Typeflag: tar.TypeReg, Mode: 0o444,
			PAXRecords: map[string]string{
				"SCHILY.xattr.user.note":           "a value\x00with a NUL",
				"SCHILY.xattr.user.overlay.opaque": "y",
				"SCHILY.xattr.trusted.overlay.x":   "y",
				"SCHILY.xattr.security.selinux":    "system_u:object_r:bin_t:s0",
			}}, "").
		Entry(tar.Header{Name: h + "owners/xattr-dir/", Typeflag: tar.TypeDir, Mode: 0o555,
			PAXRecords: map[string]string{"SCHILY.xattr.user.dir": "yes"}}, "").
		Tar()

	names := NewBuilder().
		Dir("hazards", 0o755).
		Dir(h+"names", 0o755).
		File(h+"names/"+long, 0o644, "255 bytes\n").
		File(h+"names/new\nline", 0o644, "").
		File(h+"names/not-utf8-\xff\xfe", 0o644, "").
		File(h+"names/-rf", 0o644, "").
		File(h+"names/back\\slash", 0o644, "").
		File(h+"names/comma,colon:equals=", 0o644, "").
		File(h+"names/ blank ", 0o644, "").
		File(h+"names/.wh", 0o644, "no whiteout\n").
		File(h+"names/.whx", 0o644, "no whiteout\n").
		File(h+"names/wh.x", 0o644, "no whiteout\n").
		File(h+"names/"+deep+"/leaf", 0o644, "implied parents\n").
		Entry(tar.Header{Name: h + "before-1970", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Unix(-86400, 500000000)}, "").
		Entry(tar.Header{Name: h + "fifo", Typeflag: tar.TypeFifo, Mode: 0o622}, "").
		Entry(tar.Header{Name: h + "null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}, "").
		Entry(tar.Header{Name: h + "disk", Typeflag: tar.TypeBlock, Mode: 0o666, Devmajor: 8, Devminor: 0}, "").
		Raw(Sparse("gnu", h+"sparse-gnu", 3<<20, Segment{1 << 20, strings.Repeat("g", 4096)})).
		Raw(Sparse("0.1", h+"sparse-0.1", 1<<20, Segment{0, "start"}, Segment{700001, "middle"})).
		Raw(Sparse("1.0", h+"sparse-1.0", 2<<20+1, Segment{2 << 20, "e"})).
		Tar()

	last := NewBuilder().
		Symlink("etc", "newetc"). // replaces the directory of the first layer
		Dir("newetc", 0o755).
		File("newetc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n").
		Dir("hazards", 0o1755).
		File(h+"gone-file", 0o644, "back again\n").
		Dir(h+"opaque", 0o751).
		Whiteout(h+"opaque/new").
		Dir(h+"gone-dir", 0o700).
		Entry(tar.Header{Name: h + "char-whiteout", Typeflag: tar.TypeChar}, "").
		Whiteout(h + "plain").
		Tar()

	return [][]byte{base, whiteouts, kinds, links, owners, names, last}
}
