package image

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"moss/fail"
)

// Locks are flock(2) on files in locks/. Such a lock belongs to the open file
// description, so it keeps goroutines of one process apart as well as processes,
// and the kernel drops it when its holder dies, however it dies.
//
// There are two:
//
//	store         shared for a moment by whoever adds (announce, publish, tag, a
//	              container's record); exclusive for whoever deletes
//	layer-<hex>   held while that layer is made. It owns tmp/layer-<hex>: who
//	              gets the lock may delete what lies there.
//
// Order: layer before store.

const storeLock = "store"

// Share holds the store still: until unlock is called, nothing is removed from
// it. For short stretches such as "find the image, write the container's
// record"; moss rmi waits for it.
func (s *Store) Share(ctx context.Context) (unlock func(), err error) {
	return s.lock(ctx, storeLock, unix.LOCK_SH)
}

func (s *Store) exclusive(ctx context.Context) (unlock func(), err error) {
	return s.lock(ctx, storeLock, unix.LOCK_EX)
}

// lock waits for the named lock until ctx ends. It asks again and again instead
// of sleeping in flock(2), which could not be interrupted.
func (s *Store) lock(ctx context.Context, name string, how int) (unlock func(), err error) {
	wait := 200 * time.Microsecond
	for {
		unlock, err := s.tryLock(name, how)
		if err == nil || !errors.Is(err, unix.EWOULDBLOCK) {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(wait):
		}
		wait = min(2*wait, 20*time.Millisecond)
	}
}

// tryLock returns EWOULDBLOCK when another holds it.
//
// The file of a layer's lock is deleted by its holder. So after the lock is
// taken, the name must still lead to the file that was locked; else another file
// of the name may be locked by another holder at the same time.
func (s *Store) tryLock(name string, how int) (unlock func(), err error) {
	path := s.path("locks", name)
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, explainDisk("locking", path, err)
		}
		if err := flock(f, how|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, err
			}
			return nil, explainLock(path, err)
		}
		if !sameFile(f, path) {
			f.Close()
			continue
		}
		return func() {
			if name != storeLock {
				os.Remove(path)
			}
			f.Close()
		}, nil
	}
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if err != unix.EINTR {
			return err
		}
	}
}

func sameFile(f *os.File, path string) bool {
	var a, b unix.Stat_t
	return unix.Fstat(int(f.Fd()), &a) == nil && unix.Stat(path, &b) == nil && a.Ino == b.Ino && a.Dev == b.Dev
}

// explainLock looks up why a file system does not lock.
func explainLock(path string, err error) error {
	e := &fail.Error{Op: "flock(2)", On: path, Err: err}
	if errors.Is(err, unix.ENOLCK) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		e.Why = "the file system the store lies on has no working locks, as happens on network file systems"
		e.Try = "a store on a local disk with --root DIR"
	}
	return e
}
