package seccomp

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// call is struct seccomp_data (linux/seccomp.h): what a filter sees.
type call struct {
	nr, audit uint32
	ip        uint64
	args      [6]uint64
}

func (c call) bytes() []byte {
	b := binary.LittleEndian.AppendUint32(nil, c.nr)
	b = binary.LittleEndian.AppendUint32(b, c.audit)
	b = binary.LittleEndian.AppendUint64(b, c.ip)
	for _, a := range c.args {
		b = binary.LittleEndian.AppendUint64(b, a)
	}
	return b
}

// run executes a filter as the kernel does and counts the steps. The machine of
// golang.org/x/net/bpf will not do: it reads packets, which are big-endian,
// where a filter reads the native words of seccomp_data.
func run(program []unix.SockFilter, c call) (result uint32, steps int) {
	data := c.bytes()
	var a uint32
	for pc := 0; ; pc++ {
		f := program[pc]
		steps++
		jump := false
		switch f.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = binary.LittleEndian.Uint32(data[f.K:])
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= f.K
			continue
		case unix.BPF_RET | unix.BPF_K:
			return f.K, steps
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(f.K)
			continue
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump = a == f.K
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			jump = a > f.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump = a >= f.K
		default:
			panic(fmt.Sprintf("instruction %d: code %#x", pc, f.Code))
		}
		if jump {
			pc += int(f.Jt)
		} else {
			pc += int(f.Jf)
		}
	}
}

// check is what the kernel asks of a filter before it takes it (net/core/filter.c,
// bpf_check_classic; kernel/seccomp.c, seccomp_check_filter).
func check(program []unix.SockFilter) error {
	n := len(program)
	if n == 0 || n > 4096 {
		return fmt.Errorf("%d instructions", n)
	}
	for pc, f := range program {
		switch f.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			if f.K >= 64 || f.K%4 != 0 {
				return fmt.Errorf("%d: load from %d", pc, f.K)
			}
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, unix.BPF_RET | unix.BPF_K:
		case unix.BPF_JMP | unix.BPF_JA:
			if uint64(pc)+1+uint64(f.K) >= uint64(n) {
				return fmt.Errorf("%d: jump past the end", pc)
			}
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			if pc+1+int(f.Jt) >= n || pc+1+int(f.Jf) >= n {
				return fmt.Errorf("%d: jump past the end", pc)
			}
		default:
			return fmt.Errorf("%d: code %#x", pc, f.Code)
		}
	}
	if program[n-1].Code != unix.BPF_RET|unix.BPF_K {
		return fmt.Errorf("does not end with a return")
	}
	return nil
}
