// Package namespaces starts a process in a world of its own: user, mount, PID,
// network, IPC, UTS and cgroup namespaces, id maps, mounts, pivot_root(2),
// capabilities, limits.
//
// The start is a list. A Go program is multithreaded, and the kernel lets only
// a single-threaded process create or join a user namespace (clone(2),
// setns(2): EINVAL). Other runtimes therefore execute themselves a second time
// or keep a part in C. moss instead writes down, in ordinary Go, every system
// call the child is to make, from the id map to execve(2), each with its
// arguments, its reason and its man page: a Program. A raw clone(2) child then
// walks that list in forty instructions of assembly (spawn_amd64.s,
// spawn_arm64.s) and reports which step failed.
//
// The list is also what `moss run --explain` prints and what tests look at.
// list.go writes the one for a container; read it first.
package namespaces

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"moss/explain"
)

// Program is a list of steps for a child that cannot run Go.
type Program struct {
	flags uintptr // of the clone(2) that makes the child
	steps []step
	calls []call
}

// step is a group of calls with one purpose, for the reader and for errors.
type step struct {
	what, why string
	see       []string
	first     int // index in calls
}

// call is one system call to be, or several that differ in one argument only.
type call struct {
	name  string
	nr    uintptr
	args  [6]arg
	n     int // how many of args count
	flags uintptr
	mask  uint64 // errnos below 64 that count as success
	each  []uint8
	vary  int // which argument each is for
}

// ops is how many system calls c stands for.
func (c *call) ops() int {
	if c.each != nil {
		return len(c.each)
	}
	return 1
}

// arg is one argument: what the kernel gets and what a reader sees. The list of
// a container has about a thousand; they are kept small.
type arg struct {
	value  uintptr        // a number, or where in ptr the result of a call goes
	text   string         // how to show it, "" means the number; of a string, itself
	ptr    unsafe.Pointer // memory the kernel reads or writes; keeps it alive, too
	result int16          // 1 + index of the call whose result this is
	isStr  bool           // text is a string for the kernel
}

func num(n int) arg                { return arg{value: uintptr(n)} }
func show(v uintptr, s string) arg { return arg{value: v, text: s} }
func str(s string) arg             { return arg{text: s, isStr: true} }
func null() arg                    { return arg{text: "NULL"} }
func atFDCWD() arg                 { return arg{value: uintptr(unix.AT_FDCWD & (1<<64 - 1)), text: "AT_FDCWD"} }
func (r result) arg() arg          { return arg{result: int16(r) + 1} }

// mem is memory for the kernel to read or write. It may point to more memory,
// as Go pointers do: the collector sees them.
func mem[T any](p *T, s string) arg { return arg{ptr: unsafe.Pointer(p), text: s} }

// result is the value a call will return once the child has made it.
type result int

// Flags of an op; the assembly knows them by number.
const (
	opIgnore = 1 << 0 // any error counts as success
	opClone  = 1 << 1 // the new process goes on with the list, the old one ends
)

// op is a call as the assembly reads it. Offsets are fixed there.
type op struct {
	nr    uintptr    // 0
	args  [6]uintptr // 8
	ret   uintptr    // 56: written by the child
	flags uintptr    // 64
	mask  uint64     // 72
	store [3]uintptr // 80: addresses the result is written to, 0 when unused
}

const opSize = 104

// shared is what parent and child both see: it lies in front of the ops.
type shared struct {
	failed uintptr // 0: address of the op that failed, 0 while none has
	errno  uintptr // 8
	pid    uintptr // 16: of the last process an opClone made
}

const sharedSize = 24

func (p *Program) step(what, why string, see ...string) {
	p.steps = append(p.steps, step{what, why, see, len(p.calls)})
}

func (p *Program) call(name string, nr uintptr, args ...arg) result {
	if p.calls == nil {
		p.calls = make([]call, 0, 256) // a container's list, with some room
	}
	p.calls = append(p.calls, call{name: name, nr: nr, n: len(args)})
	copy(p.calls[len(p.calls)-1].args[:], args)
	return result(len(p.calls) - 1)
}

// callEach adds a call once for each of values as its argument number vary,
// whose text tells them all.
func (p *Program) callEach(name string, nr uintptr, vary int, values []uint8, args ...arg) {
	p.call(name, nr, args...)
	c := &p.calls[len(p.calls)-1]
	c.vary, c.each = vary, values
}

// accept makes the errors given count as success for the call last added.
func (p *Program) accept(errnos ...unix.Errno) {
	for _, e := range errnos {
		if e >= 64 {
			panic("namespaces: the mask of accepted errors has 64 bits")
		}
		p.calls[len(p.calls)-1].mask |= 1 << uint(e)
	}
}

// optional makes any error count as success for the call last added.
func (p *Program) optional() { p.calls[len(p.calls)-1].flags |= opIgnore }

// text is the call as strace(1) would print it.
func (p *Program) text(i int) string {
	c := &p.calls[i]
	var b strings.Builder
	b.WriteString(c.name)
	b.WriteByte('(')
	for j, a := range c.args[:c.n] {
		if j > 0 {
			b.WriteString(", ")
		}
		switch {
		case a.isStr:
			b.WriteString(strconv.Quote(a.text))
		case a.text != "":
			b.WriteString(a.text)
		case a.result > 0:
			fmt.Fprintf(&b, "<%s>", p.resultName(int(a.result)-1))
		default:
			b.WriteString(strconv.Itoa(int(a.value)))
		}
	}
	b.WriteByte(')')
	return b.String()
}

// resultName tells which call a descriptor came from: what it opened.
func (p *Program) resultName(i int) string {
	for _, a := range p.calls[i].args[:p.calls[i].n] {
		if a.isStr && a.text != "" {
			return a.text
		}
	}
	return p.calls[i].name
}

// Explain narrates the list.
func (p *Program) Explain(n *explain.Narrator) {
	if !n.On() {
		return
	}
	n.Step(explain.Step{What: "Create the child", Call: "clone(" + cloneNames(p.flags) + "|SIGCHLD)",
		Why: "each CLONE_NEW flag is a world of its own; CLONE_VFORK lends the child our memory until it executes, so nothing is copied",
		See: []string{"clone(2)", "namespaces(7)", "namespaces/program.go#Program"}})
	for i, s := range p.steps {
		end := len(p.calls)
		if i+1 < len(p.steps) {
			end = p.steps[i+1].first
		}
		var lines []string
		for j := s.first; j < end; j++ {
			lines = append(lines, p.text(j))
		}
		n.Step(explain.Step{What: s.what, Call: strings.Join(lines, "\n"), Why: s.why, See: s.see})
	}
}

// Calls returns the list as strace(1) would print it, one call a line, for
// tests and for the curious.
func (p *Program) Calls() []string {
	all := make([]string, len(p.calls))
	for i := range p.calls {
		all[i] = p.text(i)
	}
	return all
}

// layout writes the list into memory that both processes see, in the form the
// assembly walks. It returns the mapping and what is in it; keep what it returns
// last alive as long as the child may read its strings.
func (p *Program) layout() (mem []byte, sh *shared, ops []op, keep any, err error) {
	count, length := 0, 0
	at := make([]int32, len(p.calls)) // where each call's op is
	for i := range p.calls {
		c := &p.calls[i]
		at[i] = int32(count)
		count += c.ops()
		for _, a := range c.args[:c.n] {
			if a.isStr {
				length += len(a.text) + 1
			}
		}
	}
	size := sharedSize + opSize*count
	mem, err = unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, nil, nil, nil, fmt.Errorf("mmap(2) for the start list: %w", err)
	}
	sh = (*shared)(unsafe.Pointer(&mem[0]))
	ops = unsafe.Slice((*op)(unsafe.Pointer(&mem[sharedSize])), count)

	strs := make([]byte, 0, length) // all strings, one after the other
	for i := range p.calls {
		c := &p.calls[i]
		o := &ops[at[i]]
		o.nr, o.flags, o.mask = c.nr, c.flags, c.mask
		for j, a := range c.args[:c.n] {
			switch {
			case a.isStr:
				begin := len(strs)
				strs = append(append(strs, a.text...), 0)
				o.args[j] = uintptr(unsafe.Pointer(unsafe.SliceData(strs))) + uintptr(begin)
			case a.ptr != nil:
				o.args[j] = uintptr(a.ptr)
				if a.result > 0 {
					ops[at[a.result-1]].storeAt(uintptr(a.ptr) + a.value)
				}
			case a.result > 0:
				ops[at[a.result-1]].storeAt(uintptr(unsafe.Pointer(&o.args[j])))
			default:
				o.args[j] = a.value
			}
		}
		for k, v := range c.each {
			ops[int(at[i])+k] = *o
			ops[int(at[i])+k].args[c.vary] = uintptr(v)
		}
	}
	return mem, sh, ops, strs, nil
}

// callOf is the index of the call that op number k belongs to.
func (p *Program) callOf(k int) int {
	for i := range p.calls {
		if k -= p.calls[i].ops(); k < 0 {
			return i
		}
	}
	return len(p.calls) - 1 // every execve was tried and none succeeded
}

func (o *op) storeAt(addr uintptr) {
	for i := range o.store {
		if o.store[i] == 0 {
			o.store[i] = addr
			return
		}
	}
	panic("namespaces: a result is used more than three times")
}

// Process is a child that has started to walk a list.
type Process struct {
	Pid int
}

// StepError says which step of a list failed.
type StepError struct {
	Step string       // "Stack the layers"
	Call string       // "mount" …
	Text string       // the call with its arguments
	Err  unix.Errno   //
	Exec []unix.Errno // what each attempt at execve(2) said, in order, when those failed
	Path []string     // what they tried
}

func (e *StepError) Error() string { return e.Text + ": " + e.Err.Error() }
func (e *StepError) Unwrap() error { return e.Err }

// start clones a child with flags and has it walk the list.
//
// With CLONE_VFORK it returns when the child has executed its program or
// failed, and error is a *StepError; without, it returns at once and the
// caller learns of failures through failure after waiting for the child.
//
// The calling goroutine should be locked to its thread for as long as the
// child lives: PR_SET_PDEATHSIG is about the thread that cloned.
func (p *Program) start(flags uintptr) (pid int, failure func() error, err error) {
	mapping, sh, ops, keep, err := p.layout()
	if err != nil {
		return 0, nil, err
	}
	report := func() error { return p.report(sh, ops) }

	r := p.spawn(flags, sh, ops)
	runtime.KeepAlive(keep)
	runtime.KeepAlive(p)

	if errno := -int(r); errno > 0 && errno < 4096 {
		unix.Munmap(mapping)
		return 0, nil, &StepError{Step: "Create the process", Call: "clone", Text: "clone(" + cloneNames(flags) + ")", Err: unix.Errno(errno)}
	}
	pid = int(r)
	if flags&unix.CLONE_VFORK == 0 {
		return pid, report, nil
	}
	// A child that became another user while it shared our memory took from it
	// the mark that lets our own /proc/self be ours (PR_SET_DUMPABLE(2const)).
	unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
	err = report()
	if sh.pid != 0 { // the first child only made the second, and is gone
		wait(pid)
		pid = int(sh.pid)
	}
	if err != nil {
		wait(pid)
	}
	unix.Munmap(mapping)
	return pid, nil, err
}

// spawn clones the child.
func (p *Program) spawn(flags uintptr, sh *shared, ops []op) uintptr {
	// No signal may find the child with Go's handlers and our memory: block
	// all of them for the clone; a list that ends with execve resets them.
	var all, old unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &old); err != nil {
		return -uintptr(err.(unix.Errno))
	}
	first := uintptr(unsafe.Pointer(unsafe.SliceData(ops)))
	r := spawn(flags, first, first+opSize*uintptr(len(ops)), uintptr(unsafe.Pointer(sh)))
	unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)
	return r
}

// share starts a child that walks the list in the caller's own memory while the
// caller goes on. keep must stay reachable as long as the child lives.
func (p *Program) share() (pid int, keep any, err error) {
	_, sh, ops, strs, err := p.layout()
	if err != nil {
		return 0, nil, err
	}
	r := p.spawn(unix.CLONE_VM|uintptr(unix.SIGCHLD), sh, ops)
	if errno := -int(r); errno > 0 && errno < 4096 {
		return 0, nil, fmt.Errorf("clone(2): %w", unix.Errno(errno))
	}
	return int(r), []any{p, strs}, nil
}

// report reads what the child left in the shared memory.
func (p *Program) report(sh *shared, ops []op) error {
	if sh.failed == 0 {
		return nil
	}
	i := p.callOf(int((sh.failed - uintptr(unsafe.Pointer(unsafe.SliceData(ops)))) / opSize))
	e := &StepError{Call: p.calls[i].name, Text: p.text(i), Err: unix.Errno(sh.errno)}
	for _, s := range p.steps {
		if s.first <= i {
			e.Step = s.what
		}
	}
	// The attempts at execve(2) are the last calls, an op each.
	for j := 1; j <= len(p.calls) && p.calls[len(p.calls)-j].nr == unix.SYS_EXECVE; j++ {
		if errno := -int(ops[len(ops)-j].ret); errno > 0 {
			e.Exec = append([]unix.Errno{unix.Errno(errno)}, e.Exec...)
			e.Path = append([]string{p.calls[len(p.calls)-j].args[0].text}, e.Path...)
		}
	}
	return e
}

func wait(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
			return
		}
	}
}
