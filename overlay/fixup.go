package overlay

import "errors"

// Apply carries out fixups on the tree dir.
func Apply(dir string, fixups []Fixup, owner func(uid, gid int) (int, int, bool)) (skipped int, err error) {
	return 0, errors.ErrUnsupported
}
