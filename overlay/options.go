package overlay

import (
	"fmt"
	"strings"

	"moss/fail"
)

// The kernel's bounds on one mount.
const (
	maxOptions = 4095 // mount(2): data is one page, with its final NUL
	maxLower   = 500  // OVL_MAX_STACK, fs/overlayfs/params.h
)

// Options words the option string of mount(2) for an overlay: lower are the
// layers' directories, lowest first as in an image's rootfs.diff_ids; upper
// takes the writes and work is the kernel's scratch directory beside it, empty
// and on the same file system. With upper "" the mount is read-only and needs
// at least two lower ones.
//
// Relative names count from the directory of the process that mounts: short
// ones are what lets hundreds of layers fit, since the string may have 4095
// bytes.
//
// Sources: kernel overlayfs.rst, "Multiple lower layers" (order and escaping)
// and "User xattr".
func Options(lower []string, upper, work string) (string, error) {
	var b strings.Builder
	// The kernel lists lowerdir top to bottom; image configs list bottom to top.
	b.WriteString("lowerdir=")
	for i := len(lower) - 1; i >= 0; i-- {
		escape(&b, lower[i])
		if i > 0 {
			b.WriteByte(':')
		}
	}
	if upper != "" {
		b.WriteString(",upperdir=")
		escape(&b, upper)
		b.WriteString(",workdir=")
		escape(&b, work)
	}
	// Without userxattr the mount succeeds in a user namespace and deleting a
	// file works, but deleting a lower directory fails with EIO: overlayfs may
	// not set trusted.overlay.opaque there.
	b.WriteString(",userxattr")

	switch {
	case len(lower) == 0:
		return "", &fail.Error{Op: "mount(2) overlay", On: "an image without layers"}
	case len(lower) > maxLower:
		return "", &fail.Error{
			Op: "mount(2) overlay", On: fmt.Sprintf("%d layers", len(lower)),
			Why: fmt.Sprintf("the kernel stacks at most %d", maxLower),
			Try: "rebuild the image with fewer layers",
		}
	case b.Len() > maxOptions:
		return "", &fail.Error{
			Op: "mount(2) overlay", On: fmt.Sprintf("%d layers", len(lower)),
			Why: fmt.Sprintf("their names take %d bytes, and the kernel reads %d bytes of options", b.Len(), maxOptions),
			Try: "a shorter --root, or an image with fewer layers",
		}
	}
	return b.String(), nil
}

// escape writes name so that the kernel's option parser gives it back: ','
// would end the option, ':' the layer, and '\' escapes.
func escape(b *strings.Builder, name string) {
	for i := 0; i < len(name); i++ {
		if strings.IndexByte(`\:,`, name[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(name[i])
	}
}
