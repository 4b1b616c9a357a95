package cgroups

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"moss/fail"
)

const (
	onlyV2   = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
	hybridV1 = "31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n" +
		"32 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
		"41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
	session = "/user.slice/user-1000.slice/session-3.scope"
	manager = "/user.slice/user-1000.slice/user@1000.service"
)

// machine is a host in a directory. files are its files; ours are the
// directories, as seen from its root, that uid 1000 may write.
func machine(t *testing.T, files map[string]string, ours ...string) host {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return host{root: root, uid: 1000, writable: func(path string) error {
		name, err := filepath.Rel(root, path)
		if err != nil {
			t.Fatal(err)
		}
		switch base := filepath.Base(name); base {
		case "cgroup.procs", "cgroup.subtree_control":
			name = filepath.Dir(name)
		}
		if slices.Contains(ours, "/"+name) {
			return nil
		}
		if slices.Contains(ours, "read-only") {
			return unix.EROFS
		}
		return unix.EACCES
	}}
}

func TestDetect(t *testing.T) {
	const all = "cpuset cpu io memory pids\n"
	for name, c := range map[string]struct {
		host                           host
		mode                           Mode
		mount, version                 string
		controllers, delegated, systed string
		why, try                       string // parts of the warning's; "" for no warning
	}{
		"a delegated scope": {
			host: machine(t, map[string]string{
				"/proc/self/mountinfo": onlyV2, "/proc/self/cgroup": "0::" + manager + "/app.slice/run-1.scope\n",
				"/sys/fs/cgroup" + manager + "/app.slice/run-1.scope/cgroup.controllers": all,
				"/sys/fs/cgroup" + manager + "/cgroup.controllers":                       all,
			}, "/sys/fs/cgroup"+manager, "/sys/fs/cgroup"+manager+"/app.slice/run-1.scope"),
			mode: Unified, mount: "/sys/fs/cgroup", version: "2",
			controllers: all, delegated: all, systed: all,
		},
		"an ssh login: systemd can be asked": {
			host: machine(t, map[string]string{
				"/proc/self/mountinfo": onlyV2, "/proc/self/cgroup": "0::" + session + "\n", "/run/systemd/system/x": "",
				"/sys/fs/cgroup" + session + "/cgroup.controllers": "cpu memory pids\n",
				"/sys/fs/cgroup" + manager + "/cgroup.controllers": all,
			}, "/sys/fs/cgroup"+manager),
			mode: Unified, mount: "/sys/fs/cgroup", version: "2",
			controllers: "cpu memory pids", systed: all,
		},
		"systemd's default: no cpu": {
			host: machine(t, map[string]string{
				"/proc/self/mountinfo": onlyV2, "/proc/self/cgroup": "0::" + session + "\n", "/run/systemd/system/x": "",
				"/sys/fs/cgroup" + session + "/cgroup.controllers": "memory pids\n",
				"/sys/fs/cgroup" + manager + "/cgroup.controllers": "memory pids\n",
			}, "/sys/fs/cgroup"+manager),
			mode: Unified, mount: "/sys/fs/cgroup", version: "2",
			controllers: "memory pids", systed: "memory pids",
			why: "memory pids", try: "Delegate=cpu",
		},
		"su, no session": {
			host: machine(t, map[string]string{
				"/proc/self/mountinfo": onlyV2, "/proc/self/cgroup": "0::/system.slice/cron.service\n", "/run/systemd/system/x": "",
				"/sys/fs/cgroup/system.slice/cron.service/cgroup.controllers": all,
			}),
			mode: Unified, mount: "/sys/fs/cgroup", version: "2", controllers: all,
			why: "no systemd of your own", try: "enable-linger 1000",
		},
		"no systemd": {
			host: machine(t, map[string]string{
				"/proc/self/mountinfo": onlyV2, "/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cgroup.controllers": all,
			}),
			mode: Unified, mount: "/sys/fs/cgroup", version: "2", controllers: all,
			why: "the group / belongs to somebody else", try: "chown",
		},
		"in a container": {
			host: machine(t, map[string]string{
				"/proc/self/mountinfo": onlyV2, "/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cgroup.controllers": all,
			}, "read-only"),
			mode: Unified, mount: "/sys/fs/cgroup", version: "2", controllers: all,
			why: "read-only",
		},
		"ours, but nothing is passed on": {
			host: machine(t, map[string]string{
				"/proc/self/mountinfo": onlyV2, "/proc/self/cgroup": "0::/mine\n", "/sys/fs/cgroup/mine/cgroup.controllers": "\n",
			}, "/sys/fs/cgroup/mine"),
			mode: Unified, mount: "/sys/fs/cgroup", version: "2",
			why: "cgroup.subtree_control",
		},
		"hybrid with systemd": {
			host: machine(t, map[string]string{
				"/proc/self/mountinfo": hybridV1, "/proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/x\n1:name=systemd:/x\n0::/x\n",
				"/sys/fs/cgroup/unified/x/cgroup.controllers": "hugetlb\n", "/run/systemd/system/x": "",
			}),
			mode: Hybrid, mount: "/sys/fs/cgroup/unified", version: "1", controllers: "hugetlb",
			why: "version 1", try: "systemd.unified_cgroup_hierarchy=1",
		},
		"hybrid with OpenRC": {
			host: machine(t, map[string]string{
				"/proc/self/mountinfo": hybridV1, "/proc/self/cgroup": "4:memory:/\n0::/\n", "/run/openrc/x": "",
			}),
			mode: Hybrid, mount: "/sys/fs/cgroup/unified", version: "1",
			why: "version 1", try: "rc_cgroup_mode",
		},
		"legacy": {
			host: machine(t, map[string]string{
				"/proc/self/mountinfo": "32 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n", "/proc/self/cgroup": "4:memory:/\n",
			}),
			mode: Legacy, version: "1", why: "version 1", try: "cgroup_no_v1=all",
		},
		"a private version 1 mount beside version 2": {
			host: machine(t, map[string]string{
				"/proc/self/mountinfo": onlyV2 + "50 23 0:60 / /run/vpn rw - cgroup cgroup rw,net_cls\n", "/proc/self/cgroup": "1:net_cls:/\n0::/mine\n",
				"/sys/fs/cgroup/mine/cgroup.controllers": all,
			}, "/sys/fs/cgroup/mine"),
			mode: Unified, mount: "/sys/fs/cgroup", version: "2", controllers: all, delegated: all,
		},
		"a group of the host mounted": {
			host: machine(t, map[string]string{
				"/proc/self/mountinfo":                       `31 23 0:28 /docker/1 /sys/fs/my\040groups rw - cgroup2 cgroup rw` + "\n",
				"/proc/self/cgroup":                          "0::/docker/1/inner\n",
				"/sys/fs/my groups/inner/cgroup.controllers": all,
			}, "/sys/fs/my groups/inner"),
			mode: Unified, mount: "/sys/fs/my groups", version: "2", controllers: all, delegated: all,
		},
		"outside of the cgroup namespace": {
			host: machine(t, map[string]string{"/proc/self/mountinfo": onlyV2, "/proc/self/cgroup": "0::/../other\n"}),
			mode: Unified, mount: "/sys/fs/cgroup", version: "2", why: "not below",
		},
		"none": {host: machine(t, nil), mode: None, why: "no control groups", try: "mount -t cgroup2"},
	} {
		t.Run(name, func(t *testing.T) {
			i := detect(c.host)
			if i.Mode != c.mode || i.Mount != c.mount || i.Version() != c.version {
				t.Errorf("mode %s at %q, version %q; want %s at %q, version %q", i.Mode, i.Mount, i.Version(), c.mode, c.mount, c.version)
			}
			for _, list := range []struct {
				name string
				got  []string
				want string
			}{{"Controllers", i.Controllers, c.controllers}, {"Delegated", i.Delegated, c.delegated}, {"Systemd", i.Systemd, c.systed}} {
				if !slices.Equal(list.got, strings.Fields(list.want)) {
					t.Errorf("%s = %q, want %q", list.name, list.got, list.want)
				}
			}
			err := i.Warning()
			if c.why == "" {
				if err != nil {
					t.Errorf("Warning() = %v, want none", err)
				}
				return
			}
			lesson := fail.Lesson(err)
			if lesson == nil {
				t.Fatalf("Warning() = %v, which teaches nothing", err)
			}
			if !strings.Contains(lesson.Why, c.why) || !strings.Contains(lesson.Try, c.try) {
				t.Errorf("why: %s\ntry: %s\nwant %q and %q in them", lesson.Why, lesson.Try, c.why, c.try)
			}
		})
	}
}

// What it says of this machine has to hold: a group called delegated lets us
// make one below it.
func TestDetectHere(t *testing.T) {
	i := Detect()
	t.Logf("%+v", i)
	if len(i.Delegated) == 0 {
		return
	}
	dir, err := os.MkdirTemp(filepath.Join(i.Mount, i.Path), "moss-test-")
	if err != nil {
		t.Fatalf("%v are said to be delegated to us, but: %v", i.Delegated, err)
	}
	if err := os.Remove(dir); err != nil {
		t.Error(err)
	}
}
