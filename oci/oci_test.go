package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

const (
	aDigest  = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
	noDigest = "sha256:5f70"
)

func TestParseReference(t *testing.T) {
	for typed, want := range map[string]struct{ full, familiar string }{
		"debian":                             {"docker.io/library/debian:latest", "debian:latest"},
		"debian:12":                          {"docker.io/library/debian:12", "debian:12"},
		"library/debian":                     {"docker.io/library/debian:latest", "debian:latest"},
		"docker.io/debian":                   {"docker.io/library/debian:latest", "debian:latest"},
		"index.docker.io/library/debian":     {"docker.io/library/debian:latest", "debian:latest"},
		"org/app":                            {"docker.io/org/app:latest", "org/app:latest"},
		"ghcr.io/org/app:v1.2":               {"ghcr.io/org/app:v1.2", "ghcr.io/org/app:v1.2"},
		"localhost/app":                      {"localhost/app:latest", "localhost/app:latest"},
		"localhost:5000/app":                 {"localhost:5000/app:latest", "localhost:5000/app:latest"},
		"localhost:5000/app:x":               {"localhost:5000/app:x", "localhost:5000/app:x"},
		"[::1]:5000/app":                     {"[::1]:5000/app:latest", "[::1]:5000/app:latest"},
		"127.0.0.1:5000/a/b/c":               {"127.0.0.1:5000/a/b/c:latest", "127.0.0.1:5000/a/b/c:latest"},
		"debian@" + aDigest:                  {"docker.io/library/debian@" + aDigest, "debian@" + aDigest},
		"debian:12@" + aDigest:               {"docker.io/library/debian:12@" + aDigest, "debian:12@" + aDigest},
		"a--b/c__d.e":                        {"docker.io/a--b/c__d.e:latest", "a--b/c__d.e:latest"},
		"Upper/app":                          {"Upper/app:latest", "Upper/app:latest"},
		"registry.example.com:5000/app:_tag": {"registry.example.com:5000/app:_tag", "registry.example.com:5000/app:_tag"},
	} {
		r, err := ParseReference(typed)
		if err != nil {
			t.Errorf("ParseReference(%q): %v", typed, err)
			continue
		}
		if r.String() != want.full || r.Familiar() != want.familiar {
			t.Errorf("ParseReference(%q) = %s, familiar %s; want %s, %s", typed, r, r.Familiar(), want.full, want.familiar)
		}
	}
}

func TestParseReferenceRefuses(t *testing.T) {
	for _, typed := range []string{
		"", ":", "@", "/", "a/", "/a", "a//b", "a:", "a:b:c", "a@b", "a@" + noDigest, "A", "a/B", "a b", "a:-x", "a:.x",
		"a:" + strings.Repeat("x", 129), strings.Repeat("a", 256), "a_-b", "a___b", "a..b", "-a", "a-", "..", "../a", "a/..",
		"localhost:/a", "localhost:x/a", "localhost:123456/a", "localhost:65536/a", "localhost:0/a", "[::1/a", "[]/a", "-x.y/a", "x..y/a",
		"docker.io", "https://docker.io/a", "a\x00b", "a\nb", "docker.io/", strings.Repeat("a.", 130) + "b/c",
		"[" + strings.Repeat(":", 300) + "]/a",
	} {
		if r, err := ParseReference(typed); err == nil && typed != "docker.io" {
			t.Errorf("ParseReference(%q) = %+v, want an error", typed, r)
		} else if err != nil && len(err.Error()) > 600 {
			t.Errorf("ParseReference(%.20q…): an error of %d bytes", typed, len(err.Error()))
		}
	}
	if _, err := ParseReference("Debian:12"); err == nil || !strings.Contains(err.Error(), `did you mean "debian:12"`) {
		t.Errorf("ParseReference of upper case: %v", err)
	}
}

func TestIsShortName(t *testing.T) {
	for s, want := range map[string]bool{
		"debian": true, "org/app": true, "debian:12": true, "debian@" + aDigest: true,
		"docker.io/debian": false, "localhost/a": false, "localhost:5000/a": false, "x:5000/a": false,
	} {
		if IsShortName(s) != want {
			t.Errorf("IsShortName(%q) = %v, want %v", s, !want, want)
		}
	}
}

// A parsed reference says of itself what, parsed again, is the same.
func FuzzReference(f *testing.F) {
	for _, s := range []string{"debian", "a/b:c", "localhost:5000/a@" + aDigest, "[::1]:5000/app", "index.docker.io/a", "docker.io/index.docker.io/a", "A.B/c:d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReference(s)
		if err != nil {
			return
		}
		for _, form := range []string{r.String(), r.Familiar()} {
			again, err := ParseReference(form)
			if err != nil || again != r {
				t.Errorf("%q is %+v; its form %q is %+v, %v", s, r, form, again, err)
			}
		}
		for part := range strings.SplitSeq(r.Name()+"/"+r.Tag, "/") {
			if part == "." || part == ".." || part == "" && r.Tag != "" || strings.ContainsAny(part, "\x00\n") || len(part) > 255 {
				t.Errorf("%q has the part %q, which is no file name", s, part)
			}
		}
	})
}

func TestDigest(t *testing.T) {
	for d, ok := range map[Digest]bool{
		aDigest: true,
		Digest("sha512:" + strings.Repeat("a", 128)): true,
		"":                                     false,
		"sha256:":                              false,
		noDigest:                               false,
		"md5:d41d8cd98f00b204e9800998ecf8427e": false,
		Digest(strings.ToUpper(aDigest)):       false,
		Digest("sha256:" + strings.Repeat("g", 64)): false,
		Digest("sha512:" + strings.Repeat("a", 64)): false,
		aDigest + "\n": false,
	} {
		if err := d.Validate(); (err == nil) != ok {
			t.Errorf("Validate(%q) = %v, want ok %v", d, err, ok)
		}
	}
	if got := FromBytes(make([]byte, 1024)); got != aDigest {
		t.Errorf("digest of 1024 zeros = %s", got)
	}
	h := Digest(aDigest).NewHash()
	h.Write(make([]byte, 1024))
	if !Digest(aDigest).Matches(h) || Digest(aDigest).Short() != "5f70bf18a086" {
		t.Error("Matches or Short")
	}
}

// image-spec config.md, "Layer ChainID".
func TestChainID(t *testing.T) {
	a, b := FromBytes([]byte("a")), FromBytes([]byte("b"))
	for _, c := range []struct {
		stack []DiffID
		want  Digest
	}{
		{nil, ""},
		{[]DiffID{a}, a},
		{[]DiffID{a, b}, FromBytes([]byte(a + " " + b))},
		{[]DiffID{a, b, a}, FromBytes([]byte(FromBytes([]byte(a+" "+b)) + " " + a))},
	} {
		if got := ChainID(c.stack); got != c.want {
			t.Errorf("ChainID(%v) = %s, want %s", c.stack, got, c.want)
		}
	}
}

func TestParsePlatform(t *testing.T) {
	for typed, want := range map[string]string{
		"linux/amd64": "linux/amd64", "amd64": "linux/amd64", "x86_64": "linux/amd64", "Linux/X86_64": "linux/amd64",
		"arm64": "linux/arm64", "aarch64": "linux/arm64", "linux/arm64/v8": "linux/arm64", "linux/arm64/8": "linux/arm64",
		"arm": "linux/arm/v7", "armhf": "linux/arm/v7", "armel": "linux/arm/v6", "linux/arm/6": "linux/arm/v6", "linux/arm/v6": "linux/arm/v6",
		"i386": "linux/386", "linux/amd64/v1": "linux/amd64", "linux/amd64/v3": "linux/amd64/v3", "windows/amd64": "windows/amd64",
		"": "error", "linux/": "error", "/amd64": "error", "a/b/c/d": "error", "linux/arm/": "error",
	} {
		p, err := ParsePlatform(typed)
		got := p.String()
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("ParsePlatform(%q) = %s, %v; want %s", typed, got, err, want)
		}
	}
}

func TestPlatformFits(t *testing.T) {
	for _, c := range []struct {
		image, want string
		fits        bool
	}{
		{"linux/amd64", "linux/amd64", true},
		{"linux/amd64", "linux/arm64", false},
		{"linux/amd64", "windows/amd64", false},
		{"linux/arm64", "linux/arm64/v8", true},
		{"linux/arm/v6", "linux/arm/v7", true},
		{"linux/arm/v7", "linux/arm/v6", false},
		{"linux/arm/v7", "linux/arm/v7", true},
		{"linux/amd64", "linux/amd64/v3", true},
		{"linux/amd64/v3", "linux/amd64", false},
		{"linux/amd64/v2", "linux/amd64/v3", true},
		{"linux/amd64/v4", "linux/amd64/v3", false},
		{"linux/386", "linux/amd64", false},
	} {
		image, _ := ParsePlatform(c.image)
		want, _ := ParsePlatform(c.want)
		if image.Fits(want) != c.fits {
			t.Errorf("%s for %s: %v, want %v", c.image, c.want, !c.fits, c.fits)
		}
	}
	if !(Platform{OS: "linux", Architecture: "arm64"}).Fits(Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}) {
		t.Error("an arm64 image without variant runs on arm64")
	}
}

func TestParseManifest(t *testing.T) {
	desc := func(size int64) string { return fmt.Sprintf(`{"digest":"%s","size":%d}`, aDigest, size) }
	for name, c := range map[string]struct {
		text string
		ok   bool
	}{
		"one layer":       {`{"schemaVersion":2,"config":` + desc(1) + `,"layers":[` + desc(2) + `]}`, true},
		"docker":          {`{"schemaVersion":2,"mediaType":"` + MediaTypeDockerManifest + `","config":` + desc(1) + `,"layers":[]}`, true},
		"schema 1":        {`{"schemaVersion":1,"config":` + desc(1) + `}`, false},
		"an index":        {`{"schemaVersion":2,"mediaType":"` + MediaTypeIndex + `","manifests":[]}`, false},
		"no config":       {`{"schemaVersion":2,"layers":[]}`, false},
		"path as digest":  {`{"schemaVersion":2,"config":{"digest":"sha256:../../../../etc/passwd","size":1}}`, false},
		"negative size":   {`{"schemaVersion":2,"config":` + desc(1) + `,"layers":[` + desc(-1) + `]}`, false},
		"huge config":     {`{"schemaVersion":2,"config":` + desc(1<<40) + `}`, false},
		"too many layers": {`{"schemaVersion":2,"config":` + desc(1) + `,"layers":[` + strings.Repeat(desc(1)+",", MaxLayers) + desc(1) + `]}`, false},
		"deep":            {strings.Repeat(`{"annotations":`, 1<<20), false},
		"deep arrays":     {strings.Repeat("[", 1<<20), false},
		"large":           {`{"schemaVersion":2,"config":` + desc(1) + `}` + strings.Repeat(" ", MaxManifestBytes), false},
		"not JSON":        {"<html>", false},
		"nothing":         {"", false},
		"number overflow": {`{"schemaVersion":2,"config":{"digest":"` + aDigest + `","size":99999999999999999999}}`, false},
	} {
		if _, err := ParseManifest([]byte(c.text)); (err == nil) != c.ok {
			t.Errorf("%s: %v, want ok %v", name, err, c.ok)
		}
	}
}

func TestParseIndexAndConfig(t *testing.T) {
	if x, err := ParseIndex([]byte(`{"schemaVersion":2,"manifests":[{"digest":"` + aDigest + `","size":7,"platform":{"os":"linux","architecture":"arm64"}}]}`)); err != nil || x.Manifests[0].Platform.String() != "linux/arm64" {
		t.Errorf("ParseIndex = %+v, %v", x, err)
	}
	for _, bad := range []string{`{}`, `{"schemaVersion":2,"mediaType":"` + MediaTypeManifest + `"}`, `{"schemaVersion":2,"manifests":[{"digest":"x"}]}`} {
		if _, err := ParseIndex([]byte(bad)); err == nil {
			t.Errorf("ParseIndex(%s) accepted", bad)
		}
	}
	c, err := ParseConfig([]byte(`{"os":"linux","architecture":"amd64","config":{"Cmd":["sh"],"Healthcheck":{"Test":["NONE"]}},"rootfs":{"type":"layers","diff_ids":["` + aDigest + `"]}}`))
	if err != nil || c.Config.Cmd[0] != "sh" || c.Platform().String() != "linux/amd64" {
		t.Errorf("ParseConfig = %+v, %v", c, err)
	}
	for _, bad := range []string{`[]`, `{"rootfs":{"type":"tree"}}`, `{"rootfs":{"type":"layers","diff_ids":["sha256:/"]}}`, `{"config":{"Env":"PATH"}}`} {
		if _, err := ParseConfig([]byte(bad)); err == nil {
			t.Errorf("ParseConfig(%s) accepted", bad)
		}
	}
	var syntax *json.SyntaxError
	if _, err := ParseConfig([]byte("<html>")); !errors.As(err, &syntax) {
		t.Errorf("ParseConfig of no JSON: %v", err)
	}
}

// What is accepted can be used without looking again, and survives being written.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"` + aDigest + `","size":1},"layers":[{"digest":"` + aDigest + `","size":2}]}`))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"` + aDigest + `","size":7}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := ParseManifest(b); err == nil {
			for _, d := range append(m.Layers, m.Config) {
				if d.Validate() != nil {
					t.Errorf("accepted the descriptor %+v", d)
				}
			}
			again, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if len(again) <= MaxManifestBytes {
				if m2, err := ParseManifest(again); err != nil || len(m2.Layers) != len(m.Layers) {
					t.Errorf("written again: %v", err)
				}
			}
		}
		if x, err := ParseIndex(b); err == nil {
			for _, d := range x.Manifests {
				if d.Validate() != nil {
					t.Errorf("accepted the descriptor %+v", d)
				}
			}
		}
	})
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"os":"linux","architecture":"arm","variant":"v7","config":{"Env":["A=b"],"ExposedPorts":{"80/tcp":{}}},"rootfs":{"type":"layers","diff_ids":["` + aDigest + `"]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig(b)
		if err != nil {
			return
		}
		for _, d := range c.RootFS.DiffIDs {
			if d.Validate() != nil {
				t.Errorf("accepted the diffID %q", d)
			}
		}
		again, err := json.Marshal(c)
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		c2, err := ParseConfig(again)
		if err == nil && !reflect.DeepEqual(c.RootFS.DiffIDs, c2.RootFS.DiffIDs) && len(c.RootFS.DiffIDs) > 0 {
			t.Errorf("written again: %v", c2.RootFS)
		}
		_ = c.Platform().Fits(Host())
	})
}
