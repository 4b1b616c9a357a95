package seccomp

import (
	"encoding/json"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// This file reads a profile a second time, in the most naive way: for one call,
// from the top of the file to its end. It shares nothing with the compiler but
// the table of numbers.

type oracle struct {
	DefaultAction   string
	DefaultErrnoRet *uint32
	Architectures   []string
	ArchMap         []struct {
		Architecture     string
		SubArchitectures []string
	}
	Syscalls []oracleRule

	// What was worked out before, for speed.
	options Options
	settled map[string][]*oracleRule // per name, the rules that apply
	names   [columns]map[uint32][]string
	highest [columns]uint32
}

type oracleRule struct {
	Names    []string
	Action   string
	ErrnoRet *uint32
	Args     []struct {
		Index           int
		Value, ValueTwo uint64
		Op              string
	}
	Includes, Excludes struct {
		Caps, Arches []string
		MinKernel    string
	}
	line int
}

// oracleABI describes an ABI once more.
type oracleABI struct {
	oci    string
	audit  uint32
	column int
	bit    uint32
	narrow bool
}

var oracleABIs = map[string][]oracleABI{
	"amd64": {{"SCMP_ARCH_X86_64", 0xc000003e, 0, 0, false}, {"SCMP_ARCH_X32", 0xc000003e, 1, 1 << 30, true}, {"SCMP_ARCH_X86", 0x40000003, 2, 0, true}},
	"arm64": {{"SCMP_ARCH_AARCH64", 0xc00000b7, 3, 0, false}, {"SCMP_ARCH_ARM", 0x40000028, 4, 0, true}},
}

func readOracle(profile string) *oracle {
	var o oracle
	if err := json.Unmarshal([]byte(profile), &o); err != nil {
		panic(err)
	}
	return &o
}

func (p *oracle) returns(action string, errno *uint32) uint32 {
	data := uint32(1)
	if errno != nil {
		data = *errno
	}
	switch action {
	case "SCMP_ACT_ALLOW":
		return 0x7fff0000
	case "SCMP_ACT_LOG":
		return 0x7ffc0000
	case "SCMP_ACT_ERRNO":
		return 0x00050000 | data
	case "SCMP_ACT_TRACE":
		return 0x7ff00000 | data
	case "SCMP_ACT_TRAP":
		return 0x00030000
	case "SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD":
		return 0
	case "SCMP_ACT_KILL_PROCESS":
		return 0x80000000
	}
	panic(action)
}

func (p *oracle) applies(r *oracleRule, o Options) bool {
	has := func(name string) bool {
		i := slices.Index(capabilities[:], name)
		return o.Caps&(1<<i) != 0
	}
	newer := func(min string) bool {
		var a, b int
		fmt.Sscanf(min, "%d.%d", &a, &b)
		return o.KernelMajor*1000+o.KernelMinor >= a*1000+b
	}
	in, ex := r.Includes, r.Excludes
	if slices.Contains(ex.Arches, o.Arch) || slices.ContainsFunc(ex.Caps, has) || ex.MinKernel != "" && newer(ex.MinKernel) {
		return false
	}
	if len(in.Arches) > 0 && !slices.Contains(in.Arches, o.Arch) {
		return false
	}
	for _, c := range in.Caps {
		if !has(c) {
			return false
		}
	}
	return in.MinKernel == "" || newer(in.MinKernel)
}

// holds evaluates the conditions of one rule; skip0 leaves out argument 0, which
// a multiplexed call has for itself.
func (r *oracleRule) holds(args [6]uint64, narrow, skip0 bool) (holds, conditional bool) {
	var seen [6]int
	holds = true
	alternatives := false
	any := false
	for _, a := range r.Args {
		if seen[a.Index]++; seen[a.Index] > 1 {
			alternatives = true
		}
	}
	for _, a := range r.Args {
		if skip0 && a.Index == 0 {
			any = true // an alternative without a condition of its own
			continue
		}
		x, v, w := args[a.Index], a.Value, a.ValueTwo
		if narrow {
			x, v, w = x&0xffffffff, v&0xffffffff, w&0xffffffff
		}
		if a.Op == "SCMP_CMP_MASKED_EQ" && v == 0 {
			if alternatives {
				return true, false
			}
			continue
		}
		conditional = true
		var ok bool
		switch a.Op {
		case "SCMP_CMP_NE":
			ok = x != v
		case "SCMP_CMP_LT":
			ok = x < v
		case "SCMP_CMP_LE":
			ok = x <= v
		case "SCMP_CMP_EQ":
			ok = x == v
		case "SCMP_CMP_GE":
			ok = x >= v
		case "SCMP_CMP_GT":
			ok = x > v
		case "SCMP_CMP_MASKED_EQ":
			ok = x&v == w&v
		default:
			panic(a.Op)
		}
		holds = holds && ok
		any = any || ok
	}
	if alternatives {
		return any, conditional
	}
	return holds, conditional
}

// socketcalls and ipcs by their number, from linux/net.h and linux/ipc.h.
var socketcalls = []string{"", "socket", "bind", "connect", "listen", "accept", "getsockname", "getpeername", "socketpair",
	"send", "recv", "sendto", "recvfrom", "shutdown", "setsockopt", "getsockopt", "sendmsg", "recvmsg", "accept4",
	"recvmmsg", "sendmmsg"}
var ipcs = map[uint32]string{1: "semop", 2: "semget", 3: "semctl", 4: "semtimedop", 11: "msgsnd", 12: "msgrcv", 13: "msgget",
	14: "msgctl", 21: "shmat", 22: "shmdt", 23: "shmget", 24: "shmctl"}

// decide says what a call gets.
func (p *oracle) decide(o Options, c call) uint32 {
	otherwise := p.returns(p.DefaultAction, p.DefaultErrnoRet)
	abis := oracleABIs[o.Arch]
	listed := slices.Clone(p.Architectures)
	for _, a := range p.ArchMap {
		if a.Architecture == abis[0].oci {
			listed = append(listed, a.SubArchitectures...)
		}
	}
	listed = append(listed, abis[0].oci)
	x32 := slices.Contains(listed, "SCMP_ARCH_X32")
	abi := -1
	for i, a := range abis {
		if a.audit == c.audit && slices.Contains(listed, a.oci) && (a.bit == 0 || c.nr >= a.bit) {
			abi = i
		}
	}
	if abi < 0 {
		return 0
	}
	a := abis[abi]
	if o.Arch == "amd64" && abi == 0 && !x32 && c.nr >= 1<<30 {
		if c.nr == 1<<32-1 {
			return otherwise
		}
		return 0
	}
	p.settle(o)
	names := p.names[a.column][c.nr&^a.bit]
	sub := ""
	if a.oci == "SCMP_ARCH_X86" && c.args[0]&0xffffffff < 32 {
		switch arg := uint32(c.args[0]); {
		case c.nr == 102 && int(arg) < len(socketcalls):
			sub = socketcalls[arg]
		case c.nr == 117:
			sub = ipcs[arg]
		}
	}
	var rules []*oracleRule
	for _, n := range names {
		rules = append(rules, p.settled[n]...)
	}
	if len(names) > 1 || sub != "" {
		// Back to the order of the file.
		rules = append(rules, p.settled[sub]...)
		slices.SortStableFunc(rules, func(a, b *oracleRule) int { return a.line - b.line })
		rules = slices.Compact(rules)
	}
	var general, special []uint32
	for _, r := range rules {
		action := p.returns(r.Action, r.ErrnoRet)
		if action == otherwise {
			continue
		}
		if slices.ContainsFunc(names, func(n string) bool { return slices.Contains(r.Names, n) }) {
			holds, conditional := r.holds(c.args, a.narrow, false)
			if !conditional {
				general = append(general, action)
			} else if holds {
				special = append(special, action)
			}
		}
		if sub != "" && slices.Contains(r.Names, sub) {
			if holds, _ := r.holds(c.args, a.narrow, true); holds {
				special = append(special, action)
			}
		}
	}
	switch {
	case len(general) > 0:
		return general[0]
	case len(special) > 0:
		return special[0]
	}
	permissive := p.DefaultAction == "SCMP_ACT_ALLOW" || p.DefaultAction == "SCMP_ACT_LOG" || p.DefaultAction == "SCMP_ACT_TRACE"
	if h := p.highest[a.column]; h > 0 && c.nr&^a.bit > h && !permissive {
		return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	return otherwise
}

func (p *oracle) settle(o Options) {
	if p.settled != nil && p.options == o {
		return
	}
	p.options, p.settled, p.highest = o, map[string][]*oracleRule{}, [columns]uint32{}
	for i := range p.Syscalls {
		r := &p.Syscalls[i]
		r.line = i
		if p.applies(r, o) {
			for _, n := range r.Names {
				p.settled[n] = append(p.settled[n], r)
			}
		}
	}
	for column := range columns {
		p.names[column] = map[uint32][]string{}
		for _, s := range syscallTable {
			if nr := s.nr[column]; nr >= 0 {
				p.names[column][uint32(nr)] = append(p.names[column][uint32(nr)], s.name)
				if p.settled[s.name] != nil && nr < 0xf0000 {
					p.highest[column] = max(p.highest[column], uint32(nr))
				}
			}
		}
	}
}
