package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"moss/image"
	"moss/overlay"
)

// outline is what a start has to know of an image besides its config. All of it
// follows from the layers, which never change, so it is looked up once for an
// image and kept in outlines/IMAGE: with many layers the look takes longer than
// mounting them.
type outline struct {
	Hidden int         `json:"hidden"` // how many of the lowest layers an opaque root hides
	Perm   fs.FileMode `json:"perm"`   // mode of the root directory
	Passwd []byte      `json:"passwd"` // /etc/passwd, empty when there is none
	Group  []byte      `json:"group"`  // /etc/group
	Apt    bool        `json:"apt"`    // has apt's directory for settings
}

const (
	outlinesDir  = "outlines"
	accountLimit = 4 << 20 // bytes of /etc/passwd and /etc/group
	outlineLimit = 1 << 18 // larger ones are not kept
)

// outlineOf returns the outline of an image whose layers are lower.
func (e *Engine) outlineOf(img *image.Image, lower []string) (*outline, error) {
	path := filepath.Join(e.root, outlinesDir, img.ID.Hex())
	o := new(outline)
	if b, err := os.ReadFile(path); err == nil && json.Unmarshal(b, o) == nil && o.Hidden <= len(lower) {
		return o, nil
	}
	view := e.view(lower).Trim()
	*o = outline{Hidden: len(lower) - len(view), Perm: 0o755}
	if len(view) > 0 {
		// The merged root shows the upper directory's mode, so that one has to
		// get the image's.
		info, err := os.Stat(view[len(view)-1])
		if err != nil {
			return nil, err
		}
		o.Perm = info.Mode().Perm()
	}
	var err error
	if o.Passwd, o.Group, err = accounts(view); err != nil {
		return nil, err
	}
	if info, err := view.Stat(aptSettings); err == nil {
		o.Apt = info.IsDir()
	}
	if b, err := json.Marshal(o); err == nil && len(b) < outlineLimit {
		e.keepOutline(path, b) // by the way: the next start will look again if it fails
	}
	return o, nil
}

// accounts reads the two files that say what names and groups mean inside.
func accounts(view overlay.View) (passwd, group []byte, err error) {
	if passwd, err = view.ReadFile("/etc/passwd", accountLimit); err != nil && !absent(err) {
		return nil, nil, fmt.Errorf("reading the image's /etc/passwd: %w", err)
	}
	if group, err = view.ReadFile("/etc/group", accountLimit); err != nil && !absent(err) {
		return nil, nil, fmt.Errorf("reading the image's /etc/group: %w", err)
	}
	return passwd, group, nil
}

// keepOutline writes an outline, and drops those of images that are gone.
func (e *Engine) keepOutline(path string, b []byte) {
	dir := filepath.Dir(path)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return
	}
	others, _ := os.ReadDir(dir)
	for _, other := range others {
		if err := unix.Access(filepath.Join(e.root, "blobs/sha256", other.Name()), unix.F_OK); errors.Is(err, unix.ENOENT) {
			os.Remove(filepath.Join(dir, other.Name()))
		}
	}
	image.WriteFile(path, b, 0o600)
}

// view is the merged look at layers by their names in LinkDir.
func (e *Engine) view(lower []string) overlay.View {
	view := make(overlay.View, len(lower))
	for i, short := range lower {
		view[i] = filepath.Join(e.Store.LinkDir(), short)
	}
	return view
}
