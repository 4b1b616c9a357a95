package main

import (
	"encoding/json"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
)

// dockerCaps are docker's default capabilities.
var dockerCaps = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}

type object = map[string]any

// spec writes a bundle's config.json (runtime-spec config.md) that asks of an
// OCI runtime what moss run does by itself: docker's mounts, capabilities and
// seccomp profile, all namespaces, one id.
func spec(bundle, profile string, argv []string) error {
	me, err := user.Current()
	if err != nil {
		return err
	}
	uid, _ := strconv.Atoi(me.Uid)
	gid, _ := strconv.Atoi(me.Gid)
	filter, err := resolve(profile)
	if err != nil {
		return err
	}
	mount := func(target, kind, source string, options ...string) object {
		return object{"destination": target, "type": kind, "source": source, "options": options}
	}
	bound := func(name string) object {
		return mount("/etc/"+name, "bind", "/etc/"+name, "rbind", "rprivate")
	}
	var namespaces []object
	for _, n := range []string{"user", "mount", "pid", "ipc", "uts", "network", "cgroup"} {
		namespaces = append(namespaces, object{"type": n})
	}
	config := object{
		"ociVersion": "1.0.2",
		"process": object{
			"user": object{"uid": 0, "gid": 0}, "args": argv, "cwd": "/",
			"env":          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			"capabilities": object{"bounding": dockerCaps, "effective": dockerCaps, "permitted": dockerCaps},
		},
		"root":     object{"path": "rootfs"},
		"hostname": "bench",
		"mounts": []object{
			mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
			mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
			mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
			mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
			mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
			mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
			bound("hosts"), bound("hostname"), bound("resolv.conf"),
		},
		"linux": object{
			"namespaces":    namespaces,
			"uidMappings":   []object{{"containerID": 0, "hostID": uid, "size": 1}},
			"gidMappings":   []object{{"containerID": 0, "hostID": gid, "size": 1}},
			"seccomp":       filter,
			"maskedPaths":   []string{"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"},
			"readonlyPaths": []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	b, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(bundle, "config.json"), b, 0o644)
}

// resolve turns docker's profile, which has conditions, into the runtime-spec's,
// which has none: for this machine and docker's default capabilities.
func resolve(file string) (object, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	type condition struct{ Caps, Arches []string }
	var profile struct {
		DefaultAction   string
		DefaultErrnoRet *uint
		ArchMap         []struct {
			Architecture     string
			SubArchitectures []string
		}
		Syscalls []struct {
			Names              []string
			Action             string
			ErrnoRet           *uint
			Args               []object
			Includes, Excludes condition
		}
	}
	if err := json.Unmarshal(b, &profile); err != nil {
		return nil, err
	}
	ours := map[string]string{"amd64": "SCMP_ARCH_X86_64", "arm64": "SCMP_ARCH_AARCH64"}[runtime.GOARCH]
	var architectures []string
	for _, a := range profile.ArchMap {
		if a.Architecture == ours {
			architectures = append([]string{ours}, a.SubArchitectures...)
		}
	}
	has := func(c string) bool { return slices.Contains(dockerCaps, c) }
	lacks := func(c string) bool { return !has(c) }
	var rules []object
	for _, s := range profile.Syscalls {
		in, out := s.Includes, s.Excludes
		if slices.ContainsFunc(in.Caps, lacks) || slices.ContainsFunc(out.Caps, has) || slices.Contains(out.Arches, runtime.GOARCH) ||
			len(in.Arches) > 0 && !slices.Contains(in.Arches, runtime.GOARCH) {
			continue
		}
		rule := object{"names": s.Names, "action": s.Action}
		if s.ErrnoRet != nil {
			rule["errnoRet"] = s.ErrnoRet
		}
		if len(s.Args) > 0 {
			rule["args"] = s.Args
		}
		rules = append(rules, rule)
	}
	return object{"defaultAction": profile.DefaultAction, "defaultErrnoRet": profile.DefaultErrnoRet, "architectures": architectures, "syscalls": rules}, nil
}
