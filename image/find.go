package image

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"moss/fail"
	"moss/oci"
)

// Image is one image of the store, with everything but its files read.
type Image struct {
	ID        oci.Digest      // digest of the config (image-spec config.md, "ImageID")
	Names     []oci.Reference // repository:tag, sorted; empty for a dangling image
	Digests   []oci.Reference // repository@digest, sorted
	Manifest  oci.Descriptor
	M         oci.Manifest
	Config    oci.Image
	RawConfig []byte
	Size      int64     // bytes of the layers' tars; shared layers count in every image
	Created   time.Time // zero when the config does not say
	Pulled    time.Time // when the newest of its names was given
}

// Lookup returns the image of exactly this reference, reading nothing else:
// what moss run asks first. Names or Digests holds ref only, and Size is 0. ErrNotFound when
// nothing has the name.
func (s *Store) Lookup(ref oci.Reference) (*Image, error) {
	path, err := s.refPath(ref)
	if err != nil {
		return nil, err
	}
	r, err := readRecord(path)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref.Familiar(), err)
	}
	img, err := s.load(r)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref.Familiar(), err)
	}
	img.name(ref)
	return img, nil
}

// LookupConfig is Lookup for a start, which needs to know what to run and on
// which layers: it leaves the manifest unread, and M empty.
func (s *Store) LookupConfig(ref oci.Reference) (*Image, error) {
	path, err := s.refPath(ref)
	if err != nil {
		return nil, err
	}
	r, err := readRecord(path)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref.Familiar(), err)
	}
	raw, err := s.Blob(r.Image)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref.Familiar(), err)
	}
	c, err := oci.ParseConfig(raw)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref.Familiar(), err)
	}
	img := &Image{ID: r.Image, Manifest: r.Manifest, Config: c, RawConfig: raw, Pulled: r.Pulled}
	img.name(ref)
	return img, nil
}

// Find returns the image a person means by nameOrID, as docker does: a
// reference (tag latest when none is given), repository@digest with the digest
// of the manifest or of the index it was pulled by, or an image id, whole or
// any prefix that fits one image, with or without "sha256:". A name wins over an
// id.
//
// ErrNotFound comes with names that look similar; ErrAmbiguous with the ids that
// fit. Short names are docker.io's here; what registries.conf makes of them is
// the caller's to ask for.
func (s *Store) Find(nameOrID string) (*Image, error) {
	refs, err := s.refs()
	if err != nil {
		return nil, explainOpen(s.path("refs"), err)
	}
	found, err := s.find(nameOrID, refs)
	if err != nil {
		return nil, err
	}
	img, err := s.load(found)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", nameOrID, err)
	}
	s.describe(img, refs)
	return img, nil
}

func (s *Store) find(typed string, refs []ref) (record, error) {
	name, nameErr := oci.ParseReference(typed)
	if nameErr == nil {
		for _, r := range refs {
			if names(name, r) {
				return r.record, nil
			}
		}
	}
	if prefix, ok := idPrefix(typed); ok {
		fits, err := s.byID(prefix)
		if err != nil {
			return record{}, err
		}
		switch {
		case len(fits) == 1:
			return fits[0], nil
		case len(fits) > 1:
			return record{}, ambiguous(typed, fits)
		}
	}
	return record{}, notFound(typed, nameErr, refs)
}

// names reports whether the typed name means r. By digest, the tag is only
// decoration, and the manifest's own digest is as good as that of the index
// that led to it.
func names(name oci.Reference, r ref) bool {
	if name.Digest == "" {
		return r.Reference == name
	}
	return r.Name() == name.Name() && (r.Reference.Digest == name.Digest || r.Manifest.Digest == name.Digest)
}

func idPrefix(s string) (string, bool) {
	s = strings.TrimPrefix(s, "sha256:")
	ok := s != "" && len(s) <= 64 && strings.Trim(s, "0123456789abcdef") == ""
	return s, ok
}

// byID returns one record for each image whose id begins with prefix; failing
// that, for the manifest whose digest is exactly it.
func (s *Store) byID(prefix string) ([]record, error) {
	all, err := s.images()
	if err != nil {
		return nil, err
	}
	newestFirst(all)
	var fits []record
	for _, r := range all {
		seen := slices.ContainsFunc(fits, func(f record) bool { return f.Image == r.Image })
		if !seen && r.Image.Algorithm() == "sha256" && strings.HasPrefix(r.Image.Hex(), prefix) {
			fits = append(fits, r)
		}
	}
	if len(fits) > 0 {
		return fits, nil
	}
	for _, r := range all {
		if r.Manifest.Digest.Hex() == prefix {
			return []record{r}, nil
		}
	}
	return nil, nil
}

// Images returns every image once, newest first as docker lists them, with all
// its names; also those without one. Images whose manifest or config cannot be
// read are left out.
func (s *Store) Images() ([]*Image, error) {
	refs, err := s.refs()
	if err != nil {
		return nil, explainOpen(s.path("refs"), err)
	}
	records, err := s.images()
	if err != nil {
		return nil, explainOpen(s.path("refs"), err)
	}
	newestFirst(records)
	seen := map[oci.Digest]bool{}
	var all []*Image
	for _, r := range records {
		if seen[r.Image] {
			continue
		}
		img, err := s.load(r)
		if err != nil {
			continue
		}
		seen[r.Image] = true
		s.describe(img, refs)
		all = append(all, img)
	}
	slices.SortStableFunc(all, func(a, b *Image) int {
		return cmp.Or(b.Created.Compare(a.Created), strings.Compare(string(a.ID), string(b.ID)))
	})
	return all, nil
}

// One config may have come with several manifests (gzip and zstd, OCI and
// Docker); the newest speaks for the image.
func newestFirst(records []record) {
	slices.SortStableFunc(records, func(a, b record) int { return b.Pulled.Compare(a.Pulled) })
}

// load reads what r points to.
func (s *Store) load(r record) (*Image, error) {
	m, c, raw, err := s.read(r.Manifest)
	if err != nil {
		return nil, err
	}
	img := &Image{ID: m.Config.Digest, Manifest: r.Manifest, M: m, Config: c, RawConfig: raw, Pulled: r.Pulled}
	if c.Created != nil {
		img.Created = *c.Created
	}
	return img, nil
}

// describe adds what Lookup leaves out: all names, and the size.
func (s *Store) describe(img *Image, refs []ref) {
	img.nameAll(refs)
	for _, id := range img.Config.RootFS.DiffIDs {
		if l, err := s.Layer(id); err == nil {
			img.Size += l.Size
		}
	}
}

// read returns a manifest and its config, verified and consistent.
func (s *Store) read(manifest oci.Descriptor) (m oci.Manifest, c oci.Image, raw []byte, err error) {
	b, err := s.Blob(manifest.Digest)
	if err != nil {
		return m, c, nil, err
	}
	if m, err = oci.ParseManifest(b); err != nil {
		return m, c, nil, err
	}
	if raw, err = s.Blob(m.Config.Digest); err != nil {
		return m, c, nil, err
	}
	if c, err = oci.ParseConfig(raw); err != nil {
		return m, c, nil, err
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		err = fmt.Errorf("the manifest lists %d layers, its config %d", len(m.Layers), len(c.RootFS.DiffIDs))
	}
	return m, c, raw, err
}

func (img *Image) name(ref oci.Reference) {
	if ref.Digest != "" {
		img.Digests = append(img.Digests, ref)
	} else {
		img.Names = append(img.Names, ref)
	}
}

func (img *Image) nameAll(refs []ref) {
	for _, r := range refs {
		if r.Image != img.ID {
			continue
		}
		img.name(r.Reference)
		if r.Pulled.After(img.Pulled) {
			img.Pulled = r.Pulled
		}
	}
	byText := func(a, b oci.Reference) int { return strings.Compare(a.String(), b.String()) }
	slices.SortFunc(img.Names, byText)
	slices.SortFunc(img.Digests, byText)
}

func ambiguous(typed string, fits []record) error {
	var ids []string
	for _, r := range fits {
		ids = append(ids, r.Image.Short())
	}
	return &fail.Error{Op: "finding image", On: typed, Err: ErrAmbiguous,
		Why: "several ids begin like that: " + strings.Join(ids, ", "),
		Try: "one digit more"}
}

func notFound(typed string, nameErr error, refs []ref) error {
	e := &fail.Error{Op: "finding image", On: typed, Err: ErrNotFound}
	_, maybeID := idPrefix(typed)
	switch {
	case nameErr != nil && !maybeID:
		e.Err = errors.Join(ErrNotFound, nameErr)
		e.Try = "moss images lists what is here"
	default:
		e.Try = fmt.Sprintf("moss pull %s, or moss images to see what is here", typed)
	}
	if near := similar(typed, refs); len(near) > 0 {
		e.Try = fmt.Sprintf("did you mean %s? Else %s", strings.Join(near, " or "), e.Try)
	}
	return e
}

// similar returns up to three names that are close to what was typed: the same
// repository with another tag, the same last part of the repository, or a name
// one or two slips away.
func similar(typed string, refs []ref) []string {
	typedName, _, _ := strings.Cut(typed, "@")
	typedTag := ""
	if i := strings.LastIndexByte(typedName, ':'); i > strings.LastIndexByte(typedName, '/') {
		typedName, typedTag = typedName[:i], typedName[i+1:]
	}
	typedName = strings.ToLower(typedName)
	type near struct {
		name string
		far  int
	}
	var all []near
	for _, r := range refs {
		if r.Tag == "" {
			continue
		}
		familiar := r.FamiliarName()
		far := distance(typedName, familiar)
		// A short word is two slips away from too many others.
		if far > 2 || len(typedName) < 3*far {
			if lastPart(typedName) != lastPart(familiar) {
				continue
			}
			far = 2
		}
		tag := typedTag
		if tag == "" {
			tag = oci.DefaultTag
		}
		if r.Tag != tag {
			far++
		}
		all = append(all, near{strings.TrimSuffix(r.Familiar(), ":"+oci.DefaultTag), far})
	}
	slices.SortStableFunc(all, func(a, b near) int { return a.far - b.far })
	var names []string
	for _, n := range all[:min(len(all), 3)] {
		names = append(names, n.name)
	}
	return names
}

func lastPart(s string) string { return s[strings.LastIndexByte(s, '/')+1:] }

// distance is Levenshtein's: the number of letters to add, drop or change.
func distance(a, b string) int {
	if len(a) > 100 || len(b) > 100 {
		return 100
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
