package image

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"moss/oci"
)

// Durability. Unpacking thousands of files with an fsync(2) each would take
// longer than everything else together. Instead a layer is published without
// any, marked with the boot it was made in; one syncfs(2) at the end of a pull
// writes all of it, and then each layer gets the link "durable". After a power
// cut the boot is another one, and a layer without that link counts as absent:
// it is fetched again rather than trusted.

// Sync makes what was added survive a power cut. Call it at the end of a pull,
// before the image gets its name.
func (s *Store) Sync() error {
	s.mu.Lock()
	pending := s.pending
	s.pending = nil
	s.mu.Unlock()
	if len(pending) == 0 {
		return nil
	}
	if err := s.syncfs(); err != nil {
		return explainDisk("syncfs(2)", s.root, err)
	}
	for id, short := range pending {
		// Removed, or marked by another process: both fine.
		_ = os.Symlink(short, s.path("layers", id.Hex(), "durable"))
	}
	// The marks themselves: few blocks, one journal commit.
	if err := s.syncfs(); err != nil {
		return explainDisk("syncfs(2)", s.root, err)
	}
	return nil
}

func (s *Store) syncfs() error {
	d, err := os.Open(s.root)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}

// durable returns the layer's short name when it is marked. The mark is a link
// and no file: its target lies in the inode, so it is there whole or not at all.
func (s *Store) durable(id oci.DiffID) (short string, err error) {
	if err := id.Validate(); err != nil {
		return "", err
	}
	short, err = os.Readlink(s.path("layers", id.Hex(), "durable"))
	if err == nil && (len(short) < minShort || !strings.HasPrefix(id.Hex(), short)) {
		err = unix.EINVAL
	}
	return short, err
}

// bootID names the time since the kernel started (random(4),
// "/proc/sys/kernel/random/boot_id").
func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}
