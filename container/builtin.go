package container

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"moss/explain"
	"moss/fail"
	"moss/hello"
	"moss/image"
	"moss/namespaces"
	"moss/oci"
)

// builtinImage is the name of the image that needs no network: this binary
// itself, which inside a container runs package hello.
const builtinImage = "hello"

// Where it is in the container, and how it knows there that it is not the
// command: by argv[0], and by being PID 1 or seeing the variable that says who
// runs the container (systemd.io/CONTAINER_INTERFACE; the image's config sets
// it). A copy of moss that a user calls hello is still moss.
const (
	helloPath = "/hello"
	helloEnv  = "container=moss"
)

// isHello reports whether this process is the built-in image's program.
func isHello(args []string) bool {
	return args[0] == helloPath && (os.Getpid() == 1 || os.Getenv("container") == "moss")
}

// helloMain is the program of the image.
func helloMain(args []string) int {
	return hello.Main(args, os.Stdout, func(set uint64) []string { return namespaces.Capabilities(set).Names() })
}

// builtinRef is the name the image has in the store. docker.io/library/hello,
// which is what hello means anywhere else, stays free for an image of that
// name from a registry.
func builtinRef() oci.Reference {
	return oci.Reference{Registry: "localhost", Repository: builtinImage, Tag: oci.DefaultTag}
}

// builtin returns the built-in image, and makes it when this binary's is not
// in the store. Somebody who has an image of their own under the name hello
// gets that, as docker would have it.
//
// It is safe to be called from many processes at once: all make the same bytes,
// and the store lets one of them unpack.
func (e *Engine) builtin(ctx context.Context) (*image.Image, error) {
	if own, err := oci.ParseReference(builtinImage); err == nil {
		if img, err := e.Store.Lookup(own); err == nil {
			return img, nil
		}
	}
	exe, err := os.Open("/proc/self/exe") // also when its file was replaced or deleted
	if err != nil {
		return nil, fmt.Errorf("reading moss itself for the built-in image: %w", err)
	}
	defer exe.Close()
	id, err := exeIdentity(exe)
	if err != nil {
		return nil, fmt.Errorf("reading moss itself for the built-in image: %w", err)
	}
	if img := e.builtinOf(id); img != nil {
		return img, nil
	}
	img, err := e.makeBuiltin(ctx, exe, id)
	if err != nil {
		return nil, fmt.Errorf("making the built-in image %s: %w", builtinImage, err)
	}
	return img, nil
}

// exeID tells one binary from another without reading it. The time of change
// (ctime) cannot be set by hand, so a binary that was written over shows.
type exeID struct {
	Dev, Ino, Size, Mtime, Ctime int64
}

func exeIdentity(exe *os.File) (exeID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(exe.Fd()), &st); err != nil {
		return exeID{}, fmt.Errorf("fstat(2) %s: %w", exe.Name(), err)
	}
	return exeID{int64(st.Dev), int64(st.Ino), st.Size, st.Mtim.Nano(), st.Ctim.Nano()}, nil
}

// builtinFile is builtin.json: which image was made of which binary.
type builtinFile struct {
	Exe   exeID      `json:"exe"`
	Image oci.Digest `json:"image"`
}

func (e *Engine) builtinFile() string { return filepath.Join(e.root, "builtin.json") }

// builtinOf returns the image that was made of exe, nil when there is none.
// A file that was lost or damaged only means that it is made again.
func (e *Engine) builtinOf(exe exeID) *image.Image {
	b, err := os.ReadFile(e.builtinFile())
	if err != nil {
		return nil
	}
	var f builtinFile
	if json.Unmarshal(b, &f) != nil || f.Exe != exe {
		return nil
	}
	img, err := e.Store.Lookup(builtinRef())
	if err != nil || img.ID != f.Image {
		return nil
	}
	if _, err := e.Store.Lowers(img.Config.RootFS.DiffIDs); err != nil {
		return nil
	}
	return img
}

// makeBuiltin makes the image of exe.
func (e *Engine) makeBuiltin(ctx context.Context, exe *os.File, id exeID) (*image.Image, error) {
	if err := checkStatic(exe); err != nil {
		return nil, err
	}
	made := buildTime()
	return e.storeBuiltin(ctx, func(w io.Writer) error {
		return writeBuiltinLayer(w, io.NewSectionReader(exe, 0, id.Size), id.Size, made)
	}, id, made)
}

// storeBuiltin puts the image with this layer into the store: layer, config,
// manifest and a name, as a pull would.
//
// It does not wait for the disk (image.Store.Sync): what a power cut takes, the
// next run makes again in less time than the waiting costs.
func (e *Engine) storeBuiltin(ctx context.Context, layer func(io.Writer) error, id exeID, made time.Time) (*image.Image, error) {
	// The layer is written twice rather than kept in memory: once to learn its
	// digest, once to be unpacked.
	digest, size, err := digestOf(layer)
	if err != nil {
		return nil, err
	}
	e.Explain.Step(explain.Step{What: "Make the image hello of moss itself",
		Call: fmt.Sprintf("tar of /proc/self/exe → layers/%s, %d bytes", digest.Short(), size),
		Why:  "an image is no more than files in a tar archive and two JSON texts about it, so one can be made without network",
		See:  []string{"image-spec layer.md", "image-spec config.md", "container/builtin.go#storeBuiltin"}})
	blob := oci.Descriptor{MediaType: oci.MediaTypeLayer, Digest: digest, Size: size}
	_, _, err = e.Store.AddLayer(ctx, blob, digest, func(context.Context) (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() { w.CloseWithError(layer(w)) }()
		return r, nil
	})
	if err != nil {
		return nil, err
	}
	config, err := e.putJSON(oci.MediaTypeConfig, builtinConfig(digest, made))
	if err != nil {
		return nil, err
	}
	manifest, err := e.putJSON(oci.MediaTypeManifest, oci.Manifest{
		SchemaVersion: 2, MediaType: oci.MediaTypeManifest, Config: config, Layers: []oci.Descriptor{blob},
	})
	if err != nil {
		return nil, err
	}
	before, _ := e.Store.Lookup(builtinRef())
	if err := e.Store.Tag(builtinRef(), manifest); err != nil {
		return nil, err
	}
	b, err := json.Marshal(builtinFile{Exe: id, Image: config.Digest})
	if err != nil {
		return nil, err
	}
	if err := image.WriteFile(e.builtinFile(), append(b, '\n'), 0o600); err != nil {
		return nil, err
	}
	if before != nil && before.ID != config.Digest {
		e.dropBuiltin(before.ID)
	}
	return e.Store.Lookup(builtinRef())
}

// checkStatic refuses a binary that needs an ELF interpreter and libraries: in
// the image there are none.
func checkStatic(exe io.ReaderAt) error {
	f, err := elf.NewFile(exe)
	if err != nil {
		return err
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return &fail.Error{Op: "using moss as an image:", Err: errors.New("it is a dynamic program"),
				Why: "it was built with cgo, so it needs the host's C library", Try: "./scripts/build, or CGO_ENABLED=0 go build ."}
		}
	}
	return nil
}

// buildTime is when the source of this binary was committed; zero when the
// build does not know.
func buildTime() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			t, _ := time.Parse(time.RFC3339, s.Value)
			return t.UTC()
		}
	}
	return time.Time{}
}

// dropBuiltin removes the image of an older moss, which nobody can name any
// more. That it fails is no reason not to run: moss rmi can still do it.
func (e *Engine) dropBuiltin(id oci.Digest) {
	old, err := e.Store.Find(string(id))
	if err != nil || len(old.Names)+len(old.Digests) > 0 {
		return
	}
	records, err := e.List()
	if err != nil {
		return
	}
	for _, r := range records {
		if r.ImageID == id {
			return // docker too keeps the image of a container
		}
	}
	// Counted again, with the store held, for containers made since.
	inUse := sync.OnceValues(e.InUse)
	_, _ = e.Store.Remove(old, func(l oci.DiffID) bool {
		used, err := inUse()
		return err != nil || used(l)
	})
}

// builtinConfig is the image's config. Nothing in it depends on when or where
// it is made, so the same moss makes the same image everywhere.
func builtinConfig(layer oci.DiffID, made time.Time) oci.Image {
	host := oci.Host()
	var created *time.Time
	if !made.IsZero() {
		created = &made
	}
	return oci.Image{
		Created: created, Architecture: host.Architecture, Variant: host.Variant, OS: host.OS,
		Config: oci.Config{
			Entrypoint: []string{helloPath},
			Env:        []string{defaultPath, helloEnv},
			WorkingDir: "/",
			Labels: map[string]string{
				"org.opencontainers.image.title":       builtinImage,
				"org.opencontainers.image.description": "prints what it sees of its own container; built into moss",
				"org.opencontainers.image.licenses":    "Apache-2.0",
				"moss.builtin":                         "true",
			},
		},
		RootFS: oci.RootFS{Type: "layers", DiffIDs: []oci.DiffID{layer}},
		History: []oci.History{
			{Created: created, CreatedBy: "COPY moss " + helloPath, Comment: "made by moss of its own binary"},
			{Created: created, CreatedBy: `ENTRYPOINT ["` + helloPath + `"]`, Comment: "made by moss of its own binary", EmptyLayer: true},
		},
	}
}

// writeBuiltinLayer writes the image's only layer: the binary, and the little
// that programs expect of a root.
func writeBuiltinLayer(w io.Writer, exe io.Reader, size int64, made time.Time) error {
	if made.IsZero() {
		made = time.Unix(0, 0)
	}
	t := tar.NewWriter(w)
	for _, f := range []struct {
		name, content string
		mode          int64
	}{
		{name: "etc/", mode: 0o755},
		{name: "etc/group", mode: 0o644, content: "root:x:0:\ntty:x:5:\nnobody:x:65534:\n"},
		{name: "etc/passwd", mode: 0o644, content: "root:x:0:0:root:/:/hello\nnobody:x:65534:65534:nobody:/:/hello\n"},
		{name: "tmp/", mode: 0o1777},
		{name: helloPath[1:], mode: 0o755},
	} {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.content)), ModTime: made, Format: tar.FormatUSTAR}
		content := io.Reader(bytes.NewReader([]byte(f.content)))
		switch {
		case f.name[len(f.name)-1] == '/':
			h.Typeflag = tar.TypeDir
		case f.name == helloPath[1:]:
			h.Size, content = size, exe
		}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if n, err := io.Copy(t, content); err != nil {
			return fmt.Errorf("writing /%s: %w", f.name, err)
		} else if n != h.Size {
			return fmt.Errorf("writing /%s: %w", f.name, io.ErrUnexpectedEOF)
		}
	}
	return t.Close()
}

// digestOf hashes what write writes.
func digestOf(write func(io.Writer) error) (oci.Digest, int64, error) {
	h := sha256.New()
	var n countWriter
	if err := write(io.MultiWriter(h, &n)); err != nil {
		return "", 0, err
	}
	return oci.FromHash(h), int64(n), nil
}

type countWriter int64

func (n *countWriter) Write(b []byte) (int, error) {
	*n += countWriter(len(b))
	return len(b), nil
}

// putJSON stores v and describes it.
func (e *Engine) putJSON(mediaType string, v any) (oci.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return oci.Descriptor{}, err
	}
	d, err := e.Store.PutBlob(b)
	return oci.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}, err
}
