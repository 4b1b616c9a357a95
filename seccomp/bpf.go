package seccomp

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// This file writes instructions.
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

// writer holds the program, last instruction first. A position in it ("label") is
// the index of an instruction.
type writer struct {
	code    []unix.SockFilter
	returns map[uint32]int // the latest return of each value
	leaves  map[string]int // verdicts with rules
	full    bool
}

func (w *writer) emit(f unix.SockFilter) int {
	if len(w.code) == maxProgram {
		w.full = true
		return len(w.code) - 1
	}
	w.code = append(w.code, f)
	return len(w.code) - 1
}

// ret is a return of value that a jump from here can reach.
func (w *writer) ret(value uint32) int {
	if at, ok := w.returns[value]; ok && len(w.code)-at < 240 {
		return at
	}
	if w.returns == nil {
		w.returns = map[uint32]int{}
	}
	w.returns[value] = w.emit(unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: value})
	return w.returns[value]
}

// jump compares the accumulator with k.
func (w *writer) jump(how uint16, k uint32, yes, no int) int {
	if yes == no || w.full {
		return yes
	}
	for !w.full {
		switch far := len(w.code) - 256; {
		case yes < far:
			yes = w.emit(unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(w.code) - yes - 1)})
		case no < far:
			no = w.emit(unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(w.code) - no - 1)})
		default:
			return w.emit(unix.SockFilter{Code: unix.BPF_JMP | how | unix.BPF_K,
				Jt: uint8(len(w.code) - yes - 1), Jf: uint8(len(w.code) - no - 1), K: k})
		}
	}
	return yes
}

// load fetches a word and goes on at next.
func (w *writer) load(offset uint32, next int) int {
	w.above(next)
	return w.emit(unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset})
}

// above makes sure that what is written next falls through to next.
func (w *writer) above(next int) {
	if next != len(w.code)-1 {
		w.emit(unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(w.code) - next - 1)})
	}
}

// search writes a balanced tree that finds the accumulator's span.
//
// A single number among others of one kind is asked for by name, which takes one
// instruction where cutting it out on both sides takes two. Up to four of them
// stay together: what is loaded costs more than what is run.
func (w *writer) search(tree []span, leaf func(*verdict) int) int {
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
			return w.jump(unix.BPF_JGE, tree[groups[n].from].first, high, low)
		}
		next := leaf(&tree[groups[0].from].verdict)
		for i := groups[0].to - 1; i > groups[0].from; i -= 2 {
			yes := leaf(&tree[i].verdict)
			next = w.jump(unix.BPF_JEQ, tree[i].first, yes, next)
		}
		return next
	}
	return half(groups)
}

// leaf writes a verdict: its rules in order, then the final action. Verdicts on
// arguments are written once for all numbers and ABIs that share them.
func (w *writer) leaf(v *verdict) int {
	if len(v.rules) == 0 {
		return w.ret(v.final)
	}
	key := fmt.Sprint(v.wide, v.final, v.rules)
	if at, ok := w.leaves[key]; ok {
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
		at = w.leaf(&verdict{rules: rules, final: v.final})
		if full {
			no := w.ret(v.final)
			at = w.load(offArgs+8*uint32(arg)+4, w.jump(unix.BPF_JEQ, 0, at, no))
		}
	} else {
		at = w.rules(v)
	}
	if w.leaves == nil {
		w.leaves = map[string]int{}
	}
	w.leaves[key] = at
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

func (w *writer) rules(v *verdict) int {
	next := w.ret(v.final)
	for end := len(v.rules); end > 0 && !w.full; {
		start, values := alternatives(v.rules[:end], v.wide)
		yes := w.ret(v.rules[end-1].action)
		if end-start > 1 {
			next = w.oneOf(values, v.rules[end-1].conds[0].arg, v.wide, yes, next)
			end = start
			continue
		}
		end--
		for _, c := range slices.Backward(v.rules[end].conds) {
			yes = w.compare(c, v.wide, yes, next)
		}
		next = yes
	}
	return next
}

// compare writes one condition. A 64-bit argument takes two looks, because the
// machine's words have 32 bits; the low word comes first in memory on every
// architecture moss is built for.
func (w *writer) compare(c cond, wide bool, yes, no int) int {
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
		next = w.word(low, mask, w.jump(how, uint32(c.value), yes, no))
	}
	if mask := uint32(c.mask >> 32); wide && mask != 0 {
		high := uint32(c.value >> 32)
		next = w.jump(unix.BPF_JEQ, high, next, no)
		if c.op != opEQ {
			next = w.jump(unix.BPF_JGT, high, yes, next)
		}
		next = w.word(low+4, mask, next)
	}
	return next
}

// word loads an argument's half, masked, and goes on at next.
func (w *writer) word(offset, mask uint32, next int) int {
	if mask != ^uint32(0) {
		w.above(next)
		next = w.emit(unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: mask})
	}
	return w.load(offset, next)
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
func (w *writer) oneOf(values []span, arg uint, wide bool, yes, no int) int {
	next := w.search(values, func(v *verdict) int {
		if v.final == 1 {
			return yes
		}
		return no
	})
	low := offArgs + 8*uint32(arg)
	next = w.load(low, next)
	if wide {
		next = w.load(low+4, w.jump(unix.BPF_JEQ, 0, next, no))
	}
	return next
}
