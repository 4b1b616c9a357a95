package namespaces

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// capNames are the capabilities by number (capabilities(7); linux/capability.h).
var capNames = [...]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
	"SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// Capabilities is a set, one bit per capability number.
type Capabilities uint64

// DefaultCapabilities are the fourteen docker leaves a container: enough to be
// root over one's own files and processes, nothing that reaches the kernel.
const DefaultCapabilities Capabilities = 1<<0 | 1<<1 | 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<8 |
	1<<10 | 1<<13 | 1<<18 | 1<<27 | 1<<29 | 1<<31

// AllCapabilities are those this kernel knows (proc_sys_kernel(5),
// cap_last_cap).
func AllCapabilities() Capabilities { return 1<<(LastCapability()+1) - 1 }

// LastCapability is the highest capability number of this kernel.
func LastCapability() int {
	b, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return len(capNames) - 1
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || n < 0 || n > 62 {
		return len(capNames) - 1
	}
	return n
}

// ParseCapability reads a name as --cap-add takes it, with or without CAP_, in
// any case; "ALL" is all of them.
func ParseCapability(name string) (Capabilities, error) {
	upper := strings.TrimPrefix(strings.ToUpper(name), "CAP_")
	if upper == "ALL" {
		return AllCapabilities(), nil
	}
	for i, n := range capNames {
		if n == upper {
			return 1 << i, nil
		}
	}
	return 0, fmt.Errorf("unknown capability %q; capabilities(7) lists them", name)
}

// Adjust applies --cap-add and --cap-drop as docker does: "ALL" on either side
// sets where one starts from, then names are added and dropped.
func (c Capabilities) Adjust(add, drop []string) (Capabilities, error) {
	var plus, minus Capabilities
	for _, side := range []struct {
		names []string
		set   *Capabilities
		all   func()
	}{
		{drop, &minus, func() { c = 0 }},
		{add, &plus, func() { c = AllCapabilities() }},
	} {
		for _, name := range side.names {
			bits, err := ParseCapability(name)
			if err != nil {
				return 0, err
			}
			if strings.EqualFold(strings.TrimPrefix(strings.ToUpper(name), "CAP_"), "ALL") {
				side.all()
				continue
			}
			*side.set |= bits
		}
	}
	return c&^minus | plus, nil
}

// Has reports whether capability number n is in the set.
func (c Capabilities) Has(n int) bool { return c&(1<<n) != 0 }

// Names lists the set in the kernel's order, as "CAP_CHOWN".
func (c Capabilities) Names() []string {
	var names []string
	for i := range 64 {
		switch {
		case !c.Has(i):
		case i < len(capNames):
			names = append(names, "CAP_"+capNames[i])
		default:
			names = append(names, fmt.Sprintf("CAP_%d", i))
		}
	}
	return names
}
