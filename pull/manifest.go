package pull

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"slices"
	"strings"

	"moss/fail"
	"moss/oci"
)

// What a registry answers to "manifests/NAME" is one of two documents, and the
// difference decides what runs. This file tells them apart and picks from an
// index.

const maxIndexDepth = 4 // indexes within indexes

const acceptManifest = oci.MediaTypeIndex + ", " + oci.MediaTypeManifest + ", " + oci.MediaTypeDockerList + ", " + oci.MediaTypeDockerManifest

// document is a manifest or an index: one of the two is set.
type document struct {
	desc     oci.Descriptor
	raw      []byte
	index    *oci.Index
	manifest *oci.Manifest
}

// decide reads body, which came with contentType ("" when that is not known).
//
// A document that is both, or is announced as the one and calls itself the
// other, is refused: two programs that read it differently would run different
// images under one digest (CVE-2021-41190).
func decide(contentType string, body []byte) (document, error) {
	if len(body) > oci.MaxManifestBytes {
		return document{}, fmt.Errorf("a manifest of more than %d bytes", oci.MaxManifestBytes)
	}
	var shape struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Manifests     json.RawMessage `json:"manifests"`
		Layers        json.RawMessage `json:"layers"`
		Config        json.RawMessage `json:"config"`
		FSLayers      json.RawMessage `json:"fsLayers"`
	}
	said, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		said = ""
	}
	if err := json.Unmarshal(body, &shape); err != nil {
		if said == "text/html" {
			return document{}, &fail.Error{Op: "read manifest", Err: errors.New("the answer is a web page"), Why: webPage}
		}
		return document{}, fmt.Errorf("not a manifest: %w", err)
	}
	if shape.SchemaVersion == 1 || shape.FSLayers != nil || strings.HasPrefix(said, "application/vnd.docker.distribution.manifest.v1") {
		return document{}, &fail.Error{Op: "read manifest", Err: errors.New("image manifest version 2, schema 1, which nobody should run any more"),
			Why: "this format, from before 2016, cannot be verified layer by layer; the image was never pushed again",
			Try: "ask for a newer tag, or rebuild and push the image with a current tool"}
	}
	isIndex := shape.Manifests != nil
	if isIndex && (shape.Layers != nil || shape.Config != nil) {
		return document{}, errors.New("the document is an index and a manifest at once, which is ambiguous (CVE-2021-41190)")
	}
	// Some servers know no types and say application/json or text/plain.
	typ := shape.MediaType
	if oci.IsIndex(said) || oci.IsManifest(said) {
		if typ != "" && typ != said {
			return document{}, fmt.Errorf("announced as %s, calls itself %s (CVE-2021-41190)", clip(said, 100), clip(typ, 100))
		}
		typ = said
	}
	switch {
	case typ == "" && isIndex:
		typ = oci.MediaTypeIndex
	case typ == "" && shape.Layers != nil:
		typ = oci.MediaTypeManifest
	case oci.IsIndex(typ) && isIndex, oci.IsManifest(typ) && !isIndex:
	case oci.IsIndex(typ) || oci.IsManifest(typ):
		return document{}, fmt.Errorf("the document says it is %s and does not look so (CVE-2021-41190)", clip(typ, 100))
	default:
		return document{}, fmt.Errorf("neither a manifest nor an index, but %q", clip(typ, 100))
	}
	doc := document{raw: body, desc: oci.Descriptor{MediaType: typ, Digest: oci.FromBytes(body), Size: int64(len(body))}}
	if isIndex {
		x, err := oci.ParseIndex(body)
		doc.index = &x
		return doc, err
	}
	m, err := oci.ParseManifest(body)
	doc.manifest = &m
	return doc, err
}

// checkImage refuses manifests that are no container images.
func checkImage(m *oci.Manifest) error {
	switch m.Config.MediaType {
	case oci.MediaTypeConfig, oci.MediaTypeDockerConfig:
	case "application/octet-stream": // docker before 1.10 wrote this
	default:
		kind := m.ArtifactType
		if kind == "" {
			kind = m.Config.MediaType
		}
		return &fail.Error{Op: "read manifest", Err: fmt.Errorf("not a container image but an artifact of type %q", clip(kind, 100)),
			Why: "registries hold charts, signatures and other files too; this one has no image config, so there is nothing to run"}
	}
	for _, l := range m.Layers {
		switch t := l.MediaType; {
		case strings.Contains(t, ".foreign.") || strings.Contains(t, ".nondistributable."):
			return &fail.Error{Op: "read manifest", Err: fmt.Errorf("layer %s may not be distributed by registries (%s)", l.Digest.Short(), clip(t, 100)),
				Why: "its maker wants it fetched from another address, which the manifest chooses; moss asks only the registry it was told to"}
		case strings.HasSuffix(t, "+encrypted"):
			return &fail.Error{Op: "read manifest", Err: fmt.Errorf("layer %s is encrypted", l.Digest.Short())}
		}
	}
	return nil
}

// pick returns the best image in x for want. explicit says that a person asked
// for want; otherwise the only image there is will do, with a warning later.
// When there is none but nested indexes may hold one, it returns those.
func pick(x *oci.Index, want oci.Platform, explicit bool) (best *oci.Descriptor, nested []oci.Descriptor, err error) {
	var images []oci.Descriptor
	for _, d := range x.Manifests {
		switch {
		case oci.IsIndex(d.MediaType):
			if d.Platform == nil || d.Platform.Fits(want) {
				nested = append(nested, d)
			}
		case d.MediaType != "" && !oci.IsManifest(d.MediaType):
		case d.Platform != nil && d.Platform.OS == "unknown": // build attestations
		default:
			images = append(images, d)
		}
	}
	// Exact variant first, else the newest that still runs: arm v7 before v6.
	for i, d := range images {
		if d.Platform != nil && d.Platform.Fits(want) &&
			(best == nil || best.Platform.Variant != want.Variant && (d.Platform.Variant == want.Variant || d.Platform.Variant > best.Platform.Variant)) {
			best = &images[i]
		}
	}
	if best == nil && len(images) == 1 && len(nested) == 0 && (!explicit || images[0].Platform == nil) {
		best = &images[0]
	}
	if best != nil || len(nested) > 0 {
		return best, nested, nil
	}
	var have []string
	for _, d := range images {
		if p := d.Platform; p != nil && !slices.Contains(have, p.String()) {
			have = append(have, clip(p.String(), 40))
		}
	}
	if len(have) == 0 {
		return nil, nil, errors.New("the index lists no image")
	}
	e := &fail.Error{Op: "choose a platform", Err: fmt.Errorf("no %s; it has %s", want, strings.Join(have, ", "))}
	if explicit {
		e.Try = "--platform with one of these"
	} else {
		e.Why = "this machine is " + want.String()
		e.Try = "--platform " + have[0] + " pulls it all the same; running it needs an emulator such as qemu-user"
	}
	return nil, nil, e
}
