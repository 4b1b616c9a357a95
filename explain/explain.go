// Package explain narrates: what moss does, the very system call or file it
// does it with, why, and where to read on.
//
// A nil *Narrator says nothing, so the mechanisms call it without asking
// whether anybody listens; the cost when off is one nil check. Arguments that
// are expensive to build belong behind On.
package explain

import (
	"fmt"
	"io"
	"strings"
	"sync"

	"moss/fail"
)

// Step is one thing that happened.
type Step struct {
	What string   // "Stack five layers and an empty one to write to"
	Call string   // `mount("overlay", …)`, `GET /v2/…`, `write /proc/self/uid_map "0 1000 1"`; "" when there is none
	Why  string   // one line; "" when What says it all
	See  []string // "overlayfs.rst", "pivot_root(2)", "overlay/options.go#Options"
}

// Narrator prints steps as numbered text. It is safe for concurrent use.
type Narrator struct {
	mu sync.Mutex
	w  io.Writer
	n  int
}

// New returns a Narrator that writes to w, normally standard error.
func New(w io.Writer) *Narrator { return &Narrator{w: w} }

// On reports whether anybody listens.
func (n *Narrator) On() bool { return n != nil }

// Step prints s.
func (n *Narrator) Step(s Step) {
	if n == nil {
		return
	}
	var b strings.Builder
	n.mu.Lock()
	defer n.mu.Unlock()
	n.n++
	fmt.Fprintf(&b, "%3d  %s\n", n.n, s.What)
	if s.Call != "" {
		fmt.Fprintf(&b, "     %s\n", strings.ReplaceAll(s.Call, "\n", "\n     "))
	}
	if s.Why != "" {
		fmt.Fprintf(&b, "     why: %s\n", s.Why)
	}
	if len(s.See) > 0 {
		fmt.Fprintf(&b, "     see: %s\n", strings.Join(s.See, ", "))
	}
	io.WriteString(n.w, fail.Clean(b.String()))
}

// Section prints a heading between steps.
func (n *Narrator) Section(title string) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	fmt.Fprintf(n.w, "\n---  %s\n", title)
}
