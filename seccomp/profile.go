package seccomp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"moss/fail"
)

// This file reads a profile: JSON in, checked values out. Two dialects are in
// use and both are understood, because people carry their files around:
//
//   - docker's, where a rule may depend on capabilities, architectures and the
//     kernel ("includes", "excludes") and foreign ABIs hang on the machine they
//     belong to ("archMap");
//   - the OCI runtime's (runtime-spec config-linux.md, "Seccomp"), with those
//     conditions already settled and a plain list of "architectures".
//
// Whatever a profile says that is not understood is an error, never skipped: a
// misread rule is a hole. The one exception is the name of a system call, since
// profiles list the calls of every architecture and of future kernels.

// profileJSON mirrors the file.
type profileJSON struct {
	DefaultAction   string   `json:"defaultAction"`
	DefaultErrnoRet *uint32  `json:"defaultErrnoRet"`
	Architectures   []string `json:"architectures"`
	ArchMap         []struct {
		Architecture     string   `json:"architecture"`
		SubArchitectures []string `json:"subArchitectures"`
	} `json:"archMap"`
	Flags    *[]string     `json:"flags"`
	Syscalls []syscallJSON `json:"syscalls"`
}

type syscallJSON struct {
	Name     string     `json:"name"` // docker before 1.14: one name per rule
	Names    []string   `json:"names"`
	Action   string     `json:"action"`
	ErrnoRet *uint32    `json:"errnoRet"`
	Args     []argJSON  `json:"args"`
	Includes filterJSON `json:"includes"`
	Excludes filterJSON `json:"excludes"`
}

type argJSON struct {
	Index    uint   `json:"index"`
	Value    uint64 `json:"value"`
	ValueTwo uint64 `json:"valueTwo"`
	Op       string `json:"op"`
}

type filterJSON struct {
	Caps      []string `json:"caps"`
	Arches    []string `json:"arches"`
	MinKernel string   `json:"minKernel"`
}

// policy is a profile for one container: conditions settled, words turned into
// the kernel's numbers.
type policy struct {
	otherwise  uint32 // what a call gets that no rule matches
	foreign    uint32 // what a call gets from an ABI that is not listed
	permissive bool   // otherwise lets calls through
	abis       []abi
	rules      []nameRule // in the order of the file
}

type nameRule struct {
	names  []string
	action uint32
	conds  []cond
}

// cond is one comparison of an argument. For masked comparisons the argument is
// and-ed with mask first; the others have every bit set there.
type cond struct {
	arg         uint
	op          op
	value, mask uint64
}

type op uint8

const (
	opNE op = iota
	opLT
	opLE
	opEQ
	opGE
	opGT
)

// parse reads a profile and settles its conditions for machine m and options o.
func parse(data []byte, m machine, o Options) (*policy, error) {
	var p profileJSON
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, jsonError(data, err)
	}
	if p.DefaultAction == "" {
		return nil, &fail.Error{Op: "reading seccomp profile", Err: errors.New("no defaultAction"),
			Why: "defaultAction says what happens to a system call that no rule names; without it the profile decides nothing",
			Try: `"defaultAction": "SCMP_ACT_ERRNO", or --security-opt seccomp=unconfined to run without a filter`}
	}
	pol := &policy{foreign: unix.SECCOMP_RET_KILL_THREAD}
	at := place{data: data, index: -1}
	var err error
	if pol.otherwise, err = action(p.DefaultAction, p.DefaultErrnoRet, at.in("defaultAction")); err != nil {
		return nil, err
	}
	switch pol.otherwise & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_LOG, unix.SECCOMP_RET_TRACE:
		pol.permissive = true
	}
	if pol.abis, err = p.abis(m, at); err != nil {
		return nil, err
	}
	if p.Flags != nil {
		for _, f := range *p.Flags {
			if _, err := flag(f, at.in("flags")); err != nil {
				return nil, err
			}
		}
	}
	for i := range p.Syscalls {
		at.index = i
		if err := pol.add(&p.Syscalls[i], m, o, at); err != nil {
			return nil, err
		}
	}
	return pol, nil
}

// abis lists the calling conventions the profile covers; the machine's own is
// always one of them (libseccomp's seccomp_init adds it).
func (p *profileJSON) abis(m machine, at place) ([]abi, error) {
	if len(p.Architectures) > 0 && len(p.ArchMap) > 0 {
		return nil, at.in("architectures").bad("", errors.New("stands beside archMap; a profile has one of the two"))
	}
	names := p.Architectures
	field := at.in("architectures")
	found := false
	for _, a := range p.ArchMap {
		field = at.in("archMap")
		if _, err := known("architecture", a.Architecture, ociArchitectures, field); err != nil {
			return nil, err
		}
		if a.Architecture == m.abis[0].name && !found {
			found, names = true, a.SubArchitectures
		}
	}
	abis := []abi{m.abis[0]}
	for _, name := range names {
		if _, err := known("architecture", name, ociArchitectures, field); err != nil {
			return nil, err
		}
		for _, a := range m.abis[1:] {
			// ABIs that this kernel cannot have need no rules.
			if a.name == name && !contains(abis, a) {
				abis = append(abis, a)
			}
		}
	}
	return abis, nil
}

func contains(abis []abi, a abi) bool {
	for _, x := range abis {
		if x.name == a.name {
			return true
		}
	}
	return false
}

// add appends the rule s says, if its conditions hold for this container.
func (pol *policy) add(s *syscallJSON, m machine, o Options, at place) error {
	if s.Name != "" {
		if len(s.Names) > 0 {
			return at.in("name").bad(s.Name, errors.New("stands beside names; a rule has one of the two"))
		}
		s.Names = []string{s.Name}
	}
	applies, err := s.applies(m, o, at)
	if err != nil {
		return err
	}
	act, err := action(s.Action, s.ErrnoRet, at.in("action"))
	if err != nil {
		return err
	}
	rules := []nameRule{{names: s.Names, action: act}}
	var seen [6]bool
	twice := false
	for _, a := range s.Args {
		c, err := a.cond(at.in("args"))
		if err != nil {
			return err
		}
		twice = twice || seen[a.Index]
		seen[a.Index] = true
		rules[0].conds = append(rules[0].conds, c)
	}
	if twice {
		// Two conditions on one argument: runc (matchCall in its seccomp_linux.go)
		// takes the conditions of such a rule as alternatives, since libseccomp
		// holds one comparison per argument. Profiles in the wild rely on it.
		conds := rules[0].conds
		rules = rules[:0]
		for _, c := range conds {
			rules = append(rules, nameRule{names: s.Names, action: act, conds: []cond{c}})
		}
	}
	if applies {
		pol.rules = append(pol.rules, rules...)
	}
	return nil
}

// applies settles includes and excludes. An include holds when all its
// capabilities are there, an exclude when any is (moby/profiles, setupSeccomp).
func (s *syscallJSON) applies(m machine, o Options, at place) (bool, error) {
	applies := true
	for _, f := range []struct {
		filterJSON
		exclude bool
		at      place
	}{{s.Excludes, true, at.in("excludes")}, {s.Includes, false, at.in("includes")}} {
		if len(f.Arches) > 0 {
			found := false
			for _, a := range f.Arches {
				if _, err := known("architecture", a, dockerArchitectures, f.at); err != nil {
					return false, err
				}
				found = found || a == m.docker
			}
			applies = applies && found != f.exclude
		}
		for _, name := range f.Caps {
			bit, err := known("capability", name, capabilities[:], f.at)
			if err != nil {
				return false, err
			}
			applies = applies && (o.Caps>>bit&1 == 1) != f.exclude
		}
		if f.MinKernel != "" {
			major, minor, err := kernelVersion(f.MinKernel)
			if err != nil {
				return false, f.at.bad(f.MinKernel, err)
			}
			newer := o.KernelMajor > major || o.KernelMajor == major && o.KernelMinor >= minor
			applies = applies && newer != f.exclude
		}
	}
	return applies, nil
}

func (a argJSON) cond(at place) (cond, error) {
	if a.Index > 5 {
		return cond{}, at.bad("", fmt.Errorf("index %d: a system call has arguments 0 to 5", a.Index))
	}
	c := cond{arg: a.Index, value: a.Value, mask: ^uint64(0)}
	if a.Op == "SCMP_CMP_MASKED_EQ" {
		c.op, c.mask, c.value = opEQ, a.Value, a.ValueTwo&a.Value
		return c, nil
	}
	i, err := known("op", a.Op, operators, at)
	c.op = op(i)
	return c, err
}

// action turns an action's name into the filter's return value (seccomp(2),
// "SECCOMP_RET_…").
func action(name string, errno *uint32, at place) (uint32, error) {
	i, err := known("action", name, actionNames, at)
	if err != nil {
		return 0, err
	}
	act := actionValues[i]
	switch act {
	case unix.SECCOMP_RET_USER_NOTIF:
		return 0, at.fail(name, &fail.Error{Err: errors.New("no one listens to notifications"),
			Why: "SCMP_ACT_NOTIFY suspends the caller until a supervisor answers, and moss runs none",
			Try: "SCMP_ACT_ERRNO, SCMP_ACT_LOG or SCMP_ACT_ALLOW"})
	case unix.SECCOMP_RET_ERRNO, unix.SECCOMP_RET_TRACE:
		data := uint32(unix.EPERM)
		if errno != nil {
			data = *errno
		}
		// The kernel caps the number at MAX_ERRNO and so would return another one
		// than the profile asks for (kernel/seccomp.c, __seccomp_filter).
		if act == unix.SECCOMP_RET_ERRNO && data > 4095 || data > unix.SECCOMP_RET_DATA {
			return 0, at.bad(strconv.Itoa(int(data)), errors.New("errnoRet does not fit; the highest is 4095"))
		}
		act |= data
	}
	return act, nil
}

func flag(name string, at place) (uintptr, error) {
	i, err := known("flag", name, flagNames, at)
	if err != nil {
		return 0, err
	}
	return flagValues[i], nil
}

func kernelVersion(s string) (major, minor int, err error) {
	a, b, ok := strings.Cut(s, ".")
	if ok {
		var ma, mi uint64
		if ma, err = strconv.ParseUint(a, 10, 8); err == nil {
			if mi, err = strconv.ParseUint(b, 10, 8); err == nil && ma+mi > 0 {
				return int(ma), int(mi), nil
			}
		}
	}
	return 0, 0, errors.New(`minKernel is not of the form "4.8"`)
}

// known returns the position of name in list, or an error that offers the
// nearest entry.
func known(what, name string, list []string, at place) (int, error) {
	for i, s := range list {
		if s == name {
			return i, nil
		}
	}
	e := &fail.Error{Err: fmt.Errorf("unknown %s", what)}
	best := 4 // more edits than this and the guess is no help
	for _, s := range list {
		if d := distance(name, s); d < best {
			best, e.Try = d, fmt.Sprintf("did you mean %q?", s)
		}
	}
	return 0, at.fail(name, e)
}

// distance counts the edits between two words (Levenshtein).
func distance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// place is where in the file a mistake is. The line is looked up only once
// there is a mistake to report.
type place struct {
	data  []byte
	index int // of the rule in syscalls, -1 outside
	field string
}

func (at place) in(field string) place {
	at.field = field
	return at
}

func (at place) bad(value string, err error) error { return at.fail(value, &fail.Error{Err: err}) }

func (at place) fail(value string, e *fail.Error) error {
	field := at.field
	if at.index >= 0 {
		field = fmt.Sprintf("syscalls[%d].%s", at.index, at.field)
	}
	e.Op = "reading seccomp profile"
	e.On = fmt.Sprintf("line %d, %s", at.line(value), field)
	if value != "" {
		e.On += fmt.Sprintf(" %q", value)
	}
	return e
}

// line finds value after the start of the rule, or of the field.
func (at place) line(value string) int {
	start := 0
	dec := json.NewDecoder(bytes.NewReader(at.data))
	dec.Token() // the opening brace: the file has been parsed before
	for dec.More() {
		key, _ := dec.Token()
		name, _ := key.(string)
		if at.index >= 0 && strings.EqualFold(name, "syscalls") {
			dec.Token()
			var skip json.RawMessage
			for range at.index {
				if dec.Decode(&skip) != nil {
					break
				}
			}
			start = int(dec.InputOffset())
			break
		}
		if at.index < 0 && strings.EqualFold(name, at.field) {
			start = int(dec.InputOffset())
			break
		}
		var skip json.RawMessage
		if dec.Decode(&skip) != nil {
			break
		}
	}
	if quoted, err := json.Marshal(value); err == nil && value != "" {
		if i := bytes.Index(at.data[start:], quoted); i >= 0 {
			return lineAt(at.data, start+i)
		}
	}
	for start < len(at.data) && strings.IndexByte(" \t\r\n,", at.data[start]) >= 0 {
		start++
	}
	return lineAt(at.data, start)
}

func lineAt(data []byte, offset int) int {
	return 1 + bytes.Count(data[:min(max(offset, 0), len(data))], []byte("\n"))
}

// jsonError adds the line to what encoding/json found.
func jsonError(data []byte, err error) error {
	e := &fail.Error{Op: "reading seccomp profile", Err: err}
	var syntax *json.SyntaxError
	var typed *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		e.On = fmt.Sprintf("line %d", lineAt(data, int(syntax.Offset)))
	case errors.As(err, &typed):
		e.On = fmt.Sprintf("line %d, %s", lineAt(data, int(typed.Offset)), typed.Field)
		e.Err = fmt.Errorf("%s where a %s belongs", typed.Value, typed.Type)
	}
	return e
}
