package pull

import (
	"context"
	"encoding/pem"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"moss/fail"
	"moss/internal/testregistry"
	"moss/oci"
)

func pemOf(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestParseChallenges(t *testing.T) {
	type p = map[string]string
	for _, tt := range []struct {
		lines []string
		want  []challenge
	}{
		{nil, nil},
		{[]string{`Basic`}, []challenge{{"basic", p{}}}},
		{[]string{`Basic realm="a, b", Bearer realm="https://x/token",service="s s",scope="repository:a/b:pull,push"`}, []challenge{
			{"basic", p{"realm": "a, b"}}, {"bearer", p{"realm": "https://x/token", "service": "s s", "scope": "repository:a/b:pull,push"}}}},
		{[]string{`BEARER Realm = "q\"uo\\te" , x=y`}, []challenge{{"bearer", p{"realm": `q"uo\te`, "x": "y"}}}},
		{[]string{`Negotiate, Basic realm=plain`}, []challenge{{"negotiate", p{}}, {"basic", p{"realm": "plain"}}}},
		{[]string{`Bearer realm="open`}, []challenge{{"bearer", p{"realm": "open"}}}},
		{[]string{`Basic realm="1"`, `Bearer realm=https://x/t,realm=second`}, []challenge{{"basic", p{"realm": "1"}}, {"bearer", p{"realm": "https://x/t"}}}},
		{[]string{`,,, "junk"`}, nil},
	} {
		if got := parseChallenges(tt.lines); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("parseChallenges(%q) = %v, want %v", tt.lines, got, tt.want)
		}
	}
}

func FuzzChallenges(f *testing.F) {
	f.Add(`Basic realm="a, b", Bearer realm="https://x/token",service=s`)
	f.Add(`Negotiate YWJj==, a="`)
	f.Fuzz(func(t *testing.T, line string) {
		for _, c := range parseChallenges([]string{line, line}) {
			if c.scheme == "" || c.scheme != strings.ToLower(c.scheme) {
				t.Errorf("scheme %q", c.scheme)
			}
		}
	})
}

func TestAuthFiles(t *testing.T) {
	ann, bob := `{"auth":"YW5uOjE="}`, `{"auth":"Ym9iOjI="}`
	for _, tt := range []struct {
		name  string
		files map[string]string
		env   map[string]string
		ref   string
		want  string // user, or what stands for it
	}{
		{"none", nil, nil, "x.io/a", ""},
		{"host", map[string]string{"run/containers/auth.json": `{"auths":{"x.io":` + ann + `}}`}, nil, "x.io/a", "ann"},
		{"other host", map[string]string{"run/containers/auth.json": `{"auths":{"y.io":` + ann + `,"x.io:5000":` + ann + `}}`}, nil, "x.io/a", ""},
		{"longest first", map[string]string{".config/containers/auth.json": `{"auths":{"x.io":` + ann + `,"x.io/a/b":` + bob + `}}`}, nil, "x.io/a/b/c", "bob"},
		{"not a prefix of a word", map[string]string{".config/containers/auth.json": `{"auths":{"x.io/a":` + bob + `}}`}, nil, "x.io/ab", ""},
		{"order", map[string]string{".docker/config.json": `{"auths":{"x.io":` + bob + `}}`, "run/containers/auth.json": `{"auths":{"x.io":` + ann + `}}`}, nil, "x.io/a", "ann"},
		{"docker's", map[string]string{".docker/config.json": `{"auths":{"x.io":` + bob + `}}`, "run/containers/auth.json": `{}`}, nil, "x.io/a", "bob"},
		{"old key", map[string]string{".docker/config.json": `{"auths":{"https://x.io/v1/":` + bob + `}}`}, nil, "x.io/a", "bob"},
		{"docker.io", map[string]string{".docker/config.json": `{"auths":{"https://index.docker.io/v1/":` + bob + `}}`}, nil, "debian", "bob"},
		{"docker.io, podman", map[string]string{"run/containers/auth.json": `{"auths":{"docker.io":` + ann + `}}`}, nil, "debian", "ann"},
		{"DOCKER_CONFIG", map[string]string{"d/config.json": `{"auths":{"x.io":` + bob + `}}`}, map[string]string{"DOCKER_CONFIG": "d"}, "x.io/a", "bob"},
		{"REGISTRY_AUTH_FILE is the only one", map[string]string{"d/a.json": `{}`, "run/containers/auth.json": `{"auths":{"x.io":` + ann + `}}`}, map[string]string{"REGISTRY_AUTH_FILE": "d/a.json"}, "x.io/a", ""},
		{"identity token", map[string]string{".docker/config.json": `{"auths":{"x.io":{"auth":"eDo=","identitytoken":"t"}}}`}, nil, "x.io/a", "identity t"},
		{"helper", map[string]string{".docker/config.json": `{"credHelpers":{"x.io":"moss-test"}}`}, nil, "x.io/a", "helped-x.io"},
		{"helper for all", map[string]string{".docker/config.json": `{"credsStore":"moss-test"}`}, nil, "debian", "helped-https://index.docker.io/v1/"},
		{"helper does not know", map[string]string{".docker/config.json": `{"credsStore":"moss-test","auths":{"unknown.io":` + ann + `}}`}, nil, "unknown.io/a", "ann"},
		{"helper's token", map[string]string{".docker/config.json": `{"credsStore":"moss-test"}`}, nil, "token.io/a", "identity sss"},
		{"no helper", map[string]string{".docker/config.json": `{"credsStore":"moss-absent"}`}, nil, "x.io/a", "warned: ask for a login x.io: docker-credential-moss-absent is not installed"},
		{"helper breaks", map[string]string{".docker/config.json": `{"credsStore":"moss-test"}`}, nil, "broken.io/a", "warned: ask for a login broken.io: docker-credential-moss-test: exit status 1: cannot reach the keyring"},
		{"bad JSON", map[string]string{".docker/config.json": "{\n\"auths\": }"}, nil, "x.io/a", "error: line 2: "},
		{"bad base64", map[string]string{".docker/config.json": `{"auths":{"x.io":{"auth":"%"}}}`}, nil, "x.io/a", "error: the auth of \"x.io\""},
		{"named and absent", nil, map[string]string{"REGISTRY_AUTH_FILE": "nope"}, "x.io/a", "error: REGISTRY_AUTH_FILE"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			bin := t.TempDir()
			m.write(t, filepath.Join(bin, "docker-credential-moss-test"), `#!/bin/sh
read host
case $host in
unknown.io) echo credentials not found in native keychain; exit 1;;
broken.io) echo cannot reach the keyring >&2; exit 1;;
token.io) echo '{"ServerURL":"'$host'","Username":"<token>","Secret":"sss"}';;
*) echo '{"ServerURL":"'$host'","Username":"helped-'$host'","Secret":"s"}';;
esac
`)
			os.Chmod(filepath.Join(bin, "docker-credential-moss-test"), 0o755)
			t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
			for name, text := range tt.files {
				m.write(t, filepath.Join(m.home, name), text)
			}
			for k, v := range tt.env {
				m.env[k] = filepath.Join(m.home, v)
			}
			ref, err := oci.ParseReference(tt.ref)
			if err != nil {
				t.Fatal(err)
			}
			var warned error
			c, err := m.credentials(t.Context(), ref, nil, func(err error) { warned = err })
			got := c.user
			switch {
			case err != nil:
				var e *fail.Error
				errors.As(err, &e)
				got = "error: " + e.Err.Error() + e.Why
			case warned != nil:
				got = "warned: " + warned.Error()
			case c.identityToken != "":
				got = "identity " + c.identityToken
			}
			if tt.want == "" && got != "" || !strings.Contains(got, strings.TrimPrefix(tt.want, "error: ")) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func FuzzAuthFile(f *testing.F) {
	f.Add([]byte(`{"auths":{"x.io":{"auth":"YW5uOjE="},"https://x.io/v1/":{}},"credHelpers":{"y":"z"}}`), "x.io/a/b")
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		ref, err := oci.ParseReference(name)
		if err != nil {
			return
		}
		file, err := parseAuthFile("f", data)
		if err != nil {
			return
		}
		file.CredsStore, file.CredHelpers = "", nil // do not run anything
		if _, err := file.lookup(context.Background(), ref, func(error) {}); err != nil && err.Error() == "" {
			t.Error("an error without words")
		}
	})
}

func TestRegistriesConf(t *testing.T) {
	const text = `
unqualified-search-registries = ["a.io", "localhost:5000", "docker.io"]
[aliases]
"fedora" = "registry.example.org/fedora"
"org/short" = "long.io/org/short"
[[registry]]
location = "plain.io"
insecure = true
[[registry]]
prefix = "moved.io/old"
location = "new.io/sub"
[[registry]]
prefix = "moved.io/old/special"
location = "special.io"
[[registry]]
prefix = "*.wild.io"
blocked = true
[[registry]]
prefix = "*.good.wild.io"
[[registry.mirror]]
location = "m.io/wild"
[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "all.io"
[[registry.mirror]]
location = "digests.io"
pull-from-mirror = "digest-only"
insecure = true
[[registry.mirror]]
location = "tags.io"
pull-from-mirror = "tag-only"
[[registry]]
prefix = "digest.io"
mirror-by-digest-only = true
[[registry.mirror]]
location = "m.io"
`
	digest := "@" + string(oci.FromBytes(nil))
	for typed, want := range map[string]string{
		"tool":                     "a.io/tool:latest | localhost:5000/tool:latest | all.io/library/tool:latest, tags.io/library/tool:latest, docker.io/library/tool:latest",
		"fedora:42":                "registry.example.org/fedora:42",
		"org/short" + digest:       "long.io/org/short" + digest,
		"docker.io/x/y" + digest:   "all.io/x/y" + digest + ", digests.io/x/y" + digest + "!, docker.io/x/y" + digest,
		"plain.io/x":               "plain.io/x:latest!",
		"plain.io:5000/x":          "plain.io:5000/x:latest",
		"plain.io.evil.org/x":      "plain.io.evil.org/x:latest",
		"moved.io/old/x:1":         "new.io/sub/x:1",
		"moved.io/old:1":           "new.io/sub:1",
		"moved.io/older/x:1":       "moved.io/older/x:1",
		"moved.io/old/special/x:1": "special.io/x:1",
		"a.wild.io/x":              "error: blocked",
		"b.a.wild.io:5000/x":       "error: blocked",
		"wild.io/x":                "wild.io/x:latest",
		"a.good.wild.io:1/x":       "m.io/wild/x:latest, a.good.wild.io:1/x:latest",
		"digest.io/x":              "digest.io/x:latest",
		"digest.io/x" + digest:     "m.io/x" + digest + ", digest.io/x" + digest,
	} {
		c := &registriesConf{aliases: map[string]string{}}
		if err := c.merge("f", text); err != nil {
			t.Fatal(err)
		}
		refs, err := c.names(typed)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, ref := range refs {
			sources, err := c.sources(ref)
			var some []string
			if err != nil {
				some = append(some, "error: "+strings.TrimPrefix(err.Error(), "pull "+ref.String()+": the registry is "))
			}
			for _, s := range sources {
				name := s.ref.String()
				if s.insecure != nil && *s.insecure {
					name += "!"
				}
				some = append(some, name)
			}
			all = append(all, strings.Join(some, ", "))
		}
		if got := strings.Join(all, " | "); got != want {
			t.Errorf("%s:\n got %s\nwant %s", typed, got, want)
		}
	}
}

func TestRegistriesConfErrors(t *testing.T) {
	for text, want := range map[string]string{
		"a = [":                                   "line 1",
		"\n\nunqualified-search-registries = 3":   "line 3",
		"\nunqualified-search-registries = ['x']": `line 2: unqualified-search-registries: "x" is not a host`,
		"short-name-mode = 'maybe'":               `line 1: short-name-mode "maybe"`,
		"\n[registries.search]\nregistries = []":  "line 2: [registries.…] is version 1",
		"[aliases]\n'a' = 'b'":                    `line 2: alias "a" = "b"`,
		"[aliases]\n'a' = 'b.io/c:1'":             "without tag",
		"[[registry]]\ninsecure = true":           "neither prefix nor location",
		"[[registry]]\nlocation = 'https://x.io'": "leave out https://",
		"[[registry]]\nprefix = '*.x.io/y'":       "wildcard",
		"[[registry]]\nprefix = 'x.*.io'":         "wildcard",
		"[[registry]]\nlocation='x.io'\n[[registry.mirror]]\nlocation='y.io'\npull-from-mirror='never'":                                `line 5: pull-from-mirror "never"`,
		"[[registry]]\nlocation='x.io'\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation='y.io'\npull-from-mirror='tag-only'": "exclude each other",
		"[[registry]]\nlocation='x.io'\n[[registry.mirror]]\ninsecure=true":                                                            "is not host",
	} {
		m := newMachine(t)
		path := filepath.Join(m.etc, "containers/registries.conf")
		m.write(t, path, text)
		_, err := m.registriesConf()
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestRegistriesConfFiles(t *testing.T) {
	search := func(m *machine) string {
		c, err := m.registriesConf()
		if err != nil {
			return err.Error()
		}
		return strings.Join(c.search, ",")
	}
	line := func(host string) string { return "unqualified-search-registries = ['" + host + "']\n" }
	m := newMachine(t)
	if got := search(m); got != "" {
		t.Errorf("without files: %q", got)
	}
	step := func(path, host, want string) {
		t.Helper()
		m.write(t, path, line(host))
		if got := search(m); got != want {
			t.Errorf("after %s: %q, want %q", path, got, want)
		}
	}
	step(filepath.Join(m.etc, "containers/registries.conf"), "1.io", "1.io")
	step(filepath.Join(m.etc, "containers/registries.conf.d/b.conf"), "3.io", "3.io")
	step(filepath.Join(m.etc, "containers/registries.conf.d/a.conf"), "2.io", "3.io")
	step(filepath.Join(m.etc, "containers/registries.conf.d/z.txt"), "x.io", "3.io")
	step(filepath.Join(m.configHome, "containers/registries.conf.d/a.conf"), "4.io", "4.io")
	os.Remove(filepath.Join(m.configHome, "containers/registries.conf.d/a.conf"))
	step(filepath.Join(m.configHome, "containers/registries.conf"), "5.io", "5.io") // and no system drop-ins
	m.env["CONTAINERS_REGISTRIES_CONF"] = filepath.Join(m.home, "r.conf")
	if got := search(m); !strings.Contains(got, "no such file") {
		t.Errorf("named and absent: %q", got)
	}
	m.write(t, m.env["CONTAINERS_REGISTRIES_CONF"], "")
	if got := search(m); got != "3.io" {
		t.Errorf("with the variable: %q", got)
	}
	m.write(t, filepath.Join(m.cacheHome, "containers/short-name-aliases.conf"), "[aliases]\n'a'='q.io/a'\n")
	c, err := m.registriesConf()
	if refs, _ := c.names("a"); err != nil || len(refs) != 1 || refs[0].Registry != "q.io" {
		t.Errorf("recorded alias: %v %v", refs, err)
	}
}

func TestShortNameMode(t *testing.T) {
	c := &registriesConf{aliases: map[string]string{}}
	if err := c.merge("f", "unqualified-search-registries=['a.io','b.io']\nshort-name-mode='enforcing'"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.names("x"); err == nil || !strings.Contains(fail.Lesson(err).Try, "a.io/x") {
		t.Errorf("enforcing: %v", err)
	}
	if refs, err := c.names("localhost/x"); err != nil || refs[0].Registry != "localhost" {
		t.Errorf("localhost: %v %v", refs, err)
	}
	none := &registriesConf{}
	for typed, want := range map[string]string{"debian": "docker.io/library/debian:latest", "a/b": "docker.io/a/b:latest"} {
		if refs, err := none.names(typed); err != nil || len(refs) != 1 || refs[0].String() != want {
			t.Errorf("%s: %v %v", typed, refs, err)
		}
	}
}

func FuzzRegistriesConf(f *testing.F) {
	f.Add("unqualified-search-registries=['a.io']\n[aliases]\n'x'='y.io/x'\n[[registry]]\nlocation='b.io'\n[[registry.mirror]]\nlocation='c.io/d'", "x:1")
	f.Add("[[registry]]\nprefix='*.io'\nblocked=true", "a.io/b")
	f.Fuzz(func(t *testing.T, text, name string) {
		c := &registriesConf{aliases: map[string]string{}}
		if c.merge("f", text) != nil {
			return
		}
		refs, err := c.names(name)
		if err != nil {
			return
		}
		for _, ref := range refs {
			sources, err := c.sources(ref)
			if err == nil && len(sources) == 0 {
				t.Errorf("%s: neither source nor error", ref)
			}
			for _, s := range sources {
				if again, err := oci.ParseReference(s.ref.String()); err != nil || again != s.ref {
					t.Errorf("source %q of %q is not a reference: %v", s.ref, name, err)
				}
				if s.ref.Tag != ref.Tag || s.ref.Digest != ref.Digest {
					t.Errorf("%s became %s", ref, s.ref)
				}
			}
		}
	})
}

func FuzzDecide(f *testing.F) {
	f.Add(oci.MediaTypeManifest, []byte(`{"schemaVersion":2,"config":{},"layers":[]}`))
	f.Add(oci.MediaTypeIndex, []byte(`{"schemaVersion":2,"manifests":[{"platform":{"os":"linux","architecture":"arm"}}]}`))
	f.Add("", []byte(`{"schemaVersion":2,"manifests":[],"Layers":[]}`))
	want := oci.Platform{OS: "linux", Architecture: "arm"}
	f.Fuzz(func(t *testing.T, typ string, body []byte) {
		doc, err := decide(typ, body)
		if err != nil {
			return
		}
		if (doc.index == nil) == (doc.manifest == nil) {
			t.Fatal("neither or both")
		}
		if doc.index != nil {
			best, nested, err := pick(doc.index, want, true)
			if err == nil && best == nil && len(nested) == 0 {
				t.Error("nothing picked and no error")
			}
			return
		}
		if checkImage(doc.manifest) == nil {
			for _, l := range doc.manifest.Layers {
				if l.Validate() != nil {
					t.Errorf("layer %v", l)
				}
			}
		}
	})
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for v, want := range map[string]time.Duration{"": 0, "7": 7 * time.Second, "junk": 0, "-3": 0, "Fri, 02 Jan 2026 03:05:05 GMT": time.Minute, "Fri, 02 Jan 2026 03:00:00 GMT": time.Millisecond} {
		if got := parseRetryAfter(v, now); got != want {
			t.Errorf("parseRetryAfter(%q) = %v, want %v", v, got, want)
		}
	}
}

func TestNearest(t *testing.T) {
	for s, want := range map[string]string{"gchr.io": "gcr.io ghcr.io", "doker.io": "docker.io", "quai.io": "quay.io", "registry.corp.example": ""} {
		got := ""
		if near := nearest(s, knownRegistries); len(near) > 0 {
			got = strings.Join(near[:min(2, len(near))], " ")
		}
		if got != want {
			t.Errorf("nearest(%q) = %q, want %q", s, got, want)
		}
	}
}

// TestProxy runs itself, because net/http reads the variables once a process.
func TestProxy(t *testing.T) {
	if os.Getenv("MOSS_TEST_PROXY") != "" {
		no := false
		_, err := newMachine(t).pull(t.Context(), newStore(t), "registry.invalid/app:1", Options{TLSVerify: &no})
		if err != nil {
			t.Fatalf("PULL %v\nWhy:%s", err, fail.Lesson(err).Why)
		}
		return
	}
	reg := testregistry.New(t)
	reg.Push("app", "1", testregistry.Files(map[string]string{"a": "1"}))
	reg.Break("CONNECT", -1, testregistry.Status(http.StatusForbidden))
	dead := testregistry.UnusedHost(t)
	for _, tt := range []struct {
		name, want string
		env        []string
	}{
		{"used", "", []string{"HTTP_PROXY=" + reg.URL, "HTTPS_PROXY=" + reg.URL}},
		{"not for this host", "Why:DNS knows no host registry.invalid", []string{"HTTP_PROXY=" + reg.URL, "HTTPS_PROXY=" + reg.URL, "NO_PROXY=registry.invalid"}},
		{"dead", "Why:the connection goes through the proxy", []string{"HTTP_PROXY=http://" + dead, "HTTPS_PROXY=http://" + dead}},
	} {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestProxy$")
		cmd.Env = append(os.Environ(), "MOSS_TEST_PROXY=1")
		cmd.Env = append(cmd.Env, tt.env...)
		out, err := cmd.CombinedOutput()
		if (err == nil) != (tt.want == "") || !strings.Contains(string(out), tt.want) {
			if strings.Contains(string(out), "gave no answer") {
				t.Logf("%s: no name server here to say that a host does not exist", tt.name)
				continue
			}
			t.Errorf("%s: %v, want %q\n%s", tt.name, err, tt.want, out)
		}
	}
}
