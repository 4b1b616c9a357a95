package seccomp

import "golang.org/x/sys/unix"

// This file holds the white lies of a container with a single id.
//
// Without subordinate ids the container has one user and one group, root, and
// the kernel answers EINVAL to "chown 12:34" and to every change of user. Most
// programs that ask do not care for the answer but only check it: dpkg restores
// owners, a daemon drops to its own user. So the filter answers for the kernel:
// SECCOMP_RET_ERRNO with 0 skips the call and returns 0 (seccomp(2); the trick
// is Charliecloud's: Priedhorsky et al., "Zero-consistency root emulation for
// unprivileged container image build", arXiv:2405.06085). Nothing is remembered: stat(2) and
// getuid(2) still say root, and a program that looks again will notice.
//
// Rules:
//   - Only what the profile allows is answered so. A call that it denies stays
//     denied, so the filter with lies is never weaker than the one without.
//   - Only what fails, or would be without meaning, with a single id. Making a
//     device node is such a call, but a FIFO or a socket made by the same
//     mknod(2) is real, and so is the character device 0:0, overlayfs's
//     whiteout, which any user may make (Linux 5.8, commit a3c751a50fe6).
//   - A filter sees numbers, not what pointers point to, so setxattr(2) of
//     security.capability cannot be told from others and stays real.

// fakedCalls succeed without effect, by the names of all ABIs: those with 32 at
// the end take the place of calls whose ids had 16 bits.
//
// setfsuid(2) and setfsgid(2) return the former id; 0 is right there, too.
// capset(2) is here because after a set of the user that did not happen, dropping
// capabilities would leave a root that cannot do what that user could.
var fakedCalls = [...]string{
	"chown", "chown32", "fchown", "fchown32", "lchown", "lchown32", "fchownat",
	"setuid", "setuid32", "setgid", "setgid32", "setreuid", "setreuid32", "setregid", "setregid32",
	"setresuid", "setresuid32", "setresgid", "setresgid32", "setfsuid", "setfsuid32", "setfsgid", "setfsgid32",
	"setgroups", "setgroups32", "capset",
}

// fakedSuccess skips the call and returns 0.
const fakedSuccess uint32 = unix.SECCOMP_RET_ERRNO

// fake changes the verdicts of an ABI as Options.FakeOwner says.
func (pol *policy) fake(a abi, calls map[uint32]*verdict) {
	lie := func(name string, make func(v *verdict)) {
		nr, ok := a.number(name)
		if !ok {
			return
		}
		if calls[nr] == nil {
			if !lets(pol.otherwise) {
				return
			}
			calls[nr] = &verdict{final: pol.otherwise, wide: a.wide}
		}
		make(calls[nr])
	}
	for _, name := range fakedCalls {
		lie(name, func(v *verdict) {
			// The conditions may be shared with other ABIs; the slice of rules is
			// this verdict's own.
			for i := range v.rules {
				if lets(v.rules[i].action) {
					v.rules[i].action = fakedSuccess
				}
			}
			if lets(v.final) {
				v.final = fakedSuccess
			}
		})
	}
	for name, mode := range map[string]uint{"mknod": 1, "mknodat": 2} {
		lie(name, func(v *verdict) {
			// Before a rule that lets the call pass stand copies of it that hold
			// for devices only.
			var rules []rule
			for _, r := range append(v.rules, rule{nil, v.final}) {
				if lets(r.action) {
					rules = append(rules, device(r.conds, mode)...)
				}
				if r.conds != nil {
					rules = append(rules, r)
				}
			}
			v.rules = rules
		})
	}
}

// device returns rules that hold where conds do and the call would make a
// device; mode is the position of the argument, which the device's number
// follows.
func device(conds []cond, mode uint) []rule {
	with := func(more ...cond) rule {
		return rule{append(conds[:len(conds):len(conds)], more...), fakedSuccess}
	}
	kind := func(k uint64) cond { return cond{arg: mode, op: opEQ, mask: unix.S_IFMT, value: k} }
	// Only 32 bits of the number count, whatever the width of the register.
	not0 := cond{arg: mode + 1, op: opNE, mask: 1<<32 - 1, value: 0}
	return []rule{with(kind(unix.S_IFBLK)), with(kind(unix.S_IFCHR), not0)}
}

// lets says whether an action lets the call happen.
func lets(action uint32) bool {
	return action == unix.SECCOMP_RET_ALLOW || action == unix.SECCOMP_RET_LOG
}
