package seccomp

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"moss/fail"
)

// This file turns a policy into a program for the kernel's classic BPF machine:
// one accumulator, jumps that only go forward, a return value at the end of
// every path. The program looks like this:
//
//	load the ABI; pick its part or kill
//	  load the number; search it in a tree of ranges
//	    a leaf returns an action, or compares arguments first
//
// The usual compilers write one comparison per system call, so a call passes
// two hundred of them where a tree asks about a dozen questions. That is felt
// when the filter is loaded more than at each call: since Linux 5.11 (commits
// 8e01b51a31a1, f9d480b6ffbe) the kernel then runs it for every number of its two
// main ABIs, to remember which calls it always allows. What remains is the time to
// turn the program into machine code, so it is kept short.

// verdict is what one system call gets: the action of the first rule whose
// conditions hold, else the final one.
type verdict struct {
	rules   []rule
	decided bool // a rule without conditions said so
	final   uint32
	wide    bool
}

type rule struct {
	conds  []cond
	action uint32
}

// span is a range of numbers with one verdict: from first to the next span.
type span struct {
	first uint32
	verdict
}

// compile writes the program for pol.
func compile(pol *policy, fake bool) ([]unix.SockFilter, error) {
	var w writer
	type part struct {
		audit uint32
		tree  []span
	}
	var parts []part
	for _, a := range pol.abis {
		tree := pol.spans(a, fake)
		if a.bit != 0 {
			// x32 lives in the upper numbers of its sibling.
			p := &parts[0]
			p.tree = append(p.tree[:len(p.tree)-2], tree...)
			continue
		}
		if a.audit == unix.AUDIT_ARCH_X86_64 {
			// Numbers with the bit of an ABI that is not listed are foreign, except
			// -1, with which a tracer skips a call (seccomp(2), "Caveats").
			tree = append(tree, span{first: x32Bit, verdict: verdict{final: pol.foreign}},
				span{first: ^uint32(0), verdict: verdict{final: pol.otherwise}})
		}
		parts = append(parts, part{a.audit, tree})
	}
	entries := make([]int, len(parts))
	for i, p := range slices.Backward(parts) {
		entries[i] = w.load(offNumber, w.search(merge(p.tree), w.leaf))
	}
	next := w.ret(pol.foreign)
	for i, p := range slices.Backward(parts) {
		next = w.jump(unix.BPF_JEQ, p.audit, entries[i], next)
	}
	w.load(offABI, next)
	if w.full {
		return nil, &fail.Error{Op: "compiling seccomp profile", Err: fmt.Errorf("the filter needs more than %d instructions", maxProgram),
			Why: "the kernel takes no longer program (BPF_MAXINSNS); comparisons of arguments take most of the room",
			Try: "fewer rules with args, or masks (SCMP_CMP_MASKED_EQ) instead of lists of values"}
	}
	slices.Reverse(w.code)
	return w.code, nil
}

// spans gives every number of the ABI its verdict, in ascending order.
func (pol *policy) spans(a abi, fake bool) []span {
	calls, highest := pol.verdicts(a)
	if fake {
		pol.fake(a, calls)
	}
	otherwise := verdict{final: pol.otherwise}
	// A C library asks for the newest call first and falls back on ENOSYS; to be
	// told EPERM instead breaks it on every kernel that is newer than the
	// profile. So numbers beyond all that the profile knows are unknown calls, as
	// in runc (libcontainer/seccomp/patchbpf), unless the profile lets pass
	// whatever it does not name.
	unknown := otherwise
	if highest > 0 && !pol.permissive {
		unknown.final = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	if highest > 0 && calls[highest] == nil {
		calls[highest] = &otherwise // so that a span ends there
	}
	numbers := make([]uint32, 0, len(calls))
	for nr := range calls {
		numbers = append(numbers, nr)
	}
	slices.Sort(numbers)
	gap := func(from uint32) verdict {
		if from > highest {
			return unknown
		}
		return otherwise
	}
	spans := []span{{a.bit, gap(a.bit)}}
	for _, nr := range numbers {
		spans = append(spans, span{nr, *calls[nr]}, span{nr + 1, gap(nr + 1)})
	}
	// Successive numbers leave an empty span between them.
	out := spans[:0]
	for i, s := range spans {
		if i+1 == len(spans) || spans[i+1].first != s.first {
			out = append(out, s)
		}
	}
	return out
}

// verdicts gathers the rules by number. highest is the highest number that any
// rule names, whatever it says about it; arm's private calls do not count, or no
// number would ever be beyond.
func (pol *policy) verdicts(a abi) (calls map[uint32]*verdict, highest uint32) {
	calls = make(map[uint32]*verdict, 512)
	add := func(name string, conds []cond, action uint32) {
		nr, ok := a.number(name)
		if !ok {
			return
		}
		if nr&^a.bit < armPrivate {
			highest = max(highest, nr)
		}
		// A rule that says what would be said anyway is no rule: libseccomp
		// refuses it and runc leaves it out (matchCall). It must not hide another.
		if action == pol.otherwise {
			return
		}
		v := calls[nr]
		if v == nil {
			v = &verdict{final: pol.otherwise, wide: a.wide}
			calls[nr] = v
		}
		switch {
		case v.decided: // the first general rule stands
		case len(conds) == 0: // and displaces those with conditions
			*v = verdict{decided: true, final: action, wide: a.wide}
		default:
			v.rules = append(v.rules, rule{conds, action})
		}
	}
	for _, r := range pol.rules {
		conds := narrow(r.conds, a.wide)
		for _, name := range r.names {
			add(name, conds, r.action)
			if !a.mux {
				continue
			}
			for _, m := range multiplexed {
				if m.name != name {
					continue
				}
				// The number of the sub-call takes the place of argument 0; the
				// call's own arguments are in memory, where no filter sees them.
				sub := []cond{{op: opEQ, value: m.call, mask: ^uint64(0)}}
				for _, c := range conds {
					if c.arg != 0 {
						sub = append(sub, c)
					}
				}
				add(m.through, sub, r.action)
			}
		}
	}
	return calls, highest
}

// narrow cuts conditions to the width of an ABI's arguments and drops those
// that always hold.
func narrow(conds []cond, wide bool) []cond {
	out := make([]cond, 0, len(conds))
	for _, c := range conds {
		if !wide {
			c.value, c.mask = uint64(uint32(c.value)), uint64(uint32(c.mask))
		}
		if c.mask != 0 {
			out = append(out, c)
		}
	}
	return out
}

// merge joins neighbours that return the same without looking at arguments.
func merge(tree []span) []span {
	out := tree[:0]
	for _, s := range tree {
		if n := len(out); n > 0 && same(out[n-1].verdict, s.verdict) {
			continue
		}
		out = append(out, s)
	}
	return out
}

func same(a, b verdict) bool {
	return len(a.rules) == 0 && len(b.rules) == 0 && a.final == b.final
}

var errArch = errors.New("no table of system calls for this architecture")
