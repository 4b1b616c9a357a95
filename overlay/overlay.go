// Package overlay is about layers as directories: it unpacks a layer's tar into
// one, reads many of them as if they were merged, and words the mount that
// lets the kernel do the merging.
//
// # What a layer is
//
// A layer is a changeset: a tar of what was added or changed against the
// layers below it (image-spec layer.md, "Representing Changes"). A tar cannot
// say "this is gone", so image-spec borrows two spellings from AUFS, the union
// file system docker began with:
//
//	etc/.wh.motd         whiteout: etc/motd of the layers below is gone
//	etc/.wh..wh..opq     opaque whiteout: everything the layers below have in etc is gone
//
// The kernel's overlayfs knows the same two ideas under other names (kernel
// overlayfs.rst, "whiteouts and opaque directories"):
//
//	etc/motd             a character device with number 0:0
//	etc                  a directory with the xattr overlay.opaque = "y"
//
// Unpack translates the first into the second. Everything else in a layer is a
// file like any other, and each layer goes to a directory of its own, so layers
// unpack in parallel and are shared by every image that has them.
//
// # Without privileges
//
// Unpack runs as an ordinary user. That user may make 0:0 devices (Linux 5.8,
// commit a3c751a50fe6) but no others; may set "user." xattrs, which is why
// overlayfs must be mounted with userxattr to look there for opaque marks
// (Linux 5.11, commit 2d2f2d7322ff); and may not give files away. What owners
// and file capabilities need is returned as a list of Fixup, for Apply to carry
// out inside a user namespace, where container ids have a meaning.
//
// # Nothing outside
//
// The tar is hostile until proven otherwise. Every path, an entry's, a hard
// link's target, a symlink met on the way, is walked one component at a time
// from a descriptor of the layer's directory and never handed to the kernel
// whole (dirs.go), so there is no spelling of a name that leaves it.
package overlay

// UnpackOptions says what Unpack reports and where it stops.
type UnpackOptions struct {
	// AllOwners makes Unpack return a Fixup for every entry, not only for those
	// it could not do itself: for callers that are not the owner the layer's
	// root should get, such as real root. Apply must follow: until then regular
	// files have neither setuid nor setgid.
	AllOwners bool

	// Note, when set, is told what was left out, one sentence for each kind of
	// thing, after the last entry. It is called from Unpack's own goroutine.
	Note func(string)

	// MaxBytes, when positive, bounds both the bytes read from the tar and the
	// sum of the sizes of its files, which a sparse file can make larger.
	MaxBytes int64
}

// Fixup is what an ordinary user may not do to one entry: to be applied inside
// the id map or by root.
type Fixup struct {
	Path     string // inside the layer, relative, without symlinks; "." is its root
	UID, GID int    // as in the tar, so the container's ids
	Mode     uint32 // permission bits with setuid, setgid and sticky: chown(2) clears the first two
	Caps     []byte // value of security.capability; nil when there is none
}
