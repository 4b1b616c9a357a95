//go:build amd64 || arm64

package namespaces

// spawn clones a child that walks the ops from first up to end (addresses) and
// then, or when one fails, ends. The parent gets the child's pid, or the
// negated errno of clone(2).
//
// It is assembly because the child may share the parent's memory and stack
// (CLONE_VM|CLONE_VFORK: nothing is copied, which is what makes the start
// fast): it must neither grow nor even touch the stack, and no Go code can
// promise that. The child keeps everything in registers.
//
//go:noescape
func spawn(flags, first, end, sh uintptr) uintptr
