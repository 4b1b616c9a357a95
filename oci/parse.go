package oci

import (
	"encoding/json"
	"fmt"
)

// Bounds on what is read from strangers. They are far above anything real:
// registries commonly refuse manifests above 4 MiB (distribution-spec, "Pushing
// Manifests"), and overlayfs stacks at most 500 lower layers (Linux
// fs/overlayfs, OVL_MAX_STACK).
const (
	MaxManifestBytes = 4 << 20
	MaxConfigBytes   = 8 << 20
	MaxLayers        = 500
)

// ParseManifest reads one image's manifest, OCI's or Docker's schema 2, and
// checks everything that is later used to fetch, size or name something.
func ParseManifest(b []byte) (Manifest, error) {
	var m Manifest
	if err := parse(b, MaxManifestBytes, &m); err != nil {
		return Manifest{}, fmt.Errorf("manifest: %w", err)
	}
	if m.SchemaVersion != 2 {
		return Manifest{}, fmt.Errorf("manifest: schemaVersion is %d, want 2", m.SchemaVersion)
	}
	if m.MediaType != "" && !IsManifest(m.MediaType) {
		return Manifest{}, fmt.Errorf("manifest: media type %q is not an image manifest's", clip(m.MediaType))
	}
	if err := m.Config.Validate(); err != nil {
		return Manifest{}, fmt.Errorf("manifest: config: %w", err)
	}
	if m.Config.Size > MaxConfigBytes {
		return Manifest{}, fmt.Errorf("manifest: config of %d bytes, more than the %d moss reads", m.Config.Size, MaxConfigBytes)
	}
	if len(m.Layers) > MaxLayers {
		return Manifest{}, fmt.Errorf("manifest: %d layers, more than the %d overlayfs can stack", len(m.Layers), MaxLayers)
	}
	for i, l := range m.Layers {
		if err := l.Validate(); err != nil {
			return Manifest{}, fmt.Errorf("manifest: layer %d: %w", i, err)
		}
	}
	return m, nil
}

// ParseIndex reads an image index or Docker's manifest list.
func ParseIndex(b []byte) (Index, error) {
	var x Index
	if err := parse(b, MaxManifestBytes, &x); err != nil {
		return Index{}, fmt.Errorf("index: %w", err)
	}
	if x.SchemaVersion != 2 {
		return Index{}, fmt.Errorf("index: schemaVersion is %d, want 2", x.SchemaVersion)
	}
	if x.MediaType != "" && !IsIndex(x.MediaType) {
		return Index{}, fmt.Errorf("index: media type %q is not an index's", clip(x.MediaType))
	}
	for i, d := range x.Manifests {
		if err := d.Validate(); err != nil {
			return Index{}, fmt.Errorf("index: manifest %d: %w", i, err)
		}
	}
	return x, nil
}

// ParseConfig reads an image configuration and checks its diffIDs, which
// become paths.
func ParseConfig(b []byte) (Image, error) {
	var c Image
	if err := parse(b, MaxConfigBytes, &c); err != nil {
		return Image{}, fmt.Errorf("image config: %w", err)
	}
	if c.RootFS.Type != "" && c.RootFS.Type != "layers" {
		return Image{}, fmt.Errorf("image config: rootfs.type is %q, want \"layers\"", clip(c.RootFS.Type))
	}
	if len(c.RootFS.DiffIDs) > MaxLayers {
		return Image{}, fmt.Errorf("image config: %d layers, more than the %d overlayfs can stack", len(c.RootFS.DiffIDs), MaxLayers)
	}
	for i, d := range c.RootFS.DiffIDs {
		if err := d.Validate(); err != nil {
			return Image{}, fmt.Errorf("image config: layer %d: %w", i, err)
		}
	}
	return c, nil
}

// parse leaves the depth of nesting to encoding/json, which stops at 10000.
func parse(b []byte, limit int, v any) error {
	if len(b) > limit {
		return fmt.Errorf("%d bytes, more than the %d moss reads", len(b), limit)
	}
	return json.Unmarshal(b, v)
}
