// Package testregistry is an image registry in memory, for tests: it serves
// what a test pushes into it, by distribution-spec 1.1 "Pull", and misbehaves
// in the ways real ones do when it is told to.
package testregistry

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"moss/oci"
)

// Registry is a running registry. Push and faults may be used while it serves.
type Registry struct {
	Host string // host:port, what stands before the first slash of a reference
	URL  string

	Server *httptest.Server // its Certificate is of interest when it is TLS

	mu       sync.Mutex
	repos    map[string]*repository
	faults   []*fault
	requests []Request
	auth     auth
	tokens   int
}

type repository struct {
	tags      map[string]oci.Digest
	manifests map[oci.Digest]typed
	blobs     map[oci.Digest][]byte
}

type typed struct {
	mediaType string
	body      []byte
}

// Request is one that was served, for a test to look at.
type Request struct {
	Method, Path, Range, Authorization string
}

func (r Request) String() string { return r.Method + " " + r.Path }

// New starts a plain http registry that ends with the test.
func New(t testing.TB) *Registry {
	r := Start()
	t.Cleanup(r.Close)
	return r
}

// NewTLS is New over https, with a certificate for 127.0.0.1 and example.com
// that no system trusts.
func NewTLS(t testing.TB) *Registry {
	r := newRegistry()
	r.Server = httptest.NewUnstartedServer(r)
	r.Server.Config.ErrorLog = quiet()
	r.Server.StartTLS()
	r.located()
	t.Cleanup(r.Close)
	return r
}

// Start starts a registry outside of a test's life, for example for a script's.
func Start() *Registry {
	r := newRegistry()
	r.Server = httptest.NewServer(r)
	r.located()
	return r
}

func newRegistry() *Registry { return &Registry{repos: map[string]*repository{}} }

func (r *Registry) located() {
	r.URL = r.Server.URL
	_, r.Host, _ = strings.Cut(r.URL, "://")
}

// Close ends the registry and every connection to it.
func (r *Registry) Close() {
	r.Server.CloseClientConnections()
	r.Server.Close()
}

// Layer is one layer to push.
type Layer struct {
	Tar       []byte // what DiffID hashes
	Blob      []byte // what is sent
	MediaType string
}

// DiffID is the digest of the layer's tar.
func (l Layer) DiffID() oci.DiffID { return oci.FromBytes(l.Tar) }

// Descriptor is the layer's entry in a manifest.
func (l Layer) Descriptor() oci.Descriptor {
	return oci.Descriptor{MediaType: l.MediaType, Digest: oci.FromBytes(l.Blob), Size: int64(len(l.Blob))}
}

// Files makes a gzip layer of regular files: names and contents. A name that
// ends in a slash is a directory.
func Files(files map[string]string) Layer {
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range names {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(files[name])), ModTime: time.Unix(1700000000, 0), Format: tar.FormatPAX}
		if strings.HasSuffix(name, "/") {
			h.Typeflag, h.Size = tar.TypeDir, 0
		}
		if err := w.WriteHeader(h); err != nil {
			panic(err)
		}
		if h.Size > 0 {
			io.WriteString(w, files[name])
		}
	}
	w.Close()
	return Gzip(b.Bytes())
}

// Gzip makes a layer of a tar, compressed as most are.
func Gzip(tarBytes []byte) Layer {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	w.Write(tarBytes)
	w.Close()
	return Layer{Tar: tarBytes, Blob: b.Bytes(), MediaType: oci.MediaTypeLayerGzip}
}

// Plain makes a layer of a tar as it is.
func Plain(tarBytes []byte) Layer {
	return Layer{Tar: tarBytes, Blob: tarBytes, MediaType: oci.MediaTypeLayer}
}

// Image is what Push made.
type Image struct {
	Manifest oci.Descriptor
	M        oci.Manifest
	Config   oci.Image
}

// HostPlatform is the platform Push gives its images.
func HostPlatform() oci.Platform { return oci.Platform{OS: "linux", Architecture: runtime.GOARCH} }

// Push puts an image of layers, lowest first, for this machine under name:tag.
func (r *Registry) Push(name, tag string, layers ...Layer) Image {
	return r.PushImage(name, tag, oci.Image{}, layers...)
}

// PushImage is Push with a config. Platform and rootfs are filled in when they
// are empty; without a tag the image can be had by digest only.
func (r *Registry) PushImage(name, tag string, config oci.Image, layers ...Layer) Image {
	if config.OS == "" {
		config.OS, config.Architecture = "linux", runtime.GOARCH
	}
	m := oci.Manifest{SchemaVersion: 2, MediaType: oci.MediaTypeManifest, Layers: []oci.Descriptor{}}
	if config.RootFS.DiffIDs == nil {
		config.RootFS = oci.RootFS{Type: "layers", DiffIDs: []oci.DiffID{}}
		for _, l := range layers {
			config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.DiffID())
		}
	}
	for _, l := range layers {
		m.Layers = append(m.Layers, l.Descriptor())
		r.PutBlob(name, l.Blob)
	}
	raw := mustJSON(config)
	m.Config = oci.Descriptor{MediaType: oci.MediaTypeConfig, Digest: r.PutBlob(name, raw), Size: int64(len(raw))}
	d := r.PutManifest(name, tag, m.MediaType, mustJSON(m))
	p := config.Platform()
	d.Platform = &p
	return Image{Manifest: d, M: m, Config: config}
}

// PushIndex puts an index over images that Push put into the same repository.
func (r *Registry) PushIndex(name, tag string, images ...oci.Descriptor) oci.Descriptor {
	return r.PutManifest(name, tag, oci.MediaTypeIndex, mustJSON(oci.Index{SchemaVersion: 2, MediaType: oci.MediaTypeIndex, Manifests: images}))
}

// PutManifest puts any bytes where manifests are.
func (r *Registry) PutManifest(name, tag, mediaType string, body []byte) oci.Descriptor {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := oci.FromBytes(body)
	repo := r.repo(name)
	repo.manifests[d] = typed{mediaType, body}
	if tag != "" {
		repo.tags[tag] = d
	}
	return oci.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(body))}
}

// PutBlob puts bytes where blobs are.
func (r *Registry) PutBlob(name string, body []byte) oci.Digest {
	d := oci.FromBytes(body)
	r.PutBlobAs(name, d, body)
	return d
}

// PutBlobAs lies: d names something else than body.
func (r *Registry) PutBlobAs(name string, d oci.Digest, body []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.repo(name).blobs[d] = body
}

func (r *Registry) repo(name string) *repository {
	if r.repos[name] == nil {
		r.repos[name] = &repository{tags: map[string]oci.Digest{}, manifests: map[oci.Digest]typed{}, blobs: map[oci.Digest][]byte{}}
	}
	return r.repos[name]
}

// Requests returns what was asked so far, in order.
func (r *Registry) Requests() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

// Count returns how many requests had this method and this in their path.
func (r *Registry) Count(method, inPath string) int {
	n := 0
	for _, q := range r.Requests() {
		if q.Method == method && strings.Contains(q.Path, inPath) {
			n++
		}
	}
	return n
}

// Forget empties the list of requests.
func (r *Registry) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = nil
}

// ServeHTTP answers one request.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.requests = append(r.requests, Request{req.Method, req.URL.Path, req.Header.Get("Range"), req.Header.Get("Authorization")})
	var handler http.Handler = http.HandlerFunc(r.serve)
	for _, f := range r.faults {
		if f.times != 0 && strings.Contains(req.Method+" "+req.URL.Path, f.match) {
			f.times--
			handler = f.wrap(handler)
		}
	}
	r.mu.Unlock()
	handler.ServeHTTP(w, req)
}

func (r *Registry) serve(w http.ResponseWriter, req *http.Request) {
	if r.serveAuth(w, req) {
		return
	}
	path, ok := strings.CutPrefix(req.URL.Path, "/v2/")
	if !ok || req.Method != http.MethodGet && req.Method != http.MethodHead {
		Error(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry only gives")
		return
	}
	if path == "" {
		return
	}
	for _, kind := range []string{"/manifests/", "/blobs/", "/tags/"} {
		i := strings.LastIndex(path, kind)
		if i < 0 {
			continue
		}
		repo, ok := r.look(path[:i])
		if !ok {
			Error(w, http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry")
			return
		}
		last := path[i+len(kind):]
		switch kind {
		case "/manifests/":
			d := oci.Digest(last)
			if tagged, ok := repo.tags[last]; ok {
				d = tagged
			}
			m, ok := repo.manifests[d]
			if !ok {
				Error(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
				return
			}
			w.Header().Set("Content-Type", m.mediaType)
			w.Header().Set("Docker-Content-Digest", string(d))
			w.Header().Set("Content-Length", strconv.Itoa(len(m.body)))
			if req.Method == http.MethodGet {
				w.Write(m.body)
			}
		case "/blobs/":
			b, ok := repo.blobs[oci.Digest(last)]
			if !ok {
				Error(w, http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry")
				return
			}
			w.Header().Set("Content-Type", "application/octet-stream")
			http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(b))
		case "/tags/":
			w.Write(mustJSON(map[string]any{"name": path[:i], "tags": slices.Sorted(maps.Keys(repo.tags))}))
		}
		return
	}
	http.NotFound(w, req)
}

// look returns a copy of a repository's tables, to serve from without a lock.
func (r *Registry) look(name string) (repository, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	repo := r.repos[name]
	if repo == nil {
		return repository{}, false
	}
	return repository{maps.Clone(repo.tags), maps.Clone(repo.manifests), maps.Clone(repo.blobs)}, true
}

// Error answers as distribution-spec has it ("Error Codes").
func Error(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(mustJSON(map[string]any{"errors": []any{map[string]string{"code": code, "message": message}}}))
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// UnusedHost returns a loopback address where nothing listens.
func UnusedHost(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
