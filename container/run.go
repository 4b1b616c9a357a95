package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"moss/explain"
	"moss/fail"
	"moss/image"
	"moss/namespaces"
	"moss/oci"
	"moss/pull"
)

// Run makes a container, runs it in the foreground and returns the payload's
// exit status. An error means that it did not come to that; it carries a
// *fail.ExitError when its status is another than 125.
func (e *Engine) Run(ctx context.Context, o Options, p pull.Options) (status int, err error) {
	// [run 3/9] the image: from the store, or from a registry when it is not there.
	img, err := e.findImage(ctx, o, p)
	if err != nil {
		return 0, err
	}
	if img != nil {
		e.Explain.Step(explain.Step{What: "Take the image " + img.ID.Short() + ": a config and, unpacked, layers: " + fmt.Sprint(len(img.Config.RootFS.DiffIDs)),
			Call: "open " + filepath.Join(e.root, "blobs/sha256", img.ID.Hex()),
			Why:  "the config says what to run and names the layers by the hash of their content", See: []string{"image-spec config.md", "image/store.go#Store"}})
	}
	// From here until the record is written, rmi must not take layers away that
	// no record names yet.
	unlock, err := e.Store.Share(ctx)
	if err != nil {
		return 0, err
	}
	release := sync.OnceFunc(unlock)
	defer release()
	// [run 4/9] the record: what the image wants with what the user wants over it.
	c, err := e.create(o, img)
	if err != nil {
		return 0, err
	}
	defer c.release()
	defer func() {
		if c.Options.Remove {
			err = errors.Join(err, e.destroy(c.Record))
		}
	}()
	// [run 5/9] the start.
	if err := e.start(c, release); err != nil {
		c.Status, c.ExitCode, c.Error, c.FinishedAt = Created, statusOf(err), err.Error(), now()
		if !c.Options.Remove {
			err = errors.Join(err, e.save(c.Record))
		}
		return 0, fmt.Errorf("starting container %s: %w", c.Name, err)
	}
	// [run 9/9] the wait: signals and the terminal are passed through until the end.
	c.ExitCode = e.wait(c)
	if err := <-c.recorded; err != nil {
		return 0, fmt.Errorf("noting that container %s runs: %w", c.Name, err)
	}
	c.Status, c.Pid, c.FinishedAt = Exited, 0, now()
	if !c.Options.Remove {
		if err := e.save(c.Record); err != nil {
			return c.ExitCode, fmt.Errorf("noting that container %s has ended: %w", c.Name, err)
		}
	}
	return c.ExitCode, nil
}

func statusOf(err error) int {
	var exit *fail.ExitError
	if errors.As(err, &exit) {
		return exit.Status
	}
	return fail.StatusMoss
}

// container is a record that this process owns: nobody else changes it while
// lock, on the container's directory, is held.
type container struct {
	*Record
	lock    *os.File
	lower   []string // names in image.Store.LinkDir of the layers to stack, lowest first
	outline *outline
	stdio   *stdio
	signals chan os.Signal // for the payload; watched since before it ran

	pidfd    int        // of the container's init, 0 before it runs
	unguard  func()     // lets go of the process that ends the payload when moss is killed
	recorded chan error // how writing the record of the running container went
}

func (c *container) release() {
	if c.unguard != nil {
		c.unguard()
	}
	if c.pidfd > 0 {
		unix.Close(c.pidfd)
	}
	if c.stdio != nil {
		c.stdio.close()
	}
	c.lock.Close()
}

// findImage returns the image that o names, pulling it as --pull says.
func (e *Engine) findImage(ctx context.Context, o Options, p pull.Options) (*image.Image, error) {
	if o.Rootfs != "" {
		return nil, nil
	}
	if o.Image == builtinImage {
		return e.builtin(ctx)
	}
	if o.Pull != "always" {
		img, err := e.startImage(o.Image)
		switch {
		case err == nil && (o.Platform == nil || img.Config.Platform().Fits(*o.Platform)):
			return img, nil
		case err == nil && o.Pull == "never":
			return nil, &fail.Error{Op: "finding image", On: o.Image, Err: fmt.Errorf("here for %s, not for %s", img.Config.Platform(), o.Platform),
				Try: "moss pull --platform " + o.Platform.String() + " " + o.Image}
		case err != nil && (o.Pull == "never" || !errors.Is(err, image.ErrNotFound)):
			return nil, err
		}
	}
	if _, err := oci.ParseReference(o.Image); err != nil {
		return nil, err
	}
	r, err := e.Pull(ctx, o.Image, p)
	if err != nil {
		return nil, err
	}
	return r.Image, nil
}

// startImage is FindImage with less reading where the name is complete.
func (e *Engine) startImage(typed string) (*image.Image, error) {
	if ref, err := oci.ParseReference(typed); err == nil {
		if img, err := e.Store.LookupConfig(ref); !errors.Is(err, image.ErrNotFound) {
			return img, err
		}
	}
	return e.FindImage(typed)
}

// FindImage finds an image in the store by what a person typed: a name, an id,
// or a short name that registries.conf gives another registry. A complete name
// is one file to open; ids and everything else take a look at all names.
func (e *Engine) FindImage(typed string) (*image.Image, error) {
	if typed == builtinImage {
		if img, err := e.Store.Lookup(builtinRef()); !errors.Is(err, image.ErrNotFound) {
			return img, err
		}
	}
	if ref, err := oci.ParseReference(typed); err == nil {
		if img, err := e.Store.Lookup(ref); !errors.Is(err, image.ErrNotFound) {
			return img, err
		}
		if oci.IsShortName(typed) {
			refs, err := pull.Names(typed)
			if err != nil {
				return nil, err
			}
			for _, ref := range refs {
				if img, err := e.Store.Lookup(ref); !errors.Is(err, image.ErrNotFound) {
					return img, err
				}
			}
		}
	}
	return e.Store.Find(typed)
}

// wait passes signals on until the container's init has ended.
func (e *Engine) wait(c *container) (status int) {
	go forwardSignals(c.signals, c.Pid, c.pidfd, c.stdio.resize)
	var ws unix.WaitStatus
	_, err := unix.Wait4(c.Pid, &ws, 0, nil)
	for err == unix.EINTR {
		_, err = unix.Wait4(c.Pid, &ws, 0, nil)
	}
	c.stdio.drain()
	if err != nil {
		e.Warn(fmt.Errorf("wait4(2) %d: %w", c.Pid, err))
		return fail.StatusMoss
	}
	return exitStatus(ws)
}

// confirm holds what a record says against the kernel. A container whose moss
// was killed died with it; the next command writes that down, or takes the
// container away when that was promised. It reports whether it is gone.
func (e *Engine) confirm(r *Record) (gone bool) {
	if r.Status == Exited || r.Status == Created && !r.Options.Remove {
		return false
	}
	if r.Status == Running && alive(r) {
		return false
	}
	lock, err := lockDir(e.dir(r.ID))
	if err != nil {
		return errors.Is(err, os.ErrNotExist) // its owner is at work
	}
	defer lock.Close()
	fresh, err := e.load(r.ID)
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	*r = *fresh
	if r.Options.Remove && r.Status != Exited {
		return e.destroy(r) == nil
	}
	if r.Status == Running && !alive(r) {
		r.Status, r.Pid, r.ExitCode, r.FinishedAt = Exited, 0, fail.StatusSignal+int(unix.SIGKILL), now()
		r.Error = "moss was killed, and the container with it"
		e.save(r)
	}
	return false
}

func alive(r *Record) bool {
	start, err := namespaces.StartTime(r.Pid)
	return err == nil && start == r.StartTime
}

// now is the time in UTC: in local time it would take reading the time zone's
// file just to write a record.
func now() time.Time { return time.Now().UTC() }
