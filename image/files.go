package image

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"moss/fail"
)

// tempPrefix marks files that are being written. The writer holds a flock(2) on
// its file, so a free lock means that the writer is gone.
const tempPrefix = ".tmp-"

// WriteFile replaces path by data in one step: whoever opens it sees the old
// content or the new one, also after a power cut. The temporary file is made
// beside it, is locked while it is being written, and its name begins with
// ".tmp-". perm is not reduced by the umask.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	return writeFile(filepath.Dir(path), path, data, perm, true)
}

// writeFile makes its temporary file in tmpDir, on the same file system as path.
// Without durable it skips fsync(2): good where Sync follows, or where a
// damaged file is recognised and made again.
func writeFile(tmpDir, path string, data []byte, perm fs.FileMode, durable bool) error {
	for try := 0; ; try++ {
		err := writeFileOnce(tmpDir, path, data, perm, durable)
		// Sweep may take the file away between its creation and its lock, and
		// Untag an empty directory before the rename.
		if errors.Is(err, fs.ErrNotExist) && try < 10 {
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				return err
			}
			continue
		}
		return err
	}
}

func writeFileOnce(tmpDir, path string, data []byte, perm fs.FileMode, durable bool) (err error) {
	f, err := os.OpenFile(filepath.Join(tmpDir, tempPrefix+rand.Text()), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
		f.Close()
	}()
	// A busy lock is Sweep having a look; the rename tells how it ended.
	_ = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Chmod(perm); err != nil {
		return err
	}
	if durable {
		if err = f.Sync(); err != nil {
			return err
		}
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	if durable {
		return syncDir(filepath.Dir(path))
	}
	return nil
}

// syncDir makes a rename in dir survive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	// Some file systems cannot sync a directory and say so; they have no such
	// promise to break.
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

// mkdir makes dir and its parents; dir has exactly perm then, whatever the
// umask. A dir that exists is left as it is.
func mkdir(dir string, perm fs.FileMode) error {
	err := os.Mkdir(dir, perm)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
			return err
		}
		err = os.Mkdir(dir, perm)
	}
	if errors.Is(err, fs.ErrExist) {
		fi, serr := os.Stat(dir)
		if serr == nil && fi.IsDir() {
			return nil
		}
	}
	if err != nil {
		return err
	}
	return os.Chmod(dir, perm)
}

// discard takes path out of sight in one step and then deletes it. What a kill
// leaves half deleted is Sweep's.
func (s *Store) discard(path string) error {
	gone := s.path("tmp", gonePrefix+rand.Text())
	if err := os.Rename(path, gone); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return s.delete(gone)
}

// gonePrefix marks what anybody may delete at any time.
const gonePrefix = "gone-"

func (s *Store) delete(dir string) error {
	remove := s.RemoveTree
	if remove == nil {
		remove = removeTree
	}
	err := remove(dir)
	if err == nil {
		// RemoveTree may have left the wrapper it did not make.
		err = os.RemoveAll(dir)
	}
	if err != nil {
		if _, gone := os.Lstat(dir); errors.Is(gone, fs.ErrNotExist) {
			return nil
		}
	}
	return err
}

// removeTree is os.RemoveAll for an ordinary user's own trees, in which
// directories may lack the owner's write permission.
func removeTree(dir string) error {
	err := os.RemoveAll(dir)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		// WalkDir calls before it reads the directory, so this comes in time.
		_ = os.Chmod(path, 0o700)
		return nil
	})
	return os.RemoveAll(dir)
}

// explainDisk looks at the file system when a write failed for its sake. Other
// errors pass through unchanged.
func explainDisk(op, path string, err error) error {
	var already *fail.Error
	if errors.As(err, &already) && already.Why != "" {
		return err
	}
	e := &fail.Error{Op: op, On: path, Err: err}
	switch {
	case errors.Is(err, unix.ENOSPC):
		e.Why = fullness(path)
		e.Try = "remove images with moss rmi, free space there, or use a store elsewhere with --root DIR"
	case errors.Is(err, unix.EDQUOT):
		e.Why = "your quota on that file system is used up"
		e.Try = "quota -s shows it; remove images with moss rmi, or use a store elsewhere with --root DIR"
	case errors.Is(err, unix.EROFS):
		e.Why = "the file system is mounted read-only"
		e.Try = "a writable directory with --root DIR"
	default:
		return err
	}
	return e
}

// fullness says what has run out: blocks or inodes.
func fullness(path string) string {
	var st unix.Statfs_t
	for p := path; unix.Statfs(p, &st) != nil; p = filepath.Dir(p) {
		if p == "/" || p == "." {
			return ""
		}
	}
	if st.Files > 0 && st.Ffree < 1000 {
		return fmt.Sprintf("the file system has %d of %d inodes left", st.Ffree, st.Files)
	}
	return fmt.Sprintf("the file system has %s of %s left", size(freeBytes(&st)), size(int64(st.Blocks)*st.Bsize))
}

func freeBytes(st *unix.Statfs_t) int64 { return int64(st.Bavail) * st.Bsize }

// size is n bytes for people, in powers of 1000 as docker prints them.
func size(n int64) string {
	switch {
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 1000_000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	case n < 1000_000_000:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(n)/1e9)
}
