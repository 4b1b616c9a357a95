package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
)

type descriptor struct {
	MediaType string            `json:"mediaType"`
	Digest    string            `json:"digest"`
	Size      int64             `json:"size"`
	Platform  map[string]string `json:"platform,omitempty"`
}

func digestOf(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// tarOf writes the layer; PAX keeps nanoseconds, long names and attributes.
func (l layer) tarOf() ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range l {
		e.Format = tar.FormatPAX
		if err := w.WriteHeader(&e.Header); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), w.Close()
}

// blob is a layer as it travels.
type blob struct {
	gz     []byte
	diffID string
}

// push sends the image and returns the digest its tag points to.
func (img image) push(registry string) (string, error) {
	blobs, err := img.blobs()
	if err != nil {
		return "", err
	}
	return img.pushBlobs(registry, blobs)
}

func (img image) blobs() ([]blob, error) {
	var all []blob
	for _, l := range img.layers {
		raw, err := l.tarOf()
		if err != nil {
			return nil, err
		}
		var gz bytes.Buffer
		w := gzip.NewWriter(&gz)
		w.Write(raw)
		w.Close()
		all = append(all, blob{gz.Bytes(), digestOf(raw)})
	}
	return all, nil
}

// destination is where an image goes: a registry's repository, or a layout.
type destination interface {
	blob(b []byte) (descriptor, error)
	manifest(ref, mediaType string, manifest any) (descriptor, error) // ref "": by digest only
}

func (img image) pushBlobs(registry string, blobs []blob) (string, error) {
	name, tag, ok := strings.Cut(img.name, ":")
	if !ok {
		tag = "latest"
	}
	return img.put(repository("http://"+registry+"/v2/"+name), tag, blobs)
}

// put sends layers, configs, manifests and the index, in this order: a
// registry refuses what refers to something it does not have.
func (img image) put(to destination, tag string, blobs []blob) (string, error) {
	type types struct{ manifest, index, config, layer string }
	mt := types{"application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json",
		"application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip"}
	if img.docker {
		mt = types{"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json",
			"application/vnd.docker.container.image.v1+json", "application/vnd.docker.image.rootfs.diff.tar.gzip"}
	}
	var layers []descriptor
	var diffIDs []string
	for _, b := range blobs {
		d, err := to.blob(b.gz)
		if err != nil {
			return "", err
		}
		d.MediaType = mt.layer
		layers, diffIDs = append(layers, d), append(diffIDs, b.diffID)
	}
	platforms := img.platform
	if len(platforms) == 0 {
		platforms = []string{runtime.GOARCH}
	}
	var manifests []descriptor
	for _, arch := range platforms {
		platform := map[string]string{"os": "linux", "architecture": arch}
		config := map[string]any{
			"created": born.UTC(), "os": "linux", "architecture": arch,
			"config": img.config, "rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
		}
		if arch == "arm64" {
			platform["variant"] = "v8"
			config["variant"] = "v8"
		}
		raw, err := json.Marshal(config)
		if err != nil {
			return "", err
		}
		d, err := to.blob(raw)
		if err != nil {
			return "", err
		}
		d.MediaType = mt.config
		ref := tag
		if len(platforms) > 1 {
			ref = "" // the tag is the index's
		}
		m, err := to.manifest(ref, mt.manifest, map[string]any{"schemaVersion": 2, "mediaType": mt.manifest, "config": d, "layers": layers})
		if err != nil {
			return "", err
		}
		m.Platform = platform
		manifests = append(manifests, m)
	}
	if len(manifests) == 1 {
		return manifests[0].Digest, nil
	}
	index, err := to.manifest(tag, mt.index, map[string]any{"schemaVersion": 2, "mediaType": mt.index, "manifests": manifests})
	return index.Digest, err
}

// pushFiles makes an image of gzipped tars.
func pushFiles(registry, name string, files []string) (string, error) {
	var blobs []blob
	for _, f := range files {
		gz, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		r, err := gzip.NewReader(bytes.NewReader(gz))
		if err != nil {
			return "", fmt.Errorf("%s: %w", f, err)
		}
		h := sha256.New()
		if _, err := io.Copy(h, r); err != nil {
			return "", fmt.Errorf("%s: %w", f, err)
		}
		blobs = append(blobs, blob{gz, fmt.Sprintf("sha256:%x", h.Sum(nil))})
	}
	return image{name: name, config: map[string]any{"Cmd": []string{"bash"}}}.pushBlobs(registry, blobs)
}

// split deals the entries of a tar out to n gzipped ones, in runs of like
// size, each with the directories its entries stand in. Hard links stay with
// the first part that could hold their target's part, so n small is kind.
func split(n int, from, prefix string) error {
	all, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	share := int64(len(all))/int64(n) + 1
	r := tar.NewReader(bytes.NewReader(all))
	dirs := map[string]*tar.Header{}
	where := map[string]int{} // regular file -> part, for its hard links
	bodies := make([]bytes.Buffer, n)
	writers := make([]*tar.Writer, n)
	seen := make([]map[string]bool, n)
	for i := range n {
		writers[i], seen[i] = tar.NewWriter(&bodies[i]), map[string]bool{}
	}
	put := func(part int, h *tar.Header, body io.Reader) error {
		for i, c := range strings.TrimSuffix(h.Name, "/") {
			if parent := h.Name[:i+1]; c == '/' && dirs[parent] != nil && !seen[part][parent] {
				seen[part][parent] = true
				if err := writers[part].WriteHeader(dirs[parent]); err != nil {
					return err
				}
			}
		}
		seen[part][h.Name] = true
		if err := writers[part].WriteHeader(h); err != nil {
			return err
		}
		_, err := io.Copy(writers[part], body)
		return err
	}
	part := 0
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if int64(bodies[part].Len()) > share && part < n-1 {
			part++
		}
		to := part
		switch h.Typeflag {
		case tar.TypeDir:
			copied := *h
			dirs[h.Name] = &copied
			if seen[part][h.Name] {
				continue
			}
		case tar.TypeReg:
			where[h.Name] = part
		case tar.TypeLink:
			to = where[h.Linkname]
		}
		if err := put(to, h, r); err != nil {
			return err
		}
	}
	for i := range n {
		if err := writers[i].Close(); err != nil {
			return err
		}
		var gz bytes.Buffer
		w := gzip.NewWriter(&gz)
		w.Write(bodies[i].Bytes())
		if err := w.Close(); err != nil {
			return err
		}
		if err := os.WriteFile(fmt.Sprintf("%s%d.tar.gz", prefix, i+1), gz.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// repository is one on a registry: http://HOST/v2/NAME.
type repository string

// blob uploads in one piece (distribution-spec, "Pushing a blob
// monolithically": POST then PUT), unless the registry has it.
func (repo repository) blob(b []byte) (descriptor, error) {
	d := descriptor{Digest: digestOf(b), Size: int64(len(b))}
	if resp, err := http.Head(string(repo) + "/blobs/" + d.Digest); err != nil {
		return d, err
	} else if resp.StatusCode == http.StatusOK {
		return d, nil
	}
	resp, err := send(http.MethodPost, string(repo)+"/blobs/uploads/", "", nil)
	if err != nil {
		return d, err
	}
	location, err := resp.Location()
	if err != nil {
		return d, err
	}
	query := location.Query()
	query.Set("digest", d.Digest)
	location.RawQuery = query.Encode()
	_, err = send(http.MethodPut, location.String(), "application/octet-stream", b)
	return d, err
}

func (repo repository) manifest(ref, mediaType string, manifest any) (descriptor, error) {
	b, err := json.Marshal(manifest)
	if err != nil {
		return descriptor{}, err
	}
	d := descriptor{MediaType: mediaType, Digest: digestOf(b), Size: int64(len(b))}
	if ref == "" {
		ref = d.Digest
	}
	_, err = send(http.MethodPut, string(repo)+"/manifests/"+ref, mediaType, b)
	return d, err
}

func send(method, url, contentType string, body []byte) (*http.Response, error) {
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return nil, fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, text)
	}
	return resp, nil
}
