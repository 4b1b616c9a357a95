package container

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"moss/fail"
	"moss/namespaces"
	"moss/overlay"
)

// mounts looks up everything that is mounted below the root: what the user
// asked for, the image's volumes, and the three files of /etc that every
// container gets.
func (e *Engine) mounts(c *container, s *namespaces.Spec, view overlay.View) error {
	for i := range c.Process.Mounts {
		m := &c.Process.Mounts[i]
		out, err := e.mount(c, m, i, s, view)
		if err != nil {
			return err
		}
		s.Mounts = append(s.Mounts, out)
	}
	return etcFiles(c, s, view)
}

func (e *Engine) mount(c *container, m *Mount, i int, s *namespaces.Spec, view overlay.View) (namespaces.Mount, error) {
	out := namespaces.Mount{Type: "bind", Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly, NonRecursive: m.NonRecursive}
	if out.Target == "/" {
		return out, &fail.Error{Op: "mounting on", On: "/", Err: errors.New("the root is the image's"), Try: "--rootfs DIR takes a directory as root"}
	}
	if out.Target == "/proc" || strings.HasPrefix(out.Target, "/proc/") {
		return out, &fail.Error{Op: "mounting on", On: out.Target, Err: errors.New("/proc is the kernel's"), Try: "another place inside, such as /host" + out.Target}
	}
	var err error
	if out.Propagation, err = propagation(m.Propagation); err != nil {
		return out, err
	}
	switch m.Type {
	case "tmpfs":
		out.Type = "tmpfs"
		out.Flags, out.Data, err = tmpfsOptions(m)
		return out, err
	case "volume":
		out.Volume = true
		if m.VolumeSubpath != "" {
			return out, &fail.Error{Op: "volume-subpath", On: m.VolumeSubpath, Err: errors.New("not supported yet"), Try: "mount the whole volume"}
		}
		out.Source, err = e.volume(c, m, i, s, view)
		return out, err
	}
	info, err := os.Stat(m.Source)
	if errors.Is(err, fs.ErrNotExist) && m.CreateSource {
		// -v of a missing directory makes it, as docker does
		old := unix.Umask(0o022)
		err = os.MkdirAll(m.Source, 0o755)
		unix.Umask(old)
		if err == nil {
			info, err = os.Stat(m.Source)
		}
	}
	if err != nil {
		return out, &fail.Error{Op: "bind source", On: m.Source, Err: cause(errors.Unwrap(err), err), Try: "a path that exists on the host and that you may reach"}
	}
	out.File = !info.IsDir()
	return out, nil
}

func propagation(name string) (uintptr, error) {
	switch name {
	case "", "rprivate", "private":
		return 0, nil
	case "rslave":
		return unix.MS_SLAVE | unix.MS_REC, nil
	case "slave":
		return unix.MS_SLAVE, nil
	case "rshared":
		return unix.MS_SHARED | unix.MS_REC, nil
	case "shared":
		return unix.MS_SHARED, nil
	}
	return 0, fmt.Errorf("mount propagation %q: want private, slave, shared or one of these with an r before it", name)
}

// tmpfsOptions splits docker's option list into mount(2)'s flags and tmpfs(5)'s
// own options. Without any it is docker's default: noexec, nosuid, nodev.
func tmpfsOptions(m *Mount) (flags uintptr, data string, err error) {
	flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if m.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	mode := "mode=1777"
	var rest []string
	for _, opt := range m.TmpfsOptions {
		key, _, _ := strings.Cut(opt, "=")
		switch key {
		case "":
		case "rw", "defaults", "async", "atime", "diratime":
		case "ro":
			flags |= unix.MS_RDONLY
		case "exec":
			flags &^= unix.MS_NOEXEC
		case "noexec":
			flags |= unix.MS_NOEXEC
		case "suid":
			flags &^= unix.MS_NOSUID
		case "nosuid":
			flags |= unix.MS_NOSUID
		case "dev":
			flags &^= unix.MS_NODEV
		case "nodev":
			flags |= unix.MS_NODEV
		case "noatime":
			flags |= unix.MS_NOATIME
		case "sync":
			flags |= unix.MS_SYNCHRONOUS
		case "mode":
			mode = opt
		case "size", "nr_blocks", "nr_inodes", "uid", "gid":
			rest = append(rest, opt)
		default:
			return 0, "", &fail.Error{Op: "--tmpfs " + m.Target, On: opt, Err: errors.New("unknown option"),
				Try: "size=, mode=, nr_inodes=, uid=, gid=, ro, exec, suid, dev, noatime"}
		}
	}
	return flags, strings.Join(append([]string{mode}, rest...), ","), nil
}

// volume returns the host directory behind a volume. A new one starts as a copy
// of what the image has at that place, owners included, as docker's does.
func (e *Engine) volume(c *container, m *Mount, i int, s *namespaces.Spec, view overlay.View) (string, error) {
	dir := filepath.Join(e.dir(c.ID), fmt.Sprintf("volume%d", i))
	if m.Source != "" { // named
		if !validName(m.Source) {
			return "", fmt.Errorf("volume name %q: want letters, digits, '_', '.' and '-'; a host directory starts with / or ./", m.Source)
		}
		volumes := filepath.Join(e.root, "volumes")
		if err := makeDir(volumes, 0o711, namespaces.IDMap{}); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
		dir = filepath.Join(volumes, m.Source)
	}
	data := filepath.Join(dir, "_data")
	if _, err := os.Stat(data); err == nil {
		return data, nil
	}
	// Filled under another name first: a volume is there whole or not at all.
	making, err := os.MkdirTemp(filepath.Dir(dir), ".making-")
	if err != nil {
		return "", err
	}
	defer e.removeTree(making)
	if err := os.Chmod(making, 0o711); err != nil {
		return "", err
	}
	fresh := filepath.Join(making, "_data")
	if err := makeDir(fresh, 0o755, s.ContainerMap()); err != nil {
		return "", err
	}
	if info, err := view.Stat(m.Target); err == nil && info.IsDir() && !m.VolumeNoCopy && c.Options.Rootfs == "" {
		if err := e.fill(fresh, m.Target, view); err != nil {
			return "", fmt.Errorf("filling the volume at %s from the image: %w", m.Target, err)
		}
	}
	if err := os.Rename(making, dir); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return "", err
	}
	return data, nil
}

// followLinks follows a file's symlink inside the image also where it leads to
// nothing yet, as /etc/resolv.conf does in images made from machines with
// systemd: the file is then made there.
func followLinks(view overlay.View, target string) string {
	at := target
	for range 8 {
		info, err := view.Lstat(at)
		if err != nil || info.Mode()&fs.ModeSymlink == 0 {
			return at
		}
		link, err := view.Readlink(at)
		if err != nil {
			return at
		}
		if !path.IsAbs(link) {
			link = path.Join(path.Dir(at), link)
		}
		at = path.Clean("/" + link)
	}
	return target
}

// apt downloads as a user of its own and looks whether it has become that user.
// With a single id it only seems so (seccomp.Options, FakeOwner), and apt would
// stop; this tells it to stay root.
const (
	aptSettings = "/etc/apt/apt.conf.d"
	aptSingleID = "// Written by moss: this container has a single id (docs/ids.md).\nAPT::Sandbox::User \"root\";\n"
)

// etcFiles adds the files of /etc that depend on the container rather than on
// the image, unless something else is mounted in their place.
func etcFiles(c *container, s *namespaces.Spec, view overlay.View) error {
	hosts, err := hostsFile(c)
	if err != nil {
		return err
	}
	resolv, err := resolvConf(c.Options)
	if err != nil {
		return err
	}
	files := []namespaces.File{
		{Target: "/etc/resolv.conf", Content: resolv},
		{Target: "/etc/hostname", Content: c.Process.Hostname + "\n"},
		{Target: "/etc/hosts", Content: hosts},
	}
	if s.UserNS == nil && s.UID == 0 && c.outline.Apt {
		files = append(files, namespaces.File{Target: aptSettings + "/zz-moss-single-id", Content: aptSingleID})
	}
	for _, f := range files {
		f.Target = followLinks(view, f.Target)
		if !slices.ContainsFunc(s.Mounts, func(m namespaces.Mount) bool { return m.Target == f.Target || m.Target == "/etc" }) {
			s.Files = append(s.Files, f)
		}
	}
	return nil
}

// hostsFile is hosts(5). On the host's network the host's names hold too.
func hostsFile(c *container) (string, error) {
	var b strings.Builder
	host, err := os.ReadFile("/etc/hosts")
	if c.Options.Network != "none" && err == nil {
		b.Write(host)
		if len(host) > 0 && host[len(host)-1] != '\n' {
			b.WriteByte('\n')
		}
	} else {
		b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	}
	for _, add := range c.Options.AddHosts {
		name, ip, ok := strings.Cut(add, ":")
		if n, i, eq := strings.Cut(add, "="); eq && !strings.Contains(n, ":") {
			name, ip, ok = n, i, true
		}
		if ip == "host-gateway" && c.Options.Network != "none" {
			ip = "127.0.0.1" // on the host's network the host is here
		}
		if _, err := netip.ParseAddr(strings.Trim(ip, "[]")); !ok || name == "" || err != nil {
			return "", fmt.Errorf("--add-host %s: want NAME:ADDRESS", add)
		}
		fmt.Fprintf(&b, "%s\t%s\n", strings.Trim(ip, "[]"), name)
	}
	fmt.Fprintf(&b, "127.0.1.1\t%s\n", c.Process.Hostname)
	return b.String(), nil
}

// resolvConf is the host's resolv.conf(5), with what --dns, --dns-search and
// --dns-option replace.
func resolvConf(o Options) (string, error) {
	host, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("reading the host's /etc/resolv.conf: %w", err)
	}
	if len(o.DNS)+len(o.DNSSearch)+len(o.DNSOptions) == 0 {
		return string(host), nil
	}
	var b strings.Builder
	for line := range strings.Lines(string(host)) {
		key, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		replaced := key == "nameserver" && len(o.DNS) > 0 || (key == "search" || key == "domain") && len(o.DNSSearch) > 0 ||
			key == "options" && len(o.DNSOptions) > 0
		if !replaced {
			b.WriteString(line)
		}
	}
	if s := b.String(); s != "" && !strings.HasSuffix(s, "\n") {
		b.WriteByte('\n')
	}
	for _, ip := range o.DNS {
		if _, err := netip.ParseAddr(ip); err != nil {
			return "", fmt.Errorf("--dns %s: want an IP address", ip)
		}
		fmt.Fprintf(&b, "nameserver %s\n", ip)
	}
	if len(o.DNSSearch) > 0 && !slices.Equal(o.DNSSearch, []string{"."}) {
		fmt.Fprintf(&b, "search %s\n", strings.Join(o.DNSSearch, " "))
	}
	if len(o.DNSOptions) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(o.DNSOptions, " "))
	}
	return b.String(), nil
}
