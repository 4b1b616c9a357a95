package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"moss/container"
	"moss/fail"
)

func rmVerb() *verb {
	return &verb{
		names: []string{"rm", "container rm", "container remove"},
		args:  "[OPTIONS] CONTAINER [CONTAINER...]",
		short: "Remove one or more containers",
		examples: `
# One that has ended, by name or by the beginning of its id
moss rm web
moss rm 3f2a
# One that still runs: it is killed first
moss rm -f web
# All that have ended
moss rm $(moss ps -aq --filter status=exited)`,
		min: 1, max: -1,
		complete: (*command).containerCandidates,
		flags: func(c *command, f *pflag.FlagSet) action {
			force := boolFlag(f, new(bool), "force", "f", "Force the removal of a running container (uses SIGKILL)")
			boolFlag(f, new(bool), "volumes", "v", "Remove anonymous volumes associated with the container (moss always does)")
			return func(args []string) error { return c.rm(args, *force) }
		},
	}
}

func (c *command) rm(names []string, force bool) error {
	e, err := c.open()
	if err != nil {
		return err
	}
	defer e.Close()
	return c.eachName(names, func(name string) error {
		r, err := e.Find(name)
		if force && errors.Is(err, container.ErrNotFound) {
			fail.Print(c.err, err) // docker says so too, and goes on
			return nil
		}
		if err != nil {
			return err
		}
		if err := e.Remove(r, force); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(c.out, name); err != nil {
			return err
		}
		return e.dropUnlisted(r)
	})
}

// dropUnlisted frees the layers that only r still needed, because rmi --force
// took the image's names away before.
func (e *engine) dropUnlisted(r *container.Record) error {
	if r.ImageID == "" || e.imageID(string(r.ImageID)) != "" {
		return nil
	}
	inUse, err := e.InUse()
	if err != nil {
		return err
	}
	_, err = e.Store.Prune(inUse)
	return err
}
