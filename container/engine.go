// Package container is the lifecycle: it is where the mechanisms (namespaces,
// overlay, pull, seccomp, cgroups) meet and become a container.
//
// Read run.go from top to bottom to see what moss run does: run.go Run, create.go
// create, start.go spec, and from there namespaces/list.go, which writes down the
// system calls.
package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	osuser "os/user"
	"path/filepath"
	"strconv"

	"moss/explain"
	"moss/fail"
	"moss/image"
	"moss/namespaces"
	"moss/oci"
	"moss/pull"
)

// Config says where moss keeps its things and whom it tells.
type Config struct {
	Root    string // "": $XDG_DATA_HOME/moss, or /var/lib/moss for root
	RunRoot string // "": $XDG_RUNTIME_DIR/moss, or a directory under Root
	Explain *explain.Narrator
	Warn    func(error) // nil: on standard error
}

// Engine is one user's moss: a store of images and the containers on it.
// It holds no daemon's state; open one per command.
type Engine struct {
	Store   *image.Store
	Explain *explain.Narrator // nil: silent
	Warn    func(error)       // what was worked around; never nil

	root       string
	containers string // root/containers
	ids        *namespaces.IDMap
}

// Open opens the store and makes what is missing.
func Open(c Config) (*Engine, error) {
	root, err := dataDir(c.Root)
	if err != nil {
		return nil, err
	}
	store, err := image.Open(root, runDir(c.RunRoot))
	if err != nil {
		return nil, err
	}
	e := &Engine{Store: store, Explain: c.Explain, Warn: c.Warn, root: store.Root()}
	e.containers = filepath.Join(e.root, "containers")
	if e.Warn == nil {
		e.Warn = func(err error) { fail.Warn(os.Stderr, err) }
	}
	store.Unpack = e.unpack
	store.RemoveTree = e.removeTree
	return e, nil
}

// Close lets go of the store.
func (e *Engine) Close() { e.Store.Close() }

// Pull is pull.Pull into this engine's store.
func (e *Engine) Pull(ctx context.Context, name string, o pull.Options) (pull.Result, error) {
	return pull.Pull(ctx, e.Store, name, o)
}

// dataDir is where the store lives: XDG Base Directory Specification,
// "$XDG_DATA_HOME", for a person; /var/lib for root.
func dataDir(root string) (string, error) {
	if root != "" {
		return filepath.Abs(root)
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "moss"), nil
	}
	if os.Geteuid() == 0 {
		return "/var/lib/moss", nil
	}
	home, err := os.UserHomeDir()
	if err != nil || home == "" {
		if me, lookErr := osuser.Current(); lookErr == nil {
			home, err = me.HomeDir, nil
		}
	}
	if err != nil || !filepath.IsAbs(home) {
		return "", &fail.Error{Op: "finding a place for the store", Err: errors.New("no home directory"),
			Why: "neither XDG_DATA_HOME nor HOME is set, and the system knows no home of yours", Try: "say where with --root DIR"}
	}
	return filepath.Join(home, ".local/share/moss"), nil
}

// runDir is for what need not outlive a boot; "" lets the store choose a
// directory of its own, as under su(1) or cron(8), where no session made one.
func runDir(runroot string) string {
	if runroot != "" {
		return runroot
	}
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if info, err := os.Stat(dir); filepath.IsAbs(dir) && err == nil && owns(info) {
		return filepath.Join(dir, "moss")
	}
	return ""
}

// IDMap returns the map that this store was made under, deciding it when this
// is the first use. It stays: a layer's files belong to the ids of one map.
func (e *Engine) IDMap() (namespaces.IDMap, error) {
	if e.ids != nil {
		return *e.ids, nil
	}
	path := filepath.Join(e.root, "idmap.json")
	b, err := os.ReadFile(path)
	if err == nil {
		var m namespaces.IDMap
		if err := json.Unmarshal(b, &m); err != nil {
			return m, fmt.Errorf("reading %s: %w", path, err)
		}
		if m.Mode != namespaces.SingleID || !e.untouched() {
			e.ids = &m
			return m, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return namespaces.IDMap{}, err
	}
	m, note := namespaces.Detect()
	if note != nil && err != nil { // said once, not at each start until there is an image
		e.Warn(&fail.Error{Op: "running with your own id only", Err: note,
			Why:  "in this mode root of the container is you, and there is no second id to give files or processes to; owners inside images are remembered but not shown",
			Try:  lessonTry(note) + "\n(a store without images and containers decides anew)",
			Docs: "docs/ids.md"})
	}
	if b, err = json.MarshalIndent(m, "", "  "); err != nil {
		return m, err
	}
	if err := image.WriteFile(path, b, 0o600); err != nil {
		return m, err
	}
	e.ids = &m
	return m, nil
}

// untouched reports whether nothing in the store belongs to anybody yet. Only
// asked with a single id, where the answer may have become better.
func (e *Engine) untouched() bool {
	for _, dir := range []string{"layers", "containers", "volumes"} {
		entries, err := os.ReadDir(filepath.Join(e.root, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false
		}
		for _, entry := range entries {
			if isID(entry.Name()) || dir == "volumes" {
				return false
			}
		}
	}
	return true
}

func lessonTry(err error) string {
	if l := fail.Lesson(err); l != nil {
		return l.Try
	}
	return ""
}

// userNS opens the user namespace of the store's map; nil for a single id,
// where each container makes its own.
func (e *Engine) userNS(m namespaces.IDMap) (*namespaces.UserNS, error) {
	if m.Mode == namespaces.SingleID {
		return nil, nil
	}
	return namespaces.JoinOrCreate(e.Store.RunRoot(), m)
}

// dir is the container's directory: its record, upper and work.
func (e *Engine) dir(id string) string { return filepath.Join(e.containers, id) }

func owns(info fs.FileInfo) bool {
	uid, ok := ownerOf(info)
	return ok && uid == os.Geteuid() && info.IsDir()
}

// mapName says in a few words which map m is.
func mapName(m namespaces.IDMap) string {
	n := 0
	for _, r := range m.UIDs {
		n += r.Count
	}
	return string(m.Mode) + " (" + strconv.Itoa(n) + " ids)"
}

func hostArch() string { return oci.Host().String() }
