package seccomp

import "golang.org/x/sys/unix"

// The vocabulary of profiles. All of it is constant data, laid out by the
// compiler: importing this package runs no code.

// abi is one calling convention of a machine: a way to number system calls.
type abi struct {
	name   string // libseccomp's, as profiles spell it
	audit  uint32 // seccomp_data.arch, linux/audit.h
	column int    // in syscallTable
	bit    uint32 // set in every number of the ABI
	wide   bool   // arguments are 64 bits wide
	mux    bool   // has socketcall(2) and ipc(2)
}

// The columns of syscallTable.
const (
	columnAMD64 = iota
	columnX32
	column386
	columnARM64
	columnARM
	columns
)

// x32Bit marks x32's numbers; x32 shares AUDIT_ARCH_X86_64 with the 64-bit ABI
// and is told apart by nothing else (asm/unistd.h, __X32_SYSCALL_BIT).
const x32Bit = 0x40000000

// armPrivate is where arm's private calls begin (asm/unistd.h, __ARM_NR_BASE),
// far above all others.
const armPrivate = 0x0f0000

var (
	abiAMD64 = abi{name: "SCMP_ARCH_X86_64", audit: unix.AUDIT_ARCH_X86_64, column: columnAMD64, wide: true}
	abiX32   = abi{name: "SCMP_ARCH_X32", audit: unix.AUDIT_ARCH_X86_64, column: columnX32, bit: x32Bit}
	abi386   = abi{name: "SCMP_ARCH_X86", audit: unix.AUDIT_ARCH_I386, column: column386, mux: true}
	abiARM64 = abi{name: "SCMP_ARCH_AARCH64", audit: unix.AUDIT_ARCH_AARCH64, column: columnARM64, wide: true}
	abiARM   = abi{name: "SCMP_ARCH_ARM", audit: unix.AUDIT_ARCH_ARM, column: columnARM}
)

// machine is a kind of kernel: the ABI it is named after and those it also
// answers.
type machine struct {
	goarch string
	docker string // its name in includes.arches and excludes.arches
	abis   []abi
}

func machineFor(goarch string) (machine, bool) {
	switch goarch {
	case "amd64":
		return machine{"amd64", "amd64", []abi{abiAMD64, abi386, abiX32}}, true
	case "arm64":
		return machine{"arm64", "arm64", []abi{abiARM64, abiARM}}, true
	case "386":
		return machine{"386", "x86", []abi{abi386}}, true
	case "arm":
		return machine{"arm", "arm", []abi{abiARM}}, true
	}
	return machine{}, false
}

var dockerArchitectures = []string{
	"amd64", "x86", "x32", "arm", "arm64", "loongarch64", "mips", "mips64", "mips64n32", "mipsel",
	"mipsel64", "mips3l64n32", "mipsel64n32", "ppc", "ppc64", "ppc64le", "riscv64", "s390", "s390x",
}

var ociArchitectures = []string{
	"SCMP_ARCH_X86", "SCMP_ARCH_X86_64", "SCMP_ARCH_X32", "SCMP_ARCH_ARM", "SCMP_ARCH_AARCH64",
	"SCMP_ARCH_LOONGARCH64", "SCMP_ARCH_M68K", "SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64", "SCMP_ARCH_MIPS64N32",
	"SCMP_ARCH_MIPSEL", "SCMP_ARCH_MIPSEL64", "SCMP_ARCH_MIPSEL64N32", "SCMP_ARCH_PPC", "SCMP_ARCH_PPC64",
	"SCMP_ARCH_PPC64LE", "SCMP_ARCH_RISCV64", "SCMP_ARCH_S390", "SCMP_ARCH_S390X", "SCMP_ARCH_SH",
	"SCMP_ARCH_SHEB", "SCMP_ARCH_PARISC", "SCMP_ARCH_PARISC64",
}

var (
	actionNames = []string{
		"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD",
		"SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
	}
	actionValues = []uint32{
		unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_ERRNO, unix.SECCOMP_RET_KILL_THREAD, unix.SECCOMP_RET_KILL_PROCESS,
		unix.SECCOMP_RET_KILL_THREAD, unix.SECCOMP_RET_LOG, unix.SECCOMP_RET_USER_NOTIF, unix.SECCOMP_RET_TRACE,
		unix.SECCOMP_RET_TRAP,
	}
	// In the order of the op constants, except for the last.
	operators = []string{
		"SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ",
	}
	flagNames = []string{
		"SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
		"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
	}
	// TSYNC is about threads, of which a container's first process has one;
	// WAIT_KILLABLE_RECV about notifications, which are refused.
	flagValues = []uintptr{0, unix.SECCOMP_FILTER_FLAG_LOG, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, 0}
)

// capabilities by number (linux/capability.h).
var capabilities = [...]string{
	unix.CAP_CHOWN: "CAP_CHOWN", unix.CAP_DAC_OVERRIDE: "CAP_DAC_OVERRIDE", unix.CAP_DAC_READ_SEARCH: "CAP_DAC_READ_SEARCH",
	unix.CAP_FOWNER: "CAP_FOWNER", unix.CAP_FSETID: "CAP_FSETID", unix.CAP_KILL: "CAP_KILL", unix.CAP_SETGID: "CAP_SETGID",
	unix.CAP_SETUID: "CAP_SETUID", unix.CAP_SETPCAP: "CAP_SETPCAP", unix.CAP_LINUX_IMMUTABLE: "CAP_LINUX_IMMUTABLE",
	unix.CAP_NET_BIND_SERVICE: "CAP_NET_BIND_SERVICE", unix.CAP_NET_BROADCAST: "CAP_NET_BROADCAST",
	unix.CAP_NET_ADMIN: "CAP_NET_ADMIN", unix.CAP_NET_RAW: "CAP_NET_RAW", unix.CAP_IPC_LOCK: "CAP_IPC_LOCK",
	unix.CAP_IPC_OWNER: "CAP_IPC_OWNER", unix.CAP_SYS_MODULE: "CAP_SYS_MODULE", unix.CAP_SYS_RAWIO: "CAP_SYS_RAWIO",
	unix.CAP_SYS_CHROOT: "CAP_SYS_CHROOT", unix.CAP_SYS_PTRACE: "CAP_SYS_PTRACE", unix.CAP_SYS_PACCT: "CAP_SYS_PACCT",
	unix.CAP_SYS_ADMIN: "CAP_SYS_ADMIN", unix.CAP_SYS_BOOT: "CAP_SYS_BOOT", unix.CAP_SYS_NICE: "CAP_SYS_NICE",
	unix.CAP_SYS_RESOURCE: "CAP_SYS_RESOURCE", unix.CAP_SYS_TIME: "CAP_SYS_TIME", unix.CAP_SYS_TTY_CONFIG: "CAP_SYS_TTY_CONFIG",
	unix.CAP_MKNOD: "CAP_MKNOD", unix.CAP_LEASE: "CAP_LEASE", unix.CAP_AUDIT_WRITE: "CAP_AUDIT_WRITE",
	unix.CAP_AUDIT_CONTROL: "CAP_AUDIT_CONTROL", unix.CAP_SETFCAP: "CAP_SETFCAP", unix.CAP_MAC_OVERRIDE: "CAP_MAC_OVERRIDE",
	unix.CAP_MAC_ADMIN: "CAP_MAC_ADMIN", unix.CAP_SYSLOG: "CAP_SYSLOG", unix.CAP_WAKE_ALARM: "CAP_WAKE_ALARM",
	unix.CAP_BLOCK_SUSPEND: "CAP_BLOCK_SUSPEND", unix.CAP_AUDIT_READ: "CAP_AUDIT_READ", unix.CAP_PERFMON: "CAP_PERFMON",
	unix.CAP_BPF: "CAP_BPF", unix.CAP_CHECKPOINT_RESTORE: "CAP_CHECKPOINT_RESTORE",
}

// multiplexed are the calls that i386 first had as sub-calls of socketcall(2)
// (linux/net.h) and ipc(2) (linux/ipc.h), where they can still be reached: a
// rule for one of them is a rule for the sub-call too, as in libseccomp.
var multiplexed = [...]struct {
	name, through string
	call          uint64
}{
	{"socket", "socketcall", 1}, {"bind", "socketcall", 2}, {"connect", "socketcall", 3}, {"listen", "socketcall", 4},
	{"accept", "socketcall", 5}, {"getsockname", "socketcall", 6}, {"getpeername", "socketcall", 7},
	{"socketpair", "socketcall", 8}, {"send", "socketcall", 9}, {"recv", "socketcall", 10}, {"sendto", "socketcall", 11},
	{"recvfrom", "socketcall", 12}, {"shutdown", "socketcall", 13}, {"setsockopt", "socketcall", 14},
	{"getsockopt", "socketcall", 15}, {"sendmsg", "socketcall", 16}, {"recvmsg", "socketcall", 17},
	{"accept4", "socketcall", 18}, {"recvmmsg", "socketcall", 19}, {"sendmmsg", "socketcall", 20},
	{"semop", "ipc", 1}, {"semget", "ipc", 2}, {"semctl", "ipc", 3}, {"semtimedop", "ipc", 4},
	{"msgsnd", "ipc", 11}, {"msgrcv", "ipc", 12}, {"msgget", "ipc", 13}, {"msgctl", "ipc", 14},
	{"shmat", "ipc", 21}, {"shmdt", "ipc", 22}, {"shmget", "ipc", 23}, {"shmctl", "ipc", 24},
}

// number looks a system call up in an ABI's table.
func (a abi) number(name string) (uint32, bool) {
	lo, hi := 0, len(syscallTable)
	for lo < hi {
		mid := (lo + hi) / 2
		if syscallTable[mid].name < name {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == len(syscallTable) || syscallTable[lo].name != name || syscallTable[lo].nr[a.column] < 0 {
		return 0, false
	}
	return uint32(syscallTable[lo].nr[a.column]) | a.bit, true
}
