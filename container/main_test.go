package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"moss/fail"
	"moss/internal/kerneltest"
	"moss/internal/testimage"
	"moss/namespaces"
	"moss/oci"
	"moss/pull"
)

// The tests here run containers as a user does: each run is a process of its
// own, this binary under the name runRole, so that it can be killed, given
// descriptors, signals and a terminal. What runs inside is this binary too
// (payload_test.go), put into a layer: no test needs an image from anywhere.

const (
	runRole     = "moss-test-run" // ROOT OPTIONS: Engine.Run, as moss run does it
	payloadPath = "/bin/payload"
)

func TestMain(m *testing.M) {
	if handled, status := ReexecMain(os.Args); handled {
		os.Exit(status)
	}
	if root := os.Getenv(runHelloEnv); root != "" {
		os.Exit(runHello(root))
	}
	switch filepath.Base(os.Args[0]) {
	case runRole:
		os.Exit(runMain(os.Args[1], os.Args[2]))
	case filepath.Base(payloadPath):
		os.Exit(payload(os.Args[1:]))
	}
	status := m.Run()
	if shared.m != nil {
		shared.m.remove()
	}
	os.Exit(status)
}

// runMain is what cli does for moss run, without flags.
func runMain(root, options string) int {
	var o Options
	if err := json.Unmarshal([]byte(options), &o); err != nil {
		fail.Print(os.Stderr, err)
		return fail.StatusMoss
	}
	e, err := Open(Config{Root: root, RunRoot: filepath.Join(root, "run")})
	if err != nil {
		fail.Print(os.Stderr, err)
		return fail.StatusMoss
	}
	defer e.Close()
	status, err := e.Run(context.Background(), o, pull.Options{})
	if err != nil {
		fail.Print(os.Stderr, err)
		return statusOf(err)
	}
	return status
}

// machine is a store with an engine on it.
type machine struct {
	*Engine
	root string
	base oci.Descriptor // the layer with the payload
	exe  string
}

var shared struct {
	once sync.Once
	m    *machine
	err  error
}

// newMachine makes a store in dir, which is not t.TempDir: its trees may have
// owners that os.RemoveAll cannot delete.
func newMachine() (*machine, error) {
	root, err := os.MkdirTemp("", "moss-test-")
	if err != nil {
		return nil, err
	}
	os.Chmod(root, 0o711)
	return machineAt(root)
}

func machineAt(root string) (*machine, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(exe)
	if err != nil {
		return nil, err
	}
	// moss is a copy that belongs to the caller, who could write to it if the
	// container let him.
	m := &machine{root: root, exe: filepath.Join(root, "moss")}
	if err := os.WriteFile(m.exe, program, 0o755); err != nil {
		return nil, err
	}
	m.Engine, err = Open(Config{Root: root, RunRoot: filepath.Join(root, "run"), Warn: func(error) {}})
	if err != nil {
		return nil, err
	}
	layer := testimage.NewBuilder().Dir("bin", 0o755).File("bin/payload", 0o755, string(program)).
		Dir("etc", 0o755).
		File("etc/passwd", 0o644, "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n").
		File("etc/group", 0o644, "root:x:0:\napp:x:1000:\nextra:x:2000:app\nmore:x:2001:root,app\naudio:x:29:\n").
		Dir("tmp", 0o1777).Tar()
	m.base, err = m.addLayer(layer)
	return m, err
}

func (m *machine) remove() {
	m.Close()
	if err := m.removeTree(m.root); err != nil {
		fmt.Fprintln(os.Stderr, "removing the test's store:", err)
	}
}

func (m *machine) addLayer(tar []byte) (oci.Descriptor, error) {
	d := oci.FromBytes(tar)
	blob := oci.Descriptor{MediaType: oci.MediaTypeLayer, Digest: d, Size: int64(len(tar))}
	_, _, err := m.Store.AddLayer(context.Background(), blob, d, func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(tar)), nil
	})
	return blob, err
}

// theMachine is the store that tests share; it skips where there can be no
// containers.
func theMachine(t testing.TB) *machine {
	t.Helper()
	kerneltest.Require(t, "userns", "overlay", "proc")
	shared.once.Do(func() { shared.m, shared.err = newMachine() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.m
}

// ownMachine is a store for one test.
func ownMachine(t testing.TB) *machine {
	t.Helper()
	kerneltest.Require(t, "userns", "overlay", "proc")
	m, err := newMachine()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.remove)
	return m
}

// image makes an image of the payload and layers above it.
func (m *machine) image(t testing.TB, config oci.Config, layers ...[]byte) string {
	t.Helper()
	blobs := []oci.Descriptor{m.base}
	for _, tar := range layers {
		blob, err := m.addLayer(tar)
		if err != nil {
			t.Fatal(err)
		}
		blobs = append(blobs, blob)
	}
	if config.Entrypoint == nil {
		config.Entrypoint = []string{payloadPath}
	}
	host := oci.Host()
	i := oci.Image{Architecture: host.Architecture, Variant: host.Variant, OS: host.OS, Config: config, RootFS: oci.RootFS{Type: "layers"}}
	for _, b := range blobs {
		i.RootFS.DiffIDs = append(i.RootFS.DiffIDs, b.Digest)
	}
	c, err := m.putJSON(oci.MediaTypeConfig, i)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := m.putJSON(oci.MediaTypeManifest, oci.Manifest{SchemaVersion: 2, MediaType: oci.MediaTypeManifest, Config: c, Layers: blobs})
	if err != nil {
		t.Fatal(err)
	}
	name := "localhost/test/" + manifest.Digest.Hex()[:12] + ":latest"
	ref, err := oci.ParseReference(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Store.Tag(ref, manifest); err != nil {
		t.Fatal(err)
	}
	return name
}

// mode is how ids are mapped here.
func (m *machine) mode(t testing.TB) namespaces.MapMode {
	t.Helper()
	ids, err := m.IDMap()
	if err != nil {
		t.Fatal(err)
	}
	return ids.Mode
}

// command is a run that can still be changed.
func (m *machine) command(o Options) *exec.Cmd {
	if o.Pull == "" {
		o.Pull = "never"
	}
	b, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(m.exe)
	cmd.Args = []string{runRole, m.root, string(b)}
	cmd.Dir = "/"
	cmd.WaitDelay = 20 * time.Second
	return cmd
}

// result is how a run ended.
type result struct {
	status         int
	stdout, stderr string
}

// said are the answers of the payload, one for each of its arguments.
func (r result) said() []string {
	return strings.Split(strings.TrimSuffix(r.stdout, answerEnd), answerEnd)
}

func (m *machine) run(t testing.TB, o Options) result {
	t.Helper()
	return finish(t, m.command(o))
}

func finish(t testing.TB, cmd *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v\n%s", err, errs.String())
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// ask runs the payload in a new container and returns its answers.
func (m *machine) ask(t testing.TB, o Options, questions ...string) []string {
	t.Helper()
	o.Args, o.Remove = questions, true
	r := m.run(t, o)
	said := r.said()
	if r.status != 0 || len(said) != len(questions) {
		t.Fatalf("status %d, answers %q to %q\n%s", r.status, said, questions, r.stderr)
	}
	return said
}

// want runs pairs of question and answer in one container; "|" stands between
// answers that will do.
func (m *machine) want(t testing.TB, o Options, pairs ...string) {
	t.Helper()
	var questions []string
	for i := 0; i < len(pairs); i += 2 {
		questions = append(questions, pairs[i])
	}
	for i, got := range m.ask(t, o, questions...) {
		if !slices.Contains(strings.Split(pairs[2*i+1], "|"), got) {
			t.Errorf("%s: %q, want %q", questions[i], got, pairs[2*i+1])
		}
	}
}

// plain is an image with the payload and nothing else.
func (m *machine) plain(t testing.TB) string {
	t.Helper()
	return m.image(t, oci.Config{})
}

// background starts a run whose payload first says that it is ready, and
// returns when it has.
func (m *machine) background(t testing.TB, o Options) *exec.Cmd {
	t.Helper()
	cmd := m.command(o)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	b := make([]byte, len("ready"+answerEnd))
	if _, err := io.ReadFull(out, b); err != nil {
		cmd.Wait()
		t.Fatalf("not ready: %v\n%s", err, errs.String())
	}
	return cmd
}

// empty checks that no container is left, nor anything that one had.
func (m *machine) empty(t testing.TB) {
	t.Helper()
	if all, err := m.List(); err != nil || len(all) > 0 {
		t.Errorf("containers left: %d, %v", len(all), err)
	}
	for _, dir := range []string{m.containers, filepath.Join(m.containers, "names")} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if e.Name() != "names" {
				t.Errorf("left: %s", filepath.Join(dir, e.Name()))
			}
		}
	}
}

// faked is the answer to chown(2) and its like where a single id makes them
// succeed without effect; else one that nobody gives.
func (m *machine) faked(t testing.TB) string {
	if m.mode(t) == namespaces.SingleID {
		return "ok"
	}
	return "-"
}
