package image

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"moss/oci"
)

// Remove deletes the image: its names, manifests and config, and those of its
// layers that no other image, no container (inUse) and no pull in progress
// needs. It returns the digests that are gone from the disk, for rmi's
// "Deleted:" lines.
//
// What is needed is counted from what is on disk at this moment, with the store
// held exclusively; inUse is called then and may be nil. Killed in the middle,
// Remove leaves at worst layers that nothing refers to, for Prune.
func (s *Store) Remove(img *Image, inUse func(oci.DiffID) bool) (deleted []oci.Digest, err error) {
	if err := s.prepare(); err != nil {
		return nil, explainOpen(s.root, err)
	}
	unlock, err := s.exclusive(context.Background())
	if err != nil {
		return nil, err
	}
	gone, deleted, err := s.remove(img, inUse)
	unlock()
	// Deleting files takes long and concerns nobody any more.
	return deleted, errors.Join(err, s.deleteAll(gone))
}

func (s *Store) remove(img *Image, inUse func(oci.DiffID) bool) (gone []string, deleted []oci.Digest, err error) {
	refs, err := s.refs()
	if err != nil {
		return nil, nil, err
	}
	for _, r := range refs {
		if r.Image == img.ID {
			if err := s.Untag(r.Reference); err != nil && !errors.Is(err, ErrNotFound) {
				return nil, nil, err
			}
		}
	}
	images, err := s.images()
	if err != nil {
		return nil, nil, err
	}
	mine := map[oci.Digest]bool{img.ID: true, img.Manifest.Digest: true}
	for _, id := range img.Config.RootFS.DiffIDs {
		mine[id] = true
	}
	for _, r := range images {
		if r.Image != img.ID {
			continue
		}
		mine[r.Manifest.Digest] = true
		if err := os.Remove(s.path("refs", imagesDir, r.Manifest.Digest.Hex())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
	}
	return s.collect(func(d oci.Digest) bool { return mine[d] }, inUse)
}

// Prune deletes every blob and layer that no image, no container (inUse) and no
// pull in progress needs: what pulls that were never finished and removals that
// were killed have left.
func (s *Store) Prune(inUse func(oci.DiffID) bool) (deleted []oci.Digest, err error) {
	if err := s.prepare(); err != nil {
		return nil, explainOpen(s.root, err)
	}
	unlock, err := s.exclusive(context.Background())
	if err != nil {
		return nil, err
	}
	gone, deleted, err := s.collect(func(oci.Digest) bool { return true }, inUse)
	unlock()
	return deleted, errors.Join(err, s.deleteAll(gone))
}

// collect deletes the blobs and moves away the layers that are candidates and
// that nothing needs. The caller holds the store lock exclusively.
func (s *Store) collect(candidate, inUse func(oci.DiffID) bool) (gone []string, deleted []oci.Digest, err error) {
	needed, err := s.needed()
	if err != nil {
		return nil, nil, err
	}
	blobs, err := s.listed("blobs")
	if err != nil {
		return nil, nil, err
	}
	for _, d := range blobs {
		if !candidate(d) || needed[d] {
			continue
		}
		if err := os.Remove(s.blobPath(d)); err != nil {
			return gone, deleted, err
		}
		deleted = append(deleted, d)
	}
	layers, err := s.listed("layers")
	if err != nil {
		return gone, deleted, err
	}
	for _, id := range layers {
		if !candidate(id) || needed[id] || inUse != nil && inUse(id) {
			continue
		}
		path, err := s.retire(id)
		if err != nil {
			return gone, deleted, err
		}
		gone = append(gone, path)
		deleted = append(deleted, id)
	}
	return gone, deleted, nil
}

// needed counts what images are made of, and what is announced.
//
// An image whose manifest cannot be read must not make its layers look unused,
// so that is an error, unless it is gone altogether and needs nothing any more.
func (s *Store) needed() (map[oci.Digest]bool, error) {
	needed, err := s.leased()
	if err != nil {
		return nil, err
	}
	images, err := s.images()
	if err != nil {
		return nil, err
	}
	for _, r := range images {
		needed[r.Manifest.Digest], needed[r.Image] = true, true
		m, c, _, err := s.read(r.Manifest)
		if errors.Is(err, ErrNotFound) || errors.Is(err, ErrDigestMismatch) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, d := range contents(r.Manifest.Digest, m, c) {
			needed[d] = true
		}
	}
	return needed, nil
}

// listed returns the digests that have an entry in blobs/ or layers/.
func (s *Store) listed(what string) ([]oci.Digest, error) {
	var all []oci.Digest
	dirs := []string{what}
	if what == "blobs" {
		dirs = []string{"blobs/sha256", "blobs/sha512"}
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(s.path(dir))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			alg := "sha256:"
			if len(e.Name()) == 128 {
				alg = "sha512:"
			}
			if d := oci.Digest(alg + e.Name()); d.Validate() == nil {
				all = append(all, d)
			}
		}
	}
	return all, nil
}

// retire moves a layer out of sight, with the links to it, and returns where it
// lies now.
func (s *Store) retire(id oci.DiffID) (string, error) {
	for _, link := range s.linksTo(id) {
		if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	gone := s.path("tmp", gonePrefix+rand.Text())
	return gone, os.Rename(s.layerPath(id), gone)
}

func (s *Store) linksTo(id oci.DiffID) []string {
	var links []string
	for _, dir := range []string{"layers/l", "layers/by-blob"} {
		entries, _ := os.ReadDir(s.path(dir))
		for _, e := range entries {
			link := s.path(dir, e.Name())
			target, err := os.Readlink(link)
			if err == nil && (target == "../"+id.Hex() || target == "../"+id.Hex()+"/tree") {
				links = append(links, link)
			}
		}
	}
	return links
}

func (s *Store) deleteAll(dirs []string) error {
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, s.delete(dir))
	}
	return errors.Join(errs...)
}

// Sweep takes away what killed processes left: whatever in tmp/ has a free lock,
// leases whose holder is dead, and links to layers that are gone. Every first
// write of a process does it too.
func (s *Store) Sweep() error {
	entries, err := os.ReadDir(s.path("tmp"))
	if err != nil {
		return explainDisk("sweeping", s.path("tmp"), err)
	}
	var errs []error
	for _, e := range entries {
		path := s.path("tmp", e.Name())
		switch name := e.Name(); {
		case strings.HasPrefix(name, gonePrefix):
			errs = append(errs, s.delete(path))
		case strings.HasPrefix(name, layerPrefix):
			errs = append(errs, s.sweepLayer(name))
		case strings.HasPrefix(name, tempPrefix):
			errs = append(errs, sweepFile(path))
		}
	}
	errs = append(errs, s.sweepLocks())
	return errors.Join(errs...)
}

func (s *Store) sweepLayer(name string) error {
	unlock, err := s.tryLock(name, unix.LOCK_EX)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	return s.discard(s.path("tmp", name))
}

// sweepFile removes the temporary file of a writer that is gone.
func sweepFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if flock(f, unix.LOCK_EX|unix.LOCK_NB) != nil || !sameFile(f, path) {
		return nil
	}
	return os.Remove(path)
}

// sweepLocks removes lock files nobody holds and links without a layer, if
// nobody is just adding.
func (s *Store) sweepLocks() error {
	unlock, err := s.tryLock(storeLock, unix.LOCK_EX)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	leased, err := s.leased()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(s.path("locks"))
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), layerPrefix) {
			if unlock, err := s.tryLock(e.Name(), unix.LOCK_EX); err == nil {
				unlock()
			}
		}
	}
	for _, dir := range []string{"layers/l", "layers/by-blob"} {
		links, _ := os.ReadDir(s.path(dir))
		for _, e := range links {
			link := s.path(dir, e.Name())
			target, err := os.Readlink(link)
			if err != nil || !strings.HasPrefix(target, "../") {
				continue
			}
			hex, _, _ := strings.Cut(target[3:], "/")
			// The link of a layer comes before the layer.
			wanted := slices.ContainsFunc([]string{"sha256:", "sha512:"}, func(alg string) bool { return leased[oci.Digest(alg+hex)] })
			if _, err := os.Lstat(filepath.Join(s.path("layers"), hex)); errors.Is(err, fs.ErrNotExist) && !wanted {
				errs = append(errs, os.Remove(link))
			}
		}
	}
	return errors.Join(errs...)
}
