package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"moss/oci"
)

// Layer is one unpacked layer.
type Layer struct {
	DiffID oci.DiffID
	Dir    string           // host path of the tree
	Short  string           // its name in <root>/layers/l: a relative symlink to Dir
	Size   int64            // bytes of the uncompressed tar
	Blobs  []oci.Descriptor // the compressed form it was verified from
	Notes  []string         // what Unpack could not keep
}

// layerFile is layer.json. It is written once, before the layer is published.
type layerFile struct {
	DiffID oci.DiffID       `json:"diffID"`
	Short  string           `json:"short"`
	Size   int64            `json:"size"`
	Blobs  []oci.Descriptor `json:"blobs"`
	Notes  []string         `json:"notes,omitempty"`
	// Boot is the boot in which it was made: until the link "durable" appears, a
	// layer of another boot may have lost any of its bytes to a power cut.
	Boot string `json:"boot"`
	// Lossy says why the tar cannot be made again; "" when it can.
	Lossy string `json:"lossy,omitempty"`
}

// layerPrefix begins the names of a layer's lock and of the directory in tmp/
// that the lock owns.
const layerPrefix = "layer-"

// LinkDir is the directory of the short names, to be the working directory of
// the mount(2) that uses them.
func (s *Store) LinkDir() string { return s.path("layers", "l") }

func (s *Store) layerPath(id oci.DiffID) string { return s.path("layers", id.Hex()) }

// Layer returns an unpacked layer. ErrNotFound when it is not there, or when it
// was not yet safe on disk when the machine went down.
func (s *Store) Layer(id oci.DiffID) (Layer, error) {
	f, err := s.layerFile(id)
	if err != nil {
		return Layer{}, err
	}
	return s.layer(f), nil
}

func (s *Store) layer(f layerFile) Layer {
	return Layer{DiffID: f.DiffID, Dir: s.path("layers", f.DiffID.Hex(), "tree"), Short: f.Short,
		Size: f.Size, Blobs: f.Blobs, Notes: f.Notes}
}

func (s *Store) layerFile(id oci.DiffID) (layerFile, error) {
	if err := id.Validate(); err != nil {
		return layerFile{}, err
	}
	b, err := os.ReadFile(s.path("layers", id.Hex(), "layer.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return layerFile{}, fmt.Errorf("layer %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return layerFile{}, err
	}
	f, err := parseLayerFile(b)
	if err != nil || f.DiffID != id {
		// Only a power cut or a hand writes such a file; either way the layer is
		// to be fetched again.
		return layerFile{}, fmt.Errorf("layer %s: damaged layer.json: %w", id, ErrNotFound)
	}
	if f.Boot != bootID() {
		if _, err := s.durable(id); err != nil {
			return layerFile{}, fmt.Errorf("layer %s: unpacked shortly before the machine went down: %w", id, ErrNotFound)
		}
	}
	return f, nil
}

func parseLayerFile(b []byte) (layerFile, error) {
	var f layerFile
	if err := json.Unmarshal(b, &f); err != nil {
		return layerFile{}, err
	}
	if err := f.DiffID.Validate(); err != nil {
		return layerFile{}, err
	}
	if len(f.Short) < minShort || !strings.HasPrefix(f.DiffID.Hex(), f.Short) {
		return layerFile{}, fmt.Errorf("short name %q is no prefix of the diffID", f.Short)
	}
	if f.Size < 0 {
		return layerFile{}, fmt.Errorf("size %d", f.Size)
	}
	for _, d := range f.Blobs {
		if err := d.Validate(); err != nil {
			return layerFile{}, err
		}
	}
	return f, nil
}

// Lowers returns the short names of the layers, in the order given. It is what a
// start needs and no more: one readlink(2) a layer, once the layer is durable.
func (s *Store) Lowers(ids []oci.DiffID) ([]string, error) {
	shorts := make([]string, len(ids))
	for i, id := range ids {
		short, err := s.durable(id)
		if err != nil {
			l, err := s.Layer(id)
			if err != nil {
				return nil, err
			}
			short = l.Short
		}
		shorts[i] = short
	}
	return shorts, nil
}

// LayerOf returns the layer that was verified to be what blob holds. ErrNotFound
// when none is known.
func (s *Store) LayerOf(blob oci.Digest) (Layer, error) {
	if err := blob.Validate(); err != nil {
		return Layer{}, err
	}
	target, err := os.Readlink(s.path("layers/by-blob", blob.Hex()))
	if err != nil {
		return Layer{}, fmt.Errorf("blob %s: %w", blob, ErrNotFound)
	}
	hex := strings.TrimPrefix(target, "../")
	id := oci.DiffID("sha256:" + hex)
	if len(hex) == 128 {
		id = oci.DiffID("sha512:" + hex)
	}
	l, err := s.Layer(id)
	if err != nil {
		return Layer{}, err
	}
	if !slices.ContainsFunc(l.Blobs, func(d oci.Descriptor) bool { return d.Digest == blob }) {
		return Layer{}, fmt.Errorf("blob %s: %w", blob, ErrNotFound)
	}
	return l, nil
}

// AddLayer makes sure that the layer id is in the store. When it is not, open is
// called for the bytes of blob, which become the layer in one pass: size and
// digest are verified, the bytes decompressed, the tar hashed, unpacked (Unpack)
// and described so that it can be made again (OpenTar). Nothing is visible
// before all of it is right; after an error nothing is left.
//
// Several callers, goroutines or processes, that want the same layer take turns:
// the first works, the others wait and find it, with fresh false and open not
// called. When the first fails, the next one tries.
//
// The layer is protected from removal until it is part of an image (Tag) or this
// Store is closed. It survives a power cut after Sync.
//
// Errors: ErrDigestMismatch (blob or tar are not what was named),
// io.ErrUnexpectedEOF (the bytes ended early), whatever open's reader returns,
// unwrapped by errors.Is; the cause of ctx.
func (s *Store) AddLayer(ctx context.Context, blob oci.Descriptor, id oci.DiffID, open func(context.Context) (io.ReadCloser, error)) (l Layer, fresh bool, err error) {
	if err := errors.Join(blob.Validate(), id.Validate()); err != nil {
		return Layer{}, false, err
	}
	if err := s.prepare(); err != nil {
		return Layer{}, false, explainOpen(s.root, err)
	}
	// Announced before it is looked for: see lease.
	if err := s.announce(ctx, id); err != nil {
		return Layer{}, false, err
	}
	if f, err := s.layerFile(id); err == nil {
		return s.reuse(f), false, nil
	} else if !errors.Is(err, ErrNotFound) {
		return Layer{}, false, err
	}

	unlock, err := s.lock(ctx, layerPrefix+id.Hex(), unix.LOCK_EX)
	if err != nil {
		return Layer{}, false, err
	}
	defer unlock()
	if f, err := s.layerFile(id); err == nil {
		return s.reuse(f), false, nil
	} else if !errors.Is(err, ErrNotFound) {
		return Layer{}, false, err
	}

	// Whatever has this name now was left by somebody who died, or lost bytes
	// to a power cut: the lock is ours, and so are the names.
	temp := s.path("tmp", layerPrefix+id.Hex())
	for _, path := range []string{temp, s.layerPath(id)} {
		if err := s.discard(path); err != nil {
			return Layer{}, false, explainDisk("clearing away an unfinished layer", path, err)
		}
	}
	defer func() {
		if err != nil {
			// The error that counts is err; what cannot be deleted, Sweep reports.
			_ = s.discard(temp)
		}
	}()
	for _, dir := range []string{temp, temp + "/tree"} {
		perm := fs.FileMode(0o711)
		if dir != temp {
			perm = 0o755
		}
		if err := mkdir(dir, perm); err != nil {
			return Layer{}, false, explainDisk("making", dir, err)
		}
	}

	f, err := s.receive(ctx, blob, id, open, temp)
	if err != nil {
		return Layer{}, false, fmt.Errorf("layer %s: %w", id.Short(), explainDisk("unpacking into", s.root, err))
	}
	if err := s.publish(&f, temp); err != nil {
		return Layer{}, false, explainDisk("storing layer", id.Short(), err)
	}
	return s.reuse(f), true, nil
}

// reuse notes that f is to be marked by the next Sync.
func (s *Store) reuse(f layerFile) Layer {
	if _, err := s.durable(f.DiffID); err != nil {
		s.mu.Lock()
		if s.pending == nil {
			s.pending = map[oci.DiffID]string{}
		}
		s.pending[f.DiffID] = f.Short
		s.mu.Unlock()
	}
	return s.layer(f)
}

// publish gives the finished directory its links and its name.
func (s *Store) publish(f *layerFile, temp string) error {
	short, err := s.link(f.DiffID)
	if err != nil {
		return err
	}
	f.Short, f.Boot = short, bootID()
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	if err := os.WriteFile(temp+"/layer.json", append(b, '\n'), 0o600); err != nil {
		return err
	}
	// Not rename(2) over something: the name was cleared under the lock.
	if err := os.Rename(temp, s.layerPath(f.DiffID)); err != nil {
		return err
	}
	for _, blob := range f.Blobs {
		link := s.path("layers/by-blob", blob.Digest.Hex())
		if err := os.Symlink("../"+f.DiffID.Hex(), link); errors.Is(err, fs.ErrExist) {
			// The same bytes cannot be two layers, so this one points to a layer
			// that is gone, or here.
			os.Remove(link)
			_ = os.Symlink("../"+f.DiffID.Hex(), link)
		}
	}
	return nil
}

// minShort is the length of a short name, as git's: with 7 hex digits two of
// 1,000 layers share a name once in 500 stores, and then one has 8.
const minShort = 7

// link makes the layer's short name and returns it. symlink(2) fails when the
// name exists, which is all the coordination needed.
func (s *Store) link(id oci.DiffID) (string, error) {
	target := "../" + id.Hex() + "/tree"
	for n := minShort; n <= len(id.Hex()); n++ {
		short := id.Hex()[:n]
		link := s.path("layers/l", short)
		err := os.Symlink(target, link)
		if err == nil {
			return short, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return "", err
		}
		// Left by one who was killed before the rename.
		if have, err := os.Readlink(link); err == nil && have == target {
			return short, nil
		}
	}
	return "", fmt.Errorf("layer %s: no short name is free", id.Short())
}
