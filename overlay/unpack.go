package overlay

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"moss/fail"
)

// One layer's tar becomes a directory.
//
// Entries are handled in the tar's order by one goroutine, since a later entry
// may replace an earlier one, link to it or lie in it. It makes everything that
// has a name: directories, links, and regular files, empty at first. Only the
// bodies go elsewhere, to the writers (writer.go), together with the open
// descriptor, so that neither a rename nor a hard link nor a replacement of
// that name needs to wait for them.
//
// Directories stay writable for their owner until everything is in them; their
// modes and times are set last, deepest first.
//
// Where image-spec leaves a choice (the same path twice, entries below a
// symlink), the outcome is what docker's and containerd's unpackers come to.

// ErrTooLarge is returned, wrapped, by Unpack when the layer is larger than
// UnpackOptions.MaxBytes.
var ErrTooLarge = errors.New("larger than allowed")

// Unpack writes the layer's tar, uncompressed, into the empty directory dir
// and returns what remains to be done by Apply, in no particular order but for
// hard links, which follow the path they were linked to.
//
// Owners are left as the kernel makes them: the caller's. Directories that the
// tar leaves out are made with mode 0755. Left out, with a word to o.Note, are
// device nodes (in a container's root the kernel would not open them), xattrs
// outside "user.", and those overlayfs itself would obey.
//
// Unpack reads r to its end, also behind the tar's, so that an error of r that
// comes last, such as a digest that does not match, is returned. After an error
// dir holds an unfinished tree.
//
// Sources: image-spec layer.md; tar(5); pax, "pax Header Block".
func Unpack(ctx context.Context, r io.Reader, dir string, o UnpackOptions) ([]Fixup, error) {
	d, err := openDirs(dir)
	if err != nil {
		return nil, err
	}
	defer d.close()
	limit := o.MaxBytes
	if limit <= 0 {
		limit = 1<<63 - 1
	}
	in := &bounded{r: r, left: limit, limit: limit}
	u := &unpacker{
		ctx:   ctx,
		o:     o,
		tree:  dir,
		dirs:  d,
		in:    in,
		tr:    tar.NewReader(bufio.NewReaderSize(in, 64<<10)),
		left:  limit,
		limit: limit,
		umask: umask(),
		made:  make(map[string]dirState),
		fixAt: make(map[string]int),
		gone:  make(map[string]bool),
		notes: make(map[string]note),
	}
	d.missing = u.makeParent
	if err := u.plainRoot(); err != nil {
		return nil, err
	}

	u.writers = startWriters()
	err = u.entries()
	if werr := u.writers.stop(); err == nil {
		err = werr
	}
	if err == nil {
		err = u.finish()
	}
	if err == nil {
		// Whatever follows the tar's end is padding, but the reader may know
		// more at its own end than at the tar's.
		_, err = io.Copy(io.Discard, in)
	}
	if err != nil {
		return nil, explainUnpack(err, dir)
	}
	u.tell()
	return u.fixups, nil
}

type unpacker struct {
	ctx     context.Context
	o       UnpackOptions
	tree    string
	dirs    *dirs
	in      *bounded
	tr      *tar.Reader
	writers *writers
	umask   uint32

	left, limit int64 // of the sum of file sizes

	made   map[string]dirState // every directory, by path
	fixups []Fixup
	fixAt  map[string]int  // path → index in fixups
	gone   map[string]bool // paths that whiteouts of this layer name
	xgone  map[string]bool // those spelled with an xattr (whiteout.go)
	opaque map[string]bool // directories marked opaque; kept only beside xgone
	origin map[string]bool // directories marked as having whiteouts
	notes  map[string]note
}

// dirState is what a directory has now and what it shall have in the end.
type dirState struct {
	now, want uint32
	timed     bool
	times     [2]unix.Timespec
}

// plainRoot takes away what dir would pass on to everything made in it: the
// setgid bit, and a default ACL, which would also switch the umask off
// (acl(5), "OBJECT CREATION AND DEFAULT ACLs").
func (u *unpacker) plainRoot() error {
	fd, err := unix.Openat(u.dirs.root.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return call("open(2)", u.tree, err)
	}
	defer unix.Close(fd)
	unix.Fremovexattr(fd, "system.posix_acl_default") // most often there is none
	if err := unix.Fchmod(fd, 0o755); err != nil {
		return call("fchmod(2)", u.tree, err)
	}
	u.made[""] = dirState{now: 0o755, want: 0o755}
	return nil
}

// entries reads the tar up to its end.
func (u *unpacker) entries() error {
	for {
		if err := u.ctx.Err(); err != nil {
			return err
		}
		if err := u.writers.failed(); err != nil {
			return err
		}
		hdr, err := u.tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return u.readError(err)
		}
		if err := u.entry(hdr); err != nil {
			return err
		}
	}
}

// entry handles one header and, through the reader, its body.
func (u *unpacker) entry(hdr *tar.Header) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil // defaults for later entries: docker and containerd ignore them too
	}
	name, err := cleanName(hdr.Name)
	if err != nil {
		return err
	}
	if name == "" {
		return u.rootEntry(hdr)
	}
	above, base := split(name)
	if strings.Contains(name, metaPrefix) && isMeta(above, base) {
		return nil
	}
	parent, err := u.dirs.get(above)
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return u.whiteoutEntry(parent, base)
	}
	p := join(parent.path, base)

	switch hdr.Typeflag {
	case tar.TypeDir:
		err = u.directory(parent, base, p, hdr)
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		err = u.regular(parent, base, p, hdr)
	case tar.TypeLink:
		return u.hardLink(parent, base, p, hdr)
	case tar.TypeSymlink:
		err = u.symlink(parent, base, p, hdr)
	case tar.TypeFifo:
		err = u.fifo(parent, base, p, hdr)
	case tar.TypeChar, tar.TypeBlock:
		if hdr.Typeflag == tar.TypeChar && hdr.Devmajor == 0 && hdr.Devminor == 0 {
			// A tar made from an overlay's upper directory without translating:
			// every runtime ends up with a whiteout.
			return u.whiteout(parent, base, p)
		}
		// Not even root's unpacking makes it: the tree lies where other users
		// of the machine may reach it, and the image chose number and mode.
		u.note("device nodes", p, "a container gets its own /dev")
		return nil
	default:
		return &fail.Error{Op: "unpacking", On: show(p), Err: fmt.Errorf("tar entry type %q is unknown", hdr.Typeflag)}
	}
	if err != nil {
		return err
	}
	u.fixup(p, hdr)
	return nil
}

// rootEntry is "./": mode, times and owner of the tree's own directory.
func (u *unpacker) rootEntry(hdr *tar.Header) error {
	if hdr.Typeflag != tar.TypeDir {
		u.note("entries in place of the root directory", hdr.Name, "the root stays a directory")
		return nil
	}
	st := u.made[""]
	st.want, st.timed, st.times = perm(hdr), true, times(hdr)
	u.made[""] = st
	u.dirXattrs(u.dirs.root, ".", ".", hdr)
	u.fixup(".", hdr)
	return nil
}

func (u *unpacker) directory(parent *node, name, p string, hdr *tar.Header) error {
	want := perm(hdr)
	if err := u.mkdir(parent, name, p, want); err != nil {
		return err
	}
	st := u.made[p]
	st.want, st.timed, st.times = want, true, times(hdr)
	u.made[p] = st
	u.dirXattrs(parent, name, p, hdr)
	return nil
}

// mkdir makes a directory or leaves the one that is there.
func (u *unpacker) mkdir(parent *node, name, p string, want uint32) error {
	now := (want&0o777 | 0o700) &^ (u.umask &^ 0o700)
	err := unix.Mkdirat(parent.fd, name, now)
	if err == unix.EEXIST {
		var st unix.Stat_t
		if err := unix.Fstatat(parent.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return call("fstatat(2)", p, err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return nil
		}
		if err := u.remove(parent, name, p, &st); err != nil {
			return err
		}
		err = unix.Mkdirat(parent.fd, name, now)
	}
	if err != nil {
		return call("mkdirat(2)", p, err)
	}
	if u.umask&0o700 != 0 {
		// A umask that takes rights from the owner himself.
		if err := unix.Fchmodat(parent.fd, name, now, 0); err != nil {
			return call("fchmodat(2)", p, err)
		}
	}
	u.made[p] = dirState{now: now, want: want}
	if len(u.gone) > 0 && u.gone[p] {
		return u.setOpaque(parent, name, p)
	}
	return nil
}

// makeParent is dirs.missing: a directory that an entry lies in and that the
// tar did not bring, or brought as a whiteout first.
func (u *unpacker) makeParent(parent *node, name, p string, exists bool) error {
	if exists && !u.isWhiteout(parent, name, p) {
		return call("openat(2)", p, unix.ENOTDIR)
	}
	return u.mkdir(parent, name, p, 0o755)
}

func (u *unpacker) regular(parent *node, name, p string, hdr *tar.Header) error {
	if hdr.Size > u.left {
		return u.tooLarge(p)
	}
	u.left -= hdr.Size
	mode := perm(hdr)
	if u.o.AllOwners {
		// The owner so far is the caller, perhaps real root: a setuid program
		// of the image's must not be his for even a moment.
		mode &^= unix.S_ISUID | unix.S_ISGID
	}
	create := mode & 0o777
	attrs := u.userXattrs(p, hdr)
	if len(attrs) > 0 {
		create |= 0o600 // fsetxattr(2) asks the mode, not the descriptor
	}
	var fd int
	err := u.make(parent, name, p, "openat(2)", func() (err error) {
		fd, err = unix.Openat(parent.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, create)
		return err
	})
	if err != nil {
		return err
	}
	for _, a := range attrs {
		u.xattrResult(a.name, p, unix.Fsetxattr(fd, a.name, a.value, 0))
	}
	f := file{
		fd:     fd,
		path:   p,
		size:   hdr.Size,
		sparse: isSparse(hdr),
		mode:   mode,
		// Writing clears setuid and setgid (inode(7)), so they come after it.
		chmod: mode != create&^u.umask,
		times: times(hdr),
	}
	if err := u.writers.write(u.ctx, f, u.tr); err != nil {
		return u.readError(err)
	}
	return nil
}

func (u *unpacker) symlink(parent *node, name, p string, hdr *tar.Header) error {
	err := u.make(parent, name, p, "symlinkat(2)", func() error {
		return unix.Symlinkat(hdr.Linkname, parent.fd, name)
	})
	if err != nil {
		return err
	}
	u.noXattrs("symlinks", p, hdr)
	ts := times(hdr)
	return call("utimensat(2)", p, unix.UtimesNanoAt(parent.fd, name, ts[:], unix.AT_SYMLINK_NOFOLLOW))
}

func (u *unpacker) fifo(parent *node, name, p string, hdr *tar.Header) error {
	mode := perm(hdr)
	err := u.make(parent, name, p, "mknodat(2)", func() error {
		return unix.Mknodat(parent.fd, name, unix.S_IFIFO|mode&0o777, 0)
	})
	if err != nil {
		return err
	}
	u.noXattrs("FIFOs", p, hdr)
	if mode != mode&0o777&^u.umask {
		if err := unix.Fchmodat(parent.fd, name, mode, 0); err != nil {
			return call("fchmodat(2)", p, err)
		}
	}
	ts := times(hdr)
	return call("utimensat(2)", p, unix.UtimesNanoAt(parent.fd, name, ts[:], unix.AT_SYMLINK_NOFOLLOW))
}

// hardLink gives an earlier entry of this layer another name. The inode already
// has its mode and times, or is about to get them from a writer.
func (u *unpacker) hardLink(parent *node, name, p string, hdr *tar.Header) error {
	target, err := cleanName(hdr.Linkname)
	if err != nil {
		return err
	}
	parent.pins++
	defer func() { parent.pins-- }()

	above, tname := split(target)
	makeNone := u.dirs.missing
	u.dirs.missing = nil // a link's target must be there already
	from, err := u.dirs.get(above)
	u.dirs.missing = makeNone
	if err != nil {
		return u.linkError(p, target, err)
	}
	tpath := join(from.path, tname)
	if tpath == p && tname != "" {
		var st unix.Stat_t
		if unix.Fstatat(parent.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return nil // a link to itself: GNU tar makes these of hard links it met twice
		}
	}
	if tname == "" || u.isWhiteout(from, tname, tpath) {
		return u.linkError(p, target, unix.ENOENT)
	}
	// Check first: an entry that cannot be linked must not remove what it
	// would have replaced, which may be the target's own directory.
	var st unix.Stat_t
	if err := unix.Fstatat(from.fd, tname, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return u.linkError(p, target, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return u.linkError(p, target, unix.EISDIR)
	}
	if strings.HasPrefix(tpath, p+"/") {
		return u.linkError(p, target, unix.EINVAL)
	}
	from.pins++
	defer func() { from.pins-- }()
	// Flags 0: a symlink is linked itself, not what it points to (linkat(2)).
	err = u.make(parent, name, p, "linkat(2)", func() error {
		return unix.Linkat(from.fd, tname, parent.fd, name, 0)
	})
	if err != nil {
		return err
	}
	if i, ok := u.fixAt[tpath]; ok {
		// The other name may yet be replaced; the inode needs its owner either way.
		f := u.fixups[i]
		f.Path = p
		u.addFixup(f)
	}
	return nil
}

func (u *unpacker) linkError(p, target string, err error) error {
	e := &fail.Error{Op: "linkat(2)", On: show(p) + " to " + show(target), Err: errnoOf(err)}
	switch {
	case errors.Is(err, unix.ENOENT):
		e.Why = "this layer has no such entry before the link, and hard links do not reach into other layers"
		e.Try = "rebuild the image, or ask who built it: docker refuses this layer too"
	case errors.Is(err, unix.EISDIR):
		e.Why = "the target is a directory"
	case errors.Is(err, unix.EINVAL):
		e.Why = "the link would take the place of the directory its target lies in"
	}
	return e
}

// make runs create, which must refuse an existing name with EEXIST, and when
// there is one removes it and tries again: the later entry wins.
func (u *unpacker) make(parent *node, name, p, op string, create func() error) error {
	err := create()
	if err == unix.EEXIST {
		var st unix.Stat_t
		if err := unix.Fstatat(parent.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return call("fstatat(2)", p, err)
		}
		if err := u.remove(parent, name, p, &st); err != nil {
			return err
		}
		err = create()
	}
	return call(op, p, err)
}

// remove takes away what an earlier entry made at p.
func (u *unpacker) remove(parent *node, name, p string, st *unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := u.removeTree(parent, name, p); err != nil {
			return err
		}
		u.dirs.forgetBelow(p)
		return nil
	case unix.S_IFLNK:
		u.dirs.forgetLinks()
	}
	u.drop(p)
	return call("unlinkat(2)", p, unix.Unlinkat(parent.fd, name, 0))
}

// removeTree removes a directory and all below it with two descriptors at most,
// however deep it is: what it finds to be a directory it first moves up, into
// the root, under a name no entry can have.
func (u *unpacker) removeTree(parent *node, name, p string) error {
	type tree struct {
		fd         int
		name, path string
	}
	root := u.dirs.root.fd
	todo := []tree{{parent.fd, name, p}}
	for n := 0; len(todo) > 0; {
		t := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		fd, err := unix.Openat(t.fd, t.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return call("openat(2)", t.path, err)
		}
		dir := os.NewFile(uintptr(fd), t.path)
		names, err := dir.Readdirnames(-1)
		for _, name := range names {
			if err != nil {
				break
			}
			child := join(t.path, name)
			err = unix.Unlinkat(fd, name, 0)
			if err == unix.EISDIR {
				up := metaPrefix + "removed." + strconv.Itoa(n)
				n++
				err = unix.Renameat(fd, name, root, up)
				todo = append(todo, tree{root, up, child})
			}
			u.drop(child)
		}
		dir.Close()
		if err != nil {
			return call("unlinkat(2)", t.path, err)
		}
		if err := unix.Unlinkat(t.fd, t.name, unix.AT_REMOVEDIR); err != nil {
			return call("unlinkat(2)", t.path, err)
		}
	}
	u.drop(p)
	return nil
}

// drop forgets what was planned for a path that is no more.
func (u *unpacker) drop(p string) {
	delete(u.made, p)
	delete(u.xgone, p)
	delete(u.origin, p)
	delete(u.opaque, p)
	if i, ok := u.fixAt[p]; ok {
		u.fixups[i].Path = ""
		delete(u.fixAt, p)
	}
}

// fixup notes what of the entry only a privileged hand can do.
func (u *unpacker) fixup(p string, hdr *tar.Header) {
	var caps []byte
	if v, ok := hdr.PAXRecords[paxXattr+capsXattr]; ok && hdr.Typeflag != tar.TypeSymlink {
		caps = []byte(v)
	}
	if u.o.AllOwners || hdr.Uid != 0 || hdr.Gid != 0 || caps != nil {
		u.addFixup(Fixup{Path: p, UID: hdr.Uid, GID: hdr.Gid, Mode: perm(hdr), Caps: caps})
		return
	}
	if i, ok := u.fixAt[p]; ok { // a directory again, now root's
		u.fixups[i].Path = ""
		delete(u.fixAt, p)
	}
}

func (u *unpacker) addFixup(f Fixup) {
	if i, ok := u.fixAt[f.Path]; ok {
		u.fixups[i] = f
		return
	}
	u.fixAt[f.Path] = len(u.fixups)
	u.fixups = append(u.fixups, f)
}

// finish gives directories the modes and times they shall have, deepest first:
// after it some cannot be entered any more.
func (u *unpacker) finish() error {
	if err := u.finishWhiteouts(); err != nil {
		return err
	}
	u.dirs.missing = nil
	paths := make([]string, 0, len(u.made))
	for p := range u.made {
		paths = append(paths, p)
	}
	sort.Sort(sort.Reverse(sort.StringSlice(paths)))
	for _, p := range paths {
		st := u.made[p]
		above, name := split(p)
		if p == "" {
			name = "."
		}
		parent, err := u.dirs.get(above)
		if err != nil {
			return err
		}
		if st.now != st.want {
			if err := unix.Fchmodat(parent.fd, name, st.want, 0); err != nil {
				return call("fchmodat(2)", p, err)
			}
		}
		if st.timed {
			if err := unix.UtimesNanoAt(parent.fd, name, st.times[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return call("utimensat(2)", p, err)
			}
		}
	}
	live := u.fixups[:0]
	for _, f := range u.fixups {
		if f.Path != "" {
			live = append(live, f)
		}
	}
	u.fixups = live
	return nil
}

const maxNotes = 30 // kinds; the names of xattrs are the image's choice

// note is something left out: how often, and where first.
type note struct {
	count      int
	first, why string
}

func (u *unpacker) note(kind, p, why string) {
	n, known := u.notes[kind]
	if !known && len(u.notes) >= maxNotes {
		kind, why = "other things", "too many kinds to list"
		n = u.notes[kind]
	}
	if n.count == 0 {
		n.first, n.why = p, why
	}
	n.count++
	u.notes[kind] = n
}

// tell hands the notes over, sorted.
func (u *unpacker) tell() {
	if u.o.Note == nil {
		return
	}
	kinds := make([]string, 0, len(u.notes))
	for kind := range u.notes {
		kinds = append(kinds, kind)
	}
	sort.Strings(kinds)
	for _, kind := range kinds {
		n := u.notes[kind]
		where := show(n.first)
		if n.count > 1 {
			where = fmt.Sprintf("%s and %d more", where, n.count-1)
		}
		u.o.Note(fmt.Sprintf("%s left out: %s (%s)", kind, where, n.why))
	}
}

func (u *unpacker) tooLarge(p string) error {
	return &fail.Error{
		Op: "unpacking", On: show(p), Err: ErrTooLarge,
		Why: fmt.Sprintf("with it the layer's files come to more than the %d bytes it may have", u.limit),
	}
}

// readError words an error that came out of the tar.
func (u *unpacker) readError(err error) error {
	switch {
	case errors.Is(err, tar.ErrHeader):
		return &fail.Error{Op: "unpacking", On: "layer", Err: err, Why: "its bytes are no tar archive, or a damaged one"}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &fail.Error{Op: "unpacking", On: "layer", Err: err, Why: "the tar ends in the middle of an entry"}
	}
	return err
}

// bounded reads up to left bytes and then fails, unlike io.LimitReader, which
// would end as if all was well.
type bounded struct {
	r           io.Reader
	left, limit int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left {
		p = p[:b.left]
		if len(p) == 0 {
			var one [1]byte
			n, err := b.r.Read(one[:])
			if n == 0 {
				return 0, err
			}
			return 0, &fail.Error{
				Op: "unpacking", On: "layer", Err: ErrTooLarge,
				Why: fmt.Sprintf("its tar goes on after the %d bytes it may have", b.limit),
			}
		}
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	return n, err
}

// cleanName makes an entry's name relative to the root: "/etc", "./etc" and
// "../etc" are all etc, and the root itself is "".
//
// Its length is bounded by us, generously, because the kernel's PATH_MAX does
// not apply to a walk by components: a tar could otherwise ask for half a
// million nested directories in one name.
func cleanName(name string) (string, error) {
	if len(name) > maxPath {
		return "", &fail.Error{
			Op: "unpacking", On: show(name), Err: unix.ENAMETOOLONG,
			Why: fmt.Sprintf("the name has %d bytes, more than the %d moss makes", len(name), maxPath),
		}
	}
	return path.Clean("/" + name)[1:], nil
}

// perm is the entry's mode without its type.
func perm(hdr *tar.Header) uint32 { return uint32(hdr.Mode) & 0o7777 }

// times are access and modification time for utimensat(2).
func times(hdr *tar.Header) [2]unix.Timespec {
	mtime := unix.Timespec{Sec: hdr.ModTime.Unix(), Nsec: int64(hdr.ModTime.Nanosecond())}
	if hdr.AccessTime.IsZero() {
		return [2]unix.Timespec{mtime, mtime}
	}
	return [2]unix.Timespec{{Sec: hdr.AccessTime.Unix(), Nsec: int64(hdr.AccessTime.Nanosecond())}, mtime}
}

// isSparse reports whether the tar says that the file has holes.
func isSparse(hdr *tar.Header) bool {
	if hdr.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for _, key := range []string{"GNU.sparse.major", "GNU.sparse.size", "GNU.sparse.realsize"} {
		if hdr.PAXRecords[key] != "" {
			return true
		}
	}
	return false
}

// umask reads the process's umask without changing it, which umask(2) cannot.
func umask() uint32 {
	b, err := os.ReadFile("/proc/self/status")
	if err == nil {
		_, rest, ok := strings.Cut(string(b), "\nUmask:\t")
		line, _, _ := strings.Cut(rest, "\n")
		if m, err := strconv.ParseUint(line, 8, 32); ok && err == nil {
			return uint32(m)
		}
	}
	return 0o777 // unknown: assume that every bit needs chmod(2)
}

// call words a failed system call; nil stays nil.
func call(op, p string, err error) error {
	if err == nil {
		return nil
	}
	return &fail.Error{Op: op, On: show(p), Err: err}
}

// errnoOf unwraps what call made, so that a name is not said twice.
func errnoOf(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// show makes a name from a tar fit for a terminal.
func show(name string) string {
	clipped := name
	if len(clipped) > 200 {
		clipped = clipped[:200]
		for !utf8.ValidString(clipped) && len(clipped) > 196 {
			clipped = clipped[:len(clipped)-1]
		}
	}
	if q := strconv.Quote(clipped); q[1:len(q)-1] != clipped {
		clipped = q
	}
	if len(name) > 200 {
		clipped += "…"
	}
	if clipped == "" {
		return "."
	}
	return clipped
}
