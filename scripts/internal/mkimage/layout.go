package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
)

// layoutDir is an OCI image layout on disk (image-spec image-layout.md).
type layoutDir string

// layout writes the image into dir, tagged with its name.
func (img image) layout(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644); err != nil {
		return err
	}
	blobs, err := img.blobs()
	if err != nil {
		return err
	}
	_, err = img.put(layoutDir(dir), img.name, blobs)
	return err
}

func (dir layoutDir) blob(b []byte) (descriptor, error) {
	d := descriptor{Digest: digestOf(b), Size: int64(len(b))}
	name := filepath.Join(string(dir), "blobs", strings.Replace(d.Digest, ":", "/", 1))
	return d, os.WriteFile(name, b, 0o644)
}

func (dir layoutDir) manifest(ref, mediaType string, manifest any) (descriptor, error) {
	b, err := json.Marshal(manifest)
	if err != nil {
		return descriptor{}, err
	}
	d, err := dir.blob(b)
	d.MediaType = mediaType
	if err != nil || ref == "" {
		return d, err
	}
	tagged := map[string]any{
		"mediaType": d.MediaType, "digest": d.Digest, "size": d.Size,
		"annotations": map[string]string{"org.opencontainers.image.ref.name": ref},
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []any{tagged}})
	if err != nil {
		return d, err
	}
	return d, os.WriteFile(filepath.Join(string(dir), "index.json"), index, 0o644)
}
