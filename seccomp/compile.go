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
// two hundred of them. A tree asks about eight questions. That is felt once per
// container more than once per call: since Linux 5.11 (commit f9d480b6ffbe) the
// kernel runs a new filter for every number of every ABI at load time, to
// remember which calls it always allows.
//
// The code is written back to front. Then the target of every jump is known
// when the jump is written, so a jump that is too long for its 8 bits gets a
// stepping stone there and then, and leaves that return the same are shared.

// maxProgram is the kernel's limit (linux/bpf_common.h, BPF_MAXINSNS).
const maxProgram = 4096

// Offsets in struct seccomp_data (linux/seccomp.h).
const (
	offNumber = 0
	offABI    = 4
	offArgs   = 16
)

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
	var g gen
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
		entries[i] = g.load(offNumber, g.search(merge(p.tree), g.leaf))
	}
	next := g.ret(pol.foreign)
	for i, p := range slices.Backward(parts) {
		next = g.jump(unix.BPF_JEQ, p.audit, entries[i], next)
	}
	g.load(offABI, next)
	if g.full {
		return nil, &fail.Error{Op: "compiling seccomp profile", Err: fmt.Errorf("the filter needs more than %d instructions", maxProgram),
			Why: "the kernel takes no longer program (BPF_MAXINSNS); comparisons of arguments take most of the room",
			Try: "fewer rules with args, or masks (SCMP_CMP_MASKED_EQ) instead of lists of values"}
	}
	slices.Reverse(g.code)
	return g.code, nil
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

// gen holds the program, last instruction first. A position in it ("label") is
// the index of an instruction.
type gen struct {
	code    []unix.SockFilter
	returns map[uint32]int // the latest return of each value
	leaves  map[string]int // verdicts with rules
	full    bool
}

func (g *gen) emit(f unix.SockFilter) int {
	if len(g.code) == maxProgram {
		g.full = true
		return len(g.code) - 1
	}
	g.code = append(g.code, f)
	return len(g.code) - 1
}

// ret is a return of value that a jump from here can reach.
func (g *gen) ret(value uint32) int {
	if at, ok := g.returns[value]; ok && len(g.code)-at < 240 {
		return at
	}
	if g.returns == nil {
		g.returns = map[uint32]int{}
	}
	g.returns[value] = g.emit(unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: value})
	return g.returns[value]
}

// jump compares the accumulator with k.
func (g *gen) jump(how uint16, k uint32, yes, no int) int {
	if yes == no || g.full {
		return yes
	}
	for !g.full {
		switch far := len(g.code) - 256; {
		case yes < far:
			yes = g.emit(unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(g.code) - yes - 1)})
		case no < far:
			no = g.emit(unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(g.code) - no - 1)})
		default:
			return g.emit(unix.SockFilter{Code: unix.BPF_JMP | how | unix.BPF_K,
				Jt: uint8(len(g.code) - yes - 1), Jf: uint8(len(g.code) - no - 1), K: k})
		}
	}
	return yes
}

// load fetches a word and goes on at next.
func (g *gen) load(offset uint32, next int) int {
	g.above(next)
	return g.emit(unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset})
}

// above makes sure that what is written next falls through to next.
func (g *gen) above(next int) {
	if next != len(g.code)-1 {
		g.emit(unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(g.code) - next - 1)})
	}
}

// search writes a balanced tree that finds the accumulator's span.
//
// A single number among others of one kind is asked for by name, which takes one
// instruction where cutting it out on both sides takes two. Up to four of them
// stay together: what is loaded costs more than what is run.
func (g *gen) search(tree []span, leaf func(*verdict) int) int {
	type group struct{ from, to int } // to is the last span, of the same kind as from
	var groups []group
	for i := 0; i < len(tree); {
		from := i
		for i+2 < len(tree) && i-from < 8 && tree[i+1].first+1 == tree[i+2].first && same(tree[from].verdict, tree[i+2].verdict) {
			i += 2
		}
		groups = append(groups, group{from, i})
		i++
	}
	var half func(groups []group) int
	half = func(groups []group) int {
		if n := len(groups) / 2; n > 0 {
			high := half(groups[n:])
			low := half(groups[:n])
			return g.jump(unix.BPF_JGE, tree[groups[n].from].first, high, low)
		}
		next := leaf(&tree[groups[0].from].verdict)
		for i := groups[0].to - 1; i > groups[0].from; i -= 2 {
			yes := leaf(&tree[i].verdict)
			next = g.jump(unix.BPF_JEQ, tree[i].first, yes, next)
		}
		return next
	}
	return half(groups)
}

// leaf writes a verdict: its rules in order, then the final action. Verdicts on
// arguments are written once for all numbers and ABIs that share them.
func (g *gen) leaf(v *verdict) int {
	if len(v.rules) == 0 {
		return g.ret(v.final)
	}
	key := fmt.Sprint(v.wide, v.final, v.rules)
	if at, ok := g.leaves[key]; ok {
		return at
	}
	at := 0
	if arg, full, ok := v.small(); v.wide && ok {
		// What is said about small numbers is the same for wide and narrow
		// arguments, once the upper half is known to be zero.
		rules := slices.Clone(v.rules)
		for i := range rules {
			rules[i].conds = narrow(rules[i].conds, false)
		}
		at = g.leaf(&verdict{rules: rules, final: v.final})
		if full {
			no := g.ret(v.final)
			at = g.load(offArgs+8*uint32(arg)+4, g.jump(unix.BPF_JEQ, 0, at, no))
		}
	} else {
		at = g.rules(v)
	}
	if g.leaves == nil {
		g.leaves = map[string]int{}
	}
	g.leaves[key] = at
	return at
}

// small says whether the rules look at nothing but the lower half of arguments,
// or (full) hold only for values of one argument that fit there.
func (v *verdict) small() (arg uint, full, ok bool) {
	masked := 0
	for i, r := range v.rules {
		for _, c := range r.conds {
			if c.mask>>32 == 0 {
				masked++
				continue
			}
			if _, _, ok := c.interval(true); !ok || i > 0 && full && c.arg != arg || len(r.conds) > 1 {
				return 0, false, false
			}
			arg, full = c.arg, true
		}
	}
	return arg, full, masked == 0 || !full
}

func (g *gen) rules(v *verdict) int {
	next := g.ret(v.final)
	for end := len(v.rules); end > 0 && !g.full; {
		start, values := alternatives(v.rules[:end], v.wide)
		yes := g.ret(v.rules[end-1].action)
		if end-start > 1 {
			next = g.oneOf(values, v.rules[end-1].conds[0].arg, v.wide, yes, next)
			end = start
			continue
		}
		end--
		for _, c := range slices.Backward(v.rules[end].conds) {
			yes = g.compare(c, v.wide, yes, next)
		}
		next = yes
	}
	return next
}

// compare writes one condition. A 64-bit argument takes two looks, because the
// machine's words have 32 bits; the low word comes first in memory on every
// architecture moss is built for.
func (g *gen) compare(c cond, wide bool, yes, no int) int {
	switch c.op { // a op b is not (a opposite b)
	case opNE:
		c.op, yes, no = opEQ, no, yes
	case opLT:
		c.op, yes, no = opGE, no, yes
	case opLE:
		c.op, yes, no = opGT, no, yes
	}
	low := offArgs + 8*uint32(c.arg)
	how := [...]uint16{opEQ: unix.BPF_JEQ, opGE: unix.BPF_JGE, opGT: unix.BPF_JGT}[c.op]
	next := yes
	if mask := uint32(c.mask); mask != 0 {
		next = g.word(low, mask, g.jump(how, uint32(c.value), yes, no))
	}
	if mask := uint32(c.mask >> 32); wide && mask != 0 {
		high := uint32(c.value >> 32)
		next = g.jump(unix.BPF_JEQ, high, next, no)
		if c.op != opEQ {
			next = g.jump(unix.BPF_JGT, high, yes, next)
		}
		next = g.word(low+4, mask, next)
	}
	return next
}

// word loads an argument's half, masked, and goes on at next.
func (g *gen) word(offset, mask uint32, next int) int {
	if mask != ^uint32(0) {
		g.above(next)
		next = g.emit(unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: mask})
	}
	return g.load(offset, next)
}

// alternatives looks at the last rules for a run that asks whether one and the
// same argument is one of some small values, with one action: a list of socket
// families, say. It returns where the run starts, and the values as spans.
func alternatives(rules []rule, wide bool) (start int, values []span) {
	last := rules[len(rules)-1]
	start = len(rules)
	var ranges [][2]uint32
	for start > 0 {
		r := rules[start-1]
		if r.action != last.action || len(r.conds) != 1 || r.conds[0].arg != last.conds[0].arg {
			break
		}
		from, to, ok := r.conds[0].interval(wide)
		if !ok {
			break
		}
		ranges = append(ranges, [2]uint32{from, to})
		start--
	}
	slices.SortFunc(ranges, func(a, b [2]uint32) int { return slices.Compare(a[:], b[:]) })
	values = []span{{0, verdict{final: 0}}}
	for _, r := range ranges {
		end := &values[len(values)-1] // where the last range ended
		if r[0] > end.first || end.first == 0 {
			values = append(values, span{r[0], verdict{final: 1}}, span{r[1] + 1, verdict{final: 0}})
		} else if r[1]+1 > end.first {
			end.first = r[1] + 1
		}
	}
	if len(values) > 1 && values[1].first == 0 {
		values = values[1:]
	}
	return start, values
}

// interval gives the values a condition asks for, when they are a range of
// 32-bit numbers that ends before the last one.
func (c cond) interval(wide bool) (from, to uint32, ok bool) {
	if wide && c.mask != ^uint64(0) || uint32(c.mask) != ^uint32(0) || c.value >= 1<<32-1 {
		return 0, 0, false
	}
	value := uint32(c.value)
	switch {
	case c.op == opEQ:
		return value, value, true
	case c.op == opLE:
		return 0, value, true
	case c.op == opLT && value > 0:
		return 0, value - 1, true
	}
	return 0, 0, false
}

// oneOf asks whether an argument is in one of the spans whose verdict is 1.
func (g *gen) oneOf(values []span, arg uint, wide bool, yes, no int) int {
	next := g.search(values, func(v *verdict) int {
		if v.final == 1 {
			return yes
		}
		return no
	})
	low := offArgs + 8*uint32(arg)
	next = g.load(low, next)
	if wide {
		next = g.load(low+4, g.jump(unix.BPF_JEQ, 0, next, no))
	}
	return next
}

var errArch = errors.New("no table of system calls for this architecture")
