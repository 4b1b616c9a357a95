package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"moss/fail"
	"moss/oci"
)

// record is the content of a file in refs/.
type record struct {
	Reference string         `json:"reference,omitempty"` // full form; "" in refs/_images
	Manifest  oci.Descriptor `json:"manifest"`
	Image     oci.Digest     `json:"image"`  // the config's digest, so that looking for an id reads no manifest
	Pulled    time.Time      `json:"pulled"` // when this name was given this manifest
}

// ref is a record under a name.
type ref struct {
	oci.Reference
	record
}

// imagesDir lists every manifest that is an image, so that one whose last name
// was given to another ("dangling", <none> in docker images) stays known. No
// registry can have this name: underscores are not allowed in one.
const imagesDir = "_images"

// Tag gives manifest the name ref, which another manifest may have had before.
// With a digest in ref the name is repository@digest and the tag is dropped, as
// docker does; that digest may be an index's.
//
// The manifest, its config and its layers must be in the store: Tag looks while
// nothing can be removed, and returns ErrNotFound if something is missing. From
// then on they belong to an image.
func (s *Store) Tag(ref oci.Reference, manifest oci.Descriptor) error {
	if err := s.tag(ref, manifest); err != nil {
		return fmt.Errorf("naming the image %s: %w", ref.Familiar(), err)
	}
	return nil
}

func (s *Store) tag(ref oci.Reference, manifest oci.Descriptor) error {
	path, err := s.refPath(ref)
	if err != nil {
		return err
	}
	if err := s.prepare(); err != nil {
		return explainOpen(s.root, err)
	}
	unlock, err := s.Share(context.Background())
	if err != nil {
		return err
	}
	defer unlock()
	m, c, _, err := s.read(manifest)
	if err != nil {
		return err
	}
	for _, id := range c.RootFS.DiffIDs {
		if _, err := s.Layer(id); err != nil {
			return err
		}
	}
	r := record{Manifest: manifest, Image: m.Config.Digest, Pulled: time.Now().UTC()}
	// First the image, then its name: killed between the two, it is dangling.
	if err := s.writeRecord(s.path("refs", imagesDir, manifest.Digest.Hex()), r); err != nil {
		return err
	}
	if ref.Digest != "" {
		ref.Tag = ""
	}
	r.Reference = ref.String()
	if err := s.writeRecord(path, r); err != nil {
		return err
	}
	return s.changeLease(contents(manifest.Digest, m, c), false)
}

// Untag takes the name away; the image stays. ErrNotFound when nothing has it.
func (s *Store) Untag(ref oci.Reference) error {
	path, err := s.refPath(ref)
	if err != nil {
		return err
	}
	err = os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("image %s: %w", ref.Familiar(), ErrNotFound)
	}
	if err != nil {
		return explainDisk("removing the name", ref.Familiar(), err)
	}
	// Directories that are empty now; Remove refuses the others.
	for dir := filepath.Dir(path); dir != s.path("refs") && os.Remove(dir) == nil; dir = filepath.Dir(dir) {
	}
	return nil
}

// refPath is where ref's record lies. Components of a repository begin with a
// letter or a digit, so _tags and _digests are never one; tags do not contain a
// slash. A person can read the tree with find(1).
func (s *Store) refPath(r oci.Reference) (string, error) {
	// Parsing again is what makes the parts safe as file names.
	if p, err := oci.ParseReference(r.String()); err != nil {
		return "", err
	} else if p != r {
		return "", fmt.Errorf("image reference %q is not complete", r)
	}
	dir := s.path("refs", r.Registry, r.Repository)
	if r.Digest != "" {
		return filepath.Join(dir, "_digests", r.Digest.Algorithm()+"-"+r.Digest.Hex()), nil
	}
	return filepath.Join(dir, "_tags", r.Tag), nil
}

func (s *Store) writeRecord(path string, r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := writeFile(s.path("tmp"), path, append(b, '\n'), 0o600, true); err != nil {
		return explainDisk("writing", path, err)
	}
	return nil
}

// readRecord returns ErrNotFound when there is no such name.
func readRecord(path string) (record, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		return record{}, ErrNotFound
	}
	if err != nil {
		return record{}, err
	}
	r, err := parseRecord(b)
	if err != nil {
		return record{}, &fail.Error{Op: "reading", On: path, Err: err,
			Why: "the file was changed or damaged", Try: "delete it, then pull or tag the image again"}
	}
	return r, nil
}

func parseRecord(b []byte) (record, error) {
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return record{}, err
	}
	if err := r.Manifest.Validate(); err != nil {
		return record{}, err
	}
	if err := r.Image.Validate(); err != nil {
		return record{}, err
	}
	if r.Reference != "" {
		if _, err := oci.ParseReference(r.Reference); err != nil {
			return record{}, err
		}
	}
	return r, nil
}

// refs returns every name, in the order of their paths. A damaged file does not
// hide the others: it is skipped.
func (s *Store) refs() ([]ref, error) {
	var all []ref
	err := filepath.WalkDir(s.path("refs"), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // untagged while we looked
		}
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == imagesDir {
				return fs.SkipDir
			}
			return nil
		}
		if strings.HasPrefix(d.Name(), tempPrefix) {
			return nil
		}
		r, err := readRecord(path)
		if err != nil || r.Reference == "" {
			return nil
		}
		name, err := oci.ParseReference(r.Reference)
		if err == nil {
			all = append(all, ref{name, r})
		}
		return nil
	})
	return all, err
}

// images returns the records of refs/_images.
func (s *Store) images() ([]record, error) {
	entries, err := os.ReadDir(s.path("refs", imagesDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []record
	for _, e := range entries {
		if r, err := readRecord(s.path("refs", imagesDir, e.Name())); err == nil {
			all = append(all, r)
		}
	}
	return all, nil
}
