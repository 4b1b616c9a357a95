package cli

import (
	"encoding/json"
	"slices"
	"time"

	"moss/image"
	"moss/oci"
)

// imageView is docker's JSON for an image (Docker Engine API, ImageInspect).
type imageView struct {
	ID            string `json:"Id"`
	RepoTags      []string
	RepoDigests   []string
	Parent        string
	Comment       string
	Created       string
	DockerVersion string
	Author        string
	Config        imageConfigView
	Architecture  string
	Variant       string `json:",omitempty"`
	Os            string
	OsVersion     string `json:",omitempty"`
	Size          int64
	GraphDriver   graphDriverView
	RootFS        rootFSView
	Metadata      imageMetadataView
	Descriptor    oci.Descriptor
}

// imageConfigView is the part of an image's config that runs it, with docker's
// nulls where it has them.
type imageConfigView struct {
	Hostname     string              `json:",omitempty"`
	User         string              `json:",omitempty"`
	ExposedPorts map[string]struct{} `json:",omitempty"`
	Env          []string
	Entrypoint   []string
	Cmd          []string
	Healthcheck  json.RawMessage     `json:",omitempty"`
	Volumes      map[string]struct{} `json:",omitempty"`
	WorkingDir   string
	OnBuild      []string
	Labels       map[string]string
	StopSignal   string   `json:",omitempty"`
	StopTimeout  *int     `json:",omitempty"`
	Shell        []string `json:",omitempty"`
}

type graphDriverView struct {
	Name string
	Data map[string]string
}

type rootFSView struct {
	Type   string
	Layers []string
}

type imageMetadataView struct{ LastTagTime time.Time }

// inspectImage is the image as docker would describe it.
func inspectImage(img *image.Image, store *image.Store) *imageView {
	c := img.Config
	v := &imageView{
		ID:       string(img.ID),
		RepoTags: familiar(img.Names), RepoDigests: familiar(img.Digests),
		Author: c.Author, Architecture: c.Architecture, Variant: c.Variant, Os: c.OS, OsVersion: c.OSVersion,
		Size: img.Size,
		Config: imageConfigView{
			Hostname: c.Config.Hostname, User: c.Config.User, ExposedPorts: c.Config.ExposedPorts,
			Env: c.Config.Env, Entrypoint: c.Config.Entrypoint, Cmd: c.Config.Cmd,
			Healthcheck: c.Config.Healthcheck, Volumes: c.Config.Volumes, WorkingDir: c.Config.WorkingDir,
			OnBuild: c.Config.OnBuild, Labels: c.Config.Labels, StopSignal: c.Config.StopSignal,
			StopTimeout: c.Config.StopTimeout, Shell: c.Config.Shell,
		},
		GraphDriver: graphDriverView{Name: "overlay", Data: map[string]string{"LowerDir": lowerDirs(c.RootFS.DiffIDs, store)}},
		RootFS:      rootFSView{Type: "layers"},
		Metadata:    imageMetadataView{LastTagTime: img.Pulled},
		Descriptor:  img.Manifest,
	}
	if !img.Created.IsZero() {
		v.Created = img.Created.UTC().Format(time.RFC3339Nano)
	}
	if n := len(c.History); n > 0 {
		v.Comment = c.History[n-1].Comment
	}
	for _, id := range c.RootFS.DiffIDs {
		v.RootFS.Layers = append(v.RootFS.Layers, string(id))
	}
	return v
}

func familiar(refs []oci.Reference) []string {
	all := []string{}
	for _, r := range refs {
		all = append(all, r.Familiar())
	}
	return all
}

// lowerDirs are the unpacked trees, topmost first as overlayfs lists them.
func lowerDirs(ids []oci.DiffID, store *image.Store) string {
	var dirs string
	for _, id := range slices.Backward(ids) {
		l, err := store.Layer(id)
		if err != nil {
			continue
		}
		if dirs != "" {
			dirs += ":"
		}
		dirs += l.Dir
	}
	return dirs
}
