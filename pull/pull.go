// Package pull fetches images from registries: distribution-spec 1.1 and
// Docker's Registry HTTP API V2, written out, because it is the lesson.
//
// Pull is the story from top to bottom. The other files are its mechanisms:
//
//	registriesconf.go  where to ask: names, mirrors, blocked registries
//	manifest.go        manifest or index, and which platform
//	registry.go        requests, and making them again
//	blob.go            a blob as one stream over broken connections
//	auth.go            tokens; challenge.go what the registry asks; credentials.go who we are
//	tls.go             http or https, certificates, proxies
//	explainerr.go      what went wrong, in words
//
// This is the only package that speaks HTTP as a client.
package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"syscall"

	"moss/explain"
	"moss/fail"
	"moss/image"
	"moss/oci"
)

// parallelLayers is how many layers are under way at once. Unpacking one keeps
// a processor busy and some 20 MB of memory in use; two at a time also hide
// each other's waits on the network.
func parallelLayers() int { return min(max(runtime.GOMAXPROCS(0), 2), 4) }

// Options say how to pull. The zero value pulls for this machine, silently.
type Options struct {
	Platform  *oci.Platform // nil: this machine's
	TLSVerify *bool         // nil: as registries.conf has it; see tls.go
	Progress  Progress      // may be nil
	Explain   *explain.Narrator
	Warn      func(error) // told what was worked around; may be nil
}

// State is how far a layer is.
type State int

// A layer that is here already is Exists from the start; others go from Waiting
// through Downloading and Unpacking to Done. Retrying is a pause in between.
const (
	Exists State = iota
	Waiting
	Downloading
	Unpacking
	Retrying
	Done
)

// Progress is told how a pull goes. Start comes once per source that is tried,
// before the first layer; Layer comes from several goroutines, about ten times
// a second per layer, with the index into Start's layers and the bytes so far
// (compressed). Neither may block.
type Progress interface {
	Start(ref oci.Reference, layers []oci.Descriptor)
	Layer(i int, s State, bytes int64)
}

// Result is what was pulled.
type Result struct {
	Ref    oci.Reference // the full name; for a bare one, where it was found
	Image  *image.Image
	Digest oci.Digest // of what the tag points to: the index, or the manifest
	Fresh  bool       // something changed: a layer came, or the name moved
}

// ErrNotFound is in the chain of errors that say the registry has no such
// repository, tag or digest.
var ErrNotFound = errors.New("no such image")

// Pull brings the image that name means into store: what is there already is
// not fetched again. name is a reference as a person types it; a bare name is
// looked up by registries.conf, docker.io when that says nothing.
//
// When it fails or is cancelled, finished layers stay for the next try, the
// name still means what it meant, and no goroutine is left.
func Pull(ctx context.Context, store *image.Store, name string, o Options) (Result, error) {
	return around().pull(ctx, store, name, o)
}

// Names returns the full references that name, as typed, may mean by
// registries.conf, in the order Pull tries them: to look for in the store
// before pulling.
func Names(name string) ([]oci.Reference, error) {
	conf, err := around().registriesConf()
	if err != nil {
		return nil, err
	}
	return conf.names(name)
}

func (s *surroundings) pull(ctx context.Context, store *image.Store, name string, o Options) (Result, error) {
	if o.Warn == nil {
		o.Warn = func(error) {}
	}
	// [pull 1/6] from the name to where to ask: registries.conf.
	conf, err := s.registriesConf()
	if err != nil {
		return Result{}, err
	}
	refs, err := conf.names(name)
	if err != nil {
		return Result{}, err
	}
	var tried []error
	for _, ref := range refs {
		sources, err := conf.sources(ref)
		if err != nil {
			tried = append(tried, err)
			continue
		}
		for i, src := range sources {
			p := &puller{s: s, store: store, o: o, ref: ref, src: src}
			p.r = s.registry(src, o, conf, o.Warn)
			p.narrateSource(name, len(refs))
			res, err := p.pull(ctx)
			if err == nil {
				p.r.close()
				return res, nil
			}
			err = p.lesson(ctx, err)
			p.r.close()
			if ctx.Err() != nil {
				return Result{}, context.Cause(ctx)
			}
			tried = append(tried, err)
			if errors.Is(err, syscall.ENOSPC) || p.found && i == len(sources)-1 {
				// Another registry's image of that name would be another image.
				return Result{}, joinTried(name, tried)
			}
			if src.mirror && !errors.Is(err, ErrNotFound) {
				o.Warn(fmt.Errorf("mirror %s did not help, going on: %w", src.ref.Registry, err))
			}
		}
	}
	return Result{}, joinTried(name, tried)
}

// puller is one attempt: one name at one source.
type puller struct {
	s     *surroundings
	store *image.Store
	o     Options
	ref   oci.Reference // the image's name
	src   source        // where it is asked for
	r     *registry
	found bool // the source has a manifest of that name
}

func (p *puller) pull(ctx context.Context) (Result, error) {
	// [pull 2/6] what the name points to: an index or a manifest.
	top, err := p.top(ctx)
	if err != nil {
		return Result{}, err
	}
	p.found = true

	// [pull 3/6] from the index to the manifest for this platform.
	want, explicit := oci.Host(), p.o.Platform != nil
	if explicit {
		want = *p.o.Platform
	}
	docs, err := p.choose(ctx, top, want, explicit)
	if err != nil {
		return Result{}, err
	}
	m := docs[len(docs)-1]
	if err := checkImage(m.manifest); err != nil {
		return Result{}, err
	}

	// [pull 4/6] the config: it names the layers by what is in them.
	rawConfig, config, err := p.config(ctx, m.manifest)
	if err != nil {
		return Result{}, err
	}
	if err := p.checkPlatform(config, want, explicit); err != nil {
		return Result{}, err
	}

	// [pull 5/6] the layers, several at a time.
	fresh, err := p.layers(ctx, m.manifest.Layers, config.RootFS.DiffIDs)
	if err != nil {
		return Result{}, err
	}

	// [pull 6/6] the documents, then the name: only now does the image exist.
	return p.record(top, docs, rawConfig, fresh)
}

// top returns what the name points to. A tag is always asked about, since it
// may have moved; a digest that is here needs no question.
func (p *puller) top(ctx context.Context) (document, error) {
	ref := p.src.ref
	if ref.Digest != "" {
		return p.manifest(ctx, oci.Descriptor{Digest: ref.Digest, Size: -1})
	}
	if _, err := p.store.Lookup(p.ref); err == nil {
		// HEAD is cheap, and Docker Hub does not count it against its limit.
		resp, err := p.r.get(ctx, http.MethodHead, "manifests/"+ref.Tag, http.Header{"Accept": {acceptManifest}}, nil)
		if err != nil {
			return document{}, err
		}
		resp.Body.Close()
		d := oci.Digest(resp.Header.Get("Docker-Content-Digest"))
		if d.Validate() == nil {
			if raw, err := p.store.Blob(d); err == nil {
				p.o.Explain.Step(explain.Step{What: "Keep what is here", Call: "Docker-Content-Digest: " + string(d),
					Why: "the tag still points to the document in the store"})
				return decide(resp.Header.Get("Content-Type"), raw)
			}
		}
	}
	raw, header, err := p.r.fetch(ctx, "manifests/"+ref.Tag, acceptManifest, oci.MaxManifestBytes)
	if err != nil {
		return document{}, err
	}
	// By tag, nobody vouches for the bytes; the header at least must agree with
	// them (distribution-spec, "Pulling manifests").
	if d := oci.Digest(header.Get("Docker-Content-Digest")); d.Validate() == nil {
		if err := p.verify(raw, oci.Descriptor{Digest: d, Size: -1}); err != nil {
			return document{}, err
		}
	}
	return decide(header.Get("Content-Type"), raw)
}

// manifest returns the document d names, from the store when it is there. A
// negative d.Size is not known.
func (p *puller) manifest(ctx context.Context, d oci.Descriptor) (document, error) {
	contentType := d.MediaType
	raw, err := p.store.Blob(d.Digest)
	if err != nil {
		var header http.Header
		raw, header, err = p.r.fetch(ctx, "manifests/"+string(d.Digest), acceptManifest, oci.MaxManifestBytes)
		if err != nil {
			return document{}, err
		}
		contentType = header.Get("Content-Type")
	}
	if err := p.verify(raw, d); err != nil {
		return document{}, err
	}
	doc, err := decide(contentType, raw)
	doc.desc.Digest = d.Digest // which may be a sha512 one
	return doc, err
}

// verify compares bytes with what names them.
func (p *puller) verify(raw []byte, d oci.Descriptor) error {
	h := d.Digest.NewHash()
	h.Write(raw)
	if !d.Digest.Matches(h) || d.Size >= 0 && d.Size != int64(len(raw)) {
		return &fail.Error{Op: "verify", On: string(d.Digest), Err: image.ErrDigestMismatch,
			Why: fmt.Sprintf("%s answered %d bytes that are %s; they were not kept", p.r.host, len(raw), oci.FromBytes(raw)),
			Try: "once more; if it stays so, the registry, or a proxy before it, is broken"}
	}
	return nil
}

// choose walks from top down to a manifest for want, and returns every document
// on the way, the manifest last.
func (p *puller) choose(ctx context.Context, top document, want oci.Platform, explicit bool) ([]document, error) {
	path := []document{top}
	for doc := top; doc.index != nil; path = append(path, doc) {
		if len(path) > maxIndexDepth {
			return nil, fmt.Errorf("more than %d indexes within each other", maxIndexDepth)
		}
		best, nested, err := pick(doc.index, want, explicit)
		if err != nil {
			return nil, err
		}
		if best == nil {
			best = &nested[0]
		}
		p.o.Explain.Step(explain.Step{What: "Choose the manifest for " + want.String(),
			Call: fmt.Sprintf("index %s, %d entries → %s", doc.desc.Digest.Short(), len(doc.index.Manifests), best.Digest.Short()),
			See:  []string{"image-spec image-index.md", "pull/manifest.go#pick"}})
		if doc, err = p.manifest(ctx, *best); err != nil {
			return nil, err
		}
	}
	return path, nil
}

// config fetches and reads the image config.
func (p *puller) config(ctx context.Context, m *oci.Manifest) ([]byte, oci.Image, error) {
	raw, err := p.store.Blob(m.Config.Digest)
	if err != nil {
		b, err := p.r.blob(ctx, m.Config, nil)
		if err != nil {
			return nil, oci.Image{}, err
		}
		raw, err = io.ReadAll(b) // ParseManifest has bounded its size
		b.Close()
		if err != nil {
			return nil, oci.Image{}, err
		}
	}
	if err := p.verify(raw, m.Config); err != nil {
		return nil, oci.Image{}, err
	}
	config, err := oci.ParseConfig(raw)
	if err != nil {
		return nil, oci.Image{}, err
	}
	if len(config.RootFS.DiffIDs) != len(m.Layers) {
		return nil, oci.Image{}, fmt.Errorf("the manifest lists %d layers, the config %d", len(m.Layers), len(config.RootFS.DiffIDs))
	}
	return raw, config, nil
}

// checkPlatform compares what the image says it is with what was wanted.
func (p *puller) checkPlatform(c oci.Image, want oci.Platform, explicit bool) error {
	has := c.Platform()
	switch {
	case has.OS != "" && has.OS != "linux":
		return &fail.Error{Op: "read image config", Err: fmt.Errorf("the image is for %s", clip(has.String(), 40)), Why: "moss runs Linux programs only"}
	case has.Architecture == "" || has.Fits(want):
		return nil
	}
	e := &fail.Error{Op: "read image config", Err: fmt.Errorf("the image is for %s, not for %s", clip(has.String(), 40), want)}
	if explicit {
		e.Why = "the registry has no index for this name, just this one image"
		return e
	}
	e.Why = "this machine is " + want.String() + "; the image was pulled all the same"
	e.Try = "running it needs an emulator such as qemu-user, registered with binfmt_misc"
	p.o.Warn(e)
	return nil
}

// layers brings the layers that are missing into the store, the biggest first
// so that none is left alone at the end. It reports whether one was missing.
func (p *puller) layers(ctx context.Context, blobs []oci.Descriptor, ids []oci.DiffID) (fresh bool, err error) {
	show := func(i int, s State, n int64) {
		if p.o.Progress != nil {
			p.o.Progress.Layer(i, s, n)
		}
	}
	if p.o.Progress != nil {
		p.o.Progress.Start(p.ref, blobs)
	}
	var missing []int
	for i, id := range ids {
		if _, err := p.store.Layer(id); err == nil || slices.Contains(ids[:i], id) {
			show(i, Exists, blobs[i].Size)
			p.o.Explain.Step(explain.Step{What: "Reuse layer " + id.Short(), Why: "a layer is named by its content; this one is in the store, unpacked"})
			continue
		}
		show(i, Waiting, 0)
		missing = append(missing, i)
	}
	slices.SortStableFunc(missing, func(a, b int) int { return int(min(1, max(-1, blobs[b].Size-blobs[a].Size))) })

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var work sync.WaitGroup
	next := make(chan int)
	for range min(parallelLayers(), len(missing)) {
		work.Go(func() {
			for i := range next {
				if err := p.layer(ctx, blobs[i], ids[i], func(s State, n int64) { show(i, s, n) }); err != nil {
					cancel(err) // the first cause stays
				}
			}
		})
	}
	for _, i := range missing {
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	work.Wait()
	return len(missing) > 0, context.Cause(ctx)
}

// layer brings one layer into the store.
func (p *puller) layer(ctx context.Context, blob oci.Descriptor, id oci.DiffID, show func(State, int64)) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	l, fresh, err := p.store.AddLayer(ctx, blob, id, func(ctx context.Context) (io.ReadCloser, error) {
		return p.r.blob(ctx, blob, show)
	})
	switch {
	case ctx.Err() != nil && err != nil:
		return context.Cause(ctx)
	case errors.Is(err, image.ErrDigestMismatch) && fail.Lesson(err) == nil:
		return &fail.Error{Op: "verify layer", On: string(blob.Digest), Err: err,
			Why: p.r.host + " sent bytes that are not those the manifest names; nothing of them was kept",
			Try: "once more; if it stays so, the registry, or a proxy before it, is broken"}
	case err != nil:
		return fmt.Errorf("layer %s: %w", blob.Digest.Short(), err)
	case !fresh:
		show(Exists, blob.Size) // another moss was at it
		return nil
	}
	show(Done, blob.Size)
	p.o.Explain.Step(explain.Step{What: "Unpack layer " + id.Short(),
		Call: fmt.Sprintf("%d bytes hash to %s; its tar, %d bytes, to %s", blob.Size, blob.Digest, l.Size, id),
		Why:  "the first hash is the manifest's word, the second the config's; both were computed while unpacking",
		See:  []string{"image-spec config.md, \"Layer DiffID\"", "image/layer.go"}})
	return nil
}

// record stores the documents and points the name at the manifest.
func (p *puller) record(top document, docs []document, rawConfig []byte, fresh bool) (Result, error) {
	m := docs[len(docs)-1]
	pinned := p.ref
	pinned.Tag, pinned.Digest = "", top.desc.Digest
	if !fresh && p.names(p.ref, m) && p.names(pinned, m) {
		img, err := p.store.Find(pinned.String())
		return Result{Ref: p.ref, Image: img, Digest: top.desc.Digest}, err
	}
	for _, d := range docs {
		if err := p.store.PutBlobAs(d.desc.Digest, d.raw); err != nil {
			return Result{}, err
		}
	}
	if err := p.store.PutBlobAs(m.manifest.Config.Digest, rawConfig); err != nil {
		return Result{}, err
	}
	if err := p.store.Sync(); err != nil {
		return Result{}, err
	}
	// Two names: the digest that the tag stands for today, and the tag.
	if err := p.store.Tag(pinned, m.desc); err != nil {
		return Result{}, err
	}
	if p.ref.Digest == "" {
		if err := p.store.Tag(p.ref, m.desc); err != nil {
			return Result{}, err
		}
	}
	p.o.Explain.Step(explain.Step{What: "Name it " + p.ref.String(), Call: "refs: " + p.ref.String() + " → " + string(m.desc.Digest),
		Why: "written last: a pull that is killed before leaves the name as it was", See: []string{"image/store.go"}})
	img, err := p.store.Find(pinned.String())
	if err != nil {
		return Result{}, err
	}
	return Result{Ref: p.ref, Image: img, Digest: top.desc.Digest, Fresh: true}, nil
}

// names reports whether ref already means m in the store.
func (p *puller) names(ref oci.Reference, m document) bool {
	img, err := p.store.Lookup(ref)
	return err == nil && img.Manifest.Digest == m.desc.Digest
}

// narrateSource says where p asks, and why there.
func (p *puller) narrateSource(typed string, names int) {
	if !p.o.Explain.On() {
		return
	}
	why := "the name says so"
	switch {
	case p.src.mirror:
		why = "registries.conf has it as a mirror of " + p.ref.Registry
	case p.src.ref.Name() != p.ref.Name():
		why = "registries.conf says that " + p.ref.Registry + " is found there"
	case oci.IsShortName(typed) && names > 1:
		why = "a bare name: the registries of unqualified-search-registries are tried in order"
	case oci.IsShortName(typed):
		why = "a bare name: an alias or search registry of registries.conf, else docker.io"
	}
	p.o.Explain.Step(explain.Step{What: "Ask " + p.r.host + " for " + p.src.ref.String(), Why: why,
		See: []string{"containers-registries.conf(5)", "pull/registriesconf.go"}})
}
