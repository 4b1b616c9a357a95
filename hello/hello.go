// Package hello is the program of the built-in image: it prints what it sees
// of its own container.
//
// All it knows it reads, as anybody in there could, from /proc and /sys; what
// the kernel does not tell by file it tries. A file that is missing makes a
// sentence shorter and nothing else, so the program also runs in containers
// that moss did not make.
package hello

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/bits"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Main prints the report to out and returns the exit status. capNames lists
// the capabilities of a set, one bit each, as "CAP_CHOWN".
func Main(args []string, out io.Writer, capNames func(set uint64) []string) int {
	p := &page{}
	(&view{fsys: os.DirFS("/"), owns: ownsNamespace, probe: keyctl, capNames: capNames}).report(p)
	if len(args) > 1 {
		p.text("", "(This program takes no arguments. Programs to play with are in other images.)")
	}
	if _, err := io.WriteString(out, p.String()); err != nil {
		return 1
	}
	return 0
}

// view is the container as seen from inside.
type view struct {
	fsys     fs.FS // the root directory
	owns     func(namespace string) (own, known bool)
	probe    func() error // a system call that docker's seccomp profile forbids
	capNames func(set uint64) []string
}

func (v *view) report(p *page) {
	p.text("", "Hello from inside a container! It took no daemon, nothing to set up and, for this image, "+
		"no network. This is what I see of it; behind each $ is how to look for yourself, in a "+
		"shell in any image.")
	p.gap()
	v.ids(p)
	v.namespaces(p)
	v.files(p)
	v.network(p)
	v.limits(p)
	v.power(p)
	v.calls(p)
	p.gap()
	p.text("Try next", "moss run --rm --explain hello")
	p.text("", "    every step that made this container, down to the system calls")
	if v.field("CapEff") == strings.Repeat("0", 16) {
		p.text("", "moss run --rm --network none hello")
		p.text("", "    the same with a network of its own, which leads nowhere")
	} else {
		p.text("", "moss run --rm --network none --cap-drop all hello")
		p.text("", "    the same with less: watch \"network\" and \"power\" change")
	}
	p.text("", "moss run --rm -it debian bash")
	p.text("", "    an image from a registry, and a shell in it to look around")
}

// idRange is a line of /proc/self/uid_map: count ids from inside on are those
// from outside on (user_namespaces(7)).
type idRange struct{ inside, outside, count int }

func (v *view) ids(p *page) {
	uid, gid := first(v.field("Uid")), first(v.field("Gid"))
	who := "uid " + uid + ", gid " + gid
	if uid == "0" {
		who = "root (" + who + ")"
	}
	var ranges []idRange
	for line := range strings.Lines(v.read("proc/self/uid_map")) {
		var r idRange
		if _, err := fmt.Sscan(line, &r.inside, &r.outside, &r.count); err == nil {
			ranges = append(ranges, r)
		}
	}
	me, err := strconv.Atoi(uid)
	text := "I am " + who + " in here."
	switch {
	case err != nil:
		text = "I cannot tell who I am: /proc is missing."
	case len(ranges) == 1 && ranges[0].count >= 1<<32-1:
		text += " So I am outside: this is no user namespace of its own."
	case len(ranges) == 1 && ranges[0].count == 1:
		text += fmt.Sprintf(" Outside I am you, uid %d, and may do what you may. That is the only id there is in here "+
			"(single-id mode): chown and the like are accepted without effect. What more ids take: moss info.", ranges[0].outside)
	case len(ranges) > 0:
		for _, r := range ranges {
			if me >= r.inside && me-r.inside < r.count {
				text += fmt.Sprintf(" Outside I am %suid %d, and may do %s.", you(r), r.outside+me-r.inside, may(r))
			}
		}
		more, outside := 0, ""
		for _, r := range ranges {
			if r.count > 1 {
				more += r.count
				outside = fmt.Sprintf("%d to %d", r.outside, r.outside+r.count-1)
			}
		}
		if ranges[0].count > 1 {
			text += fmt.Sprintf(" The %d ids in here are %s outside: my root is not the host's.", more, outside)
		} else {
			text += fmt.Sprintf(" %d more ids are for other users in here; outside they are %s, which /etc/subuid lends you.", more, outside)
		}
	}
	p.text("who", text)
	p.look("cat /proc/self/uid_map", "docs/ids.md")
}

// you and may word the caller's own id, which is mapped alone.
func you(r idRange) string {
	if r.count == 1 {
		return "you, "
	}
	return ""
}

func may(r idRange) string {
	if r.count == 1 {
		return "what you may"
	}
	return "what that one may"
}

func (v *view) namespaces(p *page) {
	var mine, shared []string
	for _, name := range [...]string{"user", "mnt", "pid", "ipc", "uts", "cgroup", "net", "time"} {
		link, err := fs.ReadLink(v.fsys, "proc/self/ns/"+name)
		if err != nil {
			continue
		}
		own, known := v.owns(name)
		switch {
		case !known:
		case own:
			mine = append(mine, link)
		default:
			shared = append(shared, link)
		}
	}
	pid := v.field("Pid")
	text := ""
	if len(mine) > 0 {
		text += " My own: " + strings.Join(mine, " ") + "."
	}
	if len(shared) > 0 {
		text += " Shared with the host: " + strings.Join(shared, " ") + "."
	}
	if name := v.word("proc/sys/kernel/hostname"); name != "" {
		text += " My host name is " + name
		if pid != "" {
			text += ", my process id " + pid
		}
		text += "."
	}
	if pid == "1" {
		text += " When process 1 ends, all of the PID namespace ends."
	}
	p.text("namespaces", cmp.Or(strings.TrimSpace(text), "I cannot see my namespaces."))
	p.look("ls -l /proc/self/ns", "man 7 namespaces")
}

// mount is a line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
type mount struct {
	root, point, fsType string
	options, super      []string
}

func (v *view) mounts() (all []mount) {
	for line := range strings.Lines(v.read("proc/self/mountinfo")) {
		front, back, _ := strings.Cut(line, " - ")
		f, b := strings.Fields(front), strings.Fields(back)
		if len(f) < 6 || len(b) < 3 {
			continue
		}
		all = append(all, mount{f[3], f[4], b[0], strings.Split(f[5], ","), strings.Split(b[2], ",")})
	}
	return all
}

func (v *view) files(p *page) {
	all := v.mounts()
	hidden, readOnly, lower := 0, 0, 0
	var root mount
	for _, m := range all {
		below := strings.HasPrefix(m.point, "/proc/") || strings.HasPrefix(m.point, "/sys/")
		switch {
		case m.point == "/":
			root = m
		case m.point == "/sys/fs/cgroup":
		case below && (m.fsType == "tmpfs" && slices.Contains(m.options, "ro") || path.Base(m.root) == "null" || path.Base(m.root) == "empty"):
			hidden++
		case below && m.fsType == "proc" && slices.Contains(m.options, "ro"):
			readOnly++
		}
	}
	upper := false
	for _, o := range root.super {
		key, value, _ := strings.Cut(o, "=")
		switch key {
		case "lowerdir":
			for dir := range strings.SplitSeq(strings.ReplaceAll(value, "::", ":"), ":") {
				if path.Base(dir) != "skeleton" { // the empty layer below every image's
					lower++
				}
			}
		case "lowerdir+":
			lower++
		case "upperdir":
			upper = true
		}
	}
	var text string
	switch {
	case root.fsType == "":
		text = "I cannot see my mounts."
	case root.fsType != "overlay":
		text = "My root is a directory on " + root.fsType + ", not a stack of layers."
	default:
		text = "My root is an overlay of " + plural(lower, "layer") + " that no container can change"
		switch {
		case slices.Contains(root.options, "ro"):
			text += ", mounted read-only."
		case upper:
			text += ", and one on top that takes what I write."
		default:
			text += "."
		}
	}
	if len(all) > 0 {
		text += fmt.Sprintf(" I see %d mounts, /proc and /dev among them; nobody outside does.", len(all))
	}
	if hidden+readOnly > 0 {
		text += fmt.Sprintf(" %d hide and %d write-protect what the kernel has only one of.", hidden, readOnly)
	}
	p.text("files", text)
	p.look("cat /proc/self/mountinfo", "docs/ARCHITECTURE.md")
}

func (v *view) network(p *page) {
	var names []string
	for line := range strings.Lines(v.read("proc/self/net/dev")) {
		if name, _, ok := strings.Cut(line, ":"); ok {
			names = append(names, strings.TrimSpace(name))
		}
	}
	own, known := v.owns("net")
	what := strings.Join(names, ", ")
	var text string
	switch {
	case len(names) == 0:
		text = "I see no interface."
	case known && own && slices.Equal(names, []string{"lo"}):
		text = "I have a network of my own with nothing but lo: I can talk to myself."
	case known && own:
		text = "I have a network of my own: " + what + "."
	default:
		text = "I use the host's network: " + what + ". Ports that I open are open there."
	}
	p.text("network", text)
	p.look("cat /proc/net/dev", "man 7 network_namespaces")
}

func (v *view) limits(p *page) {
	var set, none []string
	visible := false
	for _, l := range [...]struct {
		file, name string
		show       func(string) string
	}{
		{"memory.max", "memory", size}, {"pids.max", "processes", first}, {"cpu.max", "CPU", cpus},
	} {
		value := v.word("sys/fs/cgroup/" + l.file)
		visible = visible || value != ""
		if value == "" || first(value) == "max" {
			none = append(none, l.name)
		} else {
			set = append(set, l.name+" "+l.show(value))
		}
	}
	text := ""
	if len(set) == 0 && visible {
		text = "My control group sets no limit on " + strings.Join(none, ", ") + ". "
		none = nil
	} else if len(set) > 0 {
		text = "My control group allows me " + strings.Join(set, ", ") + ". "
	}
	switch {
	case !visible:
		text += "I see no limit on memory, processes or CPU: no such controllers of cgroup v2 are here (why: moss info). "
	case len(none) > 0:
		text += "It sets none on " + strings.Join(none, ", ") + ". "
	}
	for line := range strings.Lines(v.read("proc/self/limits")) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			if f := strings.Fields(rest); len(f) > 1 {
				text += "I may have " + f[1] + " files open."
			}
		}
	}
	p.text("limits", strings.TrimSpace(text))
	p.look("cat /sys/fs/cgroup/*.max", "man 7 cgroups")
}

func (v *view) power(p *page) {
	set, err := strconv.ParseUint(v.field("CapEff"), 16, 64)
	last, lastErr := strconv.Atoi(v.word("proc/sys/kernel/cap_last_cap"))
	if lastErr != nil {
		last = 40 // since Linux 5.9
	}
	n := bits.OnesCount64(set)
	names := strings.ReplaceAll(strings.Join(v.capNames(set), " "), "CAP_", "")
	var text string
	switch {
	case err != nil:
		text = "I cannot see my capabilities."
	case n == 0:
		text = fmt.Sprintf("Of root's %d powers, the capabilities, I have none.", last+1)
	case n == last+1:
		text = fmt.Sprintf("I have all of root's %d powers, the capabilities, over what is this container's.", n)
	default:
		text = fmt.Sprintf("Of root's %d powers, the capabilities, I kept %d, which count only for what is this container's: %s.", last+1, n, names)
	}
	switch v.field("NoNewPrivs") {
	case "0":
		text += " A setuid program can still make me another user in here (no_new_privs is off)."
	case "1":
		text += " No program that I start can gain more (no_new_privs is on)."
	}
	p.text("power", text)
	p.look("grep Cap /proc/self/status", "man 7 capabilities")
}

func (v *view) calls(p *page) {
	filters := v.field("Seccomp_filters") // Linux 5.9
	var text string
	switch v.field("Seccomp") {
	case "2":
		text = "A seccomp filter"
		if n, err := strconv.Atoi(filters); err == nil && n > 1 {
			text = fmt.Sprintf("%d seccomp filters", n)
		}
		text += " looks at each of my system calls."
	case "0":
		text = "No seccomp filter: I may make every system call."
	default:
		text = "I cannot see whether my system calls are filtered."
	}
	switch err := v.probe(); {
	case err == nil:
		text += " I tried keyctl(2), which the usual filter forbids: it worked."
	default:
		text += " I tried keyctl(2), which no container needs: " + err.Error() + "."
	}
	p.text("calls", text)
	p.look("grep Seccomp /proc/self/status", "man 2 seccomp")
}

// read returns a file's text, "" when there is none.
func (v *view) read(name string) string {
	b, _ := fs.ReadFile(v.fsys, name)
	return string(b)
}

func (v *view) word(name string) string { return strings.TrimSpace(v.read(name)) }

// field is a line of /proc/self/status (proc_pid_status(5)).
func (v *view) field(name string) string {
	for line := range strings.Lines(v.read("proc/self/status")) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func first(s string) string {
	if f := strings.Fields(s); len(f) > 0 {
		return f[0]
	}
	return ""
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// size words bytes in binary units, as memory is counted.
func size(s string) string {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return s
	}
	units := [...]string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	return fmt.Sprintf("%.4g %s", f, units[i])
}

// cpus turns cpu.max, "QUOTA PERIOD" in microseconds, into processors (kernel
// cgroup-v2.rst, "CPU Interface Files").
func cpus(s string) string {
	var quota, period float64
	if _, err := fmt.Sscan(s, &quota, &period); err != nil || period == 0 {
		return s
	}
	return strconv.FormatFloat(quota/period, 'g', 3, 64)
}

// ownsNamespace asks the kernel whether the namespace belongs to this
// container: whether the user namespace that owns it is ours (ioctl_ns(2),
// NS_GET_USERNS). For one that belongs to a user namespace outside, it answers
// EPERM.
func ownsNamespace(name string) (own, known bool) {
	var mine, owner unix.Stat_t
	if unix.Stat("/proc/self/ns/user", &mine) != nil {
		return false, false
	}
	if name == "user" {
		return mine.Ino != initialUserNS, true
	}
	ns, err := unix.Open("/proc/self/ns/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, false
	}
	defer unix.Close(ns)
	fd, err := unix.IoctlRetInt(ns, unix.NS_GET_USERNS)
	if err != nil {
		return false, errors.Is(err, unix.EPERM)
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &owner); err != nil {
		return false, false
	}
	return owner.Ino == mine.Ino, true
}

// initialUserNS is the inode number that the host's own user namespace always
// has (linux/proc_ns.h, PROC_USER_INIT_INO).
const initialUserNS = 0xEFFFFFFD

// keyctl asks for the id of the session keyring. Keys are not kept apart by
// namespace, so docker's profile allows nothing of keyctl(2).
func keyctl() error {
	_, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
	if errors.Is(err, unix.ENOKEY) {
		return nil // allowed, and there is none
	}
	return err
}
