package container

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"moss/internal/testimage"
	"moss/namespaces"
	"moss/oci"
)

// victim is a directory of the host that no container may touch.
type victim struct {
	dir    string
	before string
}

func newVictim(t *testing.T) *victim {
	t.Helper()
	v := &victim{dir: t.TempDir()}
	os.Chmod(v.dir, 0o777) // so that only the container's walls protect it
	os.Mkdir(v.dir+"/sub", 0o777)
	os.Chmod(v.dir+"/sub", 0o777)
	if err := os.WriteFile(v.dir+"/file", []byte("the host's\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	os.Chmod(v.dir+"/file", 0o666)
	v.before = v.look()
	return v
}

func (v *victim) look() string {
	var b strings.Builder
	filepath.Walk(v.dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			fmt.Fprintln(&b, err)
			return nil
		}
		var content []byte
		if info.Mode().IsRegular() {
			content, _ = os.ReadFile(path)
		}
		fmt.Fprintf(&b, "%s %v %q\n", strings.TrimPrefix(path, v.dir), info.Mode(), content)
		return nil
	})
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	return b.String() + fmt.Sprint(strings.Count(string(mounts), v.dir))
}

func (v *victim) check(t *testing.T, what string) {
	t.Helper()
	if now := v.look(); now != v.before {
		t.Errorf("%s changed the host:\n%s\nbefore:\n%s", what, now, v.before)
		v.before = now
	}
}

// ways are names that lead, or try to lead, out of a container to dir.
func ways(dir string) []string {
	up := strings.Repeat("../", 20)
	return []string{
		dir, up + dir[1:], "/.." + dir, "/../../.." + dir, "/proc/self/cwd", "/proc/self/root" + dir, "/proc/1/root" + dir,
		"/proc/self/fd/3", "/proc/self/fd/5", "/proc/self/fd/6", "/proc/self/fd/7", "/proc/self/fd/8", "/proc/self/fd/9",
		"/proc/self/fd/5/../..", "/proc/self/exe", "/dev/fd/5", up + "proc/self/fd/5", "/proc/self/ns/mnt", "/sys/../proc/self/fd/5",
	}
}

// started has moss run with the working directory and descriptors 3 to 9 in dir.
func (m *machine) startedIn(t *testing.T, dir string, o Options) result {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := m.command(o)
	cmd.Dir = dir
	for range 7 {
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	return finish(t, cmd)
}

// TestSymlinksKernel replaces what moss mounts on by symlinks: nothing of the
// host's may be made, changed or mounted on, whether the container starts or
// not. Symlinks that climb with ".." are the ones that matter: while a
// container is put together the host's tree is near.
func TestSymlinksKernel(t *testing.T) {
	m := theMachine(t)
	v := newVictim(t)
	for _, place := range []string{"proc", "sys", "dev", "etc", "etc/resolv.conf", "etc/hosts", "dev/shm", "dev/pts", "data", "sys/fs"} {
		for _, link := range ways(v.dir + "/sub") {
			if place == "etc/resolv.conf" || place == "etc/hosts" {
				link = strings.Replace(link, v.dir+"/sub", v.dir+"/file", 1)
			}
			b := testimage.NewBuilder()
			if place == "etc" {
				b.Whiteout("etc")
			}
			img := m.image(t, oci.Config{}, b.Symlink(place, link).Tar())
			o := Options{Image: img, Remove: true, Network: "none", Args: []string{"ls /" + place, "create /" + place + "/x", "cwd"}}
			if place == "data" {
				o.Mounts = []Mount{{Type: "tmpfs", Target: "/data/tmpfs"}, {Type: "bind", Source: "/etc/hostname", Target: "/data/a/file"},
					{Type: "volume", Target: "/data"}}
			}
			r := m.startedIn(t, v.dir, o)
			v.check(t, fmt.Sprintf("/%s -> %s", place, link))
			if r.status != 0 && (r.status != 125 || r.stderr == "" || strings.Contains(r.stderr, "panic")) {
				t.Errorf("/%s -> %s: status %d, %s", place, link, r.status, r.stderr)
			}
			if strings.Contains(r.stdout, "the host's") || strings.Contains(r.said()[0], "file sub") {
				t.Errorf("/%s -> %s: the host is seen: %q", place, link, r.stdout)
			}
		}
	}
}

// TestWorkdirKernel is CVE-2024-21626: a working directory that is a
// descriptor moss has open.
func TestWorkdirKernel(t *testing.T) {
	m := theMachine(t)
	v := newVictim(t)
	img := m.plain(t)
	dirs := ways(v.dir)
	for fd := range 16 {
		dirs = append(dirs, fmt.Sprintf("/proc/self/fd/%d", fd), fmt.Sprintf("/proc/1/fd/%d", fd))
	}
	for _, dir := range dirs {
		if !filepath.IsAbs(dir) {
			continue
		}
		for _, o := range []Options{{Image: img, WorkingDir: dir}, {Image: m.image(t, oci.Config{WorkingDir: dir})}} {
			o.Network, o.Remove, o.Args = "none", true, []string{"ls .", "cwd", "ls ..", "create x"}
			r := m.startedIn(t, v.dir, o)
			v.check(t, dir)
			if strings.Contains(r.stdout, "file sub") || strings.Contains(r.stdout, v.dir) && !strings.Contains(dir, v.dir) {
				t.Errorf("WORKDIR %s: the host is seen: %q", dir, r.stdout)
			}
		}
	}
}

// TestDescriptorsKernel has moss started with descriptors that it must not
// pass on.
func TestDescriptorsKernel(t *testing.T) {
	m := theMachine(t)
	v := newVictim(t)
	for _, o := range []Options{{}, {Interactive: true}, {Init: true}, {Privileged: true}} {
		o.Image, o.Network, o.Remove = m.plain(t), "none", true
		o.Args = []string{"fds"}
		if r := m.startedIn(t, v.dir, o); r.stdout != "0 1 2"+answerEnd {
			t.Errorf("init %t, privileged %t: descriptors %q, status %d %s", o.Init, o.Privileged, r.stdout, r.status, r.stderr)
		}
	}
}

// TestHostTreeKernel runs on the host's own tree: what is written there must
// not stay, and descriptors and mounts are as in any container.
func TestHostTreeKernel(t *testing.T) {
	m := theMachine(t)
	if m.mode(t) == namespaces.RootMap {
		t.Skip("the container's root is nobody to the host's files")
	}
	v := newVictim(t)
	program := v.dir + "/payload"
	b, err := os.ReadFile(m.exe)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, b, 0o755); err != nil {
		t.Fatal(err)
	}
	v.before = v.look()
	r := m.startedIn(t, v.dir, Options{Rootfs: "/", Network: "none", Remove: true, Args: []string{program, "fds", "pids", "status CapEff",
		"create " + v.dir + "/new", "write " + v.dir + "/file changed", "rm " + v.dir + "/sub", "rename " + program + " " + v.dir + "/other",
		"create /etc/moss-test", "umount /proc/keys 2"}})
	v.check(t, "a container on the host's tree")
	if _, err := os.Stat("/etc/moss-test"); err == nil {
		t.Error("/etc/moss-test was made on the host")
		os.Remove("/etc/moss-test")
	}
	// Writing takes a copy of the directories above, and the kernel can make none
	// of one whose owner the map does not have (docs/ids.md, "The host's tree").
	write := "ok"
	for dir := filepath.Dir(v.dir); filepath.Dir(dir) != "/" && dir != "/"; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil {
			if uid, ok := ownerOf(info); ok && uid != os.Geteuid() {
				write = "EOVERFLOW"
			}
		}
	}
	want := "0 1 2,1,00000000a80425fb" + strings.Repeat(","+write, 4)
	if said := r.said(); len(said) != 9 || strings.Join(said[:7], ",") != want || said[8] != "EPERM" {
		t.Errorf("said %q, want %s\nstatus %d %s", said, want, r.status, r.stderr)
	}
}

// TestOwnBinaryKernel is CVE-2019-5736: no way from inside to the moss that
// started the container.
func TestOwnBinaryKernel(t *testing.T) {
	m := theMachine(t)
	before, err := os.Stat(m.exe)
	if err != nil {
		t.Fatal(err)
	}
	img := m.plain(t)
	m.want(t, Options{Image: img, Network: "none"}, "readlink /proc/self/exe", payloadPath, "readlink /proc/1/exe", payloadPath,
		"stat /dev/moss-init", "0 0:0ENOENT")
	const init = "/dev/moss-init"
	m.want(t, Options{Image: img, Network: "none", Init: true},
		"readlink /proc/self/exe", payloadPath,
		"readlink /proc/1/exe", init,
		"write "+init+" x", "EROFS|ETXTBSY|EACCES",
		"write /proc/1/exe x", "EROFS|ETXTBSY|EACCES",
		"truncate "+init, "EROFS|EACCES",
		"chmod "+init+" 0777", "EROFS",
		"chown "+init+" 0 0", "EROFS|"+m.faked(t),
		"touch "+init, "EROFS",
		"setxattr "+init+" user.x", "EROFS",
		"rm "+init, "EBUSY",
		"rename "+init+" /dev/x", "EBUSY",
		"link "+init+" /dev/y", "EXDEV",
		"rdonly-off "+init, "EPERM",
		"umount "+init+" 2", "EPERM",
		"mount none "+init+" none 4128", "EPERM", // MS_REMOUNT|MS_BIND
	)
	after, err := os.Stat(m.exe)
	if err != nil || !after.ModTime().Equal(before.ModTime()) || after.Mode() != before.Mode() || after.Size() != before.Size() {
		t.Errorf("%s was changed: %v %v", m.exe, after, err)
	}
}

// TestMaskedKernel looks at the paths that docker hides, also when the image
// has files of its own there or takes /dev for a volume.
func TestMaskedKernel(t *testing.T) {
	m := theMachine(t)
	decoy := testimage.NewBuilder().Dir("proc", 0o755).File("proc/kcore", 0o644, "decoy").File("proc/keys", 0o644, "decoy").
		Dir("proc/scsi", 0o755).File("proc/scsi/x", 0o644, "decoy").Dir("sys", 0o755).Dir("sys/firmware", 0o755).File("sys/firmware/x", 0o644, "decoy").Tar()
	nullIsKeys := testimage.NewBuilder().Dir("dev", 0o755).Symlink("dev/null", "/proc/keys").Symlink("dev/tty", "null").Tar()
	noNull := testimage.NewBuilder().Dir("dev", 0o755).Tar()
	for name, o := range map[string]Options{
		"plain":          {Image: m.plain(t)},
		"decoys":         {Image: m.image(t, oci.Config{}, decoy)},
		"host network":   {Image: m.plain(t), Network: "host"},
		"user":           {Image: m.plain(t), User: "1000"},
		"volume /dev":    {Image: m.image(t, oci.Config{Volumes: map[string]struct{}{"/dev": {}}}, noNull)},
		"null a symlink": {Image: m.image(t, oci.Config{Volumes: map[string]struct{}{"/dev": {}}}, nullIsKeys)},
		"tmpfs on /dev":  {Image: m.plain(t), Mounts: []Mount{{Type: "tmpfs", Target: "/dev"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if o.Network == "" {
				o.Network = "none"
			}
			var questions []string
			for _, p := range namespaces.DefaultMasked {
				if _, err := os.Lstat(p.Path); err != nil {
					continue // this kernel has no such file
				}
				if p.Dir {
					questions = append(questions, "ls "+p.Path)
				} else {
					questions = append(questions, "cat "+p.Path)
				}
			}
			for i, said := range m.ask(t, o, questions...) {
				if said != "" && said != "EACCES" {
					t.Errorf("%s: %.100q", questions[i], said)
				}
			}
		})
	}
}

// TestReadOnlyKernel tries to write to, remount and uncover what must not be.
func TestReadOnlyKernel(t *testing.T) {
	m := theMachine(t)
	for _, network := range []string{"none", "host"} {
		var pairs []string
		for _, p := range namespaces.DefaultReadOnly {
			if _, err := os.Lstat(p); err == nil {
				pairs = append(pairs, "umount "+p+" 0", "EPERM", "umount "+p+" 2", "EPERM", "mount none "+p+" none 4128", "EPERM", "rdonly-off "+p, "EPERM")
			}
		}
		for _, p := range []string{"/proc/kcore", "/proc/keys", "/sys/firmware", "/proc", "/dev", "/sys", "/"} {
			pairs = append(pairs, "umount "+p+" 2", "EPERM")
		}
		pairs = append(pairs, "write /proc/sysrq-trigger h", "EROFS|ENOENT|EACCES", "write /proc/sys/kernel/ctrl-alt-del 1", "EROFS|EACCES",
			"mkdir /sys/x", "EROFS", "mkdir /sys/fs/cgroup/x", "EROFS",
			"mount proc /tmp proc 0", "EPERM", "mount tmpfs /tmp tmpfs 0", "EPERM", "open_tree /proc", "EPERM", "pivot /tmp", "EPERM",
			"unshare 0x10000000", "EPERM", "unshare 0x20000", "EPERM", "sethost x", "EPERM", "mknod /tmp/kmem 0x102", "EPERM|"+m.faked(t), "handle /etc/passwd", "EPERM")
		m.want(t, Options{Image: m.plain(t), Network: network}, pairs...)
	}
}

// TestCapabilitiesKernel reads what /proc/self/status says.
func TestCapabilitiesKernel(t *testing.T) {
	m := theMachine(t)
	img := m.plain(t)
	const zero, docker, status = "0000000000000000", "00000000a80425fb", "status CapInh CapPrm CapEff CapBnd CapAmb"
	sets := func(prm, bnd string) string { return strings.Join([]string{zero, prm, prm, bnd, zero}, " ") }
	all := fmt.Sprintf("%016x", uint64(namespaces.AllCapabilities()))
	for _, test := range []struct {
		o    Options
		want string
	}{
		{Options{}, sets(docker, docker)},
		{Options{CapDrop: []string{"ALL"}}, sets(zero, zero)},
		{Options{CapDrop: []string{"all"}, User: "1000"}, sets(zero, zero)},
		{Options{User: "1000"}, sets(zero, docker)},
		{Options{CapDrop: []string{"ALL"}, CapAdd: []string{"net_raw"}}, sets("0000000000002000", "0000000000002000")},
		{Options{CapAdd: []string{"SYS_PTRACE"}}, sets("00000000a80c25fb", "00000000a80c25fb")},
		{Options{CapDrop: []string{"CAP_CHOWN", "mknod"}}, sets("00000000a00425fa", "00000000a00425fa")},
		{Options{CapAdd: []string{"ALL"}}, sets(all, all)},
		{Options{CapAdd: []string{"ALL"}, CapDrop: []string{"SYS_ADMIN"}}, sets(minus(all, 21), minus(all, 21))},
		{Options{Privileged: true}, sets(all, all)},
		{Options{Init: true}, sets(docker, docker)},
		{Options{Init: true, CapDrop: []string{"ALL"}}, sets(zero, zero)},
	} {
		test.o.Image, test.o.Network = img, "none"
		said := m.ask(t, test.o, status, "child status CapEff")
		if said[0] != test.want {
			t.Errorf("add %q drop %q user %q: %s\nwant %s", test.o.CapAdd, test.o.CapDrop, test.o.User, said[0], test.want)
		}
		if eff := strings.Fields(test.want)[2]; said[1] != eff {
			t.Errorf("add %q drop %q user %q: a child has %s, want %s", test.o.CapAdd, test.o.CapDrop, test.o.User, said[1], eff)
		}
	}
}

func minus(set string, n int) string {
	v, _ := strconv.ParseUint(set, 16, 64)
	return fmt.Sprintf("%016x", v&^(1<<n))
}

// TestSeccompKernel makes calls that docker's profile forbids.
func TestSeccompKernel(t *testing.T) {
	m := theMachine(t)
	img := m.plain(t)
	nnp := "0"
	if m.mode(t) == namespaces.SingleID {
		nnp = "1"
	}
	pairs := []string{"status Seccomp", "2", "status NoNewPrivs", nnp, "clone3", "ENOSYS"}
	for _, nr := range []int{unix.SYS_KEXEC_LOAD, unix.SYS_INIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_REBOOT, unix.SYS_SWAPON, unix.SYS_BPF,
		unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL, unix.SYS_SETNS, unix.SYS_ACCT,
		unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_IO_URING_SETUP, unix.SYS_FSOPEN, unix.SYS_MOVE_MOUNT, unix.SYS_QUOTACTL, unix.SYS_MBIND} {
		pairs = append(pairs, fmt.Sprintf("syscall %d 0 0 0", nr), "EPERM")
	}
	pairs = append(pairs, fmt.Sprintf("socket %d %d", unix.AF_VSOCK, unix.SOCK_STREAM), "EPERM", "tiocsti", "no tty: ENXIO")
	m.want(t, Options{Image: img, Network: "none"}, pairs...)
	m.want(t, Options{Image: img, Network: "none", SecurityOpt: []string{"no-new-privileges"}}, "status NoNewPrivs", "1")
	m.want(t, Options{Image: img, Network: "none", SecurityOpt: []string{"no-new-privileges:true"}, User: "1000"}, "status NoNewPrivs", "1", "status Seccomp", "2")
	seccomp := "0"
	if m.mode(t) == namespaces.SingleID {
		seccomp = "2" // what fakes chown
	}
	m.want(t, Options{Image: img, Network: "none", SecurityOpt: []string{"seccomp=unconfined"}}, "status Seccomp", seccomp)
	m.want(t, Options{Image: img, Network: "none", Privileged: true}, "status Seccomp", seccomp, "mount tmpfs /tmp tmpfs 0", "ok", "sethost inside", "ok")
}

// TestKeyringKernel compares session keyrings: a container may not use the
// caller's.
func TestKeyringKernel(t *testing.T) {
	m := theMachine(t)
	outside, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
	if err != nil {
		t.Skip("no session keyring here:", err)
	}
	o := Options{Image: m.plain(t), Network: "none", SecurityOpt: []string{"seccomp=unconfined"}}
	one, two := m.ask(t, o, "keyring")[0], m.ask(t, o, "keyring")[0]
	if one == two || one == strconv.Itoa(outside) || two == strconv.Itoa(outside) {
		t.Errorf("session keyrings: outside %d, inside %s and %s", outside, one, two)
	}
}

// TestNothingOfTheHostKernel looks around in a container.
func TestNothingOfTheHostKernel(t *testing.T) {
	m := theMachine(t)
	said := m.ask(t, Options{Image: m.plain(t), Network: "none", Hostname: "box"}, "cat /proc/self/mountinfo", "pids", "pid", "hostname", "ls /", "cat /proc/net/dev", "ls /dev")
	for line := range strings.Lines(said[0]) {
		f := strings.Fields(line)
		left, right, _ := strings.Cut(line, " - ")
		switch fs := strings.Fields(right); {
		case f[4] == "/" && fs[0] == "overlay":
		case strings.HasPrefix(f[4], "/proc"), strings.HasPrefix(f[4], "/sys"), strings.HasPrefix(f[4], "/dev"):
		case f[4] == "/etc/resolv.conf", f[4] == "/etc/hosts", f[4] == "/etc/hostname":
			if fs[0] != "tmpfs" {
				t.Errorf("%s", line)
			}
		default:
			t.Errorf("a mount of the host's is seen: %s", line)
		}
		if strings.Contains(left, "shared:") || strings.Contains(left, "master:") {
			t.Errorf("events spread: %s", line)
		}
		// The options of the overlay name directories of the store, all relative.
		if strings.Contains(right, m.root) {
			t.Errorf("the store's place is told: %s", line)
		}
	}
	want := []string{"1", "1", "box", "bin dev etc proc sys tmp"}
	for i, w := range want {
		if said[i+1] != w {
			t.Errorf("answer %d: %q, want %q", i+1, said[i+1], w)
		}
	}
	if strings.Count(said[5], ":") != 1 || !strings.Contains(said[5], "lo:") {
		t.Errorf("devices: %s", said[5])
	}
	if said[6] != "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero" {
		t.Errorf("/dev: %s", said[6])
	}
}

// TestApartKernel runs two containers that must not see each other, and kills
// the moss of one.
func TestApartKernel(t *testing.T) {
	m := ownMachine(t)
	img := m.plain(t)
	for _, remove := range []bool{true, false} {
		t.Run(fmt.Sprintf("rm %t", remove), func(t *testing.T) {
			name := fmt.Sprintf("first-%t", remove)
			first := m.background(t, Options{Image: img, Name: name, Network: "none", Remove: remove, Args: []string{"ready", "sleep 60000"}})
			m.want(t, Options{Image: img, Network: "none"}, "pids", "1", "kill 4000 9", "ESRCH")
			r, err := m.Find(name)
			if err != nil || r.Status != Running || r.Pid == 0 {
				t.Fatalf("while it runs: %+v, %v", r, err)
			}
			if err := m.Remove(r, false); err == nil {
				t.Error("a running container was removed without force")
			}
			first.Process.Kill()
			first.Wait()
			if !gone(r.Pid, r.StartTime) {
				t.Error("the payload lives on after SIGKILL of moss")
			}
			r, err = m.Find(name)
			if remove && err == nil {
				t.Errorf("after SIGKILL, --rm: %+v", r)
			}
			if !remove && (err != nil || r.Status != Exited || r.ExitCode != 137) {
				t.Errorf("after SIGKILL: %+v, %v", r, err)
			}
			if !remove {
				if err := m.Remove(r, false); err != nil {
					t.Error(err)
				}
			}
			m.empty(t)
		})
	}
}

// gone waits a little for the end of a process.
func gone(pid int, start uint64) bool {
	for range 200 {
		if now, err := namespaces.StartTime(pid); err != nil || now != start {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}
