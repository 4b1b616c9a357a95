package container

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"moss/fail"
	"moss/internal/kerneltest"
	"moss/namespaces"
)

// Looking must not decide anything: the ids of a store are chosen by its first
// use, not by the first who asks.
func TestInfoDecidesNothing(t *testing.T) {
	e := openTest(t)
	i, err := e.Info()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(e.root, "idmap.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("moss info has chosen the store's ids (%v)", err)
	}
	if i.IDsFixed || len(i.IDs.UIDs) == 0 {
		t.Errorf("IDs = %v, fixed %v; want what would be chosen", i.IDs, i.IDsFixed)
	}
	want, err := e.IDMap()
	if err != nil {
		t.Fatal(err)
	}
	if i, err = e.Info(); err != nil || !i.IDsFixed || !i.IDs.Equal(want) {
		t.Errorf("after the choice: %v, fixed %v, %v; want %v", i.IDs, i.IDsFixed, err, want)
	}
}

func TestInfo(t *testing.T) {
	e := openTest(t)
	for name, status := range map[string]string{"a": Exited, "b": Created} {
		id := newID()
		if err := os.Mkdir(e.dir(id), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := e.save(&Record{ID: id, Name: name, Status: status, Created: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	i, err := e.Info()
	if err != nil {
		t.Fatal(err)
	}
	if i.Containers != 2 || i.ContainersRunning != 0 || i.ContainersStopped != 2 || i.Images != 0 {
		t.Errorf("counts: %d containers, %d running, %d stopped, %d images", i.Containers, i.ContainersRunning, i.ContainersStopped, i.Images)
	}
	if i.Root != e.root || i.RunRoot == "" || i.DiskFree <= 0 || i.DiskSize < i.DiskFree {
		t.Errorf("store: %q %q, %d of %d bytes free", i.Root, i.RunRoot, i.DiskFree, i.DiskSize)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if i.Name != host || i.KernelVersion == "" || i.Architecture == "" || i.NCPU < 1 || i.MemTotal < 1<<20 || i.OSType != "linux" {
		t.Errorf("machine: %+v", i)
	}
	if !slices.Contains(i.SecurityOptions, "name=cgroupns") {
		t.Errorf("SecurityOptions = %q", i.SecurityOptions)
	}
	for _, w := range i.Warnings {
		if l := fail.Lesson(w); l == nil {
			t.Errorf("a warning that teaches nothing: %v", w)
		}
	}
}

// A store with another map than the user has today says so, in both directions.
func TestInfoOtherMap(t *testing.T) {
	now, _ := namespaces.Detect()
	for name, c := range map[string]struct {
		m    namespaces.IDMap
		want string
	}{
		"single": {namespaces.SingleMap(0, 0), "more ids are possible"},
		"moved":  {namespaces.IDMap{Mode: namespaces.FullMap, UIDs: []namespaces.Range{{Host: 7, Count: 1}}, GIDs: []namespaces.Range{{Host: 7, Count: 1}}}, "another id map"},
	} {
		t.Run(name, func(t *testing.T) {
			e := openTest(t)
			if name == "single" && now.Mode == namespaces.SingleID {
				t.Skip("this user cannot have more than one id")
			}
			e.ids = &c.m
			if err := os.WriteFile(filepath.Join(e.root, "idmap.json"), []byte("{}"), 0o600); err != nil {
				t.Fatal(err)
			}
			i, err := e.Info()
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(i.Warnings, func(err error) bool { return strings.Contains(err.Error(), c.want) }) {
				t.Errorf("warnings %q, want one with %q", i.Warnings, c.want)
			}
			e.ids = nil // openTest's cleanup needs a map that works
			os.Remove(filepath.Join(e.root, "idmap.json"))
		})
	}
}

// The probe says what the tests' own question to the kernel says.
func TestProbeUserNSKernel(t *testing.T) {
	can, err := kerneltest.Condition("userns")
	if err != nil {
		t.Fatal(err)
	}
	if got := probeUserNS(); (got == nil) != can {
		t.Errorf("probeUserNS() = %v, but a user namespace can be made: %v", got, can)
	}
}

func TestOSName(t *testing.T) {
	dir := t.TempDir()
	for i, c := range []struct{ content, want string }{
		{"NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n", "Debian GNU/Linux 12 (bookworm)"},
		{"PRETTY_NAME='Void Linux'\n", "Void Linux"},
		{"PRETTY_NAME=Alpine", "Alpine"},
		{"NAME=x\n", "linux"},
	} {
		name := filepath.Join(dir, string(rune('a'+i)))
		if err := os.WriteFile(name, []byte(c.content), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := osName(filepath.Join(dir, "missing"), name); got != c.want {
			t.Errorf("osName of %q = %q, want %q", c.content, got, c.want)
		}
	}
}
