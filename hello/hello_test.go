package hello

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const status = "Name:\thello\nPid:\t1\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nCapEff:\t00000000a80425fb\nNoNewPrivs:\t0\nSeccomp:\t2\nSeccomp_filters:\t1\n"

const mountinfo = `100 90 0:40 / / rw,relatime - overlay overlay rw,lowerdir=a:b:c,upperdir=../u,workdir=../w,userxattr
101 100 0:41 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
102 100 0:42 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
103 101 0:6 /null /proc/kcore rw,nosuid - devtmpfs udev rw
104 101 0:43 / /proc/acpi ro,relatime - tmpfs tmpfs ro,size=0k,mode=755
105 101 0:41 /sys /proc/sys ro,relatime - proc proc rw
`

// machine is a container as docker's defaults make it, changed by change.
func machine(change func(v *view, files fstest.MapFS)) *view {
	files := fstest.MapFS{}
	for name, content := range map[string]string{
		"proc/self/status":             status,
		"proc/self/uid_map":            "         0       1000          1\n         1     100000      65536\n",
		"proc/self/mountinfo":          mountinfo,
		"proc/self/limits":             "Limit  Soft  Hard  Units\nMax open files            1024                 524288               files     \n",
		"proc/self/net/dev":            "Inter-|   Receive  |  Transmit\n face |bytes |bytes\n    lo:  0 0\n  eth0: 12 1\n",
		"proc/sys/kernel/cap_last_cap": "40\n",
		"proc/sys/kernel/hostname":     "0123456789ab\n",
		"sys/fs/cgroup/memory.max":     "max\n",
		"sys/fs/cgroup/pids.max":       "max\n",
		"sys/fs/cgroup/cpu.max":        "max 100000\n",
	} {
		files[name] = &fstest.MapFile{Data: []byte(content)}
	}
	for i, name := range []string{"user", "mnt", "pid", "ipc", "uts", "cgroup", "net", "time"} {
		files["proc/self/ns/"+name] = &fstest.MapFile{Mode: os.ModeSymlink | 0o777, Data: fmt.Appendf(nil, "%s:[%d]", name, 4026532000+i)}
	}
	v := &view{
		fsys:  files,
		owns:  func(name string) (bool, bool) { return name != "net" && name != "time", true },
		probe: func() error { return unix.EPERM },
		capNames: func(set uint64) (names []string) {
			for i := range 64 {
				if set&(1<<i) != 0 {
					names = append(names, fmt.Sprintf("CAP_%d", i))
				}
			}
			return names
		},
	}
	if change != nil {
		change(v, files)
	}
	return v
}

func set(files fstest.MapFS, name, content string) {
	files[name] = &fstest.MapFile{Data: []byte(content)}
}

func TestReport(t *testing.T) {
	for name, v := range map[string]*view{
		"full": machine(nil),
		"single": machine(func(v *view, files fstest.MapFS) {
			set(files, "proc/self/uid_map", "0 1000 1\n")
			set(files, "proc/self/status", strings.Replace(status, "NoNewPrivs:\t0", "NoNewPrivs:\t1", 1))
			for _, f := range []string{"memory.max", "pids.max", "cpu.max"} {
				delete(files, "sys/fs/cgroup/"+f)
			}
			set(files, "sys/fs/cgroup/cgroup.controllers", "hugetlb\n")
		}),
		"root": machine(func(v *view, files fstest.MapFS) {
			set(files, "proc/self/uid_map", "0 536870912 65536\n")
			set(files, "proc/self/status", strings.Replace(status, "\t0\t0\t0\t0", "\t33\t33\t33\t33", 1))
		}),
		"limited": machine(func(v *view, files fstest.MapFS) {
			set(files, "sys/fs/cgroup/memory.max", "268435456\n")
			set(files, "sys/fs/cgroup/pids.max", "100\n")
			set(files, "sys/fs/cgroup/cpu.max", "150000 100000\n")
			set(files, "proc/self/status", strings.Replace(status, "00000000a80425fb", "0000000000000000", 1))
			set(files, "proc/self/net/dev", "a|b|c\n    lo:  0 0\n")
			set(files, "proc/self/mountinfo", strings.Replace(mountinfo, "/ / rw,", "/ / ro,", 1))
			v.owns = func(name string) (bool, bool) { return name != "time", true }
		}),
		"privileged": machine(func(v *view, files fstest.MapFS) {
			set(files, "proc/self/status", strings.NewReplacer("00000000a80425fb", "000001ffffffffff", "Seccomp:\t2", "Seccomp:\t0").Replace(status))
			v.probe = func() error { return nil }
		}),
		"nothing": {
			fsys: fstest.MapFS{}, owns: func(string) (bool, bool) { return false, false },
			probe: func() error { return unix.ENOSYS }, capNames: func(uint64) []string { return nil },
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := new(page)
			v.report(p)
			golden(t, name, p.String())
			for line := range strings.Lines(p.String()) {
				if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width {
					t.Errorf("%d columns wide: %s", n, line)
				}
			}
			if lines := strings.Count(p.String(), "\n"); lines > 45 {
				t.Errorf("%d lines, more than a terminal shows", lines)
			}
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update, then git diff); got:\n%s", path, got)
	}
}

// Where it runs here is no container of moss's, and still it has something to
// say and does not fail.
func TestMainAnywhere(t *testing.T) {
	var out bytes.Buffer
	if status := Main([]string{"/hello", "argument"}, &out, func(uint64) []string { return nil }); status != 0 {
		t.Errorf("Main = %d, want 0", status)
	}
	for _, want := range []string{"Hello", "who", "namespaces", "no arguments"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, &out)
		}
	}
	if status := Main(nil, full{}, func(uint64) []string { return nil }); status != 1 {
		t.Errorf("Main on a full disk = %d, want 1", status)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, unix.ENOSPC }

func TestWords(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{size("268435456"), "256 MiB"},
		{size("1000"), "1000 B"},
		{size("9223372036854771712"), "8 EiB"},
		{size("?"), "?"},
		{cpus("150000 100000"), "1.5"},
		{cpus("5000 100000"), "0.05"},
		{cpus("1 0"), "1 0"},
		{cpus("broken"), "broken"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestWrap(t *testing.T) {
	p := new(page)
	p.text("", "the greeting")
	p.text("label", strings.Repeat("word ", 20))
	p.text("", "  "+strings.Repeat("x", 100))
	want := "the greeting\n" +
		"label       word word word word word word word word word word word word word\n" +
		"            word word word word word word word\n" +
		"              " + strings.Repeat("x", 100) + "\n"
	if p.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", p, want)
	}
}
