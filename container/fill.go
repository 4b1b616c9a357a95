package container

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"syscall"

	"golang.org/x/sys/unix"

	"moss/namespaces"
	"moss/overlay"
)

// fill copies what the image has at target into dir, a volume's data. It is
// done inside the id map, where all owners of an image may be read and given;
// root needs no worker for that, but its containers' ids are in the map too.
func (e *Engine) fill(dir, target string, view overlay.View) error {
	m, err := e.IDMap()
	if err != nil {
		return err
	}
	if m.Mode == namespaces.RootMap { // who may reach both trees, and their owners are the host's already
		return fillMain(dir, target, view)
	}
	_, err = e.worker(nil, append([]string{fillRole, dir, target}, view...)...)
	return err
}

// fillMain is the worker's side of fill. The tree it reads is a layer's and
// may hold any symlink; overlay.View keeps it inside. What it writes goes
// through an os.Root.
func fillMain(dir, target string, view overlay.View) error {
	dst, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer dst.Close()
	real, err := view.Resolve(target)
	if err != nil {
		return err
	}
	return fillDir(dst, ".", real, view)
}

func fillDir(dst *os.Root, name, src string, view overlay.View) error {
	entries, err := view.ReadDir(src)
	if err != nil {
		return err
	}
	for _, info := range entries {
		from, to := path.Join(src, info.Name()), path.Join(name, info.Name())
		st := info.Sys().(*syscall.Stat_t)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			if err := dst.Mkdir(to, 0o700); err != nil {
				return err
			}
			if err := fillDir(dst, to, from, view); err != nil {
				return err
			}
		case unix.S_IFLNK:
			link, err := view.Readlink(from)
			if err != nil {
				return err
			}
			if err := dst.Symlink(link, to); err != nil {
				return err
			}
		case unix.S_IFREG:
			if err := fillFile(dst, to, from, view); err != nil {
				return err
			}
		default:
			continue // FIFOs and devices are not what a volume starts with
		}
		if err := likeSource(dst, to, st); err != nil {
			return fmt.Errorf("copying %s: %w", from, err)
		}
	}
	info, err := view.Stat(src)
	if err != nil {
		return err
	}
	return likeSource(dst, name, info.Sys().(*syscall.Stat_t))
}

func fillFile(dst *os.Root, to, from string, view overlay.View) (err error) {
	in, err := view.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := dst.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(copySparse(out, in), out.Close())
}

// copySparse copies in to out and leaves holes where in has them (lseek(2),
// SEEK_DATA): a layer of a few bytes may hold a file of a terabyte.
func copySparse(out, in *os.File) error {
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := out.Truncate(info.Size()); err != nil {
		return err
	}
	for at := int64(0); ; {
		data, err := in.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // nothing but a hole is left
		}
		if err != nil {
			return err
		}
		if at, err = in.Seek(data, unix.SEEK_HOLE); err != nil {
			return err
		}
		if _, err := in.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := out.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(out, in, at-data); err != nil {
			return err
		}
	}
}

// likeSource gives a copy its owner, mode and times. An owner outside the map
// cannot be read as such; the file then stays root's.
func likeSource(dst *os.Root, name string, st *syscall.Stat_t) error {
	if err := dst.Lchown(name, int(st.Uid), int(st.Gid)); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil
	}
	mode := os.FileMode(st.Mode & 0o777)
	for bit, m := range map[uint32]os.FileMode{unix.S_ISUID: os.ModeSetuid, unix.S_ISGID: os.ModeSetgid, unix.S_ISVTX: os.ModeSticky} {
		if st.Mode&bit != 0 {
			mode |= m
		}
	}
	if err := dst.Chmod(name, mode); err != nil {
		return err
	}
	return dst.Chtimes(name, unixTime(st.Atim), unixTime(st.Mtim))
}
