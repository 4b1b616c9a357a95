package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"moss/fail"
	"moss/oci"
)

// Statuses as docker names them. The OCI word for Exited is "stopped"
// (runtime-spec runtime.md, "State").
const (
	Created = "created"
	Running = "running"
	Exited  = "exited"
)

// Record is everything moss knows of one container: containers/ID/record.json,
// written to a temporary name and renamed. Status is what was last written;
// readers go through Engine.List and Engine.Find, which ask the kernel whether
// a container that says it runs still does.
type Record struct {
	ID      string    `json:"Id"` // 64 hex digits
	Name    string    `json:"Name"`
	Created time.Time `json:"Created"`

	ImageName string        `json:"ImageName"` // familiar reference, or the --rootfs directory
	ImageID   oci.Digest    `json:"ImageId,omitempty"`
	Manifest  oci.Digest    `json:"Manifest,omitempty"`
	Platform  oci.Platform  `json:"Platform"`
	Layers    []oci.DiffID  `json:"Layers,omitempty"` // lowest first; what keeps them in the store
	Options   Options       `json:"Options"`
	Process   ProcessConfig `json:"Process"` // image and options put together

	Status     string    `json:"Status"`
	Pid        int       `json:"Pid,omitempty"`       // host pid of the container's init
	StartTime  uint64    `json:"StartTime,omitempty"` // field 22 of /proc/PID/stat, proc_pid_stat(5): with Pid, an identity
	StartedAt  time.Time `json:"StartedAt"`
	FinishedAt time.Time `json:"FinishedAt"`
	ExitCode   int       `json:"ExitCode"`
	Error      string    `json:"Error,omitempty"` // why it did not start

	damaged bool // the record could not be read; only ID counts
}

// ProcessConfig is what is executed: the image's config with the options over it.
type ProcessConfig struct {
	Entrypoint []string            `json:"Entrypoint,omitempty"`
	Cmd        []string            `json:"Cmd,omitempty"`
	Env        []string            `json:"Env"`
	WorkingDir string              `json:"WorkingDir"`
	User       string              `json:"User"` // as configured; resolved when the container starts
	Hostname   string              `json:"Hostname"`
	Labels     map[string]string   `json:"Labels,omitempty"`
	StopSignal string              `json:"StopSignal"`
	Mounts     []Mount             `json:"Mounts,omitempty"`
	Exposed    map[string]struct{} `json:"ExposedPorts,omitempty"`
}

// Argv is the command line: entrypoint, then cmd.
func (p ProcessConfig) Argv() []string {
	return slices.Concat(p.Entrypoint, p.Cmd)
}

// ErrNotFound and ErrAmbiguous are what Find reports.
var (
	ErrNotFound  = errors.New("no such container")
	ErrAmbiguous = errors.New("more than one container matches")
)

// save writes r to a temporary name and renames it. It is not synced: after a
// power cut the container is not running anyway, and its record is whole or
// absent.
func (e *Engine) save(r *Record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	path := filepath.Join(e.dir(r.ID), "record.json")
	if err := os.WriteFile(path+".tmp", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

func (e *Engine) load(id string) (*Record, error) {
	b, err := os.ReadFile(filepath.Join(e.dir(id), "record.json"))
	if err != nil {
		return nil, err
	}
	r := new(Record)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("reading the record of container %s: %w", id, err)
	}
	return r, nil
}

// List returns all containers, newest first, each with the status the kernel
// confirms. What a killed moss left behind is put right on the way.
func (e *Engine) List() ([]*Record, error) {
	entries, err := os.ReadDir(e.containers)
	if err != nil {
		return nil, err
	}
	var all []*Record
	for _, entry := range entries {
		if !isID(entry.Name()) {
			continue
		}
		r, err := e.load(entry.Name())
		if errors.Is(err, fs.ErrNotExist) {
			e.sweep(entry.Name()) // unless somebody is at work on it
			continue
		}
		if err != nil {
			// One damaged file must not stop every command. It can be removed.
			e.Warn(&fail.Error{Op: "container", On: entry.Name()[:12], Err: err, Why: "its record is damaged",
				Try: "moss rm " + entry.Name()[:12]})
			all = append(all, &Record{ID: entry.Name(), Status: Exited, Error: "its record is damaged", damaged: true})
			continue
		}
		if gone := e.confirm(r); !gone {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b *Record) int { return b.Created.Compare(a.Created) })
	return all, nil
}

// Find returns the container with this name, id, or unique prefix of an id.
// Errors: ErrNotFound, ErrAmbiguous.
func (e *Engine) Find(nameOrID string) (*Record, error) {
	all, err := e.List()
	if err != nil {
		return nil, err
	}
	var found []*Record
	for _, r := range all {
		if r.Name == nameOrID || r.ID == nameOrID {
			return r, nil
		}
		if nameOrID != "" && strings.HasPrefix(r.ID, nameOrID) {
			found = append(found, r)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("%w: %s", ErrNotFound, nameOrID)
	case 1:
		return found[0], nil
	default:
		return nil, fmt.Errorf("%w: %s", ErrAmbiguous, nameOrID)
	}
}

// InUse reports whether a container stands on the layer, for image.Store.Remove.
func (e *Engine) InUse() (func(oci.DiffID) bool, error) {
	all, err := e.List()
	if err != nil {
		return nil, err
	}
	used := map[oci.DiffID]bool{}
	for _, r := range all {
		if r.damaged { // it may stand on any
			return func(oci.DiffID) bool { return true }, nil
		}
		for _, id := range r.Layers {
			used[id] = true
		}
	}
	return func(id oci.DiffID) bool { return used[id] }, nil
}

func isID(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}
