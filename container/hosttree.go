package container

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"moss/namespaces"
)

// hostTree plans how the host's own tree becomes a container's root
// (--rootfs /): an overlay with a private upper layer for each directory.
//
// One overlay over "/" would be simpler, and is refused: in a user namespace
// the mounts below a directory are locked together with it
// (mount_namespaces(7), "Restrictions on mount namespaces"), and overlayfs
// would have to take them apart. So a directory with a mount below it is made
// anew and its entries are planned one by one; any other is one overlay. What
// the kernel shows of itself (/proc, /sys, /dev) the container gets afresh.
func hostTree() ([]namespaces.TreeEntry, error) {
	mounts, err := mountPoints()
	if err != nil {
		return nil, err
	}
	var plan []namespaces.TreeEntry
	var add func(dir string)
	add = func(dir string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return // not ours to read: it stays empty
		}
		for _, entry := range entries {
			path := filepath.Join(dir, entry.Name())
			name := strings.TrimPrefix(path, "/")
			fstype, mounted := mounts[path]
			switch {
			case entry.Type()&os.ModeSymlink != 0:
				if target, err := os.Readlink(path); err == nil {
					plan = append(plan, namespaces.TreeEntry{Path: name, Link: target})
				}
			case entry.IsDir() && mounted && ofKernel(fstype):
				plan = append(plan, namespaces.TreeEntry{Path: name, Dir: true})
			case entry.IsDir() && hasMountBelow(mounts, path):
				plan = append(plan, namespaces.TreeEntry{Path: name, Dir: true})
				add(path)
			case entry.IsDir():
				plan = append(plan, namespaces.TreeEntry{Path: name, Dir: true, Overlay: true})
			case entry.Type().IsRegular():
				plan = append(plan, namespaces.TreeEntry{Path: name})
			}
		}
	}
	add("/")
	return plan, nil
}

func hasMountBelow(mounts map[string]string, dir string) bool {
	for m := range mounts {
		if strings.HasPrefix(m, dir+"/") {
			return true
		}
	}
	return false
}

// ofKernel reports a file system that shows the kernel rather than files.
func ofKernel(fstype string) bool {
	return slices.Contains([]string{"proc", "sysfs", "devtmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "securityfs", "debugfs",
		"tracefs", "bpf", "configfs", "pstore", "autofs", "binfmt_misc", "hugetlbfs", "rpc_pipefs", "nsfs", "fusectl", "efivarfs"}, fstype)
}

// mountPoints reads where what is mounted, from /proc/self/mountinfo
// (proc_pid_mountinfo(5)).
func mountPoints() (map[string]string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	mounts := map[string]string{}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(string(b)) {
		left, right, ok := strings.Cut(line, " - ")
		f, t := strings.Fields(left), strings.Fields(right)
		if ok && len(f) > 4 && len(t) > 0 {
			mounts[unescape.Replace(f[4])] = t[0]
		}
	}
	return mounts, nil
}
