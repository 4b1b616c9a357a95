package container

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"moss/explain"
	"moss/fail"
	"moss/image"
	"moss/oci"
	"moss/overlay"
)

// defaultPath is what docker gives an image that sets no PATH.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// create puts image and options together, reserves id and name, and writes the
// record. On an error nothing is left.
func (e *Engine) create(o Options, img *image.Image) (c *container, err error) {
	r := &Record{ID: newID(), Created: now(), Status: Created, Options: o, Platform: oci.Host()}
	c = &container{Record: r}
	config := oci.Config{}
	if img == nil {
		if r.Options.Rootfs, err = filepath.Abs(o.Rootfs); err != nil {
			return nil, err
		}
		if info, err := os.Stat(o.Rootfs); err != nil || !info.IsDir() {
			return nil, &fail.Error{Op: "using as root:", On: o.Rootfs, Err: cause(err, unix.ENOTDIR), Try: "--rootfs takes a directory"}
		}
		r.ImageName = r.Options.Rootfs
		c.outline = new(outline)
		if c.outline.Passwd, c.outline.Group, err = accounts(overlay.View{r.ImageName}); err != nil {
			return nil, err
		}
	} else {
		config = img.Config.Config
		r.ImageName, r.ImageID, r.Manifest, r.Layers = o.Image, img.ID, img.Manifest.Digest, img.Config.RootFS.DiffIDs
		r.Platform = img.Config.Platform()
		if !r.Platform.Fits(oci.Host()) && o.Platform == nil {
			e.Warn(fmt.Errorf("the image is for %s, this machine is %s", r.Platform, oci.Host()))
		}
		if c.lower, err = e.Store.Lowers(r.Layers); err != nil {
			return nil, fmt.Errorf("the layers of %s: %w", o.Image, err)
		}
		if c.outline, err = e.outlineOf(img, c.lower); err != nil {
			return nil, fmt.Errorf("looking into the layers of %s: %w", o.Image, err)
		}
		c.lower = c.lower[c.outline.Hidden:]
	}
	if r.Process, err = process(config, o, r.ID); err != nil {
		return nil, err
	}
	r.Options.Network = cmp.Or(o.Network, "host")
	if err := e.reserve(c); err != nil {
		return nil, err
	}
	e.Explain.Step(explain.Step{What: "Make the container " + r.Name, Call: "mkdir " + e.dir(r.ID),
		Why: "one directory holds all of it: its record, and what it writes; a lock on it tells other commands that somebody is at work", See: []string{"flock(2)", "container/create.go"}})
	if o.CIDFile != "" {
		if err := writeCIDFile(o.CIDFile, r.ID); err != nil {
			return nil, errors.Join(err, e.destroy(r))
		}
	}
	return c, nil
}

// process lays the options over the image's config, as docker does: a given
// entrypoint also drops the image's command.
func process(config oci.Config, o Options, id string) (ProcessConfig, error) {
	p := ProcessConfig{
		Entrypoint: config.Entrypoint, Cmd: config.Cmd, WorkingDir: config.WorkingDir, User: config.User,
		StopSignal: config.StopSignal, Hostname: o.Hostname, Exposed: config.ExposedPorts,
	}
	if o.Entrypoint != nil {
		p.Entrypoint, p.Cmd = *o.Entrypoint, nil
	}
	if len(o.Args) > 0 {
		p.Cmd = o.Args
	}
	if argv := p.Argv(); len(argv) == 0 || argv[0] == "" {
		return p, &fail.Error{Op: "no command specified", Why: "neither the image nor the command line says what to run",
			Try: "append a command: moss run " + cmp.Or(o.Image, "--rootfs "+o.Rootfs) + " COMMAND"}
	}
	if p.Hostname == "" {
		p.Hostname = id[:12]
		if o.Network == "host" {
			p.Hostname, _ = os.Hostname()
		}
	}
	p.User = cmp.Or(o.User, p.User)
	p.WorkingDir = cmp.Or(o.WorkingDir, p.WorkingDir, "/")
	if !path.IsAbs(p.WorkingDir) {
		return p, fmt.Errorf("the working directory %q is not absolute", p.WorkingDir)
	}
	p.WorkingDir = path.Clean(p.WorkingDir)
	p.StopSignal = cmp.Or(o.StopSignal, p.StopSignal, "SIGTERM")

	p.Env = []string{defaultPath, "HOSTNAME=" + p.Hostname}
	if o.TTY {
		p.Env = append(p.Env, "TERM=xterm")
	}
	p.Env = mergeEnv(p.Env, config.Env)
	p.Env = mergeEnv(p.Env, o.Env)

	for _, s := range slices.Concat(p.Argv(), p.Env, []string{p.WorkingDir, p.User, p.Hostname}, slices.Collect(maps.Keys(config.Volumes))) {
		if strings.ContainsRune(s, 0) {
			return p, fmt.Errorf("%q has a NUL byte, at which the kernel would cut it", s)
		}
	}
	if len(p.Hostname) > 64 {
		return p, &fail.Error{Op: "host name", On: p.Hostname, Err: unix.EINVAL, Why: "the kernel allows 64 bytes (sethostname(2))", Try: "a shorter one with --hostname"}
	}

	p.Labels = map[string]string{}
	for k, v := range config.Labels {
		p.Labels[k] = v
	}
	for k, v := range o.Labels {
		p.Labels[k] = v
	}
	p.Mounts = slices.Clone(o.Mounts)
	for target := range config.Volumes {
		target = path.Clean("/" + target)
		if top, _, _ := strings.Cut(target[1:], "/"); top == "proc" || top == "sys" || top == "dev" {
			continue // the kernel's, whatever an image says
		}
		if !slices.ContainsFunc(p.Mounts, func(m Mount) bool { return m.Target == target }) {
			p.Mounts = append(p.Mounts, Mount{Type: "volume", Target: target, FromImage: true})
		}
	}
	// Outer mounts first, as docker orders them, or they would hide the inner.
	slices.SortStableFunc(p.Mounts, func(a, b Mount) int {
		if d := depth(a.Target) - depth(b.Target); d != 0 {
			return d
		}
		return strings.Compare(a.Target, b.Target)
	})
	return p, nil
}

func depth(target string) int {
	if target == "/" {
		return 0
	}
	return strings.Count(target, "/")
}

// mergeEnv sets variables over env, keeping their place; a name without "="
// is taken out.
func mergeEnv(env, over []string) []string {
	for _, kv := range over {
		name, _, set := strings.Cut(kv, "=")
		i := slices.IndexFunc(env, func(s string) bool { return strings.HasPrefix(s, name+"=") })
		switch {
		case !set && i >= 0:
			env = slices.Delete(env, i, i+1)
		case !set:
		case i >= 0:
			env[i] = kv
		default:
			env = append(env, kv)
		}
	}
	return env
}

// reserve makes the container's directory, locks it and takes the name. There
// is no record yet: whoever finds the directory without one and not locked may
// take it away.
func (e *Engine) reserve(c *container) (err error) {
	dir := e.dir(c.ID)
	for c.lock == nil {
		if err := os.Mkdir(dir, 0o711); err != nil {
			return fmt.Errorf("making the container's directory: %w", err)
		}
		// Between the two calls a sweeper may have been faster: then again.
		if c.lock, err = lockDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		if c.lock != nil {
			var ours, there unix.Stat_t
			if unix.Fstat(int(c.lock.Fd()), &ours) != nil || unix.Stat(dir, &there) != nil || ours.Ino != there.Ino {
				c.lock.Close()
				c.lock = nil
			}
		}
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
			c.lock.Close()
		}
	}()
	names := filepath.Join(e.containers, "names")
	if err := os.Mkdir(names, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if c.Name = c.Options.Name; c.Name != "" {
		if !validName(c.Name) {
			return &fail.Error{Op: "container name", On: fmt.Sprintf("%q", c.Name), Err: errors.New("not allowed"),
				Try: "letters, digits, '_', '.' and '-', at least two, the first a letter or digit"}
		}
		return e.takeName(c.Name, c.ID)
	}
	for {
		c.Name = randomName()
		if err := e.takeName(c.Name, c.ID); !errors.Is(err, errNameInUse) {
			return err
		}
	}
}

var errNameInUse = errors.New("the name is in use")

// linkLength is how much of the id a name's link holds. ext4 keeps a target of
// up to 59 bytes in the inode; deleting a longer one costs as much as all the
// rest of giving a name back.
const linkLength = 48

// takeName makes the link names/NAME -> ID; that there can be only one such
// link is what makes a name unique.
func (e *Engine) takeName(name, id string) error {
	link := filepath.Join(e.containers, "names", name)
	for {
		err := os.Symlink(id[:linkLength], link)
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		owner, err := os.Readlink(link)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		owner = e.wholeID(owner)
		if r, loadErr := e.load(owner); errors.Is(loadErr, fs.ErrNotExist) && !e.beingMade(owner) || loadErr == nil && e.confirm(r) {
			// left by one that was killed while it was made or removed
			if err := e.dropName(name, owner); err != nil {
				return err
			}
			continue
		}
		return &fail.Error{Op: fmt.Sprintf("conflict: the container name %q is already in use by container", "/"+name), On: owner[:min(12, len(owner))], Err: errNameInUse,
			Try: "moss rm " + name + ", or another name"}
	}
}

// dropName takes a name from the container with this id, when it has it. Those
// who look whose a name is and then remove it take turns: without the lock the
// second would remove the link that the first has made anew in between, and
// both would have the name.
func (e *Engine) dropName(name, id string) error {
	if name == "" {
		return nil
	}
	names := filepath.Join(e.containers, "names")
	lock, err := os.Open(names)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("flock(2) %s: %w", names, err)
	}
	link := filepath.Join(names, name)
	if owner, err := os.Readlink(link); err != nil || owner == "" || !strings.HasPrefix(id, owner) {
		return nil
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// wholeID completes what a name's link holds; without such a container it
// returns its argument.
func (e *Engine) wholeID(prefix string) string {
	entries, _ := os.ReadDir(e.containers)
	for _, entry := range entries {
		if isID(entry.Name()) && strings.HasPrefix(entry.Name(), prefix) {
			return entry.Name()
		}
	}
	return prefix
}

// beingMade reports whether some process works on the container's directory.
func (e *Engine) beingMade(id string) bool {
	lock, err := lockDir(e.dir(id))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	lock.Close()
	return false
}

// lockDir takes flock(2) on a container's directory without waiting. Closing
// the file, also by dying, gives it up.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("flock(2) %s: %w", dir, err)
	}
	return f, nil
}

// destroy deletes the container's directory and gives its name back. The
// record goes first: without it there is no container, only files to sweep.
func (e *Engine) destroy(r *Record) error {
	dir := e.dir(r.ID)
	err := os.Remove(filepath.Join(dir, "record.json"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := e.dropName(r.Name, r.ID); err != nil {
		return err
	}
	// What an overlay leaves when nothing was written is most often all there
	// is: a tenth of the time of a general removal, which has to look first.
	// The kernel's own directories have mode 0.
	const inner = "work/work"
	own := []string{inner, inner + "/incompat", inner + "/incompat/volatile"}
	if r.Options.Remove {
		for _, d := range own {
			unix.Chmod(filepath.Join(dir, d), 0o700)
		}
		unix.Unlink(filepath.Join(dir, own[2], "dirty"))
	}
	for _, d := range []string{own[2], own[1], own[0], "work", "upper", ""} {
		err = unix.Rmdir(filepath.Join(dir, d))
	}
	if err == nil {
		return nil
	}
	return e.removeTree(dir)
}

// sweep takes away a directory that a killed moss left without a record.
func (e *Engine) sweep(id string) {
	lock, err := lockDir(e.dir(id))
	if err != nil {
		return
	}
	defer lock.Close()
	if _, err := e.load(id); errors.Is(err, fs.ErrNotExist) {
		e.removeTree(e.dir(id))
		// Nothing says which name it had taken.
		names, _ := os.ReadDir(filepath.Join(e.containers, "names"))
		for _, n := range names {
			e.dropName(n.Name(), id)
		}
	}
}

// Remove deletes a container that does not run; with force it is killed first.
func (e *Engine) Remove(r *Record, force bool) error {
	if r.Status == Running && alive(r) {
		if !force {
			return &fail.Error{Op: "removing container", On: r.Name, Err: errors.New("it is running"),
				Try: "stop it, or moss rm -f " + r.Name}
		}
		if err := killAndWait(r); err != nil {
			return err
		}
	}
	// The moss that ran it may still be noting how it ended, or removing it.
	for deadline := time.Now().Add(10 * time.Second); ; {
		lock, err := lockDir(e.dir(r.ID))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			defer lock.Close()
			return e.destroy(r)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("removing container %s: another command is at work on it: %w", r.Name, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// killAndWait ends the container's init, and with it everything inside
// (pid_namespaces(7)). The pidfd makes sure that it is still the same process.
func killAndWait(r *Record) error {
	fd, err := unix.PidfdOpen(r.Pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pidfd_open(2) %d: %w", r.Pid, err)
	}
	defer unix.Close(fd)
	if !alive(r) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("killing container %s: %w", r.Name, err)
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 1000)
		if err == nil && !alive(r) {
			return nil
		}
	}
	return fmt.Errorf("container %s does not end after SIGKILL", r.Name)
}

func writeCIDFile(name, id string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return &fail.Error{Op: "writing the container's id to", On: name, Err: fs.ErrExist,
			Why: "another container may be using this file", Try: "remove it, or name another with --cidfile"}
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(id)
	return errors.Join(err, f.Close())
}

func newID() string {
	for {
		b := make([]byte, 32)
		rand.Read(b)
		// docker's rule: the short form must not look like a number
		if id := hex.EncodeToString(b); strings.Trim(id[:12], "0123456789") != "" {
			return id
		}
	}
}

// validName is docker's [a-zA-Z0-9][a-zA-Z0-9_.-]+
func validName(s string) bool {
	for i, c := range []byte(s) {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '_' && c != '.' && c != '-') {
			return false
		}
	}
	return len(s) > 1 && len(s) < 250
}

// randomName is two words, as docker gives containers that have no name.
func randomName() string {
	how := [...]string{"amber", "brisk", "calm", "clear", "cool", "damp", "deep", "dewy", "eager", "early", "fair", "fresh",
		"gentle", "green", "hardy", "humble", "keen", "late", "light", "lively", "lush", "mellow", "mild", "misty", "noble",
		"patient", "plain", "quick", "quiet", "shady", "silent", "sleek", "slow", "soft", "spry", "steady", "still", "sunny",
		"tender", "tidy", "vivid", "warm", "wild", "young"}
	what := [...]string{"alder", "aspen", "beech", "birch", "bog", "bracken", "brook", "cedar", "clover", "creek", "dell",
		"fen", "fern", "fir", "forest", "glade", "glen", "grove", "hazel", "heath", "holly", "ivy", "larch", "leaf", "lichen",
		"maple", "marsh", "meadow", "mire", "oak", "peat", "pebble", "pine", "pond", "rowan", "rush", "sedge", "spore",
		"spring", "stone", "stream", "thicket", "thistle", "willow", "wood", "yew"}
	var b [4]byte
	rand.Read(b[:])
	return how[int(b[0])%len(how)] + "_" + what[int(b[1])%len(what)] + fmt.Sprint(int(b[2])%10)
}

func cause(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

func ownerOf(info fs.FileInfo) (uid int, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), true
}
