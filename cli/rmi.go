package cli

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/pflag"

	"moss/container"
	"moss/fail"
	"moss/image"
	"moss/oci"
)

func rmiVerb() *verb {
	return &verb{
		names: []string{"rmi", "image rm", "image remove"},
		args:  "[OPTIONS] IMAGE [IMAGE...]",
		short: "Remove one or more images",
		long: `A name is taken away; the image goes with its last one. An id takes all of the
image's names, with --force when they are of several repositories.`,
		examples: `
# One name
moss rmi debian:12
# An image, by the beginning of its id, although containers were made of it
moss rmi -f 3f2a
# The images that have lost their name
moss rmi $(moss images -q --filter dangling=true)`,
		min: 1, max: -1,
		complete: (*command).imageCandidates,
		flags: func(c *command, f *pflag.FlagSet) action {
			force := boolFlag(f, new(bool), "force", "f", "Force removal of the image")
			boolFlag(f, new(bool), "no-prune", "", "Do not delete untagged parents (moss has none)")
			return func(args []string) error { return c.rmi(args, *force) }
		},
	}
}

func (c *command) rmi(names []string, force bool) error {
	e, err := c.open()
	if err != nil {
		return err
	}
	defer e.Close()
	return c.eachName(names, func(name string) error {
		img, name, err := e.image(name)
		if force && errors.Is(err, image.ErrNotFound) {
			fail.Print(c.err, err)
			return nil
		}
		if err != nil {
			return err
		}
		records, err := e.List()
		if err != nil {
			return err
		}
		plan, err := planRmi(name, img, records, force)
		if err != nil {
			return err
		}
		return c.carryOut(e, img, plan)
	})
}

// rmiPlan is what removing one name or id means.
type rmiPlan struct {
	untag  []oci.Reference
	remove bool // the image itself too
}

// planRmi follows docker: a name is untagged, and the image removed when that
// was its last; an id stands for the image. Digests of a repository go with its
// last tag.
func planRmi(typed string, img *image.Image, records []*container.Record, force bool) (rmiPlan, error) {
	user := userOf(img, records)
	running := user != nil && user.Status == container.Running
	ref, isName := namedBy(typed, img)
	if !isName {
		repositories := map[string]bool{}
		for _, n := range slices.Concat(img.Names, img.Digests) {
			repositories[n.Name()] = true
		}
		switch {
		case user != nil && (running || !force):
			return rmiPlan{}, conflict("unable to delete "+img.ID.Short(), "image is being used by", img, user)
		case len(repositories) > 1 && !force:
			return rmiPlan{}, &fail.Error{
				Op:  "conflict: unable to delete " + img.ID.Short() + " (must be forced) - image is referenced in multiple repositories",
				Try: "moss rmi -f " + typed + ", or moss rmi with one of its names",
			}
		}
		return rmiPlan{untag: slices.Concat(img.Names, img.Digests), remove: true}, nil
	}
	untag := []oci.Reference{ref}
	lastOfRepository := ref.Digest == ""
	for _, n := range img.Names {
		if n != ref && n.Name() == ref.Name() {
			lastOfRepository = false
		}
	}
	if lastOfRepository {
		for _, d := range img.Digests {
			if d.Name() == ref.Name() {
				untag = append(untag, d)
			}
		}
	}
	plan := rmiPlan{untag: untag, remove: len(untag) == len(img.Names)+len(img.Digests)}
	if plan.remove && user != nil {
		if !force {
			return rmiPlan{}, conflict(fmt.Sprintf("unable to remove repository reference %q", typed), "", img, user)
		}
		plan.remove = !running
	}
	return plan, nil
}

// userOf is a container made of img, one that runs if there is one.
func userOf(img *image.Image, records []*container.Record) *container.Record {
	var user *container.Record
	for _, r := range records {
		if r.ImageID == img.ID && (user == nil || r.Status == container.Running) {
			user = r
		}
	}
	return user
}

// namedBy returns the reference of img that was typed, false when it was an id.
func namedBy(typed string, img *image.Image) (oci.Reference, bool) {
	want, err := oci.ParseReference(typed)
	if err != nil {
		return want, false
	}
	for _, have := range slices.Concat(img.Names, img.Digests) {
		if have == want || want.Digest != "" && have.Digest != "" && have.Name() == want.Name() {
			return have, true
		}
	}
	return want, false
}

// conflict words a refusal as docker does.
func conflict(what, using string, img *image.Image, user *container.Record) error {
	state, forced := "stopped", "must be forced"
	if user.Status == container.Running {
		state, forced = "running", "cannot be forced"
	}
	e := &fail.Error{Try: "moss rm " + user.Name + " first"}
	if using == "" {
		forced = "must force"
		e.Op = fmt.Sprintf("conflict: %s (%s) - container %s is using its referenced image %s",
			what, forced, shortID(user.ID), img.ID.Short())
		return e
	}
	e.Op = fmt.Sprintf("conflict: %s (%s) - %s %s container %s", what, forced, using, state, shortID(user.ID))
	if state == "running" {
		e.Try = "moss rm -f " + user.Name + " first"
	}
	return e
}

// carryOut prints what it does, line by line as docker.
func (c *command) carryOut(e *engine, img *image.Image, plan rmiPlan) error {
	for _, ref := range plan.untag {
		if !plan.remove { // else Remove takes all names at once
			if err := e.Store.Untag(ref); err != nil {
				return err
			}
		}
		fmt.Fprintf(c.out, "Untagged: %s\n", ref.Familiar())
	}
	if !plan.remove {
		return nil
	}
	inUse, err := e.InUse()
	if err != nil {
		return err
	}
	deleted, err := e.Store.Remove(img, inUse)
	for _, d := range deleted {
		fmt.Fprintf(c.out, "Deleted: %s\n", d)
	}
	return err
}
