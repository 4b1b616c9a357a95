package container

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"moss/internal/testimage"
	"moss/namespaces"
	"moss/oci"
)

func TestUserKernel(t *testing.T) {
	m := theMachine(t)
	if m.mode(t) == namespaces.SingleID {
		t.Skip("a single id has no groups: see TestSingleIDKernel")
	}
	plain := m.plain(t)
	for _, test := range []struct {
		image, user string
		groups      []string
		want, home  string
	}{
		{plain, "", nil, "0 0 [2001]", "/root"},
		{plain, "root", nil, "0 0 [2001]", "/root"},
		{plain, "0", nil, "0 0 [2001]", "/root"},
		{plain, "app", nil, "1000 1000 [2000 2001]", "/home/app"},
		{plain, "1000", nil, "1000 1000 [2000 2001]", "/home/app"},
		{plain, "app:audio", nil, "1000 29 []", "/home/app"},
		{plain, "1234", nil, "1234 0 []", "/"},
		{plain, "1234:5678", nil, "1234 5678 []", "/"},
		{plain, "0:0", nil, "0 0 []", "/root"},
		{plain, "app", []string{"audio", "777"}, "1000 1000 [29 777 2000 2001]", "/home/app"},
		{m.image(t, oci.Config{User: "app"}), "", nil, "1000 1000 [2000 2001]", "/home/app"},
		{m.image(t, oci.Config{User: "1000:29"}), "", nil, "1000 29 []", "/home/app"},
		{m.image(t, oci.Config{User: "app"}), "root", nil, "0 0 [2001]", "/root"},
		{m.image(t, oci.Config{Env: []string{"HOME=/elsewhere"}}), "app", nil, "1000 1000 [2000 2001]", "/elsewhere"},
	} {
		m.want(t, Options{Image: test.image, User: test.user, GroupAdd: test.groups, Network: "none"}, "id", test.want, "env HOME", test.home,
			"status CapEff", map[bool]string{true: "00000000a80425fb", false: "0000000000000000"}[strings.HasPrefix(test.want, "0 ")])
	}
	for user, want := range map[string]string{
		"nobody-here": "nobody-here", "app:nogroup": "nogroup", "4000000000": "ids", "5000000": "do not exist", "1:5000000": "do not exist", "-1": "",
	} {
		r := m.run(t, Options{Image: plain, User: user, Remove: true, Network: "none", Args: []string{"id"}})
		if r.status != 125 && r.status != 126 || !strings.Contains(r.stderr, want) {
			t.Errorf("-u %s: status %d, %s", user, r.status, r.stderr)
		}
	}
	m.want(t, Options{Image: plain, User: "app", Network: "none"}, "setuid 0", "EPERM", "create /etc/x", "EACCES", "create /tmp/x", "ok", "stat /tmp/x", "100644 1000:1000")
	m.want(t, Options{Image: plain, Network: "none"}, "create /tmp/x", "ok", "chown /tmp/x 1000 29", "ok", "stat /tmp/x", "100644 1000:29",
		"chown /tmp/x 70000 0", "EINVAL", "setgroups", "ok", "setgid 29", "ok", "setuid 1000", "ok", "id", "1000 29 []")
}

func TestSingleIDKernel(t *testing.T) {
	m := theMachine(t)
	if m.mode(t) != namespaces.SingleID {
		t.Skip("this user has more than one id")
	}
	plain := m.plain(t)
	m.want(t, Options{Image: plain, Network: "none"}, "create /tmp/x", "ok", "chown /tmp/x 1000 29", "ok", "stat /tmp/x", "100644 0:0",
		"setgroups", "ok", "setuid 1000", "ok", "status NoNewPrivs", "1")
	for user, want := range map[string]string{"": "0 0", "app": "1000 1000", "1234": "1234 0", "1234:29": "1234 29", "4000000": "4000000 0"} {
		said := m.ask(t, Options{Image: plain, User: user, Network: "none"}, "id", "create /tmp/x", "stat /tmp/x")
		if !strings.HasPrefix(said[0], want+" ") || said[1] != "ok" || said[2] != "100644 "+strings.Replace(want, " ", ":", 1) {
			t.Errorf("-u %q: %q, want %s", user, said, want)
		}
	}
}

// TestBindOwnersKernel: the caller's files are root's inside, and what root
// makes inside is the caller's.
func TestBindOwnersKernel(t *testing.T) {
	m := theMachine(t)
	dir := t.TempDir()
	os.WriteFile(dir+"/mine", nil, 0o644)
	m.want(t, Options{Image: m.plain(t), Network: "none", Mounts: []Mount{{Type: "bind", Source: dir, Target: "/src/here"}}},
		"stat /src/here/mine", "100644 0:0", "create /src/here/new", "ok", "mkdir /src/here/dir", "ok", "stat /src/here/new", "100644 0:0")
	for _, name := range []string{"new", "dir"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		} else if uid, _ := ownerOf(info); uid != os.Getuid() {
			t.Errorf("%s belongs to %d outside, not to %d", name, uid, os.Getuid())
		}
	}
	m.want(t, Options{Image: m.plain(t), Network: "none", Mounts: []Mount{{Type: "bind", Source: dir, Target: "/src", ReadOnly: true}}},
		"create /src/x", "EROFS", "write /src/mine x", "EROFS", "rdonly-off /src", "EPERM")
	m.want(t, Options{Image: m.plain(t), Network: "none", Mounts: []Mount{{Type: "bind", Source: dir + "/mine", Target: "/a/file"}}},
		"write /a/file text", "ok", "cat /a/file", "text")
}

// TestFarOwnerKernel has an image with an owner that no map reaches.
func TestFarOwnerKernel(t *testing.T) {
	m := theMachine(t)
	tar := testimage.NewBuilder().Owned("far", 0o4755, testimage.FarUID, testimage.FarGID, "x").Owned("near", 0o4755, 1000, 29, "x").Tar()
	near, far := "104755 1000:29", "100755 0:0"
	if m.mode(t) == namespaces.SingleID {
		near, far = "104755 0:0", "104755 0:0" // setuid to the only id there is
	}
	m.want(t, Options{Image: m.image(t, oci.Config{}, tar), Network: "none"}, "stat /far", far, "stat /near", near)
	l, err := m.Store.Layer(oci.FromBytes(tar))
	if err != nil {
		t.Fatal(err)
	}
	if m.mode(t) != namespaces.SingleID && !strings.Contains(fmt.Sprint(l.Notes), fmt.Sprint(testimage.FarUID)) {
		t.Errorf("notes of the layer: %q", l.Notes)
	}
}

// TestVolumesKernel: anonymous and named volumes start as a copy of the image.
func TestVolumesKernel(t *testing.T) {
	m := ownMachine(t)
	tar := testimage.NewBuilder().Dir("data", 0o750).File("data/file", 0o640, "the image's").Dir("data/sub", 0o711).
		Symlink("data/link", "/etc/passwd").Owned("data/app", 0o600, 1000, 1000, "").Symlink("alias", "/data").Tar()
	app := "100600 1000:1000"
	if m.mode(t) == namespaces.SingleID {
		app = "100600 0:0"
	}
	img := m.image(t, oci.Config{Volumes: map[string]struct{}{"/data": {}}}, tar)
	look := []string{"stat /data", "40750 0:0", "cat /data/file", "the image's", "stat /data/sub", "40711 0:0", "readlink /data/link", "/etc/passwd", "stat /data/app", app}
	m.want(t, Options{Image: img, Network: "none"}, append(look, "create /data/new", "ok")...)
	m.want(t, Options{Image: img, Network: "none"}, append(look, "stat /data/new", "0 0:0ENOENT")...)

	named := Options{Image: img, Network: "none", Mounts: []Mount{{Type: "volume", Source: "kept", Target: "/data"}}}
	m.want(t, named, append(look, "create /data/new", "ok", "write /data/file changed", "ok")...)
	m.want(t, named, "stat /data/new", "100644 0:0", "cat /data/file", "changedge's")
	named.ReadOnly = true
	m.want(t, named, "create /data/new2", "ok", "create /x", "EROFS", "create /tmp/x", "EROFS", "create /dev/shm/x", "ok", "write /dev/null x", "ok", "write /etc/hosts x", "ok|EROFS")
	named.Mounts[0].ReadOnly = true
	m.want(t, named, "create /data/new3", "EROFS", "cat /data/file", "changedge's")
	m.want(t, Options{Image: img, Network: "none", Mounts: []Mount{{Type: "volume", Source: "nocopy", Target: "/data", VolumeNoCopy: true}}}, "ls /data", "")
	m.want(t, Options{Image: img, Network: "none", Mounts: []Mount{{Type: "volume", Target: "/alias/deep"}}}, "create /data/deep/x", "ok")
	m.want(t, Options{Image: img, Network: "none", Mounts: []Mount{{Type: "tmpfs", Target: "/data", TmpfsOptions: []string{"size=64k", "mode=700"}}}},
		"stat /data", "40700 0:0", "fill /data/full", "ENOSPC")

	// What a container leaves may have any owner and mode.
	r := m.run(t, Options{Image: img, Network: "none", Name: "mess", Args: []string{
		"mkdir /m", "mkdir /m/n", "create /m/n/f", "chown /m/n/f 1000 1000", "chown /m/n 1000 1000", "chmod /m/n 0", "chown /m 33 33", "chmod /m 0", "rm /data/file"}})
	if r.status != 0 {
		t.Errorf("status %d: %q %s", r.status, r.stdout, r.stderr)
	}
	c, err := m.Find("mess")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Remove(c, false); err != nil {
		t.Error(err)
	}
	m.empty(t)
}
