// Package seccomp decides which system calls a container may make.
//
// Namespaces hide the host's things from a container, but the kernel is the
// same one, and every one of its four hundred calls is a door in it. A seccomp
// filter (seccomp(2)) is a small program that the kernel runs before each call
// of a process and of all its descendants: it sees the ABI, the number and the
// six argument registers, never what pointers point to, and says allow, fail
// with an errno, or kill. It cannot be taken off again.
//
// Which calls a container needs is settled by long use: docker's default
// profile, kept here as data (default.json, see README.md). The package
// translates profiles to the kernel's instructions. No library does this for
// us, since the known one is C and moss is not linked with C; and a start that
// counts microseconds wants the default filters ready, so they are compiled
// when moss is developed (internal/gen) and are plain tables in the binary.
//
// The meaning is that of runc with libseccomp, which docker uses:
//
//   - Several rules for one call are alternatives; the conditions of one rule
//     must all hold. Two conditions on the same argument are alternatives.
//   - A rule without conditions displaces those with conditions for the same
//     call; of two without, the first stands.
//   - A call of an ABI that the profile does not list kills the thread.
//   - Numbers above all that the profile names return ENOSYS.
//   - On ABIs with 32-bit arguments the lower halves are compared.
//
// Where rules for one call overlap and say different things, the first in the
// file wins; libseccomp's order depends on the values compared.
//
// Loading is the caller's part, since the filter has to go on last, in the
// child, right before execve(2): with no_new_privs set or CAP_SYS_ADMIN in the
// user namespace, and with the flags that Flags tells.
//
// Sources: seccomp(2); kernel userspace-api/seccomp_filter.rst; runtime-spec
// config-linux.md, "Seccomp"; docs.docker.com, "Seccomp security profiles for
// Docker".
package seccomp

import (
	_ "embed" // default.json
	"encoding/json"
	"runtime"

	"golang.org/x/sys/unix"

	"moss/fail"
)

//go:generate go run ./internal/gen

// Profile is docker's default profile, as Compile reads it.
//
//go:embed default.json
var Profile string

// DockerCaps is the bounding set docker gives a container: the one for which
// Default has a filter ready.
const DockerCaps uint64 = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FSETID |
	1<<unix.CAP_FOWNER | 1<<unix.CAP_MKNOD | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_SETGID |
	1<<unix.CAP_SETUID | 1<<unix.CAP_SETFCAP | 1<<unix.CAP_SETPCAP | 1<<unix.CAP_NET_BIND_SERVICE |
	1<<unix.CAP_SYS_CHROOT | 1<<unix.CAP_KILL | 1<<unix.CAP_AUDIT_WRITE

// DefaultFlags are what docker loads a filter with when the profile names no
// flags: processes under it are not slowed down against speculative store
// bypass (runc, SetupSeccomp; the kernel's own default since 5.16).
const DefaultFlags uintptr = unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW

// Options say for which container a filter is meant.
type Options struct {
	Arch string // GOARCH of the kernel; "" is this program's own
	Caps uint64 // bounding set, one bit per capability

	// FakeOwner makes chown(2) and its family, the calls that change the user
	// or the groups, capset(2), and mknod(2) of devices succeed without effect,
	// as far as the profile allows them. See fake.go.
	FakeOwner bool

	// KernelMajor and KernelMinor are what rules with minKernel are held
	// against; 0.0 asks uname(2).
	KernelMajor, KernelMinor int
}

// Default returns the filter of docker's default profile. It takes no time
// worth naming when o is a combination that was compiled ahead (see internal/gen),
// and a millisecond or so otherwise. The program must not be changed: it may be
// the package's own.
func Default(o Options) ([]unix.SockFilter, error) {
	o, _, err := o.complete()
	if err != nil {
		return nil, err
	}
	if p := prebuilt(o); p != nil {
		return p, nil
	}
	return Compile([]byte(Profile), o)
}

// prebuilt returns the filter that was compiled ahead for o, or nil. Only the
// capabilities that the profile asks for make a difference.
func prebuilt(o Options) []unix.SockFilter {
	if o.Arch != runtime.GOARCH || o.KernelMajor < prebuiltMajor ||
		o.KernelMajor == prebuiltMajor && o.KernelMinor < prebuiltMinor {
		return nil
	}
	switch caps := o.Caps & profileCaps; {
	case caps == DockerCaps&profileCaps && o.FakeOwner:
		return dockerFilterFake[:]
	case caps == DockerCaps&profileCaps:
		return dockerFilter[:]
	case caps == 0 && o.FakeOwner:
		return nocapsFilterFake[:]
	case caps == 0:
		return nocapsFilter[:]
	}
	return nil
}

// Compile translates a profile, docker's kind or the OCI runtime's. The errors
// are fail.Errors that name the line; the caller adds the file.
func Compile(profileJSON []byte, o Options) ([]unix.SockFilter, error) {
	o, m, err := o.complete()
	if err != nil {
		return nil, err
	}
	pol, err := parse(profileJSON, m, o)
	if err != nil {
		return nil, err
	}
	return compile(pol, o.FakeOwner)
}

// Flags returns the flags of seccomp(2) that a profile asks to be loaded with.
func Flags(profile []byte) (uintptr, error) {
	var p profileJSON
	if err := json.Unmarshal(profile, &p); err != nil {
		return 0, jsonError(profile, err)
	}
	if p.Flags == nil {
		return DefaultFlags, nil
	}
	var flags uintptr
	for _, name := range *p.Flags {
		f, err := flag(name, place{data: profile, index: -1, field: "flags"})
		if err != nil {
			return 0, err
		}
		flags |= f
	}
	return flags, nil
}

// FakeOwner returns a filter that allows everything and only does what
// Options.FakeOwner says: for containers that run unconfined with a single id.
func FakeOwner(o Options) ([]unix.SockFilter, error) {
	_, m, err := o.complete()
	if err != nil {
		return nil, err
	}
	return compile(&policy{
		otherwise: unix.SECCOMP_RET_ALLOW, foreign: unix.SECCOMP_RET_ALLOW, permissive: true, abis: m.abis,
	}, true)
}

// complete fills in what o leaves to this machine.
func (o Options) complete() (Options, machine, error) {
	if o.Arch == "" {
		o.Arch = runtime.GOARCH
	}
	m, ok := machineFor(o.Arch)
	if !ok {
		return o, m, &fail.Error{Op: "compiling seccomp profile", On: "for " + o.Arch, Err: errArch,
			Try: "--security-opt seccomp=unconfined, which leaves every call open"}
	}
	if o.KernelMajor == 0 && o.KernelMinor == 0 {
		var u unix.Utsname
		if err := unix.Uname(&u); err != nil {
			return o, m, &fail.Error{Op: "uname(2)", Err: err}
		}
		o.KernelMajor, o.KernelMinor = release(u.Release[:])
	}
	return o, m, nil
}

// release reads the two numbers at the start of a kernel's release.
func release(b []byte) (major, minor int) {
	n := [2]int{}
	i := 0
	for _, c := range b {
		switch {
		case c >= '0' && c <= '9' && n[i] < 1<<16:
			n[i] = n[i]*10 + int(c-'0')
		case c == '.' && i == 0:
			i = 1
		default:
			return n[0], n[1]
		}
	}
	return n[0], n[1]
}
