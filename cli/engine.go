package cli

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"moss/container"
	"moss/fail"
	"moss/image"
)

// engine is container.Engine with what only text for people needs.
type engine struct{ *container.Engine }

// open opens the user's store.
func (c *command) open() (*engine, error) {
	e, err := container.Open(container.Config{
		Root: c.root, RunRoot: c.runroot, Explain: c.explain, Warn: c.warn,
	})
	if err != nil {
		return nil, err
	}
	return &engine{e}, nil
}

// warn prints what was worked around.
func (c *command) warn(err error) { fail.Warn(c.err, err) }

// imageID is the id of the image a person means by name, "" when there is none.
func (e *engine) imageID(name string) string {
	img, err := e.FindImage(name)
	if err != nil {
		return ""
	}
	return string(img.ID)
}

// image returns the image a person means by typed, with all its names, and how
// to name it: typed, or the full name when registries.conf made one of it.
func (e *engine) image(typed string) (img *image.Image, name string, err error) {
	found, err := e.FindImage(typed)
	if errors.Is(err, image.ErrNotFound) && typed == "hello" { // as run understands it
		found, err = e.FindImage("localhost/hello")
	}
	if err != nil {
		return nil, "", err
	}
	// FindImage reads no other name than the one it was asked for.
	if img, err = e.Store.Find(string(found.ID)); err != nil {
		return nil, "", err
	}
	by := slices.Concat(found.Names, found.Digests)
	isID := strings.HasPrefix(found.ID.Hex(), strings.TrimPrefix(typed, "sha256:"))
	if _, isName := namedBy(typed, img); isName || isID || len(by) != 1 {
		return img, typed, nil
	}
	return img, by[0].Familiar(), nil
}

// diskSize is what ps -s and inspect -s show.
type diskSize struct {
	Written int64 // what the container wrote
	Whole   int64 // with its image's layers
}

// size adds up the files the container has written. What belongs to other ids
// of the container and is closed to the caller is not counted.
func (e *engine) size(r *container.Record) (diskSize, error) {
	var s diskSize
	upper := filepath.Join(e.Store.Root(), "containers", r.ID, "upper")
	err := filepath.WalkDir(upper, func(_ string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case !d.Type().IsRegular():
			return nil
		}
		info, err := d.Info()
		if err == nil {
			s.Written += info.Size()
		}
		return nil
	})
	s.Whole = s.Written
	for _, id := range r.Layers {
		if l, err := e.Store.Layer(id); err == nil {
			s.Whole += l.Size
		}
	}
	return s, err
}

// eachName does something for every name, goes on after failures, prints all
// of them but the last and returns that: docker's way with many arguments.
func (c *command) eachName(names []string, do func(name string) error) error {
	var last error
	for _, name := range names {
		if err := do(name); err != nil {
			if last != nil {
				fail.Print(c.err, last)
			}
			last = err
		}
	}
	return last
}
