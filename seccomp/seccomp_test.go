package seccomp

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"moss/fail"
)

// interesting are argument values at which some profile changes its mind, and
// their neighbours; the random ones are around them.
var interesting = []uint64{
	0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 16, 17, 18, 19, 24, 29, 30, 31, 38, 39, 40, 41, 45, 46, // socket families; AF_ALG 38, AF_VSOCK 40
	0x20000, 0x20008, 0x20009, 0x40000, 0xffffffff, 0xfffffffe, 0x7e020000, 0x10000000, 0x00020000, 0x40000000, 0x3d0f00, // personality, clone
	unix.S_IFCHR | 0o644, unix.S_IFBLK | 0o600, unix.S_IFIFO | 0o644, unix.S_IFREG, unix.S_IFSOCK | 0o777, unix.S_IFDIR,
	1 << 32, 1<<32 + 1, 1<<32 + 16, 1<<32 + 0x20000, ^uint64(0), ^uint64(0) - 1, 1 << 63, 0xffffffff00000000,
}

// numbers returns every number of the machine's tables, those around them, and
// some far away.
func numbers() []uint32 {
	nrs := []uint32{0xffffffff, 0xfffffffe, 1 << 31, 1<<31 + 1, 1<<30 + 1<<29, 0x0f0000, 0x0f0006, 0x0f0007, 1000, 0x3fffffff}
	for nr := range uint32(600) {
		nrs = append(nrs, nr, nr|x32Bit)
	}
	for nr := range uint32(8) {
		nrs = append(nrs, armPrivate+nr)
	}
	return nrs
}

// audits are the ABIs of all machines, and one that moss does not know.
var audits = []uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM, unix.AUDIT_ARCH_S390X}

func randomArgs(r *rand.Rand) (args [6]uint64) {
	for i := range args {
		switch r.IntN(4) {
		case 0:
			args[i] = r.Uint64() >> r.IntN(64)
		default:
			args[i] = interesting[r.IntN(len(interesting))]
		}
	}
	return args
}

// compareAll holds a filter against what want says, for every number and many
// arguments.
func compareAll(t *testing.T, program []unix.SockFilter, rounds int, want func(call) uint32) {
	t.Helper()
	if err := check(program); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	wrong := 0
	for _, audit := range audits {
		for _, nr := range numbers() {
			for i := range rounds + len(interesting) {
				c := call{nr: nr, audit: audit, ip: r.Uint64(), args: randomArgs(r)}
				if i < len(interesting) {
					c.args[0] = interesting[i]
				}
				got, _ := run(program, c)
				if w := want(c); got != w {
					t.Errorf("abi %#x, call %d (%s), arguments %#x: %s, the profile says %s", audit, nr, callName(audit, nr), c.args, word(got), word(w))
					if wrong++; wrong > 10 {
						t.FailNow()
					}
				}
				if i > 2 && nr > 600 {
					break
				}
			}
		}
	}
}

func callName(audit, nr uint32) string {
	for _, abis := range oracleABIs {
		for _, a := range abis {
			if a.audit != audit || nr < a.bit {
				continue
			}
			for i := range syscallTable {
				if n := syscallTable[i].nr[a.column]; n >= 0 && uint32(n)|a.bit == nr {
					return syscallTable[i].name
				}
			}
		}
	}
	return "?"
}

func word(v uint32) string {
	for i, a := range actionValues {
		if a == v&unix.SECCOMP_RET_ACTION_FULL {
			return fmt.Sprintf("%s(%d)", actionNames[i], v&unix.SECCOMP_RET_DATA)
		}
	}
	return fmt.Sprintf("%#x", v)
}

const allCaps = 1<<(unix.CAP_LAST_CAP+1) - 1

func TestDefaultProfile(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		for _, caps := range []uint64{DockerCaps, 0, allCaps, 1 << unix.CAP_SYS_ADMIN, 1 << unix.CAP_SYS_PTRACE, 1 << unix.CAP_SYS_NICE} {
			for _, kernel := range [][2]int{{6, 18}, {4, 7}} {
				o := Options{Arch: arch, Caps: caps, KernelMajor: kernel[0], KernelMinor: kernel[1]}
				t.Run(fmt.Sprintf("%s-%x-%d.%d", arch, caps, kernel[0], kernel[1]), func(t *testing.T) {
					want := readOracle(Profile)
					program, err := Default(o)
					if err != nil {
						t.Fatal(err)
					}
					compareAll(t, program, 10, func(c call) uint32 { return want.decide(o, c) })
				})
			}
		}
	}
}

// The filter with lies differs from the one without in nothing but the lies.
func TestFakeOwner(t *testing.T) {
	fakes := strings.Fields(`chown fchown lchown fchownat chown32 fchown32 lchown32 setuid setgid setreuid setregid
		setresuid setresgid setgroups setfsuid setfsgid setuid32 setgid32 setreuid32 setregid32 setresuid32
		setresgid32 setgroups32 setfsuid32 setfsgid32 capset`)
	names := map[[2]uint32]string{}
	lie := func(o Options, c call, honest uint32) uint32 {
		if honest != unix.SECCOMP_RET_ALLOW {
			return honest
		}
		mode, dev := uint64(0), uint64(0)
		name, ok := names[[2]uint32{c.audit, c.nr}]
		if !ok {
			name = callName(c.audit, c.nr)
			names[[2]uint32{c.audit, c.nr}] = name
		}
		switch {
		case slices.Contains(fakes, name):
			return unix.SECCOMP_RET_ERRNO
		case name == "mknod":
			mode, dev = c.args[1], c.args[2]
		case name == "mknodat":
			mode, dev = c.args[2], c.args[3]
		}
		if kind := mode & unix.S_IFMT; kind == unix.S_IFBLK || kind == unix.S_IFCHR && uint32(dev) != 0 {
			return unix.SECCOMP_RET_ERRNO
		}
		return honest
	}
	picky := `{"defaultAction": "SCMP_ACT_ERRNO",
		"archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
			{"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
		"syscalls": [
		{"names": ["lchown", "setuid"], "action": "SCMP_ACT_KILL"},
		{"names": ["fchown"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 5, "op": "SCMP_CMP_LT"}]},
		{"names": ["mknodat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13, "args": [{"index": 0, "value": 7, "op": "SCMP_CMP_EQ"}]},
		{"names": ["mknodat"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 1, "value": 1, "op": "SCMP_CMP_GE"}]},
		{"names": ["setgid", "read"], "action": "SCMP_ACT_ALLOW"}]}`
	for _, arch := range []string{"amd64", "arm64"} {
		o := Options{Arch: arch, Caps: DockerCaps, KernelMajor: 6, KernelMinor: 18, FakeOwner: true}
		for name, profile := range map[string]string{"default": Profile, "picky": picky} {
			t.Run(arch+"-"+name, func(t *testing.T) {
				program, err := Compile([]byte(profile), o)
				if err != nil {
					t.Fatal(err)
				}
				honest := readOracle(profile)
				compareAll(t, program, 20, func(c call) uint32 { return lie(o, c, honest.decide(o, c)) })
			})
		}
		t.Run(arch+"-unconfined", func(t *testing.T) {
			program, err := FakeOwner(o)
			if err != nil {
				t.Fatal(err)
			}
			compareAll(t, program, 20, func(c call) uint32 {
				if !slices.ContainsFunc(oracleABIs[arch], func(a oracleABI) bool { return a.audit == c.audit }) {
					return unix.SECCOMP_RET_ALLOW
				}
				return lie(o, c, unix.SECCOMP_RET_ALLOW)
			})
		})
	}
}

func TestCompileSemantics(t *testing.T) {
	const head = `{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [`
	for name, profile := range map[string]string{
		"allow all":        `{"defaultAction": "SCMP_ACT_ALLOW"}`,
		"log all":          `{"defaultAction": "SCMP_ACT_LOG", "syscalls": [{"names": ["reboot", "uselib"], "action": "SCMP_ACT_KILL_PROCESS"}]}`,
		"kill all":         `{"defaultAction": "SCMP_ACT_KILL", "architectures": ["SCMP_ARCH_X32"], "syscalls": [{"names": ["exit"], "action": "SCMP_ACT_ALLOW"}]}`,
		"oci":              `{"defaultAction": "SCMP_ACT_TRAP", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"], "flags": [], "syscalls": [{"names": ["read", "write", "statx"], "action": "SCMP_ACT_TRACE", "errnoRet": 7}]}`,
		"general wins":     head + `{"names": ["read"], "action": "SCMP_ACT_KILL", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}, {"names": ["read"], "action": "SCMP_ACT_ALLOW"}, {"names": ["read"], "action": "SCMP_ACT_KILL"}]}`,
		"first of two":     head + `{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 5, "op": "SCMP_CMP_LE"}]}, {"names": ["read"], "action": "SCMP_ACT_KILL", "args": [{"index": 0, "value": 3, "op": "SCMP_CMP_GE"}]}]}`,
		"both conditions":  head + `{"names": ["read", "getpid"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 5, "op": "SCMP_CMP_NE"}, {"index": 1, "value": 4294967296, "op": "SCMP_CMP_GE"}]}]}`,
		"either condition": head + `{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 5, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 4294967300, "op": "SCMP_CMP_GT"}]}]}`,
		"no condition":     head + `{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 0, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}]}`,
		"high mask":        head + `{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 18446744069414584320, "valueTwo": 4294967301, "op": "SCMP_CMP_MASKED_EQ"}]}]}`,
		"default again":    head + `{"names": ["read", "mseal"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}, {"names": ["read"], "action": "SCMP_ACT_LOG"}]}`,
		"muxed": `{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"], "syscalls": [{"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]},
			{"names": ["bind", "semop", "accept"], "action": "SCMP_ACT_ALLOW"}, {"names": ["shmat"], "action": "SCMP_ACT_LOG", "args": [{"index": 2, "value": 9, "op": "SCMP_CMP_LE"}]}]}`,
		"arm": head + `{"names": ["breakpoint", "cacheflush", "openat"], "action": "SCMP_ACT_ALLOW"}], "archMap": [{"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}]}`,
		"ops": head + `{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 131072, "op": "SCMP_CMP_LT"}]},
			{"names": ["write"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 131072, "op": "SCMP_CMP_LE"}]},
			{"names": ["openat"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 4295098368, "op": "SCMP_CMP_LT"}]},
			{"names": ["close"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 4295098368, "op": "SCMP_CMP_LE"}]},
			{"names": ["fstat"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 4295098368, "op": "SCMP_CMP_GT"}]},
			{"names": ["lseek"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 4295098368, "op": "SCMP_CMP_GE"}]},
			{"names": ["mmap"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 4295098368, "op": "SCMP_CMP_NE"}]},
			{"names": ["brk"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 18446744073709551615, "op": "SCMP_CMP_EQ"}]}]}`,
	} {
		for _, arch := range []string{"amd64", "arm64"} {
			t.Run(name+"-"+arch, func(t *testing.T) {
				o := Options{Arch: arch, KernelMajor: 6, KernelMinor: 1}
				program, err := Compile([]byte(profile), o)
				if err != nil {
					t.Fatal(err)
				}
				want := readOracle(profile)
				compareAll(t, program, 20, func(c call) uint32 { return want.decide(o, c) })
			})
		}
	}
}

// Random rules, many per call, so that no combination is left out for want of
// imagination; enough of them that jumps need stepping stones.
func TestCompileRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	names := []string{"read", "write", "socket", "bind", "clone", "mknodat", "chown", "semop", "statx", "ipc", "socketcall"}
	actions := []string{"ALLOW", "ERRNO", "LOG", "TRAP", "KILL_PROCESS"}
	for i := range 60 {
		var rules []string
		for range r.IntN(40) {
			var args []string
			for range r.IntN(3) {
				args = append(args, fmt.Sprintf(`{"index": %d, "op": %q, "value": %d, "valueTwo": %d}`, r.IntN(3),
					append(operators, "SCMP_CMP_EQ", "SCMP_CMP_EQ")[r.IntN(len(operators)+2)], randomArgs(r)[0], randomArgs(r)[0]))
			}
			rules = append(rules, fmt.Sprintf(`{"names": [%q, %q], "action": "SCMP_ACT_%s", "args": [%s]}`,
				names[r.IntN(len(names))], names[r.IntN(len(names))], actions[r.IntN(len(actions))], strings.Join(args, ", ")))
		}
		profile := fmt.Sprintf(`{"defaultAction": "SCMP_ACT_%s", "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}],
			"syscalls": [%s]}`, actions[r.IntN(len(actions))], strings.Join(rules, ",\n"))
		o := Options{Arch: "amd64", KernelMajor: 6, KernelMinor: 1}
		program, err := Compile([]byte(profile), o)
		if err != nil {
			t.Fatalf("%v\n%s", err, profile)
		}
		if err := check(program); err != nil {
			t.Fatal(err)
		}
		want := readOracle(profile)
		for range 4000 {
			c := call{audit: audits[r.IntN(2)], args: randomArgs(r)}
			name := names[r.IntN(len(names))]
			a := []abi{abiAMD64, abi386, abiX32}[r.IntN(3)]
			c.nr, _ = a.number(name)
			if got, _ := run(program, c); got != want.decide(o, c) {
				t.Fatalf("profile %d: %s %#x: %s, the profile says %s\n%s", i, name, c.args, word(got), word(want.decide(o, c)), profile)
			}
		}
	}
}

func TestErrors(t *testing.T) {
	rule := func(s string) string {
		return "{\"defaultAction\": \"SCMP_ACT_ERRNO\",\n\"syscalls\": [\n{\"names\": [\"read\"], \"action\": \"SCMP_ACT_ALLOW\"},\n" + s + "]}"
	}
	for _, test := range []struct{ name, profile, want string }{
		{"empty", ``, "line 1"},
		{"not json", "{\n\"defaultAction\": nope}", "line 2"},
		{"no default", `{}`, "no defaultAction"},
		{"wrong type", "{\n\"defaultAction\": \"SCMP_ACT_ALLOW\",\n\"syscalls\": [{\"names\": 3}]}", "line 3, syscalls.names"},
		{"default action", `{"defaultAction": "SCMP_ACT_ALOW"}`, `did you mean "SCMP_ACT_ALLOW"?`},
		{"action", rule(`{"names": ["write"], "action": "SCMP_ACT_EROR"}`), `line 4, syscalls[1].action "SCMP_ACT_EROR": unknown action; did you mean "SCMP_ACT_ERRNO"?`},
		{"op", rule("{\"names\": [\"write\"], \"action\": \"SCMP_ACT_ALLOW\",\n\"args\": [{\"index\": 0, \"op\": \"SCMP_CMP_EG\"}]}"), `line 5, syscalls[1].args "SCMP_CMP_EG": unknown op; did you mean "SCMP_CMP_EQ"?`},
		{"index", rule(`{"names": ["write"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 6, "op": "SCMP_CMP_EQ"}]}`), "index 6"},
		{"capability", rule(`{"names": ["write"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMN"]}}`), `line 4, syscalls[1].includes "CAP_SYS_ADMN": unknown capability; did you mean "CAP_SYS_ADMIN"?`},
		{"arch", rule(`{"names": ["write"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd46"]}}`), `unknown architecture; did you mean "amd64"?`},
		{"oci arch", "{\"defaultAction\": \"SCMP_ACT_ALLOW\",\n\"architectures\": [\n\"SCMP_ARCH_X86\", \"SCMP_ARCH_X86-64\"]}", `line 3, architectures "SCMP_ARCH_X86-64": unknown architecture; did you mean "SCMP_ARCH_X86_64"?`},
		{"two lists", `{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]}`, "beside archMap"},
		{"kernel", rule(`{"names": ["write"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4"}}`), `includes "4": minKernel is not of the form`},
		{"errno", rule(`{"names": ["write"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096}`), "highest is 4095"},
		{"notify", rule(`{"names": ["write"], "action": "SCMP_ACT_NOTIFY"}`), "no one listens"},
		{"flag", `{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOGG"]}`, `did you mean "SECCOMP_FILTER_FLAG_LOG"?`},
		{"name and names", rule(`{"name": "write", "names": ["read"], "action": "SCMP_ACT_ALLOW"}`), "beside names"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Compile([]byte(test.profile), Options{Arch: "amd64"})
			var e *fail.Error
			if !errors.As(err, &e) {
				t.Fatalf("%v is not a fail.Error", err)
			}
			text := err.Error()
			if e.Try != "" {
				text += "; " + e.Try
			}
			if !strings.Contains(text, test.want) {
				t.Errorf("got  %s\nwant %s", text, test.want)
			}
		})
	}
	if _, err := Default(Options{Arch: "riscv64"}); !errors.Is(err, errArch) {
		t.Errorf("riscv64: %v", err)
	}
}

func TestTooLong(t *testing.T) {
	var rules []string
	for i := range 2000 {
		rules = append(rules, fmt.Sprintf(`{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": %d, "value": %d, "op": "SCMP_CMP_EQ"}]}`, i%6, i))
	}
	_, err := Compile([]byte(`{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [`+strings.Join(rules, ",")+`]}`), Options{})
	if err == nil || !strings.Contains(err.Error(), "4096 instructions") {
		t.Errorf("got %v", err)
	}
}

// What was compiled ahead is what would be compiled now, for every set of
// capabilities that is served from it.
func TestPrebuilt(t *testing.T) {
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Skip("nothing is compiled ahead for", runtime.GOARCH)
	}
	hits := 0
	for _, o := range []Options{
		{Caps: DockerCaps}, {Caps: 0}, {Caps: DockerCaps &^ (1 << unix.CAP_CHOWN)}, {Caps: 1 << unix.CAP_SYS_CHROOT},
		{Caps: 1 << unix.CAP_NET_ADMIN}, {Caps: allCaps}, {Caps: 1 << unix.CAP_BPF}, {Caps: DockerCaps, KernelMajor: 4, KernelMinor: 7},
	} {
		for _, o.FakeOwner = range []bool{false, true} {
			o, _, err := o.complete()
			if err != nil {
				t.Fatal(err)
			}
			got, err := Default(o)
			if err != nil {
				t.Fatal(err)
			}
			want, err := Compile([]byte(Profile), o)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%+v: not what Compile makes; run go generate ./seccomp", o)
			}
			if prebuilt(o) != nil {
				hits++
			}
		}
	}
	if hits != 10 {
		t.Errorf("%d of 16 combinations were compiled ahead, want 10", hits)
	}
	o := Options{Caps: DockerCaps}
	if n := testing.AllocsPerRun(100, func() { Default(o) }); n > 2 {
		t.Errorf("Default allocates %v times", n)
	}
}

func TestFlags(t *testing.T) {
	for profile, want := range map[string]uintptr{
		`{}`:           unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
		`{"flags":[]}`: 0,
		`{"flags":["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"]}`: unix.SECCOMP_FILTER_FLAG_LOG,
	} {
		if got, err := Flags([]byte(profile)); got != want || err != nil {
			t.Errorf("%s: %#x, %v", profile, got, err)
		}
	}
}

func TestRelease(t *testing.T) {
	for s, want := range map[string][2]int{"6.18.44-fc": {6, 18}, "5.4": {5, 4}, "4.19-rc5\x00\x00": {4, 19}, "": {0, 0}} {
		if a, b := release([]byte(s)); a != want[0] || b != want[1] {
			t.Errorf("%q: %d.%d", s, a, b)
		}
	}
}

// The numbers a tree asks about: few, whatever the call.
func TestSteps(t *testing.T) {
	program, err := Compile([]byte(Profile), Options{Arch: "amd64", Caps: DockerCaps, KernelMajor: 6})
	if err != nil {
		t.Fatal(err)
	}
	worst, sum := 0, 0
	for nr := range uint32(460) {
		_, steps := run(program, call{nr: nr, audit: unix.AUDIT_ARCH_X86_64})
		worst, sum = max(worst, steps), sum+steps
	}
	t.Logf("%d instructions; %d steps at most, %.1f on average", len(program), worst, float64(sum)/460)
	if worst > 25 {
		t.Errorf("%d steps", worst)
	}
}

func FuzzCompile(f *testing.F) {
	// Not the default profile itself: the fuzzer would spend its time on shrinking it.
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"]}],"syscalls":[{"names":["read","chown","socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":7,"op":"SCMP_CMP_EQ"},{"index":1,"value":4294967296,"op":"SCMP_CMP_LT"}],"includes":{"caps":["CAP_SYS_ADMIN"],"arches":["amd64"],"minKernel":"4.8"},"excludes":{"caps":["CAP_BPF"]}}]}`), uint64(1<<unix.CAP_SYS_ADMIN), true)
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"mknod","action":"SCMP_ACT_LOG","args":[{"index":1,"value":3,"op":"SCMP_CMP_MASKED_EQ"},{"index":1,"op":"SCMP_CMP_GT"}]}]}`), uint64(0), true)
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_TRACE","defaultErrnoRet":9,"architectures":["SCMP_ARCH_X32"],"flags":["SECCOMP_FILTER_FLAG_LOG"]}`), uint64(0), false)
	f.Fuzz(func(t *testing.T, profile []byte, caps uint64, fake bool) {
		for _, arch := range []string{"amd64", "arm64"} {
			program, err := Compile(profile, Options{Arch: arch, Caps: caps, FakeOwner: fake, KernelMajor: 6})
			if err != nil {
				var e *fail.Error
				if !errors.As(err, &e) {
					t.Fatalf("%v is not a fail.Error", err)
				}
				continue
			}
			if err := check(program); err != nil {
				t.Fatal(err)
			}
			for _, audit := range audits {
				run(program, call{nr: uint32(caps), audit: audit, args: [6]uint64{caps, caps, caps, caps}})
			}
		}
	})
}

func BenchmarkDefault(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		Default(Options{Caps: DockerCaps, FakeOwner: true})
	}
}

func BenchmarkCompile(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Default(Options{Caps: allCaps, FakeOwner: true}); err != nil {
			b.Fatal(err)
		}
	}
}
