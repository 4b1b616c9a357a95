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

// A lease is how a pull announces what it is about to build an image from, so
// that a moss rmi at the same time spares layers which the pull has found
// present and no image refers to yet.
//
// It is a file locks/lease-<random>, locked for as long as its process lives,
// with one digest a line. It changes under the shared store lock and is read
// under the exclusive one, so: either the removal came first and the pull sees
// that the layer is gone, or the removal sees the lease.
type lease struct {
	file   *os.File
	wanted map[oci.Digest]bool
}

const leasePrefix = "lease-"

// announce adds digests to this process's lease.
func (s *Store) announce(ctx context.Context, digests ...oci.Digest) error {
	unlock, err := s.Share(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return s.changeLease(digests, true)
}

// changeLease adds digests to the lease or takes them from it. The caller holds
// the store lock.
func (s *Store) changeLease(digests []oci.Digest, wanted bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease == nil {
		if !wanted {
			return nil
		}
		path := s.path("locks", leasePrefix+rand.Text())
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return explainDisk("announcing what is being added", path, err)
		}
		if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
			os.Remove(path)
			f.Close()
			return explainLock(path, err)
		}
		s.lease = &lease{file: f, wanted: map[oci.Digest]bool{}}
	}
	changed := false
	for _, d := range digests {
		changed = changed || s.lease.wanted[d] != wanted
		if wanted {
			s.lease.wanted[d] = true
		} else {
			delete(s.lease.wanted, d)
		}
	}
	if !changed {
		return nil
	}
	var text strings.Builder
	for d := range s.lease.wanted {
		text.WriteString(string(d) + "\n")
	}
	f := s.lease.file
	if _, err := f.WriteAt([]byte(text.String()), 0); err != nil {
		return explainDisk("announcing what is being added", f.Name(), err)
	}
	return f.Truncate(int64(text.Len()))
}

func (s *Store) endLease() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease == nil {
		return nil
	}
	os.Remove(s.lease.file.Name())
	err := s.lease.file.Close()
	s.lease = nil
	return err
}

// leased returns what living processes have announced, and takes away the
// leases of dead ones. The caller holds the store lock exclusively.
func (s *Store) leased() (map[oci.Digest]bool, error) {
	entries, err := os.ReadDir(s.path("locks"))
	if err != nil {
		return nil, err
	}
	wanted := map[oci.Digest]bool{}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), leasePrefix) {
			continue
		}
		path := filepath.Join(s.path("locks"), e.Name())
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if flock(f, unix.LOCK_EX|unix.LOCK_NB) == nil {
			os.Remove(path)
			f.Close()
			continue
		}
		b, err := os.ReadFile(path)
		f.Close()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for line := range strings.Lines(string(b)) {
			wanted[oci.Digest(strings.TrimSpace(line))] = true
		}
	}
	return wanted, nil
}

// contents lists every digest that m needs to be an image.
func contents(manifest oci.Digest, m oci.Manifest, c oci.Image) []oci.Digest {
	return slices.Concat([]oci.Digest{manifest, m.Config.Digest}, c.RootFS.DiffIDs)
}
