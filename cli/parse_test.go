package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"moss/container"
)

type mounts struct {
	in   string
	want container.Mount
	err  string // part of it
}

func testMounts(t *testing.T, parse func(string) (container.Mount, error), rows []mounts) {
	t.Helper()
	for _, row := range rows {
		got, err := parse(row.in)
		switch {
		case row.err != "":
			if err == nil || !strings.Contains(err.Error(), row.err) {
				t.Errorf("%q: got %+v, %v, want an error with %q", row.in, got, err, row.err)
			}
		case err != nil:
			t.Errorf("%q: %v", row.in, err)
		case !reflect.DeepEqual(got, row.want):
			t.Errorf("%q:\n got %+v\nwant %+v", row.in, got, row.want)
		}
	}
}

func TestParseVolume(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	bind := func(src, dst string) container.Mount {
		return container.Mount{Type: "bind", Source: src, Target: dst, CreateSource: true}
	}
	readOnly, slave := bind("/a", "/b"), bind("/a", "/b")
	readOnly.ReadOnly = true
	slave.ReadOnly, slave.Propagation = true, "rslave"
	testMounts(t, parseVolume, []mounts{
		{in: "/data", want: container.Mount{Type: "volume", Target: "/data"}},
		{in: "/data/", want: container.Mount{Type: "volume", Target: "/data"}},
		{in: "name:/data", want: container.Mount{Type: "volume", Source: "name", Target: "/data"}},
		{in: "name:/data:nocopy,ro", want: container.Mount{Type: "volume", Source: "name", Target: "/data", ReadOnly: true, VolumeNoCopy: true}},
		{in: "/a:/b", want: bind("/a", "/b")},
		{in: "/a:/b:rw", want: bind("/a", "/b")},
		{in: "/a:/b:ro", want: readOnly},
		{in: "/a:/b:ro,Z,rslave,cached", want: slave},
		{in: "/a/../c:/b/../d", want: bind("/c", "/d")},
		{in: ".:/src", want: bind(dir, "/src")},
		{in: "./x:/src", want: bind(filepath.Join(dir, "x"), "/src")},
		{in: "../x:/src", want: bind(filepath.Join(filepath.Dir(dir), "x"), "/src")},
		{in: "", err: "invalid volume specification: ''"},
		{in: ":", err: "invalid volume specification"},
		{in: ":/b", err: "invalid volume specification"},
		{in: "/a:", err: "invalid volume specification"},
		{in: "a:b:c:d", err: "invalid volume specification: 'a:b:c:d'"},
		{in: "/a:ro", err: "invalid volume specification: '/a:ro'"},
		{in: "/a:b", err: "mount path must be absolute"},
		{in: "/a:/", err: "destination can't be '/'"},
		{in: "/a:/b:r", err: "invalid mode: r; did you mean 'ro'?"},
		{in: "/a:/b:ro,rw", err: "invalid mode: ro,rw"},
		{in: "/a:/b:nocopy", err: "nocopy is for volumes"},
		{in: "name:/b:shared", err: "propagation is for directories"},
		{in: "x/y:/b", err: "If you intended to pass a host directory, use absolute path"},
		{in: "x:/b", err: "invalid characters for a local volume name"}, // docker wants two letters
		{in: "~/x:/b", err: "use absolute path"},
	})
}

func TestParseMount(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	testMounts(t, parseMount, []mounts{
		{in: "type=bind,source=/a,target=/b", want: container.Mount{Type: "bind", Source: "/a", Target: "/b"}},
		{in: "type=bind,src=./a,dst=/b,readonly", want: container.Mount{Type: "bind", Source: filepath.Join(dir, "a"), Target: "/b", ReadOnly: true}},
		{in: "TYPE=BIND,SRC=/a,destination=/b,ro=false", want: container.Mount{Type: "bind", Source: "/a", Target: "/b"}},
		{in: "type=bind,src=/a,dst=/b,bind-propagation=rslave,bind-recursive=disabled", want: container.Mount{Type: "bind", Source: "/a", Target: "/b", Propagation: "rslave", NonRecursive: true}},
		{in: "type=bind,src=/a,dst=/b,bind-nonrecursive", want: container.Mount{Type: "bind", Source: "/a", Target: "/b", NonRecursive: true}},
		{in: `type=bind,"src=/with,comma",dst=/b`, want: container.Mount{Type: "bind", Source: "/with,comma", Target: "/b"}},
		{in: "dst=/b", want: container.Mount{Type: "volume", Target: "/b"}},
		{in: "src=vol,dst=/b,volume-nocopy=true,volume-subpath=x", want: container.Mount{Type: "volume", Source: "vol", Target: "/b", VolumeNoCopy: true, VolumeSubpath: "x"}},
		{in: "type=tmpfs,dst=/b,tmpfs-size=64m,tmpfs-mode=1770", want: container.Mount{Type: "tmpfs", Target: "/b", TmpfsOptions: []string{"size=67108864", "mode=1770"}}},
		{in: "type=bind", err: "target is required"},
		{in: "", err: "EOF"},
		{in: "type=bind,dst=/b", err: "field Source must not be empty"},
		{in: "type=bind,src=a,dst=/b", err: `invalid mount config for type "bind": invalid mount path: 'a' mount path must be absolute`},
		{in: "type=bind,src=/a,dst=b", err: "mount path must be absolute"},
		{in: "type=tmpfs,src=/a,dst=/b", err: "field Source must not be specified"},
		{in: "type=bind,foo=bar", err: "unexpected key 'foo' in 'foo=bar'"},
		{in: "type=bind,traget=/b", err: "unexpected key 'traget' in 'traget=/b'; did you mean 'target'?"},
		{in: "type=bind,src", err: "invalid field 'src' must be a key=value pair"},
		{in: "type=bind,src=/a, dst=/b", err: "option should not have whitespace"},
		{in: "type=bind,src=/a,dst=/b,ro=maybe", err: "invalid value for ro: maybe"},
		{in: "type=bnid,src=/a,dst=/b", err: "did you mean 'bind'?"},
		{in: "type=tmpfs,dst=/b,tmpfs-size=x", err: "invalid value for tmpfs-size: x"},
		{in: "type=tmpfs,dst=/b,tmpfs-mode=8", err: "invalid value for tmpfs-mode: 8"},
		{in: "type=bind,src=/a,dst=/b,tmpfs-size=1m", err: "cannot mix 'tmpfs-*' options with mount type 'bind'"},
		{in: "type=tmpfs,dst=/b,tmpfs-size=1m,volume-nocopy", err: "cannot mix 'tmpfs-size' with 'volume-nocopy'"},
		{in: "type=bind,src=/a,dst=/b,bind-propagation=x", err: "invalid value for bind-propagation: x"},
		{in: "type=bind,src=/a,dst=/b,bind-recursive=x", err: "invalid value for bind-recursive: x"},
	})
}

func TestParseTmpfs(t *testing.T) {
	testMounts(t, parseTmpfs, []mounts{
		{in: "/run", want: container.Mount{Type: "tmpfs", Target: "/run"}},
		{in: "/run:size=64m,mode=1777", want: container.Mount{Type: "tmpfs", Target: "/run", TmpfsOptions: []string{"size=64m", "mode=1777"}}},
		{in: "run", err: "mount path must be absolute"},
		{in: "/", err: "destination can't be '/'"},
	})
}

func TestDuplicateMountPoint(t *testing.T) {
	err := checkDuplicates([]container.Mount{{Type: "bind", Target: "/x"}, {Type: "tmpfs", Target: "/y"}, {Type: "volume", Target: "/x"}})
	if err == nil || err.Error() != "Duplicate mount point: /x" {
		t.Errorf("got %v", err)
	}
}

func FuzzParseVolume(f *testing.F) {
	for _, s := range []string{"/a:/b:ro", "name:/b", "./x:/y:z,rslave", ":::", "a:b:c:d", "/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { checkMount(t, s, parseVolume) })
}

func FuzzParseMount(f *testing.F) {
	for _, s := range []string{"type=bind,src=/a,dst=/b,ro", "type=tmpfs,dst=/x,tmpfs-size=1m", `"a,b"=c`, "dst=/\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { checkMount(t, s, parseMount) })
}

// checkMount holds for whatever was typed: what is accepted has a clean absolute
// target that is not the root, and its source is what its type wants.
func checkMount(t *testing.T, s string, parse func(string) (container.Mount, error)) {
	m, err := parse(s)
	if err != nil {
		return
	}
	if !filepath.IsAbs(m.Target) || filepath.Clean(m.Target) != m.Target || m.Target == "/" || strings.ContainsRune(m.Target, 0) {
		t.Errorf("%q: target %q", s, m.Target)
	}
	switch m.Type {
	case "bind":
		if !filepath.IsAbs(m.Source) || filepath.Clean(m.Source) != m.Source {
			t.Errorf("%q: source %q", s, m.Source)
		}
	case "volume":
		if strings.ContainsAny(m.Source, "/\x00") || strings.HasPrefix(m.Source, ".") {
			t.Errorf("%q: volume name %q", s, m.Source)
		}
	case "tmpfs":
		if m.Source != "" {
			t.Errorf("%q: source %q", s, m.Source)
		}
	default:
		t.Errorf("%q: type %q", s, m.Type)
	}
}

func TestParseBytes(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "32": 32, "32b": 32, "32B": 32, "64m": 64 << 20, "64M": 64 << 20, "64MB": 64 << 20, "64MiB": 64 << 20,
		"1k": 1024, "1.5g": 3 << 29, "1 g": 1 << 30, "2T": 2 << 40, "1p": 1 << 50,
	} {
		if got, err := parseBytes(in); got != want || err != nil {
			t.Errorf("parseBytes(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "m", "-1", "1x", "1mm", "1bb", "1ib", "m1", "1e3", "0x10", "1_0", "inf", "NaN", "1  g", "9p9", "99999p", "+1"} {
		if got, err := parseBytes(in); err == nil {
			t.Errorf("parseBytes(%q) = %d, want an error", in, got)
		}
	}
}

func TestParseUlimit(t *testing.T) {
	for in, want := range map[string]container.Ulimit{
		"nofile=1024":      {Name: "nofile", Soft: 1024, Hard: 1024},
		"nofile=1024:2048": {Name: "nofile", Soft: 1024, Hard: 2048},
		"core=-1":          {Name: "core", Soft: -1, Hard: -1},
		"core=0:-1":        {Name: "core", Soft: 0, Hard: -1},
	} {
		if got, err := parseUlimit(in); got != want || err != nil {
			t.Errorf("parseUlimit(%q) = %+v, %v, want %+v", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"nofile":         "invalid ulimit argument: nofile",
		"nofiles=1":      "invalid ulimit type: nofiles; did you mean 'nofile'?",
		"nofile=":        "want a number",
		"nofile=a":       "want a number",
		"nofile=1:2:3":   "want a number",
		"nofile=2:1":     "ulimit soft limit must be less than or equal to hard limit: 2 > 1",
		"nofile=-1:1024": "ulimit soft limit must be less than or equal to hard limit",
		"nofile=-2":      "want a number",
	} {
		if got, err := parseUlimit(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("parseUlimit(%q) = %+v, %v, want an error with %q", in, got, err, want)
		}
	}
	var limits []container.Ulimit
	value := ulimitValue{&limits}
	for _, s := range []string{"nofile=1", "core=0", "nofile=2"} {
		if err := value.Set(s); err != nil {
			t.Fatal(err)
		}
	}
	if fmt.Sprint(limits) != "[{nofile 2 2} {core 0 0}]" {
		t.Errorf("the last of a name counts: got %v", limits)
	}
}

func TestParseEnv(t *testing.T) {
	t.Setenv("HERE", "yes=1")
	t.Setenv("EMPTY", "")
	os.Unsetenv("ABSENT")
	for in, want := range map[string]string{
		"A=b": "A=b", "A=": "A=", "A=b=c": "A=b=c", "HERE": "HERE=yes=1", "EMPTY": "EMPTY=", "ABSENT": "ABSENT",
	} {
		if got, err := parseEnv(in); got != want || err != nil {
			t.Errorf("parseEnv(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"", "=x"} {
		if _, err := parseEnv(in); err == nil {
			t.Errorf("parseEnv(%q): want an error", in)
		}
	}
}

func TestEnvFile(t *testing.T) {
	t.Setenv("HERE", "yes")
	os.Unsetenv("ABSENT")
	path := filepath.Join(t.TempDir(), "vars")
	for _, row := range []struct {
		text, want, err string
	}{
		{text: "A=1\nB=two words\n", want: "A=1|B=two words"},
		{text: "\ufeffA=1\r\n# no\n\n   #neither\n  B= x \nC='q\" $A #'\n", want: "A=1|B= x |C='q\" $A #'"},
		{text: "HERE\nABSENT\nEMPTY=", want: "HERE=yes|EMPTY="},
		{text: "A=1\n=x\n", err: path + ":2: no variable name on line '=x'"},
		{text: "A=1\n\nA B=x\n", err: path + ":3: variable 'A B' contains whitespaces"},
		{text: "A\xff=1\n", err: path + ":1: invalid utf8 bytes"},
		{text: "A=" + strings.Repeat("x", 2<<20), err: path + ":1: line is longer than 1 MiB"},
	} {
		if err := os.WriteFile(path, []byte(row.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readEnvFile(path)
		if row.err != "" {
			if err == nil || !strings.Contains(err.Error(), row.err) {
				t.Errorf("%.40q: got %v, want an error with %q", row.text, err, row.err)
			}
			continue
		}
		if strings.Join(got, "|") != row.want || err != nil {
			t.Errorf("%.40q: got %q, %v, want %q", row.text, got, err, row.want)
		}
	}
	if _, err := readEnvFile(path + ".not"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("missing file: %v", err)
	}
}

func TestLabels(t *testing.T) {
	path := filepath.Join(t.TempDir(), "labels")
	if err := os.WriteFile(path, []byte("a=1\nbare\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := readLabelFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if m := toMap(append(got, "a=2", "c")); !reflect.DeepEqual(m, map[string]string{"a": "2", "bare": "", "c": ""}) {
		t.Errorf("got %v", m)
	}
	for _, bad := range []string{"", "=x", "a b=c"} {
		if _, err := parseLabel(bad); err == nil {
			t.Errorf("parseLabel(%q): want an error", bad)
		}
	}
}

func TestParseNet(t *testing.T) {
	for _, row := range []struct {
		parse    func(string) (string, error)
		in, want string // want "": an error
	}{
		{parseAddHost, "db:10.0.0.1", "db:10.0.0.1"},
		{parseAddHost, "db=10.0.0.1", "db:10.0.0.1"},
		{parseAddHost, "db:::1", "db:::1"},
		{parseAddHost, "db=[::1]", "db:::1"},
		{parseAddHost, "db:host-gateway", "db:host-gateway"},
		{parseAddHost, "db", ""},
		{parseAddHost, ":10.0.0.1", ""},
		{parseAddHost, "db:ten", ""},
		{parseDNS, "1.1.1.1", "1.1.1.1"},
		{parseDNS, "fe80::1", "fe80::1"},
		{parseDNS, "one", ""},
		{parseDNSSearch, ".", "."},
		{parseDNSSearch, "example.org", "example.org"},
		{parseDNSSearch, "-x.org", ""},
		{parseDNSSearch, "1.1.1.1", ""},
		{parseDNSSearch, "", ""},
	} {
		got, err := row.parse(row.in)
		if got != row.want || (err == nil) != (row.want != "") {
			t.Errorf("%q: got %q, %v, want %q", row.in, got, err, row.want)
		}
	}
	for _, network := range []string{"bridge", "container:x", "mine"} {
		if checkNetwork(network) == nil {
			t.Errorf("network %q: want an error", network)
		}
	}
}
