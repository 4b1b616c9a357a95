package container

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"moss/fail"
	"moss/namespaces"
	"moss/overlay"
)

// Roles of this binary other than the command, told apart by argv[0]. A worker
// runs in the user namespace of the store's map; it is started for files that
// belong to other ids of containers and lives only for that.
const (
	fixupRole  = "moss-fixup"  // DIR < fixups: gives files their owners
	removeRole = "moss-remove" // PATH: deletes a tree
	fillRole   = "moss-fill"   // DST TARGET LAYER…: fills a volume from an image
)

// ReexecMain runs the role that args[0] names and returns its exit status;
// handled is false for a command of the user's.
func ReexecMain(args []string) (handled bool, status int) {
	if len(args) == 0 {
		return false, 0
	}
	if os.Getpid() == 1 && !atHome() {
		fmt.Fprintln(os.Stderr, "moss: exec: the image's program leads to /proc/self/exe, and that is moss itself")
		return true, fail.StatusCannotExec
	}
	if isHello(args) {
		return true, helloMain(args)
	}
	var err error
	switch filepath.Base(args[0]) {
	case namespaces.InitName:
		return true, initMain(args)
	case fixupRole:
		err = fixupMain(args[1], os.Stdin, os.Stdout)
	case removeRole:
		err = removeMain(args[1])
	case fillRole:
		err = fillMain(args[1], args[2], args[3:])
	default:
		return false, 0
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return true, 1
	}
	return true, 0
}

// atHome reports whether this program's file is found under its own name in
// the root it runs in. It is not when an image's program is a symlink, a #!
// line or an ELF interpreter that leads to /proc/self/exe: between clone(2) and
// execve(2) that is the host's moss, and as PID 1 it would offer itself to the
// container under /proc/1/exe, to be overwritten (CVE-2019-5736). Nothing of
// the image has run yet in that PID namespace, so ending is enough.
func atHome() bool {
	name, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return false
	}
	var running, named unix.Stat_t
	return unix.Stat("/proc/self/exe", &running) == nil && unix.Stat(name, &named) == nil &&
		running.Dev == named.Dev && running.Ino == named.Ino
}

// worker runs a role inside the store's id map and returns what it printed.
func (e *Engine) worker(stdin io.Reader, argv ...string) (string, error) {
	m, err := e.IDMap()
	if err != nil {
		return "", err
	}
	ns, err := e.userNS(m)
	if err != nil {
		return "", err
	}
	defer ns.Close()

	in, feed, err := os.Pipe()
	if err != nil {
		return "", err
	}
	out, print, err := os.Pipe()
	if err != nil {
		in.Close()
		feed.Close()
		return "", err
	}
	go func() {
		if stdin != nil {
			io.Copy(feed, stdin)
		}
		feed.Close()
	}()
	printed := make(chan string)
	go func() {
		b, _ := io.ReadAll(io.LimitReader(out, 64<<10))
		printed <- string(b)
		io.Copy(io.Discard, out)
	}()
	status, err := namespaces.Worker(ns, m, argv, in, print, print)
	in.Close()
	print.Close()
	text := strings.TrimSpace(<-printed)
	out.Close()
	if err == nil && status != 0 {
		err = errors.New(text)
		if text == "" {
			err = fmt.Errorf("the worker %s ended with status %d", argv[0], status)
		}
	}
	return text, err
}

// unpack is the store's UnpackFunc. Files are written with the caller's own
// rights, which do for all but a few: those that belong to somebody else than
// root, and file capabilities. They are set right afterwards, from inside the
// id map.
func (e *Engine) unpack(ctx context.Context, tar io.Reader, dir string) (notes []string, err error) {
	m, err := e.IDMap()
	if err != nil {
		return nil, err
	}
	fixups, err := overlay.Unpack(ctx, tar, dir, overlay.UnpackOptions{
		AllOwners: m.Mode == namespaces.RootMap,
		Note:      func(s string) { notes = append(notes, s) },
	})
	if err != nil {
		return notes, err
	}
	if m.Mode == namespaces.SingleID {
		fixups = onlyCaps(fixups)
	} else if n, example := outside(fixups, m); n > 0 {
		notes = append(notes, fmt.Sprintf("%d files belong to ids outside the map %s, such as %d:%d; they show as root's", n, mapName(m), example.UID, example.GID))
	}
	if len(fixups) == 0 {
		return notes, nil
	}
	if m.Mode == namespaces.RootMap {
		// What is outside the map must not stay the host's root's.
		for i, f := range fixups {
			if !m.Contains(f.UID, f.GID) {
				fixups[i].UID, fixups[i].GID, fixups[i].Mode = 0, 0, f.Mode&^(unix.S_ISUID|unix.S_ISGID)
			}
		}
		_, err := overlay.Apply(dir, fixups, m.Owner)
		return notes, err
	}
	if _, err := e.worker(encodeFixups(fixups), fixupRole, dir); err != nil {
		return notes, fmt.Errorf("giving the files in %s their owners: %w", dir, err)
	}
	return notes, nil
}

// onlyCaps keeps what a single id can do: give its own files capabilities.
func onlyCaps(all []overlay.Fixup) []overlay.Fixup {
	var kept []overlay.Fixup
	for _, f := range all {
		if f.Caps != nil {
			f.UID, f.GID = 0, 0
			kept = append(kept, f)
		}
	}
	return kept
}

func outside(all []overlay.Fixup, m namespaces.IDMap) (n int, example overlay.Fixup) {
	for _, f := range all {
		if !m.Contains(f.UID, f.GID) {
			if n == 0 {
				example = f
			}
			n++
		}
	}
	return n, example
}

// encodeFixups writes one fixup a record: "uid gid mode caps path" NUL. It is
// not JSON because a path is bytes, not text.
func encodeFixups(all []overlay.Fixup) io.Reader {
	r, w := io.Pipe()
	go func() {
		b := bufio.NewWriterSize(w, 64<<10)
		for _, f := range all {
			fmt.Fprintf(b, "%d %d %d %s %s\x00", f.UID, f.GID, f.Mode, "x"+hex.EncodeToString(f.Caps), f.Path)
		}
		w.CloseWithError(b.Flush())
	}()
	return r
}

func decodeFixups(r io.Reader) (all []overlay.Fixup, err error) {
	b := bufio.NewReaderSize(r, 64<<10)
	for {
		record, err := b.ReadBytes(0)
		if err == io.EOF && len(record) == 0 {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading the list of owners: %w", err)
		}
		var f overlay.Fixup
		var caps string
		fields := bytes.SplitN(record[:len(record)-1], []byte{' '}, 5)
		if len(fields) != 5 {
			return nil, errors.New("reading the list of owners: malformed record")
		}
		if _, err := fmt.Sscan(string(bytes.Join(fields[:4], []byte{' '})), &f.UID, &f.GID, &f.Mode, &caps); err != nil {
			return nil, fmt.Errorf("reading the list of owners: %w", err)
		}
		if caps != "x" {
			if f.Caps, err = hex.DecodeString(caps[1:]); err != nil {
				return nil, fmt.Errorf("reading the list of owners: %w", err)
			}
		}
		f.Path = string(fields[4])
		all = append(all, f)
	}
}

// fixupMain gives the files in dir the owners that the list on in names.
func fixupMain(dir string, in io.Reader, out io.Writer) error {
	m, err := ownMap()
	if err != nil {
		return err
	}
	fixups, err := decodeFixups(in)
	if err != nil {
		return err
	}
	_, err = overlay.Apply(dir, fixups, func(uid, gid int) (int, int, bool) { return uid, gid, m.Contains(uid, gid) })
	return err
}

// ownMap reads which ids exist in the user namespace of this process.
func ownMap() (m namespaces.IDMap, err error) {
	for path, ranges := range map[string]*[]namespaces.Range{"/proc/self/uid_map": &m.UIDs, "/proc/self/gid_map": &m.GIDs} {
		b, err := os.ReadFile(path)
		if err != nil {
			return m, err
		}
		for line := range strings.Lines(string(b)) {
			var r namespaces.Range
			if _, err := fmt.Sscan(line, &r.Container, &r.Host, &r.Count); err != nil {
				return m, fmt.Errorf("reading %s: %w", path, err)
			}
			*ranges = append(*ranges, r)
		}
	}
	return m, nil
}

// removeTree deletes dir with all that is in it, as the caller when that is
// enough, else from inside the id map. A dir that is gone already is fine.
func (e *Engine) removeTree(dir string) error {
	err := removeMain(dir)
	if !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) {
		return err
	}
	_, err = e.worker(nil, removeRole, dir)
	return err
}

// removeMain is os.RemoveAll for trees whose directories may not be readable
// or writable: overlayfs leaves a work directory of mode 0, images have
// directories of mode 0555.
func removeMain(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EACCES) {
		return err
	}
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			unix.Fchmodat(unix.AT_FDCWD, path, 0o700, 0)
		}
		return nil
	})
	return os.RemoveAll(dir)
}
