// Package image keeps images at rest.
//
// An image at rest is three kinds of things, and the store has one directory
// for each:
//
//	blobs/sha256/<hex>      manifests, indexes and configs, byte for byte as they
//	                        were received; the file name is the hash of the content
//	layers/<diffID hex>/    one unpacked layer
//	    tree/               its files, as overlayfs wants them
//	    tar-split.json.gz   all that the tar held besides the files' contents, so
//	                        that the very same tar can be made again
//	    layer.json          its size, the compressed forms it was seen in, notes
//	    durable             a symlink that appears when the layer is known to
//	                        survive a power cut; its target is the short name
//	layers/l/<short>        -> ../<hex>/tree, so that a mount(2) of many layers
//	                        fits into one page of options
//	layers/by-blob/<hex>    -> ../<diffID hex>, the compressed digest it came as
//	refs/<registry>/<repository>/_tags/<tag>
//	refs/<registry>/<repository>/_digests/<algorithm>-<hex>
//	                        names; each says which manifest it means
//	refs/_images/<hex>      every manifest that is an image here, named or not
//
// and three that are not images: locks/ (flock(2) files), tmp/ (whatever is not
// finished), format (the version of this layout). containers/ belongs to package
// container.
//
// The rules that keep it whole, whatever is killed and whenever:
//
//   - Nothing is written in place. Files and layers are made under tmp/ and
//     renamed; a reader takes no lock and never sees a half.
//   - Layers do not depend on each other: each is named by its diffID, the hash
//     of its own tar, and is checked against it before the rename.
//   - What a killed process left in tmp/ is recognised by its lock being free,
//     and the next writer takes it away (Sweep).
//   - Only Remove and Prune delete. They hold the store lock exclusively and
//     spare what a pull in progress has announced (lease.go).
package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"moss/fail"
	"moss/oci"
)

// formatVersion is the layout described above. A change that an older moss
// would misread raises it.
const formatVersion = 1

// Errors that callers branch on.
var (
	// ErrNotFound is returned when a name, blob or layer is not in the store.
	ErrNotFound = errors.New("not found")
	// ErrAmbiguous is returned by Find when an id prefix fits several images.
	ErrAmbiguous = errors.New("ambiguous")
	// ErrDigestMismatch is returned when bytes are not those their digest names.
	ErrDigestMismatch = errors.New("digest mismatch")
	// ErrInUse is for callers that refuse to remove what a container needs.
	ErrInUse = errors.New("in use")
)

// UnpackFunc writes the tar into dir, which is an empty directory. It need not
// read beyond the tar's end marker. Notes say what could not be kept, one
// sentence each, and are stored with the layer.
//
// A layer's tree belongs to whoever Unpack makes it belong to; RemoveTree has
// to be able to take it away again.
type UnpackFunc func(ctx context.Context, tar io.Reader, dir string) (notes []string, err error)

// Store is a directory of images. Methods may be called from several goroutines
// and, on the same directory, from several processes.
type Store struct {
	// Unpack must be set before AddLayer is called.
	Unpack UnpackFunc
	// RemoveTree deletes a directory with everything in it; nil is a removal
	// with the caller's own rights. It is called for trees of Unpack's making,
	// sometimes for one that is already gone.
	RemoveTree func(dir string) error

	root, runroot string
	reserve       int64 // bytes of free disk below which AddLayer stops

	buffers sync.Pool // of *[]byte, blockSize long

	preparing sync.Mutex
	prepared  bool // the first write has made directories and swept

	mu      sync.Mutex
	lease   *lease
	pending map[oci.DiffID]string // layers to mark durable, and their short names
}

// Open returns the store at root and makes what is missing. runroot is for
// sockets and other things that need not outlive a boot; an empty one is placed
// under root. Locks are always under root: two commands that disagree about
// runroot, say one of them from cron, still have to agree about those.
//
// It refuses a root that belongs to somebody else or was written by a newer
// moss.
func Open(root, runroot string) (*Store, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	if runroot == "" {
		runroot = filepath.Join(root, "run")
	}
	s := &Store{root: root, runroot: runroot, reserve: diskReserve}
	format, err := os.ReadFile(s.path("format"))
	if errors.Is(err, fs.ErrNotExist) {
		if err := s.create(); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, explainOpen(root, err)
	} else if err := s.checkFormat(format); err != nil {
		return nil, err
	}
	if err := s.checkOwner(); err != nil {
		return nil, err
	}
	if err := mkdir(runroot, 0o700); err != nil {
		return nil, explainOpen(runroot, err)
	}
	return s, nil
}

// Root is the store's directory, an absolute path.
func (s *Store) Root() string { return s.root }

// RunRoot is the directory for what need not outlive a boot.
func (s *Store) RunRoot() string { return s.runroot }

// Close gives up what AddLayer and PutBlob announced and Tag has not yet made
// part of an image. The end of the process does the same.
func (s *Store) Close() error { return s.endLease() }

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.root}, elem...)...)
}

// create makes the layout; format comes last, so that whoever finds it finds
// everything else too.
func (s *Store) create() error {
	if err := s.mkdirs(); err != nil {
		return explainOpen(s.root, err)
	}
	text := fmt.Sprintf("moss %d\n", formatVersion)
	if err := WriteFile(s.path("format"), []byte(text), 0o644); err != nil {
		return explainOpen(s.root, err)
	}
	return nil
}

// mkdirs makes the directories. The root is the owner's alone: trees hold setuid
// programs that would be the owner's to run for anybody. Root's containers are
// other host users, who must be able to search the way to a layer's tree, and
// no more; there the setuid programs belong to ids that nobody has.
func (s *Store) mkdirs() error {
	perm := fs.FileMode(0o700)
	if os.Geteuid() == 0 {
		perm = 0o711
	}
	for _, d := range []struct {
		name string
		perm fs.FileMode
	}{
		{"", perm}, {"layers", 0o711}, {"layers/l", 0o711}, {"layers/by-blob", 0o700}, {"tmp", 0o711},
		{"containers", 0o711}, {"blobs", 0o700}, {"blobs/sha256", 0o700}, {"refs", 0o700}, {"locks", 0o700},
	} {
		if err := mkdir(s.path(d.name), d.perm); err != nil {
			return err
		}
	}
	return nil
}

// prepare runs before the first write of this process: it repairs the layout,
// should somebody have tidied an empty directory away, and sweeps.
func (s *Store) prepare() error {
	s.preparing.Lock()
	defer s.preparing.Unlock()
	if s.prepared {
		return nil
	}
	if err := s.mkdirs(); err != nil {
		return err
	}
	_ = s.Sweep() // by the way: its failures are for those who ask for it
	s.prepared = true
	return nil
}

func (s *Store) checkFormat(b []byte) error {
	name, version, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	n, err := strconv.Atoi(version)
	if name != "moss" || err != nil {
		return &fail.Error{Op: "opening the store", On: s.root, Err: errors.New("the file \"format\" is not moss's"),
			Why: "the directory holds something else, or the file was damaged",
			Try: "another directory with --root; if this is the store, write \"moss 1\" into " + s.path("format")}
	}
	if n > formatVersion {
		return &fail.Error{Op: "opening the store", On: s.root, Err: fmt.Errorf("format %d, this moss knows up to %d", n, formatVersion),
			Why: "a newer moss has written it",
			Try: "use that newer moss, or another store with --root"}
	}
	return nil
}

// checkOwner refuses another user's store: files made there would lock its
// owner out, most often after a sudo that kept HOME.
func (s *Store) checkOwner() error {
	var st unix.Stat_t
	if err := unix.Stat(s.root, &st); err != nil {
		return explainOpen(s.root, &fs.PathError{Op: "stat", Path: s.root, Err: err})
	}
	if int(st.Uid) != os.Geteuid() {
		return &fail.Error{Op: "opening the store", On: s.root, Err: fs.ErrPermission,
			Why: fmt.Sprintf("it belongs to user id %d and this is user id %d", st.Uid, os.Geteuid()),
			Try: "run moss as its owner (without sudo), or use another store with --root DIR"}
	}
	return nil
}

// explainOpen finds out what keeps the store from being made.
func explainOpen(path string, err error) error {
	e := &fail.Error{Op: "opening the store", On: path, Err: err}
	switch {
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EEXIST):
		e.Why = "it or a directory above it is a file"
		for p := path; p != "/" && p != "."; p = filepath.Dir(p) {
			if fi, err := os.Stat(p); err == nil {
				if !fi.IsDir() {
					e.Why = p + " is not a directory"
				}
				break
			}
		}
		e.Try = "another directory with --root DIR"
	case errors.Is(err, unix.EROFS):
		e.Why = "the file system is mounted read-only"
		e.Try = "a writable directory with --root DIR, or XDG_DATA_HOME"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		e.Why, e.Try = whyDenied(path), "a directory of your own with --root DIR, or XDG_DATA_HOME"
	default:
		return explainDisk("opening the store", path, err)
	}
	return e
}

// whyDenied names the closest directory above path that exists, its owner and mode.
func whyDenied(path string) string {
	for p := path; ; p = filepath.Dir(p) {
		var st unix.Stat_t
		err := unix.Stat(p, &st)
		if err == nil {
			return fmt.Sprintf("%s belongs to user id %d with mode %04o, and this is user id %d", p, st.Uid, st.Mode&0o7777, os.Geteuid())
		}
		if p == "/" || p == "." || (err != unix.ENOENT && err != unix.EACCES) {
			return ""
		}
	}
}
