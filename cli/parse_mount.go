package cli

import (
	"encoding/csv"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"moss/container"
)

// mountKeys are the keys of --mount.
const mountKeys = "type source src target dst destination readonly ro consistency" +
	" bind-propagation bind-nonrecursive bind-recursive" +
	" volume-nocopy volume-subpath volume-driver volume-label volume-opt tmpfs-size tmpfs-mode"

// parseMount reads --mount: key=value pairs in one line of CSV (RFC 4180), so
// that a value with a comma can be quoted. Unlike -v it never creates the
// source of a bind.
func parseMount(s string) (container.Mount, error) {
	m := container.Mount{Type: "volume"}
	fields, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return m, fmt.Errorf("not key=value pairs joined by commas: %w", err)
	}
	special := "" // a key that only one type of mount has
	for _, field := range fields {
		key, value, hasValue := strings.Cut(field, "=")
		if key != strings.TrimSpace(key) || value != strings.TrimSpace(value) {
			return m, fmt.Errorf("invalid option '%s' in '%s': option should not have whitespace", key, field)
		}
		key = strings.ToLower(key)
		if err := setMountKey(&m, key, value, hasValue, field); err != nil {
			return m, err
		}
		if kind, _, ok := strings.Cut(key, "-"); ok {
			if special != "" && !strings.HasPrefix(special, kind+"-") {
				return m, fmt.Errorf("cannot mix '%s' with '%s'", special, key)
			}
			special = key
		}
	}
	return m, finishMount(&m, special)
}

func setMountKey(m *container.Mount, key, value string, hasValue bool, field string) error {
	if !hasValue {
		switch key {
		case "readonly", "ro", "volume-nocopy", "bind-nonrecursive":
			value = "true"
		default:
			return fmt.Errorf("invalid field '%s' must be a key=value pair", field)
		}
	}
	invalid := fmt.Errorf("invalid value for %s: %s", key, value)
	setBool := func(to *bool) error {
		v, err := strconv.ParseBool(value)
		if err != nil {
			return invalid
		}
		*to = v
		return nil
	}
	switch key {
	case "type":
		m.Type = strings.ToLower(value)
	case "source", "src":
		m.Source = value
	case "target", "dst", "destination":
		m.Target = value
	case "readonly", "ro":
		return setBool(&m.ReadOnly)
	case "consistency": // Docker Desktop's; nothing on Linux
	case "bind-propagation":
		m.Propagation = strings.ToLower(value)
		if !contains(strings.Fields(propagationModes), m.Propagation) {
			return fmt.Errorf("%w (must be one of %s)", invalid, propagationModes)
		}
	case "bind-nonrecursive":
		return setBool(&m.NonRecursive)
	case "bind-recursive":
		switch value {
		case "enabled", "readonly": // read-only is recursive here anyway
		case "disabled":
			m.NonRecursive = true
		case "writable":
			return fmt.Errorf("bind-recursive=writable: a read-only bind of moss is read-only all the way down")
		default:
			return fmt.Errorf("%w (must be \"enabled\", \"disabled\", or \"readonly\")", invalid)
		}
	case "volume-nocopy":
		return setBool(&m.VolumeNoCopy)
	case "volume-subpath":
		m.VolumeSubpath = value
	case "volume-driver":
		if value != "local" {
			return fmt.Errorf("%w (local is the only driver there is)", invalid)
		}
	case "volume-label", "volume-opt":
		return fmt.Errorf("%s is not built yet", key)
	case "tmpfs-size":
		n, err := parseBytes(value)
		if err != nil {
			return invalid
		}
		m.TmpfsOptions = append(m.TmpfsOptions, "size="+strconv.FormatInt(n, 10))
	case "tmpfs-mode":
		mode, err := strconv.ParseUint(value, 8, 12)
		if err != nil {
			return invalid
		}
		m.TmpfsOptions = append(m.TmpfsOptions, "mode="+strconv.FormatUint(mode, 8))
	default:
		return fmt.Errorf("unexpected key '%s' in '%s'%s", key, field, didYouMean("", key, strings.Fields(mountKeys)))
	}
	return nil
}

// finishMount checks what only the whole can tell.
func finishMount(m *container.Mount, special string) error {
	if m.Target == "" {
		return errors.New("target is required")
	}
	types := []string{"bind", "volume", "tmpfs"}
	if !contains(types, m.Type) {
		return fmt.Errorf("mount type '%s' unknown: want bind, volume or tmpfs%s", m.Type, didYouMean("", m.Type, types))
	}
	if special != "" && !strings.HasPrefix(special, m.Type+"-") {
		kind, _, _ := strings.Cut(special, "-")
		return fmt.Errorf("cannot mix '%s-*' options with mount type '%s'", kind, m.Type)
	}
	if err := setTarget(m); err != nil {
		return fmt.Errorf("invalid mount config for type %q: %w", m.Type, err)
	}
	return finishMountSource(m)
}

func finishMountSource(m *container.Mount) error {
	var why error
	switch {
	case m.Type == "tmpfs" && m.Source != "":
		why = errors.New("field Source must not be specified")
	case m.Type == "volume" && m.Source != "":
		why = checkVolumeName(m.Source)
	case m.Type != "bind":
	case m.Source == "":
		why = errors.New("field Source must not be empty")
	case !isHostPath(m.Source):
		why = fmt.Errorf("invalid mount path: '%s' mount path must be absolute", m.Source)
	default:
		m.Source, why = filepath.Abs(m.Source)
	}
	if why != nil {
		return fmt.Errorf("invalid mount config for type %q: %w", m.Type, why)
	}
	return nil
}
