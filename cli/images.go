package cli

import (
	"fmt"
	"path"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"moss/image"
	"moss/oci"
)

const imageFilters = "reference dangling label before since until"

func imagesVerb() *verb {
	return &verb{
		names: []string{"images", "image ls", "image list"},
		args:  "[OPTIONS] [REPOSITORY[:TAG]]",
		short: "List images",
		long: `Filters: reference=PATTERN, dangling=true|false, label=KEY[=VALUE],
before=IMAGE, since=IMAGE, until=TIMESTAMP|DURATION.`,
		examples: `
# All images, newest first
moss images
# The tags of one repository
moss images debian
# With digests, and without cutting ids
moss images --digests --no-trunc
# Names that fit a pattern, as a script wants them
moss images --filter 'reference=*/alpine*' --format '{{.Repository}}:{{.Tag}}'
# Remove the images that have lost their name
moss rmi $(moss images -q --filter dangling=true)`,
		min: 0, max: 1,
		complete: (*command).imageCandidates,
		flags: func(c *command, f *pflag.FlagSet) action {
			o := &imagesOptions{command: c}
			boolFlag(f, new(bool), "all", "a", "Show all images (moss has no intermediate images to hide)")
			boolFlag(f, &o.digests, "digests", "", "Show digests")
			f.VarP(filterValue{&o.filters, imageFilters}, "filter", "f", "Filter output based on conditions provided")
			f.StringVar(&o.format, "format", "", formatUsage)
			boolFlag(f, &o.noTrunc, "no-trunc", "", "Don't truncate output")
			boolFlag(f, &o.quiet, "quiet", "q", "Only show image IDs")
			return o.run
		},
	}
}

type imagesOptions struct {
	*command
	digests, noTrunc, quiet bool
	format                  string
	filters                 filters
}

func (o *imagesOptions) run(args []string) error {
	if len(args) == 1 {
		if o.filters == nil {
			o.filters = filters{}
		}
		o.filters["reference"] = append(o.filters["reference"], args[0])
	}
	e, err := o.open()
	if err != nil {
		return err
	}
	defer e.Close()
	images, err := e.Store.Images()
	if err != nil {
		return err
	}
	keep, err := o.matcher(e.Store.Find, time.Now())
	if err != nil {
		return err
	}
	records, err := e.List()
	if err != nil {
		return err
	}
	containers := map[oci.Digest]int{}
	for _, r := range records {
		containers[r.ImageID]++
	}
	var rows []*imageRow
	for _, img := range images {
		if keep(img) {
			rows = append(rows, o.rows(img, containers[img.ID])...)
		}
	}
	return imageTable(o.digests).print(o.out, rows, o.format, o.quiet)
}

// matcher looks up what the filters name and returns the test. It narrows
// img.Names and img.Digests to those that fit a reference filter.
func (o *imagesOptions) matcher(find func(string) (*image.Image, error), now time.Time) (func(*image.Image) bool, error) {
	f := o.filters
	var before, since time.Time
	for _, key := range []string{"before", "since", "until"} {
		for _, value := range f[key] {
			var t time.Time
			var err error
			if key == "until" {
				t, err = parseUntil(value, now)
			} else {
				var img *image.Image
				if img, err = find(value); err == nil {
					t = img.Created
				}
			}
			if err != nil {
				return nil, err
			}
			switch {
			case key == "since" && t.After(since):
				since = t
			case key != "since" && (before.IsZero() || t.Before(before)):
				before = t
			}
		}
	}
	dangling, wantDangling := f["dangling"], false
	if len(dangling) > 0 {
		var err error
		if wantDangling, err = strconv.ParseBool(dangling[0]); err != nil {
			return nil, fmt.Errorf("invalid filter 'dangling=%s': want true or false", dangling[0])
		}
	}
	for _, pattern := range f["reference"] {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fmt.Errorf("invalid filter 'reference=%s': %w", pattern, err)
		}
	}
	return func(img *image.Image) bool {
		switch {
		case !before.IsZero() && !img.Created.Before(before),
			!since.IsZero() && !img.Created.After(since),
			!f.labels(img.Config.Config.Labels),
			len(dangling) > 0 && wantDangling != (len(img.Names) == 0):
			return false
		}
		if patterns := f["reference"]; len(patterns) > 0 {
			img.Names, img.Digests = matching(img.Names, patterns), matching(img.Digests, patterns)
			return len(img.Names)+len(img.Digests) > 0
		}
		return true
	}, nil
}

// matching keeps the references that fit a pattern the way docker matches:
// against the familiar form, with the tag or without.
func matching(refs []oci.Reference, patterns []string) []oci.Reference {
	var kept []oci.Reference
	for _, r := range refs {
		for _, p := range patterns {
			whole, _ := path.Match(p, r.Familiar())
			name, _ := path.Match(p, r.FamiliarName())
			if whole || name || p == r.String() || p == r.Name() {
				kept = append(kept, r)
				break
			}
		}
	}
	return kept
}

// parseUntil reads a duration before now, a date, a time, or Unix seconds.
func parseUntil(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.Unix(n, 0), nil
	}
	return time.Time{}, fmt.Errorf("invalid filter 'until=%s': want a duration such as 24h, or a time such as 2006-01-02T15:04:05", s)
}

// rows are docker's: one per tag, with --digests one per tag and digest, and
// one for a repository that is known by digest only.
func (o *imagesOptions) rows(img *image.Image, containers int) []*imageRow {
	var rows []*imageRow
	add := func(repository, tag, digest string) {
		rows = append(rows, &imageRow{
			img: img, repository: repository, tag: tag, digest: digest,
			now: time.Now(), whole: o.noTrunc, containers: containers,
		})
	}
	const none = "<none>"
	if o.quiet && len(img.Names)+len(img.Digests) > 0 { // one id for each image
		add(none, none, none)
		return rows
	}
	tagged := map[string]bool{}
	for _, name := range img.Names {
		tagged[name.Name()] = true
		shown := false
		for _, d := range img.Digests {
			if o.digests && d.Name() == name.Name() {
				add(name.FamiliarName(), name.Tag, string(d.Digest))
				shown = true
			}
		}
		if !shown {
			add(name.FamiliarName(), name.Tag, none)
		}
	}
	for _, d := range img.Digests {
		if tagged[d.Name()] {
			continue
		}
		digest := none
		if o.digests {
			digest = string(d.Digest)
		} else {
			tagged[d.Name()] = true
		}
		add(d.FamiliarName(), none, digest)
	}
	if len(rows) == 0 {
		add(none, none, none)
	}
	return rows
}

// imageRow is one line of images; its methods are the fields of templates.
type imageRow struct {
	img                     *image.Image
	repository, tag, digest string
	now                     time.Time
	whole                   bool // --no-trunc
	containers              int
}

func imageTable(digests bool) *table[*imageRow] {
	t := &table[*imageRow]{
		fields: []field[*imageRow]{
			{"Containers", "CONTAINERS", (*imageRow).Containers},
			{"CreatedAt", "CREATED AT", (*imageRow).CreatedAt},
			{"CreatedSince", "CREATED", (*imageRow).CreatedSince},
			{"Digest", "DIGEST", (*imageRow).Digest},
			{"ID", "IMAGE ID", (*imageRow).ID},
			{"Repository", "REPOSITORY", (*imageRow).Repository},
			{"SharedSize", "SHARED SIZE", (*imageRow).SharedSize},
			{"Size", "SIZE", (*imageRow).Size},
			{"Tag", "TAG", (*imageRow).Tag},
			{"UniqueSize", "UNIQUE SIZE", (*imageRow).UniqueSize},
			{"VirtualSize", "SIZE", (*imageRow).VirtualSize},
		},
		show: []string{"Repository", "Tag", "ID", "CreatedSince", "Size"},
		id:   (*imageRow).ID,
	}
	if digests {
		t.show = []string{"Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"}
	}
	return t
}

// ID is the digest of the config, 12 digits of it unless --no-trunc.
func (i *imageRow) ID() string {
	if i.whole {
		return string(i.img.ID)
	}
	return i.img.ID.Short()
}

// Repository is the name without tag, as docker shortens it.
func (i *imageRow) Repository() string { return i.repository }

// Tag is the tag, or <none>.
func (i *imageRow) Tag() string { return i.tag }

// Digest is the digest the image was pulled by, or <none>.
func (i *imageRow) Digest() string { return i.digest }

// CreatedSince is how long ago the image was built.
func (i *imageRow) CreatedSince() string { return ago(i.now, i.img.Created) }

// CreatedAt is when the image was built.
func (i *imageRow) CreatedAt() string { return timestamp(i.img.Created) }

// Size is the sum of the layers.
func (i *imageRow) Size() string { return humanSize(i.img.Size, 3) }

// Containers counts the containers made from the image.
func (i *imageRow) Containers() string { return strconv.Itoa(i.containers) }

// SharedSize and UniqueSize are docker's, which it computes for system df.
func (i *imageRow) SharedSize() string { return "N/A" }

// UniqueSize is not known here.
func (i *imageRow) UniqueSize() string { return "N/A" }

// VirtualSize is Size, docker's older word for it.
func (i *imageRow) VirtualSize() string { return i.Size() }
