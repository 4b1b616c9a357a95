package pull

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"moss/explain"
	"moss/fail"
	"moss/image"
	"moss/internal/testregistry"
	"moss/oci"
)

// machine is a machine without any configuration, on which waiting takes no
// time. What was slept is noted.
type machine struct {
	*surroundings
	env   map[string]string
	mu    sync.Mutex
	slept []time.Duration
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	home := t.TempDir()
	m := &machine{env: map[string]string{}}
	m.surroundings = &surroundings{
		etc: filepath.Join(home, "etc"), home: home, configHome: filepath.Join(home, ".config"), cacheHome: filepath.Join(home, ".cache"),
		runtimeDir: filepath.Join(home, "run"), getenv: func(k string) string { return m.env[k] }, proxy: http.ProxyFromEnvironment, stall: time.Minute,
		sleep: func(ctx context.Context, d time.Duration) error {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.slept = append(m.slept, d)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return nil
		},
	}
	return m
}

func (m *machine) write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func newStore(t *testing.T) *image.Store {
	t.Helper()
	s, err := image.Open(filepath.Join(t.TempDir(), "store"), "")
	if err != nil {
		t.Fatal(err)
	}
	s.Unpack = func(_ context.Context, r io.Reader, dir string) ([]string, error) {
		tr := tar.NewReader(r)
		for {
			h, err := tr.Next()
			if err == io.EOF {
				return nil, nil
			}
			if err != nil {
				return nil, err
			}
			b, err := io.ReadAll(tr)
			if err != nil {
				return nil, err
			}
			if err := os.WriteFile(filepath.Join(dir, h.Name), b, 0o644); err != nil {
				return nil, err
			}
		}
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// noise does not compress, so that a layer has the size it was made with.
func noise(n int, seed uint64) string {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	r.Read(b)
	return string(b)
}

func checkTree(t *testing.T, s *image.Store, id oci.DiffID, want map[string]string) {
	t.Helper()
	l, err := s.Layer(id)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range want {
		got, err := os.ReadFile(filepath.Join(l.Dir, name))
		if err != nil || string(got) != content {
			t.Errorf("%s: %d bytes, %v; want %d bytes", name, len(got), err, len(content))
		}
	}
}

// checkNoneLeft asserts that a pull left neither goroutine nor temporary file.
func checkNoneLeft(t *testing.T, s *image.Store) {
	t.Helper()
	left, _ := os.ReadDir(filepath.Join(s.Root(), "tmp"))
	for _, e := range left {
		t.Errorf("left in tmp: %s", e.Name())
	}
	buf := make([]byte, 1<<20)
	for range 100 {
		stacks := string(buf[:runtime.Stack(buf, true)])
		if !strings.Contains(stacks, "moss/pull.(") && !strings.Contains(stacks, "http.(*persistConn)") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("goroutines left:\n%s", buf[:runtime.Stack(buf, true)])
}

type progress struct {
	mu     sync.Mutex
	states map[int][]State
	bytes  map[int]int64
	calls  int
}

func (p *progress) Start(oci.Reference, []oci.Descriptor) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.states, p.bytes = map[int][]State{}, map[int]int64{}
}

func (p *progress) Layer(i int, s State, n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls++
	if l := p.states[i]; len(l) == 0 || l[len(l)-1] != s {
		p.states[i] = append(l, s)
	}
	p.bytes[i] = n
}

func TestPull(t *testing.T) {
	reg, m, store := testregistry.New(t), newMachine(t), newStore(t)
	low, high := testregistry.Files(map[string]string{"a": "1", "b": noise(300_000, 1)}), testregistry.Files(map[string]string{"c": "3"})
	img := reg.Push("org/app", "1", low, high)
	p := &progress{}
	var told bytes.Buffer
	name := reg.Host + "/org/app:1"

	res, err := m.pull(t.Context(), store, name, Options{Progress: p, Explain: explain.New(&told)})
	if err != nil {
		t.Fatal(err)
	}
	if res.Ref.String() != name || res.Digest != img.Manifest.Digest || !res.Fresh || res.Image.ID != img.M.Config.Digest {
		t.Errorf("result %+v", res)
	}
	checkTree(t, store, low.DiffID(), map[string]string{"a": "1", "b": noise(300_000, 1)})
	checkTree(t, store, high.DiffID(), map[string]string{"c": "3"})
	if want := []State{Waiting, Downloading, Unpacking, Done}; !slices.Equal(p.states[0], want) || p.bytes[0] != img.M.Layers[0].Size {
		t.Errorf("layer 0 went %v to %d bytes, want %v", p.states[0], p.bytes[0], want)
	}
	if n := len(reg.Requests()); n != 4 {
		t.Errorf("%d requests, want manifest, config and two layers: %v", n, reg.Requests())
	}
	for _, want := range []string{"GET http://" + reg.Host + "/v2/org/app/manifests/1 → 200", "Choose", "Unpack layer " + low.DiffID().Short()} {
		if want != "Choose" && !strings.Contains(told.String(), want) {
			t.Errorf("the narration lacks %q:\n%s", want, told.String())
		}
	}
	checkNoneLeft(t, store)

	// Again: one question, nothing fetched.
	reg.Forget()
	res, err = m.pull(t.Context(), store, name, Options{Progress: p})
	if err != nil || res.Fresh || !slices.Equal(p.states[1], []State{Exists}) {
		t.Errorf("second pull: %+v, %v, %v", res, err, p.states)
	}
	if got := fmt.Sprint(reg.Requests()); got != "[HEAD /v2/org/app/manifests/1]" {
		t.Errorf("second pull asked %s", got)
	}

	// By digest, what is here needs nobody.
	reg.Forget()
	res, err = m.pull(t.Context(), store, reg.Host+"/org/app@"+string(img.Manifest.Digest), Options{})
	if err != nil || len(reg.Requests()) != 0 || res.Fresh {
		t.Errorf("pull of a digest that is here: %v, %v, %+v", err, reg.Requests(), res)
	}

	// The tag moves; the layer that stays is not fetched.
	newer := reg.Push("org/app", "1", low, testregistry.Plain(testregistry.Files(map[string]string{"d": "4"}).Tar))
	reg.Forget()
	res, err = m.pull(t.Context(), store, name, Options{})
	if err != nil || !res.Fresh || res.Digest != newer.Manifest.Digest {
		t.Fatalf("after the tag moved: %+v, %v", res, err)
	}
	if n := reg.Count("GET", "/blobs/"); n != 2 {
		t.Errorf("%d blobs, want config and the new layer", n)
	}
}

func TestPullSharesLayersOfOneImage(t *testing.T) {
	reg, m, store := testregistry.New(t), newMachine(t), newStore(t)
	l := testregistry.Files(map[string]string{"a": "1"})
	reg.Push("twice", "1", l, l)
	res, err := m.pull(t.Context(), store, reg.Host+"/twice:1", Options{})
	if err != nil || len(res.Image.M.Layers) != 2 {
		t.Fatal(res, err)
	}
	reg.Push("empty", "1")
	if _, err := m.pull(t.Context(), store, reg.Host+"/empty:1", Options{}); err != nil {
		t.Errorf("an image without layers: %v", err)
	}
}

func TestPlatform(t *testing.T) {
	reg, store := testregistry.New(t), newStore(t)
	push := func(arch, variant string) testregistry.Image {
		return reg.PushImage("multi", "", oci.Image{OS: "linux", Architecture: arch, Variant: variant}, testregistry.Files(map[string]string{"arch": arch + variant}))
	}
	mine, armv6, armv7, s390 := push(runtime.GOARCH, ""), push("arm", "v6"), push("arm", "v7"), push("s390x", "")
	attest := mine.Manifest
	attest.Platform = &oci.Platform{OS: "unknown", Architecture: "unknown"}
	reg.PushIndex("multi", "1", attest, s390.Manifest, mine.Manifest, armv6.Manifest, armv7.Manifest)
	inner := reg.PushIndex("multi", "inner", s390.Manifest)
	reg.PushIndex("multi", "nested", inner)
	reg.PushIndex("multi", "only", attest, s390.Manifest)
	loop := reg.PushIndex("multi", "deep0", inner)
	for i := range 6 {
		loop = reg.PushIndex("multi", fmt.Sprint("deep", i+1), loop)
	}

	for _, tt := range []struct {
		tag, platform string
		want          oci.Digest
		warn, err     string
	}{
		{"1", "", mine.Manifest.Digest, "", ""},
		{"1", "linux/arm", armv7.Manifest.Digest, "", ""},
		{"1", "linux/arm/v6", armv6.Manifest.Digest, "", ""},
		{"1", "linux/arm/v8", armv7.Manifest.Digest, "", ""},
		{"1", "s390x", s390.Manifest.Digest, "", ""},
		{"1", "riscv64", "", "", "no linux/riscv64; it has linux/s390x, linux/" + runtime.GOARCH + ", linux/arm/v6, linux/arm/v7"},
		{"nested", "s390x", s390.Manifest.Digest, "", ""},
		{"only", "", s390.Manifest.Digest, "the image is for linux/s390x", ""},
		{"only", "riscv64", "", "", "no linux/riscv64; it has linux/s390x"},
		{"inner", "s390x", s390.Manifest.Digest, "", ""},
		{"deep6", "s390x", "", "", "more than 4 indexes"},
	} {
		var o Options
		var warned error
		o.Warn = func(err error) { warned = err }
		if tt.platform != "" {
			p, err := oci.ParsePlatform(tt.platform)
			if err != nil {
				t.Fatal(err)
			}
			o.Platform = &p
		}
		res, err := newMachine(t).pull(t.Context(), store, reg.Host+"/multi:"+tt.tag, o)
		switch {
		case tt.err != "":
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s %s: %v, want %q", tt.tag, tt.platform, err, tt.err)
			}
		case err != nil || res.Image.Manifest.Digest != tt.want:
			t.Errorf("%s %s: %+v, %v", tt.tag, tt.platform, res.Image, err)
		}
		if (tt.warn == "") != (warned == nil) || warned != nil && !strings.Contains(warned.Error(), tt.warn) {
			t.Errorf("%s %s: warned %v, want %q", tt.tag, tt.platform, warned, tt.warn)
		}
	}
	// One manifest, another platform asked for.
	reg.PushImage("single", "1", oci.Image{OS: "linux", Architecture: "s390x"})
	reg.PushImage("single", "win", oci.Image{OS: "windows", Architecture: "amd64"})
	host := oci.Host()
	for tag, want := range map[string]string{"1": "the image is for linux/s390x", "win": "the image is for windows/amd64"} {
		if _, err := newMachine(t).pull(t.Context(), store, reg.Host+"/single:"+tag, Options{Platform: &host}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", tag, err, want)
		}
	}
}

func TestResume(t *testing.T) {
	for name, breakIt := range map[string]func(*testregistry.Registry){
		"range":    func(*testregistry.Registry) {},
		"no range": func(r *testregistry.Registry) { r.Break("/blobs/", -1, testregistry.NoRange()) },
	} {
		t.Run(name, func(t *testing.T) {
			reg, m, store := testregistry.New(t), newMachine(t), newStore(t)
			l := testregistry.Files(map[string]string{"a": noise(1_000_000, 2)})
			reg.Push("app", "1", l)
			breakIt(reg)
			blob := "/blobs/" + string(oci.FromBytes(l.Blob))
			reg.Break(blob, 1, testregistry.Cut(700_000))
			reg.Break(blob, 2, testregistry.Cut(400_000))
			p := &progress{}
			if _, err := m.pull(t.Context(), store, reg.Host+"/app:1", Options{Progress: p}); err != nil {
				t.Fatal(err)
			}
			checkTree(t, store, l.DiffID(), map[string]string{"a": noise(1_000_000, 2)})
			if !slices.Contains(p.states[0], Retrying) {
				t.Errorf("progress did not show the pause: %v", p.states[0])
			}
			ranges := 0
			for _, q := range reg.Requests() {
				if q.Range != "" {
					ranges++
				}
			}
			if ranges < 1 {
				t.Errorf("no range was asked for: %v", reg.Requests())
			}
			checkNoneLeft(t, store)
		})
	}
}

func TestStalledConnectionIsGivenUp(t *testing.T) {
	reg, m, store := testregistry.New(t), newMachine(t), newStore(t)
	m.stall = 50 * time.Millisecond
	l := testregistry.Files(map[string]string{"a": noise(200_000, 3)})
	reg.Push("app", "1", l)
	reg.Break("/blobs/"+string(oci.FromBytes(l.Blob)), 1, testregistry.Slow(100_000, time.Hour))
	reg.Break("/manifests/", 1, testregistry.Answer(func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() }))
	if _, err := m.pull(t.Context(), store, reg.Host+"/app:1", Options{}); err != nil {
		t.Fatal(err)
	}
	if len(m.slept) != 2 {
		t.Errorf("paused %v, want twice", m.slept)
	}
	checkNoneLeft(t, store)
}

func TestRetryAfter(t *testing.T) {
	for _, tt := range []struct {
		name     string
		fault    testregistry.Fault
		times    int
		ok       bool
		min, max time.Duration // of the first pause
		try      string
	}{
		{"seconds", testregistry.Status(429, "Retry-After", "3"), 2, true, 3 * time.Second, 3 * time.Second, ""},
		{"date", testregistry.Status(503, "Retry-After", time.Now().Add(30*time.Second).UTC().Format(http.TimeFormat)), 1, true, 20 * time.Second, 31 * time.Second, ""},
		{"back-off", testregistry.Status(502), 3, true, 250 * time.Millisecond, 750 * time.Millisecond, ""},
		{"for ever", testregistry.Status(503), -1, false, 0, time.Second, ""},
		{"too long", testregistry.Status(429, "Retry-After", "3600"), -1, false, 0, 0, "again in 1h0m0s, after "},
		{"quota", testregistry.Status(429), -1, false, 0, time.Second, "log in with podman login"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reg, m, store := testregistry.New(t), newMachine(t), newStore(t)
			reg.Push("app", "1", testregistry.Files(map[string]string{"a": "1"}))
			reg.Break("/manifests/", tt.times, tt.fault)
			_, err := m.pull(t.Context(), store, reg.Host+"/app:1", Options{})
			if (err == nil) != tt.ok {
				t.Fatal(err)
			}
			if len(m.slept) > 0 && (m.slept[0] < tt.min || m.slept[0] > tt.max) || len(m.slept) == 0 && tt.max > 0 {
				t.Errorf("paused %v, want the first within %v and %v", m.slept, tt.min, tt.max)
			}
			if len(m.slept) >= maxTries {
				t.Errorf("%d pauses", len(m.slept))
			}
			if lesson := fail.Lesson(err); tt.try != "" && (lesson == nil || !strings.Contains(lesson.Try, tt.try)) {
				t.Errorf("lesson %+v, want try %q", lesson, tt.try)
			}
		})
	}
}

func TestCancelEndsPromptly(t *testing.T) {
	for _, where := range []string{"/manifests/", "/blobs/"} {
		reg, m, store := testregistry.New(t), newMachine(t), newStore(t)
		reg.Push("app", "1", testregistry.Files(map[string]string{"a": noise(500_000, 4)}), testregistry.Files(map[string]string{"b": noise(500_000, 5)}))
		reg.Break(where, -1, testregistry.Slow(100, 20*time.Millisecond))
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("the user pressed ^C")
		time.AfterFunc(100*time.Millisecond, func() { cancel(why) })
		start := time.Now()
		_, err := m.pull(ctx, store, reg.Host+"/app:1", Options{})
		if !errors.Is(err, why) || time.Since(start) > 2*time.Second {
			t.Errorf("%s: %v after %v", where, err, time.Since(start))
		}
		reg.Close()
		checkNoneLeft(t, store)
	}
}

func TestRedirectKeepsTheLogin(t *testing.T) {
	reg, cdn, m, store := testregistry.New(t), testregistry.New(t), newMachine(t), newStore(t)
	l := testregistry.Files(map[string]string{"a": noise(100_000, 6)})
	for _, r := range []*testregistry.Registry{reg, cdn} {
		r.Push("app", "1", l)
	}
	reg.RequireBasic("ann", "s3cret")
	m.write(t, filepath.Join(m.home, ".docker/config.json"), fmt.Sprintf(`{"auths":{%q:{"auth":"YW5uOnMzY3JldA=="}}}`, reg.Host))
	reg.Break("GET /v2/app/blobs/", -1, testregistry.Redirect(cdn.URL))
	cdn.Break("/blobs/"+string(oci.FromBytes(l.Blob)), 1, testregistry.Cut(50_000))
	var told bytes.Buffer
	if _, err := m.pull(t.Context(), store, reg.Host+"/app:1", Options{Explain: explain.New(&told)}); err != nil {
		t.Fatal(err)
	}
	if n := cdn.Count("GET", "/blobs/"); n != 3 {
		t.Errorf("%d blob requests at the other host, want config, layer and its rest", n)
	}
	for _, q := range cdn.Requests() {
		if q.Authorization != "" {
			t.Errorf("the login went to another host: %v", q)
		}
	}
	if !strings.Contains(told.String(), "redirected to "+cdn.Host) || strings.Contains(told.String(), "s3cret") || strings.Contains(told.String(), "YW5u") {
		t.Errorf("narration:\n%s", told.String())
	}
}

func TestHostileAnswers(t *testing.T) {
	l := testregistry.Files(map[string]string{"a": noise(5000, 7)})
	small := testregistry.Files(map[string]string{"b": "1"})
	manifest := func(edit func(map[string]any)) []byte {
		reg := testregistry.New(t)
		img := reg.Push("x", "1", l)
		b, _ := json.Marshal(img.M)
		var m map[string]any
		json.Unmarshal(b, &m)
		edit(m)
		b, _ = json.Marshal(m)
		return b
	}
	layer0 := func(m map[string]any) map[string]any { return m["layers"].([]any)[0].(map[string]any) }
	body := func(typ string, edit func(map[string]any)) testregistry.Fault {
		return testregistry.Body(typ, manifest(edit))
	}
	same := func(map[string]any) {}
	blob := "GET /v2/x/blobs/" + string(oci.FromBytes(l.Blob))
	for _, tt := range []struct {
		name, match string
		fault       testregistry.Fault
		want        string
	}{
		{"deep JSON", "/manifests/", testregistry.Body(oci.MediaTypeManifest, []byte(strings.Repeat("[", 1<<20))), "not a manifest"},
		{"endless manifest", "/manifests/", testregistry.Endless(oci.MediaTypeManifest), "larger than such a document may be"},
		{"both", "/manifests/", body(oci.MediaTypeManifest, func(m map[string]any) { m["manifests"] = []any{} }), "CVE-2021-41190"},
		{"announced otherwise", "/manifests/", body(oci.MediaTypeIndex, same), "CVE-2021-41190"},
		{"wrong shape", "/manifests/", body(oci.MediaTypeIndex, func(m map[string]any) { delete(m, "mediaType") }), "does not look so"},
		{"schema 1", "/manifests/", testregistry.Body("application/vnd.docker.distribution.manifest.v1+prettyjws", []byte(`{"schemaVersion":1,"fsLayers":[]}`)), "schema 1"},
		{"artifact", "/manifests/", body(oci.MediaTypeManifest, func(m map[string]any) {
			m["config"].(map[string]any)["mediaType"] = "application/vnd.cncf.helm.config.v1+json"
		}), "not a container image but an artifact"},
		{"foreign", "/manifests/", body(oci.MediaTypeManifest, func(m map[string]any) {
			layer0(m)["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
		}), "may not be distributed"},
		{"bad digest", "/manifests/", body(oci.MediaTypeManifest, func(m map[string]any) { layer0(m)["digest"] = "sha256:../../x" }), "digest"},
		{"negative size", "/manifests/", body(oci.MediaTypeManifest, func(m map[string]any) { layer0(m)["size"] = -1 }), "negative size"},
		{"layer too small", "/manifests/", body(oci.MediaTypeManifest, func(m map[string]any) { layer0(m)["size"] = 10 }), "the manifest says 10"},
		{"layer too big", "/manifests/", body(oci.MediaTypeManifest, func(m map[string]any) { layer0(m)["size"] = 1 << 40 }), "the manifest says 1099511627776"},
		{"one layer more", "/manifests/", body(oci.MediaTypeManifest, func(m map[string]any) { m["layers"] = append(m["layers"].([]any), layer0(m)) }), "the manifest lists 2 layers, the config 1"},
		{"not JSON", "/manifests/", testregistry.Body(oci.MediaTypeManifest, []byte("{")), "not a manifest"},
		{"web page", "/manifests/", testregistry.Body("text/html; charset=utf-8", []byte("<html>")), "the answer is a web page"},
		{"other digest header", "/manifests/", testregistry.Answer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Docker-Content-Digest", string(oci.FromBytes([]byte("x"))))
			w.Header().Set("Content-Type", oci.MediaTypeManifest)
			w.Write(manifest(same))
		}), "digest mismatch"},
		{"other layer bytes", blob, testregistry.Body("", []byte(noise(len(l.Blob), 8))), "digest mismatch"},
		{"other layer", blob, testregistry.Body("", small.Blob), "the manifest says"},
		{"endless layer", blob, testregistry.Endless(""), "more bytes"},
		{"other config", "/blobs/" + string(reg0(t, l).M.Config.Digest), testregistry.Body("", bytes.Repeat([]byte(" "), int(reg0(t, l).M.Config.Size))), "digest mismatch"},
		{"blob gone", blob, testregistry.Status(404), "404"},
		{"range from elsewhere", blob, testregistry.Status(206, "Content-Range", "bytes 5-9/10"), "asked for byte 0"},
		{"terminal tricks", "/manifests/", testregistry.Answer(func(w http.ResponseWriter, _ *http.Request) {
			testregistry.Error(w, 403, "DENIED", "a\x1b]0;evil\x07\u202eb"+strings.Repeat("x", 10000))
		}), "403 Forbidden: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reg, m, store := testregistry.New(t), newMachine(t), newStore(t)
			reg.Push("x", "1", l)
			reg.Break(tt.match, -1, tt.fault)
			_, err := m.pull(t.Context(), store, reg.Host+"/x:1", Options{})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("%v, want %q", err, tt.want)
			}
			var shown bytes.Buffer
			fail.Print(&shown, err)
			if shown.Len() > 2000 || strings.ContainsAny(shown.String(), "\x1b\x07\u202e") {
				t.Errorf("shown: %q", shown.String())
			}
			if imgs, _ := store.Images(); len(imgs) != 0 {
				t.Errorf("the store has %d images", len(imgs))
			}
			if _, err := store.Layer(l.DiffID()); err == nil {
				t.Error("the layer was kept")
			}
			checkNoneLeft(t, store)
			reg.Mend()
			if _, err := m.pull(t.Context(), store, reg.Host+"/x:1", Options{}); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

func reg0(t *testing.T, l testregistry.Layer) testregistry.Image {
	return testregistry.New(t).Push("x", "1", l)
}

func TestMirrors(t *testing.T) {
	main, mirror, m := testregistry.New(t), testregistry.New(t), newMachine(t)
	l := testregistry.Files(map[string]string{"a": "1"})
	main.Push("org/app", "1", l)
	mirror.Push("cache/app", "1", l)
	m.write(t, filepath.Join(m.etc, "containers/registries.conf"), fmt.Sprintf(`
[[registry]]
prefix = "example.com/org"
location = "%s/org"
[[registry.mirror]]
location = "%s/cache"
`, main.Host, mirror.Host))

	store := newStore(t)
	res, err := m.pull(t.Context(), store, "example.com/org/app:1", Options{})
	if err != nil || res.Ref.String() != "example.com/org/app:1" || len(main.Requests()) != 0 {
		t.Errorf("%+v, %v; the registry itself was asked %v", res, err, main.Requests())
	}
	// The mirror has no such tag: silently on. The mirror is broken: told, and on.
	for tag, warnings := range map[string]int{"2": 0, "3": 1} {
		main.Push("org/app", tag, l, testregistry.Files(map[string]string{"tag": tag}))
		if tag == "3" {
			mirror.Push("cache/app", tag, l, testregistry.Files(map[string]string{"tag": tag}))
			mirror.Break("/blobs/", -1, testregistry.Status(500))
		}
		warned := 0
		res, err = m.pull(t.Context(), store, "example.com/org/app:"+tag, Options{Warn: func(err error) {
			if strings.Contains(err.Error(), "did not help") { // not that it waits before it asks again
				warned++
			}
		}})
		if err != nil || warned != warnings {
			t.Errorf("tag %s: %v, %d warnings", tag, err, warned)
		}
	}
	_, err = m.pull(t.Context(), store, "example.com/org/app:nope", Options{})
	if !errors.Is(err, ErrNotFound) || !strings.Contains(fmt.Sprint(fail.Lesson(err).Try), "one of its 3 tags") {
		t.Errorf("%v; lesson %+v", err, fail.Lesson(err))
	}
}

func TestShortNamesAreSearched(t *testing.T) {
	one, two, m, store := testregistry.New(t), testregistry.New(t), newMachine(t), newStore(t)
	two.Push("tool", "1", testregistry.Files(map[string]string{"a": "1"}))
	m.write(t, filepath.Join(m.configHome, "containers/registries.conf"), fmt.Sprintf("unqualified-search-registries = [%q, %q]\n[aliases]\n\"nick\" = \"%s/tool\"\n", one.Host, two.Host, two.Host))
	for _, name := range []string{"tool:1", "nick:1"} {
		res, err := m.pull(t.Context(), store, name, Options{})
		if err != nil || res.Ref.String() != two.Host+"/tool:1" {
			t.Errorf("%s: %v, %v", name, res.Ref, err)
		}
	}
	_, err := m.pull(t.Context(), store, "absent:1", Options{})
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), one.Host) || !strings.Contains(err.Error(), two.Host) {
		t.Errorf("%v", err)
	}
}

func TestLessons(t *testing.T) {
	reg, m := testregistry.New(t), newMachine(t)
	reg.Push("app", "12-slim", testregistry.Files(map[string]string{"a": "1"}))
	reg.Push("app", "bookworm")
	tls := testregistry.NewTLS(t)
	dead := testregistry.UnusedHost(t)
	yes := true
	for _, tt := range []struct {
		name, ref string
		o         Options
		why, try  string
	}{
		{"no repository", reg.Host + "/nope", Options{}, "has no repository nope", ""},
		{"no tag", reg.Host + "/app:12", Options{}, "has no tag 12", "one of its 2 tags, for example 12-slim"},
		{"misspelt tag", reg.Host + "/app:bokworm", Options{}, "has no tag bokworm", "for example bookworm"},
		{"no digest", reg.Host + "/app@" + string(oci.FromBytes(nil)), Options{}, "no manifest of that digest", ""},
		{"refused", dead + "/app", Options{}, "nothing listens on " + dead, ""},
		{"https to http", reg.Host + "/app", Options{TLSVerify: &yes}, "speaks plain http", "--tls-verify=false"},
		{"unknown authority", tls.Host + "/app", Options{TLSVerify: &yes}, "authority this machine does not know", "ca.crt"},
		{"bad reference", "App", Options{}, "", "a name such as debian"},
	} {
		_, err := m.pull(t.Context(), newStore(t), tt.ref, tt.o)
		lesson := fail.Lesson(err)
		if lesson == nil || !strings.Contains(lesson.Why, tt.why) || !strings.Contains(lesson.Try, tt.try) {
			t.Errorf("%s: %v\n%+v", tt.name, err, lesson)
		}
	}
	if len(m.slept) != 0 {
		t.Errorf("waited %v for what will not change", m.slept)
	}
}

func TestAuth(t *testing.T) {
	const login = `{"auths":{%q:{"auth":"YW5uOnMzY3JldA=="}}}`
	const refresh = `{"auths":{%q:{"identitytoken":"rrr"}}}`
	for _, tt := range []struct {
		name, file string
		require    func(*testregistry.Registry)
		why        string // "" when it must work
		requests   int
	}{
		{"basic", login, func(r *testregistry.Registry) { r.RequireBasic("ann", "s3cret") }, "", 4},
		{"basic, nobody", "", func(r *testregistry.Registry) { r.RequireBasic("ann", "s3cret") }, "there is none for it in", 1},
		{"basic, wrong", login, func(r *testregistry.Registry) { r.RequireBasic("ann", "other") }, "does not accept the login of ann from ", 2},
		{"bearer, anonymous", "", func(r *testregistry.Registry) { r.RequireBearer("", "", "", 0) }, "", 5},
		{"bearer, login", login, func(r *testregistry.Registry) { r.RequireBearer("ann", "s3cret", "", 300) }, "", 5},
		{"bearer, wrong", login, func(r *testregistry.Registry) { r.RequireBearer("ann", "other", "", 300) }, "the login of ann from", 2},
		{"bearer, nobody", "", func(r *testregistry.Registry) { r.RequireBearer("ann", "s3cret", "", 300) }, "none was found", 2},
		{"bearer, refresh token", refresh, func(r *testregistry.Registry) { r.RequireBearer("x", "x", "rrr", 300) }, "", 5},
		{"bearer, short lived", "", func(r *testregistry.Registry) { r.RequireBearer("", "", "", 1) }, "", 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reg, m, store := testregistry.New(t), newMachine(t), newStore(t)
			reg.Push("org/app", "1", testregistry.Files(map[string]string{"a": "1"}))
			tt.require(reg)
			if tt.file != "" {
				m.write(t, filepath.Join(m.runtimeDir, "containers/auth.json"), fmt.Sprintf(tt.file, reg.Host))
			}
			var told bytes.Buffer
			_, err := m.pull(t.Context(), store, reg.Host+"/org/app:1", Options{Explain: explain.New(&told)})
			switch lesson := fail.Lesson(err); {
			case tt.why == "" && err != nil:
				t.Fatal(err)
			case tt.why != "" && (lesson == nil || !strings.Contains(lesson.Why, tt.why)):
				t.Errorf("%v: %+v, want why %q", err, lesson, tt.why)
			}
			if n := len(reg.Requests()); n != tt.requests {
				t.Errorf("%d requests, want %d: %v", n, tt.requests, reg.Requests())
			}
			for _, secret := range []string{"s3cret", "YW5u", "rrr", "t2-repo"} {
				if strings.Contains(told.String(), secret) {
					t.Errorf("the narration tells %q:\n%s", secret, told.String())
				}
			}
		})
	}
}

func TestTokenThatExpiresOnTheWay(t *testing.T) {
	reg, m, store := testregistry.New(t), newMachine(t), newStore(t)
	l := testregistry.Files(map[string]string{"a": noise(500_000, 9)})
	reg.Push("app", "1", l)
	reg.RequireBearer("", "", "", 3600)
	blob := "/blobs/" + string(oci.FromBytes(l.Blob))
	reg.Break(blob, 1, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			defer reg.ExpireTokens()
			testregistry.Cut(100_000)(next).ServeHTTP(w, req)
		})
	})
	if _, err := m.pull(t.Context(), store, reg.Host+"/app:1", Options{}); err != nil {
		t.Fatal(err)
	}
	if n := reg.Count("GET", "/token"); n != 2 {
		t.Errorf("%d tokens, want 2", n)
	}
}

func TestTLS(t *testing.T) {
	reg := testregistry.NewTLS(t)
	reg.Push("app", "1", testregistry.Files(map[string]string{"a": "1"}))
	no, yes := false, true
	certs := func(m *machine) {
		m.write(t, filepath.Join(m.configHome, "containers/certs.d", reg.Host, "ca.crt"), pemOf(reg.Server.Certificate().Raw))
	}
	conf := func(insecure bool) func(*machine) {
		return func(m *machine) {
			m.write(t, filepath.Join(m.configHome, "containers/registries.conf"), fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = %v\n", reg.Host, insecure))
		}
	}
	for _, tt := range []struct {
		name   string
		verify *bool
		set    func(*machine)
		ok     bool
	}{
		{"loopback finds https by itself", nil, nil, true},
		{"--tls-verify=false", &no, nil, true},
		{"--tls-verify", &yes, nil, false},
		{"certs.d", &yes, certs, true},
		{"insecure = true", nil, conf(true), true},
		{"insecure = false", nil, conf(false), false},
	} {
		m := newMachine(t)
		if tt.set != nil {
			tt.set(m)
		}
		_, err := m.pull(t.Context(), newStore(t), reg.Host+"/app:1", Options{TLSVerify: tt.verify})
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	// And a plain one, asked for in https first.
	plain := testregistry.New(t)
	plain.Push("app", "1")
	if _, err := newMachine(t).pull(t.Context(), newStore(t), plain.Host+"/app:1", Options{TLSVerify: &no}); err != nil {
		t.Errorf("--tls-verify=false with a plain registry: %v", err)
	}
	// A redirect that leaves https, while https is asked for.
	m := newMachine(t)
	certs(m)
	reg.Break("GET /v2/app/blobs/", -1, testregistry.Redirect(plain.URL))
	if _, err := m.pull(t.Context(), newStore(t), reg.Host+"/app:1", Options{TLSVerify: &yes}); !errors.Is(err, errDowngrade) {
		t.Errorf("redirect to http: %v", err)
	}
}

func TestTwoPullsShareTheWork(t *testing.T) {
	reg, store := testregistry.New(t), newStore(t)
	l := testregistry.Files(map[string]string{"a": noise(300_000, 10)})
	reg.Push("app", "1", l)
	reg.Break("/blobs/"+string(oci.FromBytes(l.Blob)), -1, testregistry.Slow(30_000, 5*time.Millisecond))
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if _, err := newMachine(t).pull(t.Context(), store, reg.Host+"/app:1", Options{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := reg.Count("GET", "/blobs/"+string(oci.FromBytes(l.Blob))); n != 1 {
		t.Errorf("the layer was fetched %d times", n)
	}
}

func TestManyLayers(t *testing.T) {
	reg, store := testregistry.New(t), newStore(t)
	var layers []testregistry.Layer
	for i := range 130 {
		layers = append(layers, testregistry.Files(map[string]string{"f": fmt.Sprint(i)}))
	}
	reg.Push("app", "1", layers...)
	res, err := newMachine(t).pull(t.Context(), store, reg.Host+"/app:1", Options{})
	if err != nil || len(res.Image.M.Layers) != 130 {
		t.Fatal(err)
	}
}

// BenchmarkBlob is the client alone: what is left of a loopback's speed.
func BenchmarkBlob(b *testing.B) {
	reg := testregistry.New(b)
	data := []byte(noise(64<<20, 11))
	d := oci.Descriptor{Digest: reg.PutBlob("app", data), Size: int64(len(data))}
	ref, err := oci.ParseReference(reg.Host + "/app:1")
	if err != nil {
		b.Fatal(err)
	}
	r := around().registry(source{ref: ref}, Options{}, &registriesConf{}, func(error) {})
	defer r.close()
	buf := make([]byte, 256<<10)
	b.SetBytes(d.Size)
	b.ReportAllocs()
	for b.Loop() {
		blob, err := r.blob(b.Context(), d, nil)
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, err = blob.Read(buf)
		}
		if err != io.EOF {
			b.Fatal(err)
		}
		blob.Close()
	}
}
